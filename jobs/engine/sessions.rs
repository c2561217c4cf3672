//! Sessions that are over go to `session_history`, with a summary: one transaction takes the row, writes the history and
//! its links, the tombstone and the evidence.
//!
//! The summary counts what was there at that moment: an interaction that comes later is kept, and not counted.

mod history;
mod summary;

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, Document, doc};

use super::{
    Acted, Engine, guards,
    judge::{Due, Left},
    mark,
    take::{self, AUDIT, TOMBSTONES, Take, Taken, Txn, is_conflict},
    tries::{Tries, halved},
};
use crate::{
    kit::{JobError, Run},
    policy::{Guard, Rule},
};
use history::{Link, relinks};
use summary::{Summary, summaries};

const SESSIONS: &str = "sessions";
const HISTORY: &str = "session_history";
/// Contents that a claim has moved and not removed yet; the claim goes on from this list, so the row has to stay.
const CLAIM_LEFT: &str = "claimLeft";

pub async fn act(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Acted, JobError> {
    let (claimed, due): (Vec<Due>, Vec<Due>) = due.into_iter().partition(is_claim_unfinished);
    let mut acted = Acted { done: 0, left: claimed.into_iter().map(|item| (item.id, Left::Claimed)).collect() };
    if due.is_empty() {
        return Ok(acted);
    }
    mark::forget(engine, run, rule, &due).await?;
    let summaries = summaries(run, &due).await?;
    let typing: Vec<(String, String)> = summaries.values().flat_map(|s| s.typing.iter().cloned()).collect();
    if !typing.is_empty() {
        run.call("forget typing", engine.world.caches.forget_typing(&typing)).await?;
    }
    let mut groups = vec![due];
    while let Some(group) = groups.pop() {
        let mut tries = Tries::default();
        let taken = loop {
            match once(engine, run, rule, &group, &summaries).await {
                Ok(taken) => break Some(taken),
                Err(e) if tries.again(&e).await => {}
                Err(e) if is_conflict(&e) => break None,
                Err(e) => return Err(e),
            }
        };
        match (taken, halved(group)) {
            (Some(taken), _) => {
                end(engine, run, &taken).await?;
                acted.done += taken.rows.len() as u64;
                acted.left.extend(taken.left);
            }
            (None, Ok(halves)) => groups.extend(halves),
            (None, Err(alone)) => acted.left.extend(alone.into_iter().map(|item| (item.id, Left::Busy))),
        }
    }
    Ok(acted)
}

fn is_claim_unfinished(item: &Due) -> bool {
    item.row.get(CLAIM_LEFT).is_some_and(|left| *left != Bson::Null && left.as_array().is_none_or(|l| !l.is_empty()))
}

async fn once(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    group: &[Due],
    summaries: &HashMap<String, Summary>,
) -> Result<Taken, JobError> {
    let mut taken = Taken::default();
    let idle = idle(engine, run, rule, group, &mut taken).await?;
    if idle.is_empty() {
        return Ok(taken);
    }
    // Only this job writes to the history, group after group: what is there now is there in the transaction.
    let links = history::earlier(run, &idle, summaries).await?;
    let mut txn = Txn::begin(run).await?;
    match within(engine, run, rule, &idle, summaries, &links, &mut txn).await {
        Ok(moved) if moved.rows.is_empty() => {
            txn.abort().await;
            taken.left.extend(moved.left);
            Ok(taken)
        }
        Ok(moved) => {
            txn.commit().await?;
            taken.left.extend(moved.left);
            taken.rows = moved.rows;
            Ok(taken)
        }
        Err(e) => {
            txn.abort().await;
            Err(e)
        }
    }
}

/// Those that are not live, looked at once more: making summaries takes a while, and a touch reaches Redis before it
/// reaches the row.
async fn idle(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    group: &[Due],
    taken: &mut Taken,
) -> Result<Vec<Due>, JobError> {
    if !rule.guards.contains(&Guard::NoLiveSession) {
        return Ok(group.to_vec());
    }
    let ids: Vec<String> = group.iter().map(|item| guards::key(&item.id)).collect();
    let live = run.call("live sessions", engine.world.caches.live(&ids)).await?;
    let (live, idle): (Vec<Due>, Vec<Due>) =
        group.iter().cloned().partition(|item| live.contains(&guards::key(&item.id)));
    taken.left.extend(live.into_iter().map(|item| (item.id, Left::Guarded(Guard::NoLiveSession))));
    Ok(idle)
}

async fn within(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: &[Due],
    summaries: &HashMap<String, Summary>,
    links: &HashMap<String, Link>,
    txn: &mut Txn<'_>,
) -> Result<Taken, JobError> {
    let mut taken = Taken::default();
    let free = take::unheld(run, due, &mut taken, txn).await?;
    if free.is_empty() {
        return Ok(taken);
    }
    let ids: Vec<Bson> = free.iter().map(|item| item.id.clone()).collect();
    let rows = by_id(txn.find("rows", SESSIONS, doc! { "_id": { "$in": &ids } }, doc! {}).await?);
    let also = doc! { CLAIM_LEFT: { "$in": [Bson::Null, Bson::Array(Vec::new())] } };
    let how = Take { set: None, unset: &[], tombstone: None, audit: true, also };
    let deletes = free.iter().map(|item| doc! { "q": take::filter(rule, item, &how), "limit": 1 }).collect();
    let deleted = txn.delete("take", SESSIONS, deletes).await?;
    let stay: HashSet<String> = if deleted == free.len() as u64 {
        HashSet::new()
    } else {
        let stay = txn.find("taken", SESSIONS, doc! { "_id": { "$in": &ids } }, doc! { "_id": 1 }).await?;
        by_id(stay).into_keys().collect()
    };
    // One of this id may have been archived before, if a task made it again: they are one session.
    let before = by_id(txn.find("archived before", HISTORY, doc! { "_id": { "$in": &ids } }, doc! {}).await?);
    let mut history = Vec::with_capacity(free.len());
    for item in free {
        let key = guards::key(&item.id);
        let Some(row) = rows.get(&key).filter(|_| !stay.contains(&key)) else {
            taken.left.push((item.id.clone(), Left::Changed));
            continue;
        };
        let none = Summary::default();
        let summary = summaries.get(&key).unwrap_or(&none);
        history.push(history::row(before.get(&key), row, summary, item.date, links.get(&key), run.now));
        taken.rows.push(item.clone());
    }
    if !before.is_empty() {
        let again = history.iter().filter_map(|row| row.get("_id")).filter(|id| before.contains_key(&guards::key(id)));
        let again = again.map(|id| doc! { "q": { "_id": id }, "limit": 1 }).collect::<Vec<_>>();
        if !again.is_empty() {
            txn.delete("archived before", HISTORY, again).await?;
        }
    }
    let later = history.iter().flat_map(relinks).collect::<Vec<_>>();
    txn.insert("history", HISTORY, history).await?;
    if !later.is_empty() {
        txn.update("links", HISTORY, later).await?;
    }
    prove(engine, run, rule, &taken.rows, txn).await?;
    Ok(taken)
}

/// Tombstones, so that a late task does not make the sessions again, and the evidence.
async fn prove(engine: &Engine<'_>, run: &Run, rule: &Rule, rows: &[Due], txn: &mut Txn<'_>) -> Result<(), JobError> {
    if rows.is_empty() {
        return Ok(());
    }
    let stone = |item: &Due| {
        let stone = take::tombstone(engine, run, rule, item, "closed");
        doc! { "q": { "_id": take::stone_id(SESSIONS, &item.id) }, "u": stone, "upsert": true }
    };
    txn.update("tombstones", TOMBSTONES, rows.iter().map(stone).collect()).await?;
    let key = engine.world.audit_key.as_ref();
    let entries = rows.iter().map(|item| take::entry(engine, run, rule, item).document(key)).collect();
    txn.insert("audit", AUDIT, entries).await
}

/// Keys in Redis go last: of a session that was touched and is taken all the same, none is to say that it is live.
async fn end(engine: &Engine<'_>, run: &Run, taken: &Taken) -> Result<(), JobError> {
    if taken.rows.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = taken.rows.iter().map(|item| guards::key(&item.id)).collect();
    run.call("end sessions", engine.world.caches.end_sessions(&ids)).await
}

fn by_id(rows: Vec<Document>) -> HashMap<String, Document> {
    rows.into_iter().filter_map(|row| Some((guards::key(row.get("_id")?), row))).collect()
}
