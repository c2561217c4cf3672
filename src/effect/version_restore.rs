//! `version.restore`: the content of an earlier version becomes a new major version, the current one.

use chrono::{DateTime, Utc};
use mongodb::bson::{DateTime as BsonDate, Document, doc};

use super::{
    Patience, Planned, Records,
    content::failed,
    patiently,
    records::{Due, missing},
    versions::{self, New},
};
use crate::{
    content::{ReadError, Sealing, described, read},
    metrics::{ErrorClass, Outcome},
    record::Change,
    store::{DOCUMENT_VERSIONS, DOCUMENTS},
    task::Reason,
};

pub async fn run(
    records: &Records,
    document: &str,
    due: &Due<'_>,
    now: DateTime<Utc>,
    patience: &Patience<'_>,
) -> Planned {
    let (key, change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Planned::Dead(Reason::Schema, e.to_string()),
    };
    let (text, sealed) = match earlier(records, document, &key, due, patience).await {
        Ok(earlier) => earlier,
        Err(plan) => return plan,
    };
    let new = New {
        position: due.position,
        id: key.clone(),
        task: change.task.clone(),
        clock: change.clock,
        at: change.at,
        fields: fields(due, &change),
        text,
        sealing: if sealed && records.vault.is_on() { Sealing::For(due.task.tenant.as_deref()) } else { Sealing::Off },
    };
    let made = versions::make(records, document, &[new], patience).await;
    let outcome = match made.into_iter().next() {
        Some((_, Planned::Done(outcome))) if outcome != Outcome::Expired => outcome,
        Some((_, plan)) => return plan,
        None => return Planned::Released,
    };
    let entry = due.audit(&key, &change, outcome);
    match patiently!(patience, "mongodb", records.store.audit(std::slice::from_ref(&entry))) {
        Some(()) => Planned::Done(outcome),
        None => Planned::Released,
    }
}

fn fields(due: &Due<'_>, change: &Change) -> Document {
    let mut fields = doc! {
        "kind": "major",
        "restoredFrom": due.text("versionId"),
        "createdAt": BsonDate::from_millis(change.at.timestamp_millis()),
    };
    if let Some(tenant) = &due.task.tenant {
        fields.insert("tenant", tenant);
    }
    if let Some(by) = Some(due.text("restoredBy")).filter(|by| !by.is_empty()) {
        fields.insert("createdBy", by);
    }
    fields
}

/// The text that comes back and whether it was sealed, or how the task ends without it.
async fn earlier(
    records: &Records,
    document: &str,
    new: &str,
    due: &Due<'_>,
    patience: &Patience<'_>,
) -> Result<(Vec<u8>, bool), Planned> {
    let id = due.text("versionId");
    if id == new {
        let text = "`versionId` and `newVersionId` are the same: the version that this makes needs an id of its own";
        return Err(Planned::Dead(Reason::Schema, text.into()));
    }
    let ids = [id, new];
    let look = patiently!(patience, "mongodb", records.store.records_by_id(DOCUMENT_VERSIONS, &ids));
    let rows = look.ok_or(Planned::Released)?;
    let sealed = match (rows.get(id), rows.get(new)) {
        // Done before; that the earlier version may have been purged since does not matter.
        (_, Some(made)) if made.get_str("restoredFrom").is_ok_and(|from| from == id) => return Ok((Vec::new(), false)),
        (Some(row), _) if row.get_str("documentId").is_ok_and(|of| of != document) => {
            let text = format!("the version {id:?} is of another document than {document:?}: name one of its own");
            return Err(Planned::Dead(Reason::Rejected, text));
        }
        (Some(row), _) => described(row).is_some_and(|content| content.sealed),
        (None, _) => return Err(absent(records, document, id, patience).await),
    };
    let text = patiently!(patience, "objects", async {
        match read(&records.store, &records.content, DOCUMENT_VERSIONS, id).await {
            Err(fault) if fault.passes() => Err(fault),
            other => Ok(other),
        }
    });
    match text {
        None => Err(Planned::Released),
        Some(Ok(Some(text))) => Ok((text, sealed)),
        Some(Ok(None)) => Err(absent(records, document, id, patience).await),
        Some(Err(ReadError::Content(fault))) => Err(failed(&fault)),
        Some(Err(ReadError::Store(fault))) => Err(Planned::Failed(ErrorClass::Effect, fault.to_string())),
    }
}

async fn absent(records: &Records, document: &str, id: &str, patience: &Patience<'_>) -> Planned {
    let purged = patiently!(patience, "mongodb", async {
        let version = records.store.purged(DOCUMENT_VERSIONS, &[id]).await?;
        let document = records.store.purged(DOCUMENTS, &[document]).await?;
        Ok::<_, crate::store::StoreFault>(!version.is_empty() || !document.is_empty())
    });
    match purged {
        None => Planned::Released,
        Some(true) => Planned::Done(Outcome::Expired),
        Some(false) => missing(DOCUMENT_VERSIONS, id),
    }
}
