//! `context.relate` and `document.link`: relations between records, kept in `context_links`.
//!
//! CONTAINS, FOLLOWS and DERIVED_FROM say what comes before what: a circle of them means nothing and is refused. That
//! holds under concurrency, too: writers of one such relation touch one guard row in their transaction.

use chrono::{DateTime, Utc};
use mongodb::bson::{Document, doc};

use super::{
    Patience, Planned, Records, patiently,
    records::{Due, ended, given_back},
};
use crate::{
    metrics::Outcome,
    record::{Change, End, tombstone},
    store::{CONTEXT_LINKS as LINKS, Refusal, Rows, RowsError, transact},
    task::Reason,
};

/// One row for each relation that must not come round: see `refuse_circle`.
const GUARDS: &str = "record_guards";
/// Relations that must not come round in a circle.
const ACYCLIC: [&str; 3] = ["CONTAINS", "FOLLOWS", "DERIVED_FROM"];

pub async fn run(records: &Records, due: &Due<'_>, now: DateTime<Utc>, patience: &Patience<'_>) -> Planned {
    let (from, relation, to) = (due.text("from"), due.text("relation"), due.text("to"));
    if from == to {
        return Planned::Dead(
            Reason::Schema,
            format!("`from` and `to` are the same: {from:?} cannot be related to itself"),
        );
    }
    let (key, change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Planned::Dead(Reason::Schema, e.to_string()),
    };
    match is_purged(records, from, to, patience).await {
        None => return Planned::Released,
        Some(true) => return Planned::Done(Outcome::Expired),
        Some(false) => {}
    }
    let linked = patiently!(patience, "mongodb", async {
        let linked = transact!(records.store, rows, async {
            if ACYCLIC.contains(&relation) && rows.get(LINKS, &key).await?.is_none() {
                refuse_circle(&mut rows, from, relation, to).await?;
            }
            let (_, ends) = rows.fold(LINKS, &key, &[&change]).await?;
            Ok(ends.into_iter().next().unwrap_or(End::Missing))
        });
        linked.refusal()
    });
    match linked {
        // Looked at again, now that the purge of either would find the relation.
        Some(Ok(End::Created)) => match is_purged(records, from, to, patience).await {
            None => Planned::Released,
            Some(false) => Planned::Done(Outcome::Written),
            Some(true) => {
                let keys = [key.as_str()];
                match patiently!(patience, "mongodb", records.store.unmake(LINKS, &keys)) {
                    None => Planned::Released,
                    Some(()) => Planned::Done(Outcome::Expired),
                }
            }
        },
        Some(Ok(end)) => ended(&end, LINKS, &key),
        Some(Err(given)) => given_back(given),
        None => Planned::Released,
    }
}

/// Whether one of the two was purged; both may be documents or contexts. `None`: the worker stops.
async fn is_purged(records: &Records, from: &str, to: &str, patience: &Patience<'_>) -> Option<bool> {
    let ids = [from, to].into_iter().flat_map(|id| [tombstone("documents", id), tombstone("contexts", id)]);
    let gone = patiently!(patience, "mongodb", records.store.tombstones(ids.clone()))?;
    Some(!gone.is_empty())
}

/// Makes sure that `to` does not lead back to `from`.
async fn refuse_circle(rows: &mut Rows<'_>, from: &str, relation: &str, to: &str) -> Result<(), RowsError> {
    match rows.get(GUARDS, relation).await? {
        Some(row) => rows.put(GUARDS, row).await?,
        None => rows.insert(GUARDS, doc! { "_id": relation }).await?,
    }
    let reach = doc! { "$graphLookup": {
        "from": LINKS,
        "startWith": to,
        "connectFromField": "to",
        "connectToField": "from",
        "restrictSearchWithMatch": { "relation": relation },
        "as": "reached",
    } };
    let is_there = doc! { "$project": { "circle": { "$in": [from, "$reached.to"] } } };
    let found: Vec<Document> =
        rows.aggregate(GUARDS, vec![doc! { "$match": { "_id": relation } }, reach, is_there]).await?;
    if found.iter().any(|d| d.get_bool("circle").unwrap_or(false)) {
        let text = format!(
            "{from:?} {relation} {to:?} closes a circle: {to:?} leads back to {from:?} by relations of the same kind; \
             remove one of them first"
        );
        return Err(RowsError::refuse(text));
    }
    Ok(())
}
