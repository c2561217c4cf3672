//! The effects of the declared record types.
//!
//! Most tasks are one change of one record: those of a batch are folded and written together. What changes several
//! records at once has a file of its own beside this one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream::FuturesUnordered};
use mongodb::bson::doc;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Patience, Planned, adopt, caches, cascade, claim, content, document_save, evaluation, hold, late, patiently,
    relate,
    touches::TouchGate,
    user_erase::{self, Erasing},
    version_decide, version_restore, version_save,
    versions::Turns,
};
use crate::{
    cache::CacheWriter,
    clock,
    config::WriteMode,
    content::Content,
    metrics::{ErrorClass, Outcome},
    record::{Action, Change, End, RecordType, Registry},
    status::Health,
    store::{AuditEntry, Given, RecordEntry, RecordSet, Store},
    task::{Reason, Task},
    vault::Vault,
};

/// What the effects of records need.
pub struct Records {
    pub registry: Arc<Registry>,
    pub store: Store,
    /// Contents of documents and versions.
    pub content: Content,
    pub caches: CacheWriter,
    /// Seals sensitive fields.
    pub vault: Arc<Vault>,
    pub health: Arc<Health>,
    /// How far a task's order may lie in the future.
    pub skew: Duration,
    /// When records were last written by a touch.
    pub touches: TouchGate,
    /// Who makes versions of a document now.
    pub turns: Turns,
    pub erasing: Erasing,
}

/// One task of a batch with what is declared about its type.
#[derive(Clone)]
pub(super) struct Due<'a> {
    pub position: usize,
    pub task: &'a Task,
    pub declared: &'a RecordType,
}

impl Due<'_> {
    /// A text of the data.
    pub fn text(&self, name: &str) -> &str {
        self.task.data.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn is_save(&self) -> bool {
        self.declared.write == WriteMode::VersionSave
    }

    pub fn dead(&self, reason: Reason, error: impl ToString) -> (usize, Planned) {
        (self.position, Planned::Dead(reason, error.to_string()))
    }

    /// The task's audit entry.
    pub fn audit(&self, key: &str, change: &Change, outcome: Outcome) -> AuditEntry {
        let kind = &self.declared.kind;
        let actors = ["actor", "restoredBy", "decidedBy", "placedBy", "liftedBy", "userId"];
        // A redelivery finds its effect done: it was written.
        let outcome = if outcome == Outcome::Duplicate { Outcome::Written } else { outcome };
        AuditEntry {
            id: change.task.clone(),
            at: change.at,
            action: kind.rsplit_once(".v").map_or(kind.as_str(), |(name, _)| name).to_owned(),
            entity: (self.declared.collection.to_owned(), key.to_owned()),
            actor: actors.iter().find_map(|a| self.task.data.get(*a)?.as_str()).map(str::to_owned),
            detail: doc! { "outcome": outcome.as_str() },
        }
    }
}

impl Records {
    /// Does the tasks of one batch, given with their positions; each ends alone.
    pub async fn run(
        &self,
        tasks: &[(usize, &Task)],
        now: DateTime<Utc>,
        abort: &CancellationToken,
    ) -> Vec<(usize, Planned)> {
        let patience = Patience { health: &self.health, abort };
        let mut planned = Vec::with_capacity(tasks.len());
        let (mut plain, mut others) = (Vec::new(), Vec::new());
        for (position, task) in tasks {
            match self.registry.get(&task.kind) {
                Some(declared) => {
                    let due = Due { position: *position, task, declared };
                    let alone = declared.write.is_plain()
                        || matches!(declared.write, WriteMode::Evaluation | WriteMode::DocumentSave);
                    if alone { plain.push(due) } else { others.push(due) }
                }
                None => {
                    let text = format!("no effect is known for the type {:?}", task.kind);
                    planned.push((*position, Planned::Dead(Reason::UnknownType, text)));
                }
            }
        }
        planned.extend(self.plain(&plain, now, &patience).await);
        let mut done = Vec::new();
        let by_position: HashMap<usize, &Due<'_>> = others.iter().map(|due| (due.position, due)).collect();
        for (position, plan) in self.versions(&others, now, &patience).await {
            match (by_position.get(&position), plan) {
                (Some(due), Planned::Done(outcome @ (Outcome::Written | Outcome::Duplicate))) => {
                    done.push((*due, outcome));
                }
                (_, plan) => planned.push((position, plan)),
            }
        }
        for due in &others {
            let plan = match due.declared.write {
                WriteMode::VersionSave | WriteMode::VersionRestore => continue,
                WriteMode::VersionDecide => version_decide::run(self, due, now, &patience).await,
                WriteMode::Relate => relate::run(self, due, now, &patience).await,
                WriteMode::HoldPlace | WriteMode::HoldLift => hold::run(self, due, now, &patience).await,
                WriteMode::UserErase => user_erase::run(self, due, now, &patience).await,
                WriteMode::UserClaim => claim::run(self, due, now, &patience).await,
                // The plain ones and those of versions were done before.
                other => Planned::Dead(Reason::UnknownType, format!("no effect is known for the write mode {other:?}")),
            };
            match plan {
                Planned::Done(outcome @ (Outcome::Written | Outcome::Duplicate)) => done.push((due, outcome)),
                plan => planned.push((due.position, plan)),
            }
        }
        let dues: Vec<&Due<'_>> = done.iter().map(|(due, _)| *due).collect();
        let in_step = caches::after(self, &dues, &patience).await.is_some();
        let plan = |outcome| if in_step { Planned::Done(outcome) } else { Planned::Released };
        planned.extend(done.into_iter().map(|(due, outcome)| (due.position, plan(outcome))));
        planned
    }

    /// New versions, those of one document in their order, those of several documents side by side.
    async fn versions(&self, tasks: &[Due<'_>], now: DateTime<Utc>, patience: &Patience<'_>) -> Vec<(usize, Planned)> {
        let mut documents: Vec<(&str, Vec<Due<'_>>)> = Vec::new();
        for due in tasks {
            if !matches!(due.declared.write, WriteMode::VersionSave | WriteMode::VersionRestore) {
                continue;
            }
            let document = due.text("documentId");
            match documents.iter_mut().find(|(known, _)| *known == document) {
                Some((_, dues)) => dues.push(due.clone()),
                None => documents.push((document, vec![due.clone()])),
            }
        }
        let mut planned = Vec::with_capacity(tasks.len());
        let mut running = FuturesUnordered::new();
        for (document, dues) in documents {
            if running.len() >= content::AT_ONCE {
                planned.extend(running.next().await.into_iter().flatten());
            }
            running.push(self.versions_of(document, dues, now, patience));
        }
        while let Some(ends) = running.next().await {
            planned.extend(ends);
        }
        planned
    }

    async fn versions_of(
        &self,
        document: &str,
        dues: Vec<Due<'_>>,
        now: DateTime<Utc>,
        patience: &Patience<'_>,
    ) -> Vec<(usize, Planned)> {
        let mut planned = Vec::with_capacity(dues.len());
        for run in dues.chunk_by(|a, b| a.is_save() && b.is_save()) {
            match run {
                [due] if !due.is_save() => {
                    let plan = version_restore::run(self, document, due, now, patience).await;
                    planned.push((due.position, plan));
                }
                saves => planned.extend(version_save::run(self, document, saves, now, patience).await),
            }
        }
        planned
    }

    /// One change of one record each.
    async fn plain(&self, tasks: &[Due<'_>], now: DateTime<Utc>, patience: &Patience<'_>) -> Vec<(usize, Planned)> {
        let mut planned = Vec::with_capacity(tasks.len());
        let mut set = RecordSet::default();
        let mut touches: HashMap<(&'static str, String), Vec<(&Due<'_>, Change)>> = HashMap::new();
        let mut made: Vec<document_save::Made<'_>> = tasks
            .iter()
            .map(|due| (due, self.change(due, now).map_err(|text| Planned::Dead(Reason::Schema, text))))
            .collect();
        let loose = document_save::store(self, &mut made, patience).await;
        for (due, made) in made {
            let collection = match due.declared.write {
                WriteMode::Evaluation => evaluation::collection(due.task),
                _ => due.declared.collection,
            };
            let (key, mut change) = match made {
                Ok(made) => made,
                Err(plan) => {
                    planned.push((due.position, plan));
                    continue;
                }
            };
            match self.seal(due, collection, &key, &mut change, patience).await {
                None => planned.push((due.position, Planned::Released)),
                Some(Err(text)) => planned.push(due.dead(Reason::Schema, text)),
                Some(Ok(())) if due.declared.buffered && is_touch(&change) => {
                    touches.entry((collection, key)).or_default().push((due, change));
                }
                Some(Ok(())) => set.push(collection, key, due.position, change),
            }
        }
        for ((collection, key), of_record) in touches {
            match self.touches.admit(collection, &key, now.timestamp_millis()) {
                Ok(()) => {
                    for (due, change) in of_record {
                        set.push(collection, key.clone(), due.position, change);
                    }
                }
                Err(at_ms) => {
                    let newest = of_record.iter().max_by_key(|(_, c)| c.clock).map(|(due, _)| due.position);
                    planned.extend(of_record.iter().map(|(due, _)| match Some(due.position) == newest {
                        true => (due.position, Planned::Later { at_ms }),
                        false => (due.position, Planned::Superseded),
                    }));
                }
            }
        }
        if set.is_empty() {
            return planned;
        }
        if patiently!(patience, "mongodb", self.store.apply(&mut set)).is_none() {
            let open = set.entries.iter().filter(|e| e.ends.is_empty());
            planned.extend(open.flat_map(|e| e.tasks.iter().map(|task| (*task, Planned::Released))));
        }
        let by_position: HashMap<usize, &Due<'_>> = tasks.iter().map(|due| (due.position, due)).collect();
        let looked = late::run(self, &mut set.entries, patience).await;
        document_save::tidy(self, loose, &set.entries, patience).await;
        let looked = looked.and(evaluation::of_archived(self, &mut set.entries, &by_position, patience).await);
        if looked.is_none() || adopt::run(self, &mut set.entries, patience).await.is_none() {
            let ended = set.entries.iter().filter(|e| !e.ends.is_empty());
            planned.extend(ended.flat_map(|e| e.tasks.iter().map(|task| (*task, Planned::Released))));
            return planned;
        }
        let written = caches::written(&self.caches, &mut set.entries, &by_position);
        tokio::select! {
            () = self.caches.after_write(written) => {}
            () = patience.abort.cancelled() => {
                let ended = set.entries.iter().filter(|e| !e.ends.is_empty());
                planned.extend(ended.flat_map(|e| e.tasks.iter().map(|task| (*task, Planned::Released))));
                return planned;
            }
        }
        planned.extend(self.after(&set.entries, &by_position, patience).await);
        planned
    }

    fn change(&self, due: &Due<'_>, now: DateTime<Utc>) -> Result<(String, Change), String> {
        let (key, mut change) = Change::of(due.declared, due.task, now, self.skew).map_err(|e| e.to_string())?;
        if due.declared.write == WriteMode::Evaluation {
            evaluation::adapt(&mut change);
        }
        Ok((key, change))
    }

    /// What follows a write: what goes with a deleted record, and the audit.
    async fn after(
        &self,
        entries: &[RecordEntry],
        tasks: &HashMap<usize, &Due<'_>>,
        patience: &Patience<'_>,
    ) -> Vec<(usize, Planned)> {
        let mut planned = Vec::new();
        let (mut audits, mut audited) = (Vec::new(), Vec::new());
        for entry in entries {
            for ((position, change), end) in entry.tasks.iter().zip(&entry.changes).zip(&entry.ends) {
                let Some(due) = tasks.get(position) else { continue };
                let plan = ended(end, entry.collection, &entry.key);
                let Planned::Done(outcome) = plan else {
                    planned.push((*position, plan));
                    continue;
                };
                let has_effect = matches!(outcome, Outcome::Written | Outcome::Duplicate);
                if has_effect
                    && !due.declared.cascade.is_empty()
                    && cascade::run(self, due.declared, &entry.key, change, patience).await.is_none()
                {
                    planned.push((*position, Planned::Released));
                    continue;
                }
                if due.declared.audit && outcome != Outcome::Expired {
                    audits.push(due.audit(&entry.key, change, outcome));
                    audited.push((*position, outcome));
                } else {
                    planned.push((*position, Planned::Done(outcome)));
                }
            }
        }
        let done = patiently!(patience, "mongodb", self.store.audit(&audits)).is_some();
        let plan = |outcome| if done { Planned::Done(outcome) } else { Planned::Released };
        planned.extend(audited.into_iter().map(|(position, outcome)| (position, plan(outcome))));
        planned
    }
}

/// Only says that the record was used just now.
fn is_touch(change: &Change) -> bool {
    matches!(&change.action, Action::Merge(fields) if fields.len() == 1)
}

/// What the end of a change means for its task.
pub(super) fn ended(end: &End, collection: &str, key: &str) -> Planned {
    match end {
        End::Created | End::Written => Planned::Done(Outcome::Written),
        End::Duplicate => Planned::Done(Outcome::Duplicate),
        End::Superseded => Planned::Done(Outcome::Superseded),
        End::Expired => Planned::Done(Outcome::Expired),
        End::Missing => missing(collection, key),
        End::Refused(text) => Planned::Dead(Reason::Rejected, text.clone()),
    }
}

/// How soon a task comes again that gave way to others at the same records.
const GIVE_WAY: TimeDelta = TimeDelta::seconds(1);

/// What a transaction without an effect means for its task: others of the batch go on, and nothing is counted against it.
pub(super) fn given_back(given: Given) -> Planned {
    match given {
        Given::Up(text) => Planned::Dead(Reason::Rejected, text),
        Given::Way => Planned::Later { at_ms: (clock::now() + GIVE_WAY).timestamp_millis() },
    }
}

/// What the task refers to is not there: the lifecycle purged it, or it may come yet.
pub(super) async fn missing_or_purged(
    records: &Records,
    collection: &str,
    key: &str,
    patience: &Patience<'_>,
) -> Planned {
    let keys = [key];
    match patiently!(patience, "mongodb", records.store.purged(collection, &keys)) {
        None => Planned::Released,
        Some(purged) if purged.contains(key) => Planned::Done(Outcome::Expired),
        Some(_) => missing(collection, key),
    }
}

/// What the task refers to is not there: it may come yet.
pub(super) fn missing(collection: &str, key: &str) -> Planned {
    let text =
        format!("there is no {key:?} in `{collection}`: send the task that makes it first, then requeue this one");
    Planned::Missing(ErrorClass::Missing, text)
}
