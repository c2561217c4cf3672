//! `version.save`: one more version of a document, with the next number.

use chrono::{DateTime, Utc};
use mongodb::bson::Document;

use super::{
    Patience, Planned, Records,
    content::sealing,
    records::Due,
    versions::{self, New},
};
use crate::{
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
        match of(records, due, now) {
            Ok(version) => new.push(version),
            Err(text) => planned.push(due.dead(Reason::Schema, text)),
        }
    }
    planned.extend(versions::make(records, document, &new, patience).await);
    planned
}

fn of<'a>(records: &Records, due: &Due<'a>, now: DateTime<Utc>) -> Result<New<'a>, String> {
    let (id, change) = Change::of(due.declared, due.task, now, records.skew).map_err(|e| e.to_string())?;
    let mut fields: Document = change.create;
    if let Action::Merge(given) = change.action {
        fields.extend(given);
    }
    if let Some(own) = OWN.into_iter().find(|name| fields.contains_key(name)) {
        return Err(ChangeError::Reserved(own.to_owned()).to_string());
    }
    let text = match fields.remove("content") {
        Some(mongodb::bson::Bson::String(text)) => text.into_bytes(),
        _ => return Err("`content` must be a text".into()),
    };
    Ok(New { position: due.position, id, task: change.task, clock: change.clock, fields, text, sealing: sealing(due) })
}
