//! `hold.place` and `hold.lift`: a legal hold keeps a user, document or session from being destroyed.
//!
//! The hold and the count on the held record change in one transaction, and the count lies in the same document that a
//! purge has to write first: placing a hold and purging cannot both win.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, DateTime as BsonDate, Document, doc};

use super::{
    Patience, Planned, Records, patiently,
    records::{Due, given_back, missing_or_purged},
};
use crate::{
    config::WriteMode,
    metrics::Outcome,
    record::{Action, Change, is_fenced},
    store::{Refusal, Rows, RowsError, transact},
    task::Reason,
};

const HOLDS: &str = "holds";

/// The collection of what can be held.
pub(super) fn collection(entity: &str) -> &'static str {
    match entity {
        "user" => "users",
        "document" => "documents",
        _ => "sessions",
    }
}

enum Held {
    Done(Outcome),
    Missing(&'static str, String),
}

pub async fn run(records: &Records, due: &Due<'_>, now: DateTime<Utc>, patience: &Patience<'_>) -> Planned {
    let (key, change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Planned::Dead(Reason::Schema, e.to_string()),
    };
    let place = due.declared.write == WriteMode::HoldPlace;
    let held = patiently!(patience, "mongodb", async {
        let rows = transact!(records.store, rows, async {
            let held =
                if place { put(&mut rows, due, &key, &change).await } else { lift(&mut rows, &key, &change).await };
            if let Ok(Held::Done(Outcome::Written)) = held {
                rows.audit(&due.audit(&key, &change, Outcome::Written)).await?;
            }
            held
        });
        rows.refusal()
    });
    match held {
        None => Planned::Released,
        Some(Err(given)) => given_back(given),
        Some(Ok(Held::Missing(collection, key))) => missing_or_purged(records, collection, &key, patience).await,
        Some(Ok(Held::Done(outcome))) => Planned::Done(outcome),
    }
}

async fn put(rows: &mut Rows<'_>, due: &Due<'_>, key: &str, change: &Change) -> Result<Held, RowsError> {
    if rows.get(HOLDS, key).await?.is_some() {
        return Ok(Held::Done(Outcome::Duplicate));
    }
    let (collection, id) = (collection(due.text("entityType")), due.text("entityId"));
    let Some(held) = rows.get(collection, id).await? else { return Ok(Held::Missing(collection, id.to_owned())) };
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
    let (collection, id) = (collection(&text("entityType")), text("entityId"));
    if let Some(held) = rows.get(collection, &id).await? {
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
