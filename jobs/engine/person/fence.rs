//! The fence before a user, and what keeps from putting it up.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document, doc};

use super::{
    Person, USERS, documents,
    ops::{Op, write},
    traces,
};
use crate::{
    engine::{
        Engine,
        erase::{Request, noted},
        guards::find,
        plain,
        take::{TOMBSTONES, now, stone_id},
    },
    kit::{JobError, Run, to_bson},
};

/// How the tombstone of a user begins who is fenced by other than a rule's predicate.
pub struct Stone<'s> {
    pub rule: &'s str,
    pub action: &'s str,
    pub request: Option<&'s Request>,
    /// What makes it due.
    pub date: DateTime<Utc>,
}

/// Fences a user whatever the row's state: deletes it first where it is not, and makes a row where there is none, so that
/// holds and tasks meet it. False: it is held, or others were at it.
pub async fn fence(engine: &Engine<'_>, run: &Run, user: &str, how: &Stone<'_>) -> Result<bool, JobError> {
    let row =
        find(run, "user", USERS, doc! { "_id": user }, doc! { "_sync": 1, "state": 1, "deletedAt": 1 }).await?.pop();
    let date = to_bson(how.date);
    let stone = doc! {
        "_id": stone_id(USERS, &user.into()), "collection": USERS, "key": user, "state": "open", "rule": how.rule,
        "action": how.action, "job": run.job, "policy": &engine.world.policy.hash, "cutoff": date, "date": date,
        "fencedAt": now(run), "owners": [user], "request": how.request.map(noted),
    };
    let records = [(USERS.to_owned(), user.to_owned(), i64::MAX)];
    run.call("forget", engine.world.caches.forget(&records)).await?;
    let fence = match row {
        None => {
            Op::insert("stub", USERS, doc! { "_id": user, "state": "purging", "deletedAt": date, "createdAt": date })
        }
        Some(row) => {
            let sync = row.get_document("_sync").ok();
            let mut met = doc! { "_id": user, "holdCount": { "$in": [null, 0_i64, 0_i32] } };
            met.insert("_sync.rev", sync.and_then(|sync| sync.get("rev")).cloned().unwrap_or(Bson::Null));
            let mut set = doc! { "state": "purging" };
            if !row.contains_key("deletedAt") {
                set.insert("deletedAt", date);
            }
            let mut update = doc! { "$set": set };
            if sync.is_some() {
                update.insert("$inc", doc! { "_sync.rev": 1_i64 });
            }
            Op::update("fence user", USERS, vec![doc! { "q": met, "u": update }]).exactly(1)
        }
    };
    let put = doc! { "q": { "_id": stone.get("_id") }, "u": stone.clone(), "upsert": true };
    write(run, &[fence, Op::update("tombstone", TOMBSTONES, vec![put])]).await
}

/// Whether any row names the user.
pub async fn has_traces(engine: &Engine<'_>, run: &Run, user: &str) -> Result<bool, JobError> {
    let stone = Document::new();
    traces::are_there(&Person { engine, run, user, stone: &stone }).await
}

/// What holds the user: the user, documents and sessions of the user, as COLLECTION and id.
pub async fn held_by(run: &Run, user: &str) -> Result<Vec<(&'static str, String)>, JobError> {
    let of_user = || doc! { "$or": [{ "userId": user }, { "claimedBy": user }] };
    let sessions = ids(run, "sessions", traces::SESSIONS, of_user()).await?;
    let archived = ids(run, "archived sessions", traces::HISTORY, of_user()).await?;
    let sessions: Vec<Bson> = sessions.into_iter().chain(archived).collect();
    // What nobody owns is its session's.
    let documents = doc! { "$or": [{ "userId": user }, { "sessionId": { "$in": sessions }, "userId": null }] };
    let owned = [
        (USERS, doc! { "_id": user }),
        (documents::DOCUMENTS, documents),
        (traces::SESSIONS, of_user()),
        (traces::HISTORY, of_user()),
    ];
    let mut held = Vec::new();
    for (collection, mut filter) in owned {
        filter.insert("holdCount", doc! { "$nin": [null, 0_i64, 0_i32] });
        let rows = ids(run, "holds", collection, filter).await?;
        held.extend(rows.iter().map(|id| (collection, plain(id))));
    }
    held.sort_unstable();
    Ok(held)
}

async fn ids(run: &Run, call: &'static str, collection: &str, filter: Document) -> Result<Vec<Bson>, JobError> {
    let rows = find(run, call, collection, filter, doc! { "_id": 1 }).await?;
    Ok(rows.into_iter().filter_map(|mut row| row.remove("_id")).collect())
}
