//! Rows of `session_history`, and the chain from each to the one before it.
//!
//! The session before: of the same user, or of an anonymous session the latest that touched one of the same documents. It
//! is the latest that ended earlier, in whatever order they were archived: a session that comes into the history makes
//! itself the one before of those that ended later and had none, or one that ended before it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use mongodb::bson::{Bson, DateTime as BsonDate, Document, doc};

use super::{HISTORY, Summary};
use crate::{
    engine::{guards::key, judge::Due},
    kit::{JobError, Run, to_bson},
};

/// What a row carried for the work on it.
const BOOKKEEPING: [&str; 4] = ["lifecycle", "fences", "bodyState", super::CLAIM_LEFT];
/// Sessions that are looked for at once.
const AT_ONCE: usize = 16;
/// A session before an anonymous one is looked for by so many of its documents.
const BY: usize = 100;
const PREVIOUS: &str = "previousSessionId";
/// When the session before ended: who comes later to the history sees whether it is nearer.
const PREVIOUS_END: &str = "previousEndedAt";

/// A session before.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    pub session: String,
    pub ended: BsonDate,
}

/// When a session ended: as it says itself, else when it was last active.
fn ended(row: &Document, date: DateTime<Utc>) -> BsonDate {
    let at = |name: &str| row.get_datetime(name).ok().copied();
    at("endedAt").or_else(|| at("lastActivityAt")).unwrap_or_else(|| to_bson(date))
}

fn user(row: &Document) -> Option<&str> {
    row.get_str("userId").ok().filter(|id| !id.is_empty())
}

/// The row in the history. `before`: one of this id that is there already. `date`: what made the session due. Pure.
pub fn row(
    before: Option<&Document>,
    session: &Document,
    summary: &Summary,
    date: DateTime<Utc>,
    link: Option<&Link>,
    now: DateTime<Utc>,
) -> Document {
    let mut row = session.clone();
    for name in BOOKKEEPING {
        row.remove(name);
    }
    if row.get("holdCount").is_some_and(|n| matches!(n, Bson::Null | Bson::Int64(0) | Bson::Int32(0))) {
        row.remove("holdCount");
    }
    for (name, value) in before.into_iter().flatten() {
        if !row.contains_key(name) {
            row.insert(name, value.clone());
        }
    }
    let ended = ended(session, date);
    let at = |name: &str| row.get_datetime(name).ok().copied();
    let began = at("startedAt").or_else(|| at("createdAt")).or(summary.first).unwrap_or(ended);
    row.insert("state", "archived");
    row.insert("archivedAt", to_bson(now));
    row.insert("endedAt", ended);
    row.insert("durationMs", ended.timestamp_millis().saturating_sub(began.timestamp_millis()).max(0));
    row.insert("interactionCount", summary.interactions);
    row.insert("documentsTouched", summary.documents.iter().cloned().collect::<Vec<_>>());
    if let Some(link) = link {
        row.insert(PREVIOUS, &link.session);
        row.insert(PREVIOUS_END, link.ended);
    }
    if let Ok(sync) = row.get_document_mut("_sync") {
        let rev = sync.get_i64("rev").unwrap_or(0);
        sync.insert("rev", rev + 1);
    }
    row
}

type Look<'l> = BoxFuture<'l, Result<Option<(String, Link)>, JobError>>;

/// The sessions before these that are in the history, by the ids of these.
pub async fn earlier(
    run: &Run,
    due: &[Due],
    summaries: &HashMap<String, Summary>,
) -> Result<HashMap<String, Link>, JobError> {
    let mut looks: Vec<Look<'_>> = Vec::with_capacity(due.len());
    for item in due {
        let id = key(&item.id);
        let mut filter = doc! { "endedAt": { "$lt": ended(&item.row, item.date) }, "_id": { "$ne": item.id.clone() } };
        match (user(&item.row), summaries.get(&id)) {
            (Some(user), _) => drop(filter.insert("userId", user)),
            (None, Some(summary)) if !summary.documents.is_empty() => {
                let documents: Vec<&String> = summary.documents.iter().take(BY).collect();
                filter.insert("documentsTouched", doc! { "$in": documents });
            }
            (None, _) => continue,
        }
        looks.push(latest(run, filter).map(move |found| Ok(found?.map(|link| (id, link)))).boxed());
    }
    let found: Vec<Option<(String, Link)>> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn latest(run: &Run, filter: Document) -> Result<Option<Link>, JobError> {
    let rows = run.db.collection::<Document>(HISTORY);
    let find =
        async { rows.find_one(filter).sort(doc! { "endedAt": -1, "_id": -1 }).projection(doc! { "endedAt": 1 }).await };
    let row = run.call("session before", find).await?;
    Ok(row.and_then(|row| Some(Link { session: key(row.get("_id")?), ended: *row.get_datetime("endedAt").ok()? })))
}

/// Updates that make a new row of the history the one before of later ones to which it is nearer than what they have.
pub fn relinks(row: &Document) -> Vec<Document> {
    let (Some(id), Ok(ended)) = (row.get("_id"), row.get_datetime("endedAt")) else { return Vec::new() };
    let farther = [
        doc! { PREVIOUS_END: null },
        doc! { PREVIOUS_END: { "$lt": *ended } },
        // Of several that ended at once it is the one with the last id, whichever came first.
        doc! { PREVIOUS_END: *ended, PREVIOUS: { "$lt": id.clone() } },
    ];
    let update = |of: Document| {
        let mut filter = of;
        filter.insert("endedAt", doc! { "$gt": *ended });
        filter.insert("$or", farther.to_vec());
        let set = doc! { PREVIOUS: id.clone(), PREVIOUS_END: *ended };
        doc! { "q": filter, "u": { "$set": set, "$inc": { "_sync.rev": 1_i64 } }, "multi": true }
    };
    let documents: Vec<&Bson> = row.get_array("documentsTouched").into_iter().flatten().take(BY).collect();
    let of_user = user(row).map(|user| update(doc! { "userId": user }));
    let of_documents =
        (!documents.is_empty()).then(|| update(doc! { "userId": null, "documentsTouched": { "$in": documents } }));
    of_user.into_iter().chain(of_documents).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> BsonDate {
        BsonDate::from_millis(s * 1_000)
    }

    fn made(session: Document, summary: &Summary) -> Document {
        let when = DateTime::from_timestamp(500, 0).unwrap();
        row(None, &session, summary, when, None, DateTime::from_timestamp(900, 0).unwrap())
    }

    #[test]
    fn a_session_keeps_its_fields_and_gets_its_figures() {
        let session = doc! {
            "_id": "s", "userId": "u", "state": "active", "context": { "a": 1 }, "startedAt": at(100),
            "lastActivityAt": at(400), "holdCount": 0_i64, "lifecycle": "x", "fences": 2_i64, "claimLeft": [],
            "_sync": { "rev": 4_i64, "order": 7_i64 },
        };
        let documents = ["b", "a"].map(str::to_owned).into();
        let summary = Summary { interactions: 3, documents, ..Summary::default() };
        let expected = doc! {
            "_id": "s", "userId": "u", "state": "archived", "context": { "a": 1 }, "startedAt": at(100),
            "lastActivityAt": at(400), "_sync": { "rev": 5_i64, "order": 7_i64 }, "archivedAt": at(900),
            "endedAt": at(400), "durationMs": 300_000_i64, "interactionCount": 3_i64, "documentsTouched": ["a", "b"],
        };
        assert_eq!(made(session, &summary), expected);
    }

    #[test]
    fn a_duration_is_from_what_is_known() {
        let duration = |session: Document, first: Option<i64>| {
            let summary = Summary { first: first.map(at), ..Summary::default() };
            made(session, &summary).get_i64("durationMs").unwrap() / 1_000
        };
        assert_eq!(duration(doc! { "startedAt": at(10), "endedAt": at(50), "lastActivityAt": at(30) }, Some(20)), 40);
        assert_eq!(duration(doc! { "createdAt": at(20), "lastActivityAt": at(30) }, None), 10);
        assert_eq!(duration(doc! { "lastActivityAt": at(30) }, Some(25)), 5);
        assert_eq!(duration(doc! {}, Some(100)), 400);
        assert_eq!(duration(doc! { "lastActivityAt": at(30) }, None), 0);
        assert_eq!(duration(doc! { "startedAt": at(60), "endedAt": at(50) }, None), 0);
    }

    #[test]
    fn a_session_that_comes_again_adds_to_what_is_there() {
        let before = doc! { "_id": "s", "context": "old", "userId": "u", "startedAt": at(1), "endedAt": at(5) };
        let session = doc! { "_id": "s", "userId": "v", "lastActivityAt": at(9) };
        let again = row(Some(&before), &session, &Summary::default(), DateTime::UNIX_EPOCH, None, DateTime::UNIX_EPOCH);
        assert_eq!((again.get_str("userId").ok(), again.get_str("context").ok()), (Some("v"), Some("old")));
        assert_eq!((again.get_datetime("endedAt").ok(), again.get_i64("durationMs").ok()), (Some(&at(9)), Some(8_000)));
    }
}
