//! `version.save`: one more version of a document, with the next number.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document};

use super::{
    Patience, Planned, Records,
    records::Due,
    versions::{self, New},
};
use crate::{
    content::Sealing,
    record::{Action, Change, ChangeError},
    task::Reason,
};

/// Fields of a version that the other tasks about it set.
const OWN: [&str; 6] = ["versionNumber", "previousVersionId", "restoredFrom", "decision", "decidedAt", "decidedBy"];

/// Versions of one document, in the order of the batch: one transaction.
pub async fn run(
    records: &Records,
    document: &str,
    dues: &[Due<'_>],
    now: DateTime<Utc>,
    patience: &Patience<'_>,
) -> Vec<(usize, Planned)> {
    let mut planned = Vec::new();
    let mut new = Vec::with_capacity(dues.len());
    for due in dues {
        match of(records, due, now, patience).await {
            Some(Ok(version)) => new.push(version),
            Some(Err(text)) => planned.push(due.dead(Reason::Schema, text)),
            None => planned.push((due.position, Planned::Released)),
        }
    }
    planned.extend(versions::make(records, document, &new, patience).await);
    planned
}

/// `None`: the worker stops.
async fn of<'a>(
    records: &Records,
    due: &Due<'a>,
    now: DateTime<Utc>,
    patience: &Patience<'_>,
) -> Option<Result<New<'a>, String>> {
    let (id, mut change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Some(Err(e.to_string())),
    };
    if let Err(text) = records.seal(due, due.declared.collection, &id, &mut change, patience).await? {
        return Some(Err(text));
    }
    let sealing = records.vault.sealing(&due.declared.sensitive, due.task.tenant.as_deref());
    Some(version(due.position, id, change, sealing))
}

fn version(position: usize, id: String, change: Change, sealing: Sealing<'_>) -> Result<New<'_>, String> {
    let mut fields: Document = change.create;
    if let Action::Merge(given) = change.action {
        fields.extend(given);
    }
    if let Some(own) = OWN.into_iter().find(|name| fields.contains_key(name)) {
        return Err(ChangeError::Reserved(own.to_owned()).to_string());
    }
    let Some(Bson::String(text)) = fields.remove("content") else { return Err("`content` must be a text".into()) };
    Ok(New {
        position,
        id,
        task: change.task,
        clock: change.clock,
        at: change.at,
        fields,
        text: text.into_bytes(),
        sealing,
    })
}
