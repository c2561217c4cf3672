//! Contents come back from the archive tier: of documents that were used again, and when somebody asks for it.

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use super::{
    guards::{self, find},
    judge::Left,
    moves::{self, Change, LEFT, Moved, Moving},
    purge::DOCUMENTS,
    take,
};
use crate::kit::{JobError, Run, Tier, World, chain::Entry};

/// As runs count it.
pub const ACTION: &str = "unarchive";
/// The document is asked for again; its contents are to come back.
pub const FLAG: &str = "unarchive";
const ARCHIVED: &str = "archived";
/// A document that others write to is tried so often.
const TRIES: usize = 4;
const PAGE: i64 = 200;

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unarchived {
    /// So many contents came back.
    Done(u64),
    /// It is not archived, and all its contents are where they should be.
    Nothing,
    /// There is no such document, or it is being purged.
    Missing,
    /// Others keep writing to it, or an earlier move of it has not ended yet: later.
    Busy,
    /// A content is damaged or missing in the archive; nothing was changed.
    Damaged(String),
}

/// Brings the contents of a document and of its versions back. A document that is archived is active from then on.
pub async fn unarchive(world: &World, run: &Run, id: &Bson) -> Result<Unarchived, JobError> {
    for _ in 0..TRIES {
        let fields = doc! {
            "content": 1, "state": 1, "_sync.rev": 1, "userId": 1, "sessionId": 1, LEFT: 1, FLAG: 1, "archivedAt": 1,
        };
        let row = find(run, "document", DOCUMENTS, doc! { "_id": id.clone() }, fields).await?.pop();
        let state = |row: &Document, is: &str| row.get_str("state").is_ok_and(|state| state == is);
        let Some(row) = row.filter(|row| !state(row, "purging")) else { return Ok(Unarchived::Missing) };
        let (archived, flagged) = (state(&row, ARCHIVED), row.contains_key(FLAG));
        let moving = Moving::new(id.clone(), row);
        if !archived && !flagged {
            let moving = Moving { row: moving.row.clone(), ..Moving::new(id.clone(), Document::new()) };
            if moving.with_versions(run).await?.contents(Tier::Archive).next().is_none() {
                return Ok(Unarchived::Nothing);
            }
        }
        let rev = moving.rev().as_i64().unwrap_or(0);
        let mut set = doc! {};
        let mut max = doc! {};
        if archived {
            set.insert("state", "active");
            // By command: it counts as a use, or the next run would archive it again.
            max.insert("lastAccessedAt", take::now(run));
        }
        let change = Change {
            to: Tier::Hot,
            filter: doc! { "state": { "$ne": "purging" } },
            set,
            unset: vec![FLAG, "archivedAt"],
            max,
            obeys_holds: false,
            entry: Entry {
                id: format!("unarchive/{DOCUMENTS}/{}/{rev}", guards::key(id)),
                at: run.now,
                action: "lifecycle.unarchive".into(),
                entity: (DOCUMENTS.into(), guards::key(id)),
                actor: Some("contextd".into()),
                detail: doc! { "job": run.job },
            },
        };
        match moves::move_contents(world, run, moving, &change).await? {
            Moved::Done(contents) => return Ok(Unarchived::Done(contents)),
            Moved::Damaged(message) => return Ok(Unarchived::Damaged(message)),
            Moved::Left(Left::Changed) => {}
            Moved::Left(_) => return Ok(Unarchived::Busy),
        }
    }
    Ok(Unarchived::Busy)
}

/// What became of the documents that are flagged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Back {
    pub done: u64,
    /// Their archived contents are damaged or missing.
    pub damaged: u64,
    /// Busy: left for the next time.
    pub left: u64,
}

/// Brings back the contents of all documents that were used since they were archived.
pub async fn flagged(world: &World, run: &Run) -> Result<Back, JobError> {
    let (mut back, mut after) = (Back::default(), Bson::MinKey);
    loop {
        let filter = doc! { FLAG: true, "_id": { "$gt": after.clone() }, "state": { "$ne": "purging" } };
        let rows = run.db.collection::<Document>(DOCUMENTS);
        let page = async {
            let find = rows.find(filter).sort(doc! { "_id": 1 }).limit(PAGE).projection(doc! { "_id": 1 });
            find.await?.try_collect::<Vec<_>>().await
        };
        let page: Vec<Document> = run.call("flagged", page).await?;
        let Some(last) = page.last().and_then(|row| row.get("_id")) else { return Ok(back) };
        after = last.clone();
        for id in page.iter().filter_map(|row| row.get("_id")) {
            if run.stop.is_cancelled() {
                return Err(JobError::Stopped);
            }
            match unarchive(world, run, id).await? {
                Unarchived::Done(_) | Unarchived::Nothing | Unarchived::Missing => back.done += 1,
                Unarchived::Busy => back.left += 1,
                Unarchived::Damaged(message) => {
                    back.damaged += 1;
                    tracing::error!(document = guards::key(id), message, "a document's contents do not come back");
                }
            }
        }
    }
}
