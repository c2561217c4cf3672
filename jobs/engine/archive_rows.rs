//! Old rows go to files in the archive tier, which have an end: `COLLECTION/END/RULE-HASH-MAKER.jsonl.zst`, each a page of
//! rows as canonical extended JSON, one per line.
//!
//! A file's name holds the hash of its lines and a number of its maker's own: what is under a name never changes, and two
//! runs that overlap never touch each other's files. The rows are deleted in the transaction that records the file in the
//! audit log: a file that the log does not know was never finished, and is removed.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};

use super::{
    Acted, Engine,
    file::{self, File},
    guards::{self, find},
    judge::{Due, Left},
    mark::forget,
    take::{AUDIT, TOMBSTONES, Take, Taken, Txn, filter, is_conflict, tombstone, unheld},
};
use crate::{
    kit::{JobError, Object, OutsideError, Run, Tier, World, chain::Entry, to_bson},
    policy::{Action, Rule},
};

/// As runs count it: a file's term is over.
pub const END: &str = "archive-end";
/// A file is not taken for unfinished before this.
const UNFINISHED: TimeDelta = TimeDelta::hours(24);
/// A transaction that meets others is tried this often.
const TRIES: u32 = 4;
/// Where authentication logs go, whether or not a rule says so now.
const AUTH_LOGS: &str = "auth_logs";

pub async fn act(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: Vec<Due>,
    archive_for: Duration,
) -> Result<Acted, JobError> {
    let end = TimeDelta::from_std(archive_for).ok().and_then(|term| run.now.checked_add_signed(term));
    let end = end.unwrap_or(DateTime::<Utc>::MAX_UTC).date_naive();
    forget(engine, run, rule, &due).await?;
    let mut acted = Acted::default();
    let mut waiting = due;
    // Rows that changed since they were read are not in the file that counts: each round has fewer.
    while !waiting.is_empty() {
        let file =
            File::of(&rule.on, &rule.name, end, &ObjectId::new().to_hex(), waiting.iter().map(|item| &item.row))?;
        write(engine.world, run, &file).await?;
        let left = delete_rows(engine, run, rule, &waiting, &file).await?;
        if left.is_empty() {
            acted.done += waiting.len() as u64;
            return Ok(acted);
        }
        run.call("delete file", engine.world.objects.delete(Tier::Archive, &file.name)).await?;
        let ids: BTreeSet<String> = left.iter().map(|(id, _)| guards::key(id)).collect();
        waiting.retain(|item| !ids.contains(&guards::key(&item.id)));
        acted.left.extend(left);
    }
    Ok(acted)
}

/// Stores a file, and looks that it is there as it was made.
async fn write(world: &World, run: &Run, file: &File) -> Result<(), JobError> {
    let bytes = file.bytes()?;
    run.call("put file", world.objects.put(Tier::Archive, &file.name, bytes.clone())).await?;
    let back = run.call("get file", world.objects.get(Tier::Archive, &file.name, bytes.len() as u64)).await?;
    let lines = file::lines(&file.name, &back)?;
    if file::hash(&lines) != file.hash || file::rows(&file.name, &lines)?.len() != file.rows {
        return Err(JobError::Failed(anyhow::anyhow!(
            "the archive tier gave back something else than was stored as {}: no row was deleted. Look at the store",
            file.name
        )));
    }
    Ok(())
}

/// Deletes the rows of the file, all or none; answers those for which it was none.
async fn delete_rows(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: &[Due],
    file: &File,
) -> Result<Vec<(Bson, Left)>, JobError> {
    for tries in 1..=TRIES {
        let mut txn = Txn::begin(run).await?;
        match within(engine, run, rule, due, file, &mut txn).await {
            Ok(left) if left.is_empty() => match txn.commit().await {
                Err(e) if is_conflict(&e) => {}
                ended => return ended.map(|()| Vec::new()),
            },
            Ok(left) => {
                txn.abort().await;
                return Ok(left);
            }
            Err(e) => {
                txn.abort().await;
                if !is_conflict(&e) {
                    return Err(e);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(u64::from(tries) * 5)).await;
    }
    Ok(due.iter().map(|item| (item.id.clone(), Left::Busy)).collect())
}

async fn within(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: &[Due],
    file: &File,
    txn: &mut Txn<'_>,
) -> Result<Vec<(Bson, Left)>, JobError> {
    let how = Take { set: None, unset: &[], tombstone: Some("closed"), audit: false, also: Document::new() };
    let mut taken = Taken::default();
    unheld(run, due, &mut taken, txn).await?;
    if !taken.left.is_empty() {
        return Ok(taken.left);
    }
    let filters: Vec<Document> = due.iter().map(|item| filter(rule, item, &how)).collect();
    let deletes = filters.iter().map(|q| doc! { "q": q.clone(), "limit": 1 }).collect();
    if txn.delete("take", &rule.on, deletes).await? != due.len() as u64 {
        let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
        let there = txn.find("taken", &rule.on, doc! { "_id": { "$in": ids } }, doc! { "_id": 1 }).await?;
        let there: BTreeSet<String> = there.iter().filter_map(|row| row.get("_id")).map(guards::key).collect();
        let mut left: Vec<(Bson, Left)> =
            due.iter().filter(|i| there.contains(&guards::key(&i.id))).map(|i| (i.id.clone(), Left::Changed)).collect();
        // The others are gone, by this transaction or by others: only a look from outside of it tells.
        if left.is_empty() {
            let filter = doc! { "_id": { "$in": due.iter().map(|item| &item.id).collect::<Vec<_>>() } };
            let known = find(run, "known", &rule.on, filter, doc! { "_id": 1 }).await?;
            let known: BTreeSet<String> = known.iter().filter_map(|row| row.get("_id")).map(guards::key).collect();
            left.extend(
                due.iter().filter(|i| !known.contains(&guards::key(&i.id))).map(|i| (i.id.clone(), Left::Changed)),
            );
        }
        if left.is_empty() {
            return Err(JobError::Unconfirmed("rows changed again and again while they were archived".into()));
        }
        return Ok(left);
    }
    // A task that comes late does not make its record again.
    let records = due.iter().filter(|item| item.row.contains_key("_sync"));
    let stones = records.map(|item| tombstone(engine, run, rule, item, "closed")).collect();
    txn.insert("tombstones", TOMBSTONES, stones).await?;
    let entry = entry(engine, run, rule, due, file);
    txn.insert("audit", AUDIT, vec![entry.document(engine.world.audit_key.as_ref())]).await?;
    Ok(Vec::new())
}

/// One entry for a file, with the ids of its rows. Its id is the file's name.
fn entry(engine: &Engine<'_>, run: &Run, rule: &Rule, due: &[Due], file: &File) -> Entry {
    let ids: Vec<String> = due.iter().map(|item| guards::key(&item.id)).collect();
    let date = |item: Option<&Due>| item.map(|item| to_bson(item.date));
    Entry {
        id: file.name.clone(),
        at: run.now,
        action: format!("lifecycle.{}", rule.action.name()),
        entity: (rule.on.clone(), file.name.clone()),
        actor: Some("contextd".into()),
        detail: doc! {
            "rule": &rule.name,
            "job": run.job,
            "policyVersion": i64::from(engine.world.policy.version),
            "policy": &engine.world.policy.hash,
            "cutoff": due.iter().map(|item| item.cutoff).max().map(to_bson),
            "first": date(due.iter().min_by_key(|item| item.date)),
            "last": date(due.iter().max_by_key(|item| item.date)),
            "rows": file.rows as i64,
            "hash": &file.hash,
            "ids": ids,
        },
    }
}

/// Removes files whose term is over, and those that an earlier run did not finish.
pub async fn resume(engine: &Engine<'_>, run: &mut Run, rule: &Rule) -> Result<(), JobError> {
    let mut ended = 0;
    let mut files = engine.world.objects.walk(Tier::Archive, &rule.on);
    while let Some(object) = run.call("walk files", async { files.try_next().await }).await? {
        if run.stop.is_cancelled() {
            return Err(JobError::Stopped);
        }
        let Some(end) = file::end_of(&rule.on, &object.key) else { continue };
        if is_unfinished(run, &object).await? {
            tracing::info!(file = object.key, "a file of archived rows that was never finished is removed");
        } else if end < run.now.date_naive() {
            if !may_end(run, engine.world, &object).await? {
                run.outcome.held += 1;
                continue;
            }
            end_file(engine.world, run, rule, &object.key, end).await?;
            ended += 1;
        } else {
            continue;
        }
        run.call("delete file", engine.world.objects.delete(Tier::Archive, &object.key)).await?;
    }
    drop(files);
    if ended > 0 {
        run.outcome.count(END, ended);
    }
    Ok(())
}

/// Whether no transaction has recorded the file, long after it was written.
async fn is_unfinished(run: &Run, object: &Object) -> Result<bool, JobError> {
    if run.now - object.modified < UNFINISHED {
        return Ok(false);
    }
    Ok(find(run, "entry of file", AUDIT, doc! { "_id": &object.key }, doc! { "_id": 1 }).await?.is_empty())
}

/// Whether nothing in the file belongs to somebody who is held. A file that cannot be read is kept.
async fn may_end(run: &Run, world: &World, object: &Object) -> Result<bool, JobError> {
    let rows = match read(world, run, object).await {
        Ok(rows) => rows,
        Err(JobError::Outside(OutsideError { message, passes: false })) => {
            tracing::error!(file = object.key, message, "a file of archived rows cannot be read, and is kept");
            return Ok(false);
        }
        Err(e) => return Err(e),
    };
    Ok(guards::held(run, guards::owners(rows.iter()), None).await?.is_empty())
}

async fn end_file(world: &World, run: &Run, rule: &Rule, name: &str, end: NaiveDate) -> Result<(), JobError> {
    let entry = Entry {
        id: format!("{END}/{name}"),
        at: run.now,
        action: format!("lifecycle.{END}"),
        entity: (rule.on.clone(), name.to_owned()),
        actor: Some("contextd".into()),
        detail: doc! {
            "rule": &rule.name, "job": run.job, "policy": &world.policy.hash, "end": end.to_string(),
        },
    };
    super::purge::insert_once(run, AUDIT, vec![entry.document(world.audit_key.as_ref())]).await
}

async fn read(world: &World, run: &Run, object: &Object) -> Result<Vec<Document>, JobError> {
    let bytes = run.call("get file", world.objects.get(Tier::Archive, &object.key, object.size)).await?;
    let lines = file::lines(&object.key, &bytes)?;
    if !object.key.contains(file::short(&file::hash(&lines))) {
        let message = format!("the file {} is damaged: restore it from a backup of the archive tier", object.key);
        return Err(JobError::Outside(OutsideError { message, passes: false }));
    }
    file::rows(&object.key, &lines)
}

/// What erasing somebody did to the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// Files that were read.
    pub files: u64,
    /// Rows that are nobody's now.
    pub rows: u64,
    /// Files that cannot be read: what they hold of the user is still there.
    pub unread: Vec<String>,
}

/// Makes the user's rows in all files nobody's. Safe to repeat from anywhere.
pub async fn erase_user(world: &World, run: &Run, user: &str) -> Result<Erased, JobError> {
    let rules = world.policy.rules.iter().filter(|rule| matches!(rule.action, Action::ArchiveRows { .. }));
    let mut folders: BTreeSet<&str> = rules.map(|rule| rule.on.as_str()).collect();
    folders.insert(AUTH_LOGS);
    let mut erased = Erased::default();
    for folder in folders {
        // What is written meanwhile is not met again: its rows are nobody's already.
        let mut files = world.objects.walk(Tier::Archive, folder);
        while let Some(object) = run.call("walk files", async { files.try_next().await }).await? {
            let Some(end) = file::end_of(folder, &object.key) else { continue };
            erased.files += 1;
            match erase_in(world, run, folder, &object, end, user).await {
                Ok(rows) => erased.rows += rows,
                Err(JobError::Outside(OutsideError { message, passes: false })) => {
                    tracing::error!(file = object.key, message, "a file of archived rows cannot be read");
                    erased.unread.push(object.key);
                }
                Err(e) => return Err(e),
            }
        }
    }
    Ok(erased)
}

async fn erase_in(
    world: &World,
    run: &Run,
    folder: &str,
    object: &Object,
    end: NaiveDate,
    user: &str,
) -> Result<u64, JobError> {
    let mut rows = read(world, run, object).await?;
    let erased = rows.iter_mut().map(|row| u64::from(file::erase(row, user))).sum::<u64>();
    if erased == 0 {
        return Ok(0);
    }
    let (rule, maker) = file::made_by(&object.key).unwrap_or((folder, "0"));
    let file = File::of(folder, rule, end, maker, rows.iter())?;
    write(world, run, &file).await?;
    let entry = |id: String| Entry {
        id,
        at: run.now,
        action: "lifecycle.archive-erase".into(),
        entity: (folder.to_owned(), file.name.clone()),
        actor: Some("contextd".into()),
        detail: doc! {
            "job": run.job, "replaces": &object.key, "rows": file.rows as i64, "erased": erased as i64, "hash": &file.hash,
        },
    };
    let key = world.audit_key.as_ref();
    super::purge::insert_once(run, AUDIT, vec![entry(file.name.clone()).document(key)]).await?;
    // Of two who erase different users in one file at once only the first goes on: both new files would hold the other's.
    let lock = format!("archive-erase/{}", object.key);
    super::purge::insert_once(run, AUDIT, vec![entry(lock.clone()).document(key)]).await?;
    let first = find(run, "who erases", AUDIT, doc! { "_id": lock }, doc! { "entity.id": 1 }).await?.pop();
    let first = first.and_then(|entry| entry.get_document("entity").ok()?.get_str("id").ok().map(str::to_owned));
    let is_first = first.as_deref() == Some(&file.name);
    if !is_first {
        run.call("delete file", world.objects.delete(Tier::Archive, &file.name)).await?;
    }
    run.call("delete file", world.objects.delete(Tier::Archive, &object.key)).await?;
    if !is_first {
        let message = format!("the file {} was rewritten for another user meanwhile: again", object.key);
        return Err(JobError::Outside(OutsideError { message, passes: true }));
    }
    Ok(erased)
}
