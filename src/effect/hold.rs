//! `hold.place` and `hold.lift`: a legal hold keeps a user, document or session from being destroyed.
//!
//! The hold and the count on the held record change in one transaction, and the count lies in the same document that a
//! purge has to write first: placing a hold and purging cannot both win. An archived session is held in `session_history`:
//! what was made in it is held with it.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, DateTime as BsonDate, Document, doc};

use super::{
    Patience, Planned, Records, patiently,
    records::{Due, given_back, missing_or_purged},
    session,
};
use crate::{
    config::WriteMode,
    metrics::Outcome,
    record::{Action, Change, RecordType, is_fenced},
    store::{DOCUMENTS, Given, HOLDS, Refusal, Rows, RowsError, SESSIONS, Store, StoreFault, TransactError, transact},
    task::{Reason, Task},
};

/// The collection of what can be held.
pub fn collection(entity: &str) -> &'static str {
    match entity {
        "user" => "users",
        "document" => DOCUMENTS,
        _ => SESSIONS,
    }
}

/// What became of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Done(Outcome),
    /// There is no such record: its collection and id.
    Missing(&'static str, String),
}

/// Places or lifts a hold at once, for a caller without a queue: `task` is of a type whose `write` is `hold_place` or
/// `hold_lift`.
///
/// # Errors
/// A sentence for whoever asked, or MongoDB cannot be asked: then whether it was done is unknown, and the same again is safe.
pub async fn at_once(
    store: &Store,
    declared: &RecordType,
    task: &Task,
    now: DateTime<Utc>,
    skew: std::time::Duration,
) -> Result<Result<Held, String>, StoreFault> {
    let due = Due { position: 0, task, declared };
    let (key, change) = match Change::of(declared, task, now, skew) {
        Ok(made) => made,
        Err(e) => return Ok(Err(e.to_string())),
    };
    Ok(match change_hold(store, &due, &key, &change).await.refusal()? {
        Ok(Held::Missing(collection, id)) if !store.purged(collection, &[&id]).await?.is_empty() => {
            Ok(Held::Done(Outcome::Expired))
        }
        Ok(held) => Ok(held),
        Err(Given::Up(text)) => Err(text),
        Err(Given::Way) => Err("others are at the same record again and again: try again in a minute".into()),
    })
}

pub(super) async fn run(records: &Records, due: &Due<'_>, now: DateTime<Utc>, patience: &Patience<'_>) -> Planned {
    let (key, change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Planned::Dead(Reason::Schema, e.to_string()),
    };
    let held =
        patiently!(patience, "mongodb", async { change_hold(&records.store, due, &key, &change).await.refusal() });
    match held {
        None => Planned::Released,
        Some(Err(given)) => given_back(given),
        Some(Ok(Held::Missing(collection, key))) => missing_or_purged(records, collection, &key, patience).await,
        Some(Ok(Held::Done(outcome))) => Planned::Done(outcome),
    }
}

/// The hold, the count on the held record and the audit entry, all or nothing.
async fn change_hold(store: &Store, due: &Due<'_>, key: &str, change: &Change) -> Result<Held, TransactError> {
    transact!(store, rows, async {
        let held = match due.declared.write {
            WriteMode::HoldPlace => put(&mut rows, due, key, change).await,
            _ => lift(&mut rows, key, change).await,
        };
        if let Ok(Held::Done(Outcome::Written)) = held {
            rows.audit(&due.audit(key, change, Outcome::Written)).await?;
        }
        held
    })
}

/// What is held: its collection and the row.
async fn held_row(rows: &mut Rows<'_>, entity: &str, id: &str) -> Result<Option<(&'static str, Document)>, RowsError> {
    match collection(entity) {
        SESSIONS => session::row(rows, id).await,
        collection => Ok(rows.get(collection, id).await?.map(|row| (collection, row))),
    }
}

async fn put(rows: &mut Rows<'_>, due: &Due<'_>, key: &str, change: &Change) -> Result<Held, RowsError> {
    if rows.get(HOLDS, key).await?.is_some() {
        return Ok(Held::Done(Outcome::Duplicate));
    }
    let (entity, id) = (due.text("entityType"), due.text("entityId"));
    let Some((collection, held)) = held_row(rows, entity, id).await? else {
        return Ok(Held::Missing(collection(entity), id.to_owned()));
    };
    if is_fenced(&held) {
        return Ok(Held::Done(Outcome::Expired));
    }
    count(rows, collection, held, 1).await?;
    let mut hold = doc! { "_id": key };
    if let Action::Merge(fields) = &change.action {
        hold.extend(change.create.clone());
        hold.extend(fields.clone());
    }
    hold.insert("state", "active");
    rows.insert(HOLDS, hold).await?;
    Ok(Held::Done(Outcome::Written))
}

async fn lift(rows: &mut Rows<'_>, key: &str, change: &Change) -> Result<Held, RowsError> {
    let Some(mut hold) = rows.get(HOLDS, key).await? else { return Ok(Held::Missing(HOLDS, key.to_owned())) };
    if hold.get_str("state").is_ok_and(|s| s == "lifted") {
        return Ok(Held::Done(Outcome::Duplicate));
    }
    let text = |name: &str| hold.get_str(name).unwrap_or_default().to_owned();
    if let Some((collection, held)) = held_row(rows, &text("entityType"), &text("entityId")).await? {
        count(rows, collection, held, -1).await?;
    }
    hold.insert("state", "lifted");
    hold.insert("liftedAt", BsonDate::from_millis(change.at.timestamp_millis()));
    if let Action::Merge(fields) = &change.action {
        for (name, value) in fields.iter().filter(|(name, _)| *name != "liftedAt") {
            let name = if name == "reason" { "liftReason" } else { name };
            hold.insert(name, value.clone());
        }
    }
    rows.put(HOLDS, hold).await?;
    Ok(Held::Done(Outcome::Written))
}

/// Changes the number of holds on a record.
async fn count(rows: &mut Rows<'_>, collection: &str, mut held: Document, by: i64) -> Result<(), RowsError> {
    let holds = held.get("holdCount").and_then(Bson::as_i64).unwrap_or(0);
    held.insert("holdCount", (holds + by).max(0));
    rows.put(collection, held).await
}
