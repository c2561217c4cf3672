//! Contents of documents that nobody opens go to the archive tier. The rows stay, and an access brings the contents back
//! ([`super::unarchive`]).

use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use mongodb::bson::{Bson, doc};

use super::{
    Acted, Engine, guards,
    judge::{Due, Left},
    moves::{self, Change, Moved, Moving},
    purge::DOCUMENTS,
    take::{self, entry},
    unarchive,
};
use crate::{
    kit::{JobError, Run, Tier},
    policy::Rule,
};

/// Documents that are moved at once.
const AT_ONCE: usize = 8;

/// A document's id, and why it stayed, if it did.
type Ended = (Bson, Option<Left>);

pub async fn act(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Acted, JobError> {
    if rule.on != DOCUMENTS {
        return Err(JobError::Failed(anyhow::anyhow!(
            "rule `{}`: the action `archive` is for `documents`, not for `{}`",
            rule.name,
            rule.on
        )));
    }
    let moves: Vec<BoxFuture<'_, Result<Ended, JobError>>> =
        due.into_iter().map(|item| one(engine, run, rule, item).boxed()).collect();
    let moved: Vec<_> = stream::iter(moves).buffer_unordered(AT_ONCE).try_collect().await?;
    let mut acted = Acted::default();
    for (id, left) in moved {
        match left {
            None => acted.done += 1,
            Some(left) => acted.left.push((id, left)),
        }
    }
    Ok(acted)
}

async fn one(engine: &Engine<'_>, run: &Run, rule: &Rule, item: Due) -> Result<Ended, JobError> {
    let moving = Moving::new(item.id.clone(), item.row.clone());
    let mut entry = entry(engine, run, rule, &item);
    // A document can be archived again with the same date, after it was deleted and restored.
    entry.id = format!("{}/{}", entry.id, moving.rev().as_i64().unwrap_or(0));
    let mut filter = rule.cases.get(item.case).map(|case| case.predicate(item.cutoff)).unwrap_or_default();
    filter.remove("_id");
    let change = Change {
        to: Tier::Archive,
        filter,
        set: doc! { "state": "archived", "archivedAt": take::now(run) },
        unset: vec!["unarchive"],
        max: doc! {},
        obeys_holds: true,
        entry,
    };
    let left = match moves::move_contents(engine.world, run, moving, &change).await? {
        Moved::Done(_) => None,
        Moved::Left(left) => Some(left),
        Moved::Damaged(message) => {
            tracing::error!(document = guards::key(&item.id), message, "a document is not archived");
            Some(Left::Stuck)
        }
    };
    Ok((item.id, left))
}

/// Goes on with moves that were cut off, and brings back what is used again.
pub async fn resume(engine: &Engine<'_>, run: &mut Run) -> Result<(), JobError> {
    moves::finish(engine.world, run).await?;
    let back = unarchive::flagged(engine.world, run).await?;
    if back.done > 0 {
        run.outcome.count(unarchive::ACTION, back.done);
    }
    Ok(())
}
