//! A row gets another state: marked for cleanup, or soft-deleted.

use mongodb::bson::{Document, doc};

use super::{
    Acted, Engine,
    judge::Due,
    take::{self, Take, take},
};
use crate::{
    kit::{JobError, Run},
    policy::Rule,
};

pub async fn act(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>, state: &str) -> Result<Acted, JobError> {
    let stamp = if state == "deleted" { "deletedAt" } else { "markedAt" };
    let set = doc! { "state": state, stamp: take::now(run) };
    let how = Take { set: Some(set), unset: &[], tombstone: None, audit: true, also: Document::new() };
    forget(engine, run, rule, &due).await?;
    Ok(take(engine, run, rule, due, &how).await?.into())
}

/// Keeps cached values of the rows as they are now from being read, before they change: cut off in between, nothing
/// outdated is served.
pub async fn forget(engine: &Engine<'_>, run: &Run, rule: &Rule, due: &[Due]) -> Result<(), JobError> {
    if !engine.world.caches.cached_by(&rule.on).is_empty() {
        let rows: Vec<_> = due.iter().map(|item| item.row.clone()).collect();
        run.call("forget by", engine.world.caches.forget_by(&rule.on, &rows)).await?;
    }
    let records = due.iter().filter(|item| item.row.contains_key("_sync"));
    let stale: Vec<_> = records.map(|item| stale(rule, item)).collect();
    if stale.is_empty() {
        return Ok(());
    }
    run.call("forget", engine.world.caches.forget(&stale)).await
}

/// A row whose cached values are outdated by the write that took it.
pub fn stale(rule: &Rule, item: &Due) -> (String, String, i64) {
    let rev = item.row.get_document("_sync").ok().and_then(|sync| sync.get_i64("rev").ok()).unwrap_or(0);
    (rule.on.clone(), super::plain(&item.id), rev + 1)
}
