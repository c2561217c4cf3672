//! Brings in step what is kept in two places: contents of documents that were used again after they were archived, keys
//! in Redis of sessions that have ended and of documents that are gone. Tells what should not be there for so long.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use mongodb::bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{finish_moves, plain, unarchive},
    kit::{Job, JobError, Run, World, to_bson},
};

pub const NAME: &str = "reconciliation";

const END_SESSIONS: &str = "end_sessions";
const FORGET: &str = "forget_purged";
const FINISH: &str = "finish_moves";
const ACTIONS: [&str; 4] = [unarchive::ACTION, FINISH, END_SESSIONS, FORGET];

/// Rows of a page.
const PAGE: usize = 500;
/// Rows that should not be there are counted up to here.
const COUNTED: u64 = 10_000;

/// The job's own figures.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Settings {
    /// Sessions that ended, and records that were purged, within this time are looked at; longer than the schedule's
    /// interval.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Cached records that are out of step for longer are told of.
    #[serde(with = "humantime_serde")]
    pub shadow_limit: Duration,
    /// Purges that have not come to their end after this time are told of.
    #[serde(with = "humantime_serde")]
    pub tombstone_limit: Duration,
}

struct Reconciliation {
    settings: Settings,
    world: World,
}

impl Job for Reconciliation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn actions(&self) -> &'static [&'static str] {
        &ACTIONS
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>> {
        reconcile(&self.world, &self.settings, run).boxed()
    }
}

pub fn job(settings: Settings, world: World) -> impl Job {
    Reconciliation { settings, world }
}

async fn reconcile(world: &World, settings: &Settings, run: &mut Run) -> Result<(), JobError> {
    run.page(None).await?;
    overdue(settings, run).await?;
    if !run.dry_run {
        let finished = finish_moves(world, run).await?;
        count(run, FINISH, finished);
        run.page(None).await?;
        let back = unarchive::flagged(world, run).await?;
        count(run, unarchive::ACTION, back.done);
        run.outcome.remaining = Some(back.left + back.damaged);
    }
    let since = before(run.now, settings.window);
    end_sessions(world, run, since).await?;
    forget(world, run, since).await
}

fn count(run: &mut Run, action: &str, rows: u64) {
    if rows > 0 {
        run.outcome.count(action, rows);
    }
}

fn before(now: DateTime<Utc>, term: Duration) -> DateTime<Utc> {
    crate::policy::before(now, term)
}

/// Removes the keys that say that sessions are live which have ended.
async fn end_sessions(world: &World, run: &mut Run, since: DateTime<Utc>) -> Result<(), JobError> {
    for (collection, field, fixed) in
        [("sessions", "endedAt", doc! { "state": "ended" }), ("session_history", "archivedAt", doc! {})]
    {
        let mut after = Bson::MinKey;
        loop {
            run.page(None).await?;
            let mut filter = fixed.clone();
            filter.extend(doc! { field: { "$gte": to_bson(since) }, "_id": { "$gt": after.clone() } });
            let Some((ids, last)) = page(run, collection, filter).await? else { break };
            after = last;
            run.outcome.examined += ids.len() as u64;
            let live = run.call("live sessions", world.caches.live(&ids)).await?;
            // One that was begun anew since is live.
            let there = doc! { "_id": { "$in": live.iter().collect::<Vec<_>>() }, "state": "active" };
            let sessions = run.db.collection::<Document>("sessions");
            let active =
                async { sessions.find(there).projection(doc! { "_id": 1 }).await?.try_collect::<Vec<_>>().await };
            let active = run.call("active sessions", active).await?;
            let over: Vec<String> = live
                .into_iter()
                .filter(|id| !active.iter().any(|row| row.get_str("_id").is_ok_and(|a| a == id)))
                .collect();
            if over.is_empty() {
                continue;
            }
            if !run.dry_run {
                run.call("end sessions", world.caches.end_sessions(&over)).await?;
            }
            run.outcome.count(END_SESSIONS, over.len() as u64);
        }
    }
    Ok(())
}

/// Removes once more what is cached of records that were purged lately: a reader may have filled it at the last moment.
async fn forget(world: &World, run: &mut Run, since: DateTime<Utc>) -> Result<(), JobError> {
    let mut after = Bson::MinKey;
    loop {
        run.page(None).await?;
        let filter =
            doc! { "state": "closed", "closedAt": { "$gte": to_bson(since) }, "_id": { "$gt": after.clone() } };
        let Some((ids, last)) = page(run, "tombstones", filter).await? else { return Ok(()) };
        after = last;
        let gone: Vec<(String, String, i64)> = ids
            .iter()
            .filter_map(|id| id.split_once('/'))
            .map(|(collection, key)| (collection.to_owned(), key.to_owned(), i64::MAX))
            .collect();
        if !run.dry_run {
            run.call("forget", world.caches.forget(&gone)).await?;
        }
        run.outcome.count(FORGET, gone.len() as u64);
    }
}

/// Ids of a page, and the last one; none: there are no more.
async fn page(run: &Run, collection: &str, filter: Document) -> Result<Option<(Vec<String>, Bson)>, JobError> {
    let rows = run.db.collection::<Document>(collection);
    let page = async {
        let find = rows.find(filter).sort(doc! { "_id": 1 }).limit(PAGE as i64).projection(doc! { "_id": 1 });
        find.await?.try_collect::<Vec<_>>().await
    };
    let page = run.call("page", page).await?;
    let ids: Vec<&Bson> = page.iter().filter_map(|row| row.get("_id")).collect();
    Ok(ids.last().map(|last| (ids.iter().map(|id| plain(id)).collect(), (*last).clone())))
}

/// Tells what should have come to its end long ago.
async fn overdue(settings: &Settings, run: &mut Run) -> Result<(), JobError> {
    let old = |limit: Duration| doc! { "$lt": to_bson(before(run.now, limit)) };
    let shadows = doc! { "since": old(settings.shadow_limit) };
    let open = doc! { "state": "open", "fencedAt": old(settings.tombstone_limit) };
    let shadows = overdue_in(run, "kvshadow", shadows).await?;
    let open = overdue_in(run, "tombstones", open).await?;
    if shadows > 0 {
        tracing::warn!(shadows, "cached records are out of step for long: look whether Redis is full or away");
    }
    if open > 0 {
        tracing::error!(
            open,
            "purges have not come to their end: see why with `contextd jobs list` and the runs' errors"
        );
    }
    for (name, rows) in [("overdue-kvshadow", shadows), ("overdue-tombstones", open)] {
        if rows > 0 {
            *run.outcome.rule(name).left.entry("overdue".into()).or_default() += rows;
        }
    }
    Ok(())
}

async fn overdue_in(run: &Run, collection: &str, filter: Document) -> Result<u64, JobError> {
    let rows = run.db.collection::<Document>(collection);
    run.call("overdue", async { rows.count_documents(filter).limit(COUNTED).await }).await
}
