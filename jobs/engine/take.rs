//! The transaction that all actions share: rows that still meet the whole predicate are changed, and what has to be
//! known of it is written with them; or nothing is.

use std::{collections::HashSet, time::Duration};

use futures::TryStreamExt;
use mongodb::{
    ClientSession,
    bson::{Bson, DateTime as BsonDate, Document, doc},
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{ReadConcern, TransactionOptions},
};

use super::{
    Acted, Engine, guards,
    judge::{Due, Left},
    tries::{Tries, halved},
};
use crate::{
    kit::{JobError, Run, chain::Entry, durable, to_bson},
    policy::Rule,
};

pub const TOMBSTONES: &str = "tombstones";
pub const AUDIT: &str = "audit_log";

/// A transaction of the engine. Dropped without a commit, it has no effect.
pub struct Txn<'r> {
    run: &'r Run,
    session: ClientSession,
}

impl<'r> Txn<'r> {
    pub async fn begin(run: &'r Run) -> Result<Self, JobError> {
        let start = async {
            let mut session = run.db.client().start_session().await?;
            let options =
                TransactionOptions::builder().read_concern(ReadConcern::snapshot()).write_concern(durable()).build();
            session.start_transaction().with_options(options).await?;
            Ok::<_, mongodb::error::Error>(session)
        };
        Ok(Self { run, session: run.call("begin", start).await? })
    }

    pub async fn find(
        &mut self,
        call: &'static str,
        collection: &str,
        filter: Document,
        fields: Document,
    ) -> Result<Vec<Document>, JobError> {
        let rows = self.run.db.collection::<Document>(collection);
        let session = &mut self.session;
        let find = async {
            let mut cursor = rows.find(filter).projection(fields).session(&mut *session).await?;
            cursor.stream(session).try_collect::<Vec<_>>().await
        };
        self.run.call(call, find).await
    }

    /// Makes these updates (`{q, u, multi}`); answers how many rows they matched together.
    pub async fn update(
        &mut self,
        call: &'static str,
        collection: &str,
        updates: Vec<Document>,
    ) -> Result<u64, JobError> {
        self.send(call, doc! { "update": collection, "updates": updates }).await
    }

    /// Makes these deletions (`{q, limit}`); answers how many rows went.
    pub async fn delete(
        &mut self,
        call: &'static str,
        collection: &str,
        deletes: Vec<Document>,
    ) -> Result<u64, JobError> {
        self.send(call, doc! { "delete": collection, "deletes": deletes }).await
    }

    pub async fn insert(
        &mut self,
        call: &'static str,
        collection: &str,
        documents: Vec<Document>,
    ) -> Result<(), JobError> {
        if documents.is_empty() {
            return Ok(());
        }
        let rows = self.run.db.collection::<Document>(collection);
        let session = &mut self.session;
        self.run.call(call, async { rows.insert_many(documents).session(session).await }).await.map(|_| ())
    }

    async fn send(&mut self, call: &'static str, command: Document) -> Result<u64, JobError> {
        let (db, session) = (&self.run.db, &mut self.session);
        let reply = self.run.call(call, async { db.run_command(command).session(session).await }).await?;
        if let Some(error) = reply.get("writeErrors") {
            return Err(JobError::Unconfirmed(format!("{call}: {error}")));
        }
        Ok(reply.get("n").and_then(|n| n.as_i64().or(n.as_i32().map(i64::from))).unwrap_or(0).unsigned_abs())
    }

    /// All of it, or (with an error) maybe.
    pub async fn commit(mut self) -> Result<(), JobError> {
        let session = &mut self.session;
        let commit = async {
            loop {
                match session.commit_transaction().await {
                    Err(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    ended => return ended,
                }
            }
        };
        self.run.call("commit", commit).await
    }

    pub async fn abort(mut self) {
        // The server ends it by itself, too.
        let _ = self.session.abort_transaction().await;
    }
}

/// Whether a transaction met others: the same again may succeed at once.
pub fn is_conflict(error: &JobError) -> bool {
    matches!(error, JobError::Mongo(e) if e.contains_label(TRANSIENT_TRANSACTION_ERROR))
}

/// What [`take`] does to rows.
pub struct Take<'t> {
    /// An update of a row (operators); `_sync.rev` is raised and the page's mark set besides. `None`: the row is deleted.
    pub set: Option<Document>,
    /// Fields that are removed.
    pub unset: &'t [&'t str],
    /// Write a tombstone for each, in this state ("open": there is more to do, "closed": that was all).
    pub tombstone: Option<&'static str>,
    /// Record each in the audit log within the transaction.
    pub audit: bool,
    /// More that a row has to meet, known to the action.
    pub also: Document,
}

/// Rows that a [`take`] took, as they were scanned, and those that it left.
#[derive(Debug, Default)]
pub struct Taken {
    pub rows: Vec<Due>,
    pub left: Vec<(Bson, Left)>,
}

/// Makes the update of one row, a pipeline, in place of [`Take::set`].
pub type Becomes<'b> = dyn Fn() -> Vec<Document> + Sync + 'b;

/// Takes the rows in one transaction, or, where that meets others again and again, in smaller groups.
pub async fn take(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: Vec<Due>,
    how: &Take<'_>,
) -> Result<Taken, JobError> {
    take_by(engine, run, rule, due, how, None).await
}

/// The same; with `becomes`, each row is changed by a pipeline of its own.
pub async fn take_by(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: Vec<Due>,
    how: &Take<'_>,
    becomes: Option<&Becomes<'_>>,
) -> Result<Taken, JobError> {
    let mut all = Taken::default();
    let mut groups = vec![due];
    while let Some(group) = groups.pop() {
        let mut tries = Tries::default();
        let taken = loop {
            match once(engine, run, rule, &group, how, becomes).await {
                Err(e) if tries.again(&e).await => {}
                ended => break ended,
            }
        };
        match taken {
            Ok(taken) => {
                all.rows.extend(taken.rows);
                all.left.extend(taken.left);
            }
            Err(e) if is_conflict(&e) => match halved(group) {
                Ok(halves) => groups.extend(halves),
                Err(single) => all.left.extend(single.into_iter().map(|item| (item.id, Left::Busy))),
            },
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

async fn once(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: &[Due],
    how: &Take<'_>,
    becomes: Option<&Becomes<'_>>,
) -> Result<Taken, JobError> {
    let mut txn = Txn::begin(run).await?;
    let ended = within(engine, run, rule, due, (how, becomes), &mut txn).await;
    match ended {
        Ok(taken) if taken.rows.is_empty() => {
            txn.abort().await;
            Ok(taken)
        }
        Ok(taken) => {
            txn.commit().await?;
            Ok(taken)
        }
        Err(e) => {
            txn.abort().await;
            Err(e)
        }
    }
}

async fn within(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: &[Due],
    (how, becomes): (&Take<'_>, Option<&Becomes<'_>>),
    txn: &mut Txn<'_>,
) -> Result<Taken, JobError> {
    let mut taken = Taken::default();
    let free = unheld(run, due, &mut taken, txn).await?;
    if free.is_empty() {
        return Ok(taken);
    }
    let ids: Vec<Bson> = free.iter().map(|item| item.id.clone()).collect();
    let mark = mark(run, &free);
    let matched = match &how.set {
        Some(set) => {
            let update = |item: &&Due| match becomes {
                Some(becomes) => replacement(rule, item, how, becomes(), &mark),
                None => update(rule, item, how, set, &mark),
            };
            let updates = free.iter().map(update).collect();
            txn.update("take", &rule.on, updates).await?
        }
        None => {
            let deletes = free.iter().map(|item| doc! { "q": filter(rule, item, how), "limit": 1 }).collect();
            txn.delete("take", &rule.on, deletes).await?
        }
    };
    let took: Option<HashSet<String>> = if matched == free.len() as u64 {
        None
    } else {
        let filter = match &how.set {
            Some(_) => doc! { "_id": { "$in": ids }, "lifecycle": &mark },
            None => doc! { "_id": { "$in": ids } },
        };
        let found = txn.find("taken", &rule.on, filter, doc! { "_id": 1 }).await?;
        let found: HashSet<String> = found.iter().filter_map(|row| row.get("_id")).map(guards::key).collect();
        let is_there = |item: &&Due| found.contains(&guards::key(&item.id)) == how.set.is_some();
        Some(free.iter().copied().filter(is_there).map(|item| guards::key(&item.id)).collect())
    };
    for item in free {
        if took.as_ref().is_none_or(|took| took.contains(&guards::key(&item.id))) {
            taken.rows.push(item.clone());
        } else {
            taken.left.push((item.id.clone(), Left::Changed));
        }
    }
    if let Some(state) = how.tombstone {
        let stones = taken.rows.iter().map(|item| tombstone(engine, run, rule, item, state)).collect();
        txn.insert("tombstones", TOMBSTONES, stones).await?;
    }
    if how.audit {
        let entries =
            taken.rows.iter().map(|item| entry(engine, run, rule, item).document(engine.world.audit_key.as_ref()));
        txn.insert("audit", AUDIT, entries.collect()).await?;
    }
    Ok(taken)
}

/// Writes what the rows belong to, so that this collides with a hold that is placed at the same time, and leaves those
/// whose owner is held.
pub async fn unheld<'d>(
    run: &Run,
    due: &'d [Due],
    taken: &mut Taken,
    txn: &mut Txn<'_>,
) -> Result<Vec<&'d Due>, JobError> {
    let kin = guards::Kin::of(run, due.iter().map(|item| &item.row), Some(&mut *txn)).await?;
    let owners: HashSet<_> = due.iter().flat_map(|item| kin.owners(&item.row)).collect();
    for (collection, of) in guards::OWNERS {
        let ids: Vec<&str> = owners.iter().filter(|owner| owner.0 == of).map(|(_, id)| id.as_str()).collect();
        if !ids.is_empty() {
            let write = doc! { "q": { "_id": { "$in": ids } }, "u": { "$inc": { "fences": 1_i64 } }, "multi": true };
            txn.update("owners", collection, vec![write]).await?;
        }
    }
    let held = guards::held(run, owners, Some(txn)).await?;
    let (free, kept): (Vec<&Due>, Vec<&Due>) =
        due.iter().partition(|item| kin.owners(&item.row).iter().all(|owner| !held.contains(owner)));
    taken.left.extend(kept.into_iter().map(|item| (item.id.clone(), Left::Held)));
    Ok(free)
}

/// Marks the rows of one page, to tell them from others.
pub fn mark(run: &Run, due: &[&Due]) -> String {
    let first = due.first().map_or_else(String::new, |item| guards::key(&item.id));
    format!("{}:{}:{first}", run.job, run.now.timestamp_millis())
}

/// The whole predicate for one row.
pub fn filter(rule: &Rule, item: &Due, how: &Take<'_>) -> Document {
    let mut filter = doc! { "_id": item.id.clone() };
    if let Some(case) = rule.cases.get(item.case) {
        filter.extend(case.predicate(item.cutoff));
    }
    let rev = item.row.get_document("_sync").ok().and_then(|sync| sync.get("rev")).cloned();
    filter.insert("_sync.rev", rev.unwrap_or(Bson::Null));
    filter.extend(how.also.clone());
    filter
}

pub fn update(rule: &Rule, item: &Due, how: &Take<'_>, set: &Document, mark: &str) -> Document {
    let mut set = set.clone();
    set.insert("lifecycle", mark);
    let mut u = doc! { "$set": set };
    if item.row.contains_key("_sync") {
        u.insert("$inc", doc! { "_sync.rev": 1_i64 });
    }
    if !how.unset.is_empty() {
        u.insert("$unset", how.unset.iter().map(|name| ((*name).to_owned(), Bson::from(""))).collect::<Document>());
    }
    doc! { "q": filter(rule, item, how), "u": u }
}

fn replacement(rule: &Rule, item: &Due, how: &Take<'_>, mut stages: Vec<Document>, mark: &str) -> Document {
    stages.push(doc! { "$set": { "lifecycle": mark } });
    doc! { "q": filter(rule, item, how), "u": stages }
}

/// The id of what says that a row is gone.
pub fn stone_id(collection: &str, id: &Bson) -> String {
    format!("{collection}/{}", guards::key(id))
}

pub fn tombstone(engine: &Engine<'_>, run: &Run, rule: &Rule, item: &Due, state: &str) -> Document {
    let of = |name: &str| item.row.get_str(name).ok().filter(|id| !id.is_empty()).map(str::to_owned);
    let mut owners: Vec<String> = [of("userId"), of("sessionId")].into_iter().flatten().collect();
    owners.dedup();
    let mut stone = doc! {
        "_id": stone_id(&rule.on, &item.id),
        "collection": &rule.on,
        "key": item.id.clone(),
        "state": state,
        "rule": &rule.name,
        "action": rule.action.name(),
        "job": run.job,
        "policy": &engine.world.policy.hash,
        "cutoff": to_bson(item.cutoff),
        "date": to_bson(item.date),
        "fencedAt": to_bson(run.now),
        "owners": owners,
    };
    if let Some(document) = of("documentId") {
        stone.insert("documentId", document);
    }
    if state == "closed" {
        stone.insert("closedAt", to_bson(run.now));
    }
    stone
}

/// What the audit log keeps of one item. Its id names the item and the moment that made it due, so that it is one entry
/// however often it is written.
pub fn entry(engine: &Engine<'_>, run: &Run, rule: &Rule, item: &Due) -> Entry {
    Entry {
        id: format!("{}/{}/{}/{}", rule.name, rule.on, guards::key(&item.id), item.date.timestamp_millis()),
        at: run.now,
        action: format!("lifecycle.{}", rule.action.name()),
        entity: (rule.on.clone(), guards::key(&item.id)),
        actor: Some("contextd".into()),
        detail: doc! {
            "rule": &rule.name,
            "job": run.job,
            "policyVersion": i64::from(engine.world.policy.version),
            "policy": &engine.world.policy.hash,
            "cutoff": to_bson(item.cutoff),
            "date": to_bson(item.date),
        },
    }
}

/// For actions that are done with the transaction.
impl From<Taken> for Acted {
    fn from(taken: Taken) -> Self {
        Self { done: taken.rows.len() as u64, left: taken.left }
    }
}

/// The run's "now" as rows keep it.
pub fn now(run: &Run) -> BsonDate {
    to_bson(run.now)
}
