//! What contextd keeps of a record beside the producer's fields.

use mongodb::bson::{Bson, Document};

use super::Clock;

/// The field that holds the record's own bookkeeping.
pub const SYNC: &str = "_sync";
/// Nothing changes a record in these states any more: it is being purged, or what it said of a person is gone for good.
const FENCED: [&str; 2] = ["purging", ANONYMIZED];
pub(super) const ANONYMIZED: &str = "anonymized";
pub(super) const DELETED: &str = "deleted";

/// Fields that only contextd sets; a task that sends one of them is refused.
pub(super) const RESERVED: [&str; 13] = [
    "state",
    "holdCount",
    "epoch",
    "ownerType",
    "versionCounter",
    "currentVersionId",
    "claimedBy",
    "claimLeft",
    "interactionCount",
    "emailHash",
    TENANT,
    "lifecycle",
    "fences",
];
/// Whose data a record is, as its first task said.
pub(super) const TENANT: &str = "tenant";

/// The bookkeeping of one record; `_sync` in MongoDB.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sync {
    /// Grows by one with every write that changes the record, whoever makes it. Who writes filters on the one it saw.
    pub rev: i64,
    /// The newest clock applied.
    pub order: i64,
    /// The clock of the last replacement of the whole record.
    pub base: Option<i64>,
    /// Clocks of fields that were merged since.
    pub fields: Vec<(String, i64)>,
    /// The clock of the deletion.
    pub deleted: Option<i64>,
    /// The newest task applied, `id@source`.
    pub task: String,
}

impl Sync {
    /// Reads it off a stored record; records that others wrote may have none.
    pub fn of(document: &Document) -> Self {
        let Ok(sync) = document.get_document(SYNC) else { return Self::default() };
        let fields = sync.get_document("fields").ok();
        Self {
            rev: sync.get_i64("rev").unwrap_or(0),
            order: sync.get_i64("order").unwrap_or(0),
            base: sync.get_i64("base").ok(),
            fields: fields.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_i64()?))).collect(),
            deleted: sync.get_i64("deleted").ok(),
            task: sync.get_str("task").unwrap_or_default().to_owned(),
        }
    }

    /// When `field` was last set, as far as that is known.
    pub(crate) fn clock(&self, field: &str) -> Option<i64> {
        let merged = self.fields.iter().find(|(name, _)| name == field).map(|(_, clock)| *clock);
        merged.max(self.base)
    }

    pub(crate) fn set_clock(&mut self, field: &str, clock: Clock) {
        match self.fields.iter_mut().find(|(name, _)| name == field) {
            Some((_, at)) => *at = clock.0,
            None => self.fields.push((field.to_owned(), clock.0)),
        }
    }

    pub(crate) fn to_document(&self) -> Document {
        let mut out = Document::new();
        out.insert("rev", self.rev);
        out.insert("order", self.order);
        if let Some(base) = self.base {
            out.insert("base", base);
        }
        if !self.fields.is_empty() {
            let fields: Document = self.fields.iter().map(|(k, v)| (k.clone(), Bson::Int64(*v))).collect();
            out.insert("fields", fields);
        }
        if let Some(deleted) = self.deleted {
            out.insert("deleted", deleted);
        }
        out.insert("task", self.task.as_str());
        out
    }
}

/// The revision that a writer has to name; `None` for a record that others wrote.
pub fn rev(document: &Document) -> Option<i64> {
    document.get_document(SYNC).ok()?.get_i64("rev").ok()
}

pub fn is_deleted(document: &Document) -> bool {
    document.get_str("state").is_ok_and(|s| s == DELETED)
}

/// Whether the record is being purged, or is anonymized: no task changes it any more.
pub fn is_fenced(document: &Document) -> bool {
    document.get_str("state").is_ok_and(|s| FENCED.contains(&s))
}
