//! The audit log: who did what to whose data.

use chrono::{DateTime, Utc};
use mongodb::bson::{DateTime as BsonDate, Document, doc};

use super::{AUDIT_LOG, Store, StoreFault, bulk::Reply, bulk::settle_concern};
use crate::metrics::ErrorClass;

/// One operation that concerns access to data. Never holds content.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Names the operation: a task's `id@source`. Recorded once, however often it is sent.
    pub id: String,
    pub at: DateTime<Utc>,
    /// For instance `document.delete`.
    pub action: String,
    /// The kind of thing, a collection's name, and its id.
    pub entity: (String, String),
    /// Who asked for it, as far as the task says.
    pub actor: Option<String>,
    /// Ids and counts that belong to it.
    pub detail: Document,
}

impl AuditEntry {
    pub(super) fn document(&self) -> Document {
        let mut entry = doc! {
            "_id": &self.id,
            "at": BsonDate::from_millis(self.at.timestamp_millis()),
            "action": &self.action,
            "entity": { "kind": &self.entity.0, "id": &self.entity.1 },
        };
        if let Some(actor) = &self.actor {
            entry.insert("actor", actor);
        }
        if !self.detail.is_empty() {
            entry.insert("detail", self.detail.clone());
        }
        entry
    }
}

impl Store {
    /// Records operations; those that are recorded already stay as they are.
    ///
    /// # Errors
    /// Which are recorded is unknown: call again.
    pub async fn audit(&self, entries: &[AuditEntry]) -> Result<(), StoreFault> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut documents = mongodb::bson::RawArrayBuf::new();
        for entry in entries {
            let raw = mongodb::bson::RawDocumentBuf::try_from(&entry.document())
                .map_err(|e| StoreFault::answer(ErrorClass::Other, format!("an audit entry cannot be encoded: {e}")))?;
            documents.push(raw);
        }
        let command = mongodb::bson::rawdoc! { "insert": AUDIT_LOG, "ordered": false, "documents": documents };
        let reply: Reply = self.send("insert", AUDIT_LOG, command).await?;
        settle_concern(&reply)?;
        match reply.write_errors.iter().find(|e| !e.is_own_id()) {
            Some(e) => Err(StoreFault::answer(ErrorClass::Unavailable, format!("{}: {}", e.code, e.errmsg))),
            None => Ok(()),
        }
    }
}
