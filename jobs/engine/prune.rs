//! Versions are pruned: taken out of their document's chain, then their contents and rows go.
//!
//! Fence: one transaction writes the documents (so that it collides with whoever makes versions, holds or purges), looks
//! again that no version is current or a base, links the next versions to the ones before, and turns the rows' contents
//! over to tombstones. From then on nobody can read them or build on them, and [`finish`] goes on from the tombstones.

mod chain;
mod fence;
mod finish;

use std::collections::BTreeMap;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use super::{
    Acted, Engine,
    guards::{find, key},
    judge::{Due, Left},
    mark,
    take::{TOMBSTONES, is_conflict},
    tries::{Tries, halved},
};
use crate::{
    kit::{JobError, Run},
    policy::Rule,
};
use finish::finish;

const VERSIONS: &str = "document_versions";
const DOCUMENTS: &str = "documents";
/// Documents of one transaction at most: those at work are written all the time.
const AT_ONCE: usize = 50;
/// Versions that are brought to their end together.
const PAGE: usize = 200;

/// Due versions of one document.
type Group = Vec<Due>;

pub async fn act(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Acted, JobError> {
    let mut acted = Acted::default();
    let mut documents: BTreeMap<String, Group> = BTreeMap::new();
    for item in due {
        match item.row.get("documentId").filter(|id| **id != Bson::Null).map(key) {
            Some(document) => documents.entry(document).or_default().push(item),
            None => acted.left.push((item.id, Left::Lacking)),
        }
    }
    let all: Vec<Group> = documents.into_values().collect();
    let mut groups: Vec<Vec<Group>> = all.chunks(AT_ONCE).map(<[Group]>::to_vec).collect();
    while let Some(group) = groups.pop() {
        forget(engine, run, rule, &group).await?;
        let mut tries = Tries::default();
        let fenced = loop {
            match fence::fence(engine, run, rule, &group).await {
                Ok(fenced) => break Some(fenced),
                Err(e) if tries.again(&e).await => {}
                Err(e) if is_conflict(&e) => break None,
                Err(e) => return Err(e),
            }
        };
        match (fenced, halved(group)) {
            (Some(fenced), _) => {
                acted.left.extend(fenced.left);
                for stones in fenced.stones.chunks(PAGE) {
                    add(&mut acted, finish(engine, run, stones).await?);
                }
            }
            (None, Ok(halves)) => groups.extend(halves),
            (None, Err(alone)) => acted.left.extend(alone.into_iter().flatten().map(|item| (item.id, Left::Busy))),
        }
    }
    Ok(acted)
}

/// Goes on with versions of the rule that a run fenced which did not come to its end.
pub async fn resume(engine: &Engine<'_>, run: &mut Run, rule: &Rule) -> Result<(), JobError> {
    let mut after = Bson::MinKey;
    loop {
        let filter =
            doc! { "state": "open", "rule": &rule.name, "action": rule.action.name(), "_id": { "$gt": after.clone() } };
        let stones = run.db.collection::<Document>(TOMBSTONES);
        let open = async {
            stones.find(filter).sort(doc! { "_id": 1 }).limit(PAGE as i64).await?.try_collect::<Vec<Document>>().await
        };
        let open = run.call("open tombstones", open).await?;
        let Some(last) = open.last().and_then(|stone| stone.get("_id")) else { return Ok(()) };
        after = last.clone();
        let acted = finish(engine, run, &open).await?;
        run.outcome.count(rule.action.name(), acted.done);
        run.outcome.rule(&rule.name).done += acted.done;
        engine.leave(run, rule, acted.left);
    }
}

/// What is cached of the versions, and of those that come to be linked to others, is outdated by the fence.
async fn forget(engine: &Engine<'_>, run: &Run, rule: &Rule, groups: &[Group]) -> Result<(), JobError> {
    let due: Vec<&Due> = groups.iter().flatten().collect();
    let mut stale: Vec<(String, String, i64)> = due.iter().map(|item| mark::stale(rule, item)).collect();
    let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
    let next = find(run, "next versions", VERSIONS, chain::after(&ids), doc! { "_sync.rev": 1 }).await?;
    stale.extend(next.iter().filter_map(|row| {
        let rev = row.get_document("_sync").ok().and_then(|sync| sync.get_i64("rev").ok());
        Some((VERSIONS.to_owned(), key(row.get("_id")?), rev.unwrap_or(0)))
    }));
    run.call("forget", engine.world.caches.forget(&stale)).await
}

fn add(to: &mut Acted, more: Acted) {
    to.done += more.done;
    to.left.extend(more.left);
}
