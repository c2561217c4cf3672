//! The jobs' documents in `job_schedules`, and every change that is made to them.
//!
//! Each change names the `epoch` that it was decided on, so of two that race one finds nothing to change. Every change of
//! owner adds one to it. `leaseUntil` and `nextAt` are compared with MongoDB's clock, inside the change itself.

use std::{future::IntoFuture, time::Duration};

use chrono::{DateTime, Utc};
use contextd_jobs::kit::{Guard, SCHEDULES, durable, from_bson, strict, to_bson};
use futures::{StreamExt, TryStreamExt};
use mongodb::{
    ClientSession, Collection, Database,
    bson::{self, Bson, Document, doc},
    error::{ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure},
    options::ReturnDocument,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Identity, ScheduleError,
    due::Plan,
    job::ScheduledJob,
    record::{LastRun, RunOutcome, RunReport, Running, Trigger, counts, finished, run_id},
};

pub(super) const RUNS: &str = "job_runs";
/// `_id` of the document that says who looks first. No job has this name.
const LEADER: &str = "(leader)";

/// A job's document, and what MongoDB's clock said when it was read.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    #[serde(rename = "_id")]
    pub job: String,
    /// [`super::Timetable::id`] of the timetable that `next_at` comes from.
    pub schedule: String,
    pub next_at: bson::DateTime,
    pub epoch: i64,
    pub owner: Option<String>,
    pub lease_until: bson::DateTime,
    pub busy_until: Option<bson::DateTime>,
    pub running: Option<Running>,
    pub last: Option<LastRun>,
    #[serde(default, deserialize_with = "super::record::some_date")]
    pub last_success_at: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "super::record::some_date")]
    pub last_completion_at: Option<DateTime<Utc>>,
    pub now: bson::DateTime,
}

impl State {
    /// Somebody holds the lease.
    pub fn is_leased(&self) -> bool {
        self.lease_until > self.now
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leader {
    owner: String,
    lease_until: bson::DateTime,
    now: bson::DateTime,
}

/// The right to run one job, got from [`Schedules::claim`] and its like.
#[derive(Debug)]
pub(super) struct Lease {
    pub job: &'static str,
    pub epoch: i64,
    pub running: Running,
}

/// What came of trying to claim a slot.
#[derive(Debug)]
pub(super) enum Claim {
    Mine(Lease),
    /// Another worker was first, or the slot has not come by MongoDB's clock.
    Not,
    /// The slot has a record already.
    RanBefore,
}

#[derive(Clone)]
pub(super) struct Schedules {
    db: Database,
    schedules: Collection<Document>,
    runs: Collection<Document>,
    me: Identity,
}

impl Schedules {
    pub fn new(db: &Database, me: Identity) -> Self {
        let db = strict(db);
        Self { schedules: db.collection(SCHEDULES), runs: db.collection(RUNS), db, me }
    }

    pub fn db(&self) -> &Database {
        &self.db
    }

    pub fn me(&self) -> &Identity {
        &self.me
    }

    pub fn guard(&self, lease: &Lease) -> Guard {
        Guard::new(&self.db, lease.job, lease.epoch, &self.me.worker)
    }

    /// MongoDB's clock.
    pub async fn now(&self) -> Result<DateTime<Utc>, ScheduleError> {
        let hello = self.timed(self.db.run_command(doc! { "hello": 1 })).await?;
        let now = hello.get_datetime("localTime").map_err(|e| ScheduleError::Damaged("hello".into(), e.to_string()))?;
        Ok(from_bson(*now))
    }

    /// The documents of these jobs, as far as there are any.
    pub async fn read(&self, jobs: &[&str]) -> Result<Vec<State>, ScheduleError> {
        self.timed(async { self.matching(doc! { "_id": { "$in": jobs } }).await })
            .await?
            .into_iter()
            .map(parse)
            .collect()
    }

    pub async fn read_one(&self, job: &str) -> Result<Option<State>, ScheduleError> {
        Ok(self.read(&[job]).await?.pop())
    }

    async fn matching(&self, filter: Document) -> mongodb::error::Result<Vec<Document>> {
        let stages = [doc! { "$match": filter }, doc! { "$set": { "now": "$$NOW" } }];
        self.schedules.aggregate(stages).await?.boxed().try_collect().await
    }

    /// Makes sure that the job has a document, and that it is of this timetable: one of another is set to this one, from
    /// now on, and what that other one had due is forgotten.
    pub async fn adopt(&self, job: &ScheduledJob) -> Result<(), ScheduleError> {
        let (next, id) = (self.make(job).await?, job.table.id());
        let other = doc! { "_id": job.name(), "schedule": { "$ne": &id } };
        let set = doc! { "$set": { "schedule": &id, "nextAt": next } };
        if self.timed(self.schedules.update_one(other, set)).await?.matched_count == 1 {
            tracing::info!(job = job.name(), schedule = id, "schedule changed, slots are counted from now");
        }
        Ok(())
    }

    /// Makes the job's document if there is none. Returns the first slot from now on.
    pub async fn make(&self, job: &ScheduledJob) -> Result<bson::DateTime, ScheduleError> {
        let now = self.now().await?;
        let next = to_bson(job.table.next(now).unwrap_or(DateTime::<Utc>::MAX_UTC));
        let fresh = doc! { "$setOnInsert": {
            "schedule": job.table.id(), "nextAt": next, "epoch": 0_i64, "owner": null,
            "leaseUntil": bson::DateTime::from_millis(0), "busyUntil": null, "running": null, "last": null,
            "lastSuccessAt": null, "lastCompletionAt": null,
        } };
        match self.timed(self.schedules.update_one(doc! { "_id": job.name() }, fresh).upsert(true)).await {
            // Two processes make it at once: it is there.
            Err(ScheduleError::Mongo(e)) if is_duplicate(&e) => Ok(next),
            made => made.map(|_| next),
        }
    }

    /// Whether this process looks for due slots first. It is so until it has not asked for the length of a lease.
    pub async fn lead(&self) -> Result<bool, ScheduleError> {
        let found = self.timed(async { self.matching(doc! { "_id": LEADER }).await }).await?.pop();
        let leader = found.map(parse::<Leader>).transpose()?;
        let mine = leader.as_ref().is_some_and(|l| l.owner == self.me.worker);
        if let Some(leader) = &leader {
            let left = Duration::from_millis(
                (leader.lease_until.timestamp_millis() - leader.now.timestamp_millis()).max(0).unsigned_abs(),
            );
            if !mine && !left.is_zero() {
                return Ok(false);
            }
            if mine && left > self.me.lease * 2 / 3 {
                return Ok(true);
            }
        }
        let free = doc! { "_id": LEADER, "$or": [
            { "owner": &self.me.worker }, { "$expr": { "$lte": ["$leaseUntil", "$$NOW"] } },
        ] };
        let set = vec![doc! { "$set": { "owner": literal(&self.me.worker), "leaseUntil": self.lease_end() } }];
        match self.timed(self.schedules.update_one(free, set).upsert(leader.is_none())).await {
            Ok(done) => Ok(done.matched_count == 1 || done.upserted_id.is_some()),
            Err(ScheduleError::Mongo(e)) if is_duplicate(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lets another process look first at once.
    pub async fn resign(&self) -> Result<(), ScheduleError> {
        self.timed(self.schedules.delete_one(doc! { "_id": LEADER, "owner": &self.me.worker })).await?;
        Ok(())
    }

    /// Claims the planned slot: the lease, the next slot and the run's record, all or nothing, and only if MongoDB's clock
    /// agrees that the slot has come and the lease is free.
    pub async fn claim(&self, job: &ScheduledJob, state: &State, plan: &Plan, slot: DateTime<Utc>) -> Result<Claim, ScheduleError> {
        let mut filter = self.unowned(state);
        filter.insert("nextAt", state.next_at);
        filter.insert("running", Bson::Null);
        let due = doc! { "$lte": [to_bson(slot), "$$NOW"] };
        filter.insert("$and", vec![doc! { "$expr": { "$lte": ["$nextAt", "$$NOW"] } }, doc! { "$expr": due }]);
        let set = doc! { "nextAt": to_bson(plan.next) };
        self.start(job.name(), state, filter, set, slot, Trigger::Schedule).await
    }

    /// Claims the job for a run by hand. What is left of a run whose worker died is closed first.
    pub async fn claim_by_hand(&self, job: &ScheduledJob, state: &State) -> Result<Claim, ScheduleError> {
        let mut filter = self.unowned(state);
        filter.insert("running", Bson::Null);
        self.start(job.name(), state, filter, doc! {}, from_bson(state.now), Trigger::Manual).await
    }

    async fn start(
        &self,
        job: &'static str,
        state: &State,
        filter: Document,
        also: Document,
        slot: DateTime<Utc>,
        trigger: Trigger,
    ) -> Result<Claim, ScheduleError> {
        let run_id = run_id(job, trigger, slot);
        let cutoff = (self.me.clock)().min(from_bson(state.now));
        let running = doc! {
            "runId": &run_id, "slot": to_bson(slot), "trigger": trigger.as_str(), "cutoff": to_bson(cutoff),
            "cursor": null, "counts": null,
        };
        let mut set = doc! {
            "epoch": state.epoch + 1, "owner": literal(&self.me.worker), "leaseUntil": self.lease_end(),
            "running": { "$mergeObjects": [{ "$literal": running }, { "startedAt": "$$NOW" }] },
        };
        set.extend(also);
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(filter, set, &mut session).await? else { return Ok(None) };
            let started = after.get_document("running").ok().and_then(|r| r.get_datetime("startedAt").ok()).copied();
            let record = doc! {
                "_id": &run_id, "job": job, "slot": to_bson(slot), "trigger": trigger.as_str(), "dryRun": false,
                "epoch": state.epoch + 1, "worker": &self.me.worker, "cutoff": to_bson(cutoff), "startedAt": started,
                "outcome": RunOutcome::Running.as_str(),
            };
            self.runs.insert_one(record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(Some(after))
        };
        match self.timed(work).await {
            Ok(Some(after)) => Ok(Claim::Mine(lease(job, after)?)),
            Ok(None) => Ok(Claim::Not),
            Err(ScheduleError::Mongo(e)) if is_duplicate(&e) => Ok(Claim::RanBefore),
            Err(ScheduleError::Mongo(e)) if e.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                tracing::debug!(job, error = %e, "another worker was first");
                Ok(Claim::Not)
            }
            Err(e) => Err(e),
        }
    }

    /// Goes on with the run of a worker that died or gave it back, from where it had come to.
    pub async fn take_over(&self, job: &ScheduledJob, state: &State) -> Result<Claim, ScheduleError> {
        let Some(run) = &state.running else { return Ok(Claim::Not) };
        let epoch = state.epoch + 1;
        let set = doc! { "epoch": epoch, "owner": literal(&self.me.worker), "leaseUntil": self.lease_end() };
        let record = doc! { "$set": { "epoch": epoch, "worker": &self.me.worker, "outcome": RunOutcome::Running.as_str() },
                            "$push": { "takenOverFrom": state.owner.clone() } };
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(self.unowned(state), set, &mut session).await? else { return Ok(None) };
            self.runs.update_one(doc! { "_id": &run.run_id }, record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(Some(after))
        };
        match self.timed(work).await? {
            Some(after) => Ok(Claim::Mine(lease(job.name(), after)?)),
            None => Ok(Claim::Not),
        }
    }

    /// Ends the record of a run that nobody goes on with. Says whether it was this process that did it.
    pub async fn close(&self, state: &State) -> Result<bool, ScheduleError> {
        let Some(run) = &state.running else { return Ok(false) };
        let set = doc! { "epoch": state.epoch + 1, "owner": null, "running": null, "busyUntil": "$$NOW" };
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(self.unowned(state), set, &mut session).await? else { return Ok(false) };
            let end = after.get_datetime("busyUntil").ok().copied();
            let record = vec![doc! { "$set": {
                "finishedAt": end,
                // A run that was told to stop did stop; any other was cut off.
                "outcome": { "$cond": [
                    { "$eq": ["$outcome", RunOutcome::Running.as_str()] }, RunOutcome::Crashed.as_str(), "$outcome",
                ] },
            } }];
            self.runs.update_one(doc! { "_id": &run.run_id }, record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(true)
        };
        self.timed(work).await
    }

    /// Gives up the slots before `next` without running any. Says whether it was this process that did it.
    pub async fn advance(&self, state: &State, next: DateTime<Utc>) -> Result<bool, ScheduleError> {
        let filter = doc! { "_id": &state.job, "epoch": state.epoch, "schedule": &state.schedule, "nextAt": state.next_at };
        let set = doc! { "$set": { "nextAt": to_bson(next) } };
        Ok(self.timed(self.schedules.update_one(filter, set)).await?.matched_count == 1)
    }

    /// Prolongs the lease. False: it is lost.
    pub async fn renew(&self, guard: &Guard) -> Result<bool, ScheduleError> {
        let set = vec![doc! { "$set": { "leaseUntil": self.lease_end() } }];
        Ok(self.timed(self.schedules.update_one(guard.filter(), set)).await?.matched_count == 1)
    }

    /// Ends the run and frees the job. None: the lease was lost, and with it the right to say how the run ended.
    pub async fn finish(&self, guard: &Guard, report: &RunReport) -> Result<Option<DateTime<Utc>>, ScheduleError> {
        let last = doc! {
            "runId": &report.run_id, "slot": to_bson(report.slot), "trigger": report.trigger.as_str(),
            "worker": &report.worker, "startedAt": to_bson(report.started_at), "outcome": report.outcome.as_str(),
            "durationMs": i64::try_from(report.duration_ms).unwrap_or(i64::MAX), "error": report.error.clone(),
        };
        let mut set = doc! {
            "owner": null, "leaseUntil": "$$NOW", "busyUntil": "$$NOW", "running": null, "lastCompletionAt": "$$NOW",
            "last": { "$mergeObjects": [{ "$literal": last }, { "finishedAt": "$$NOW" }] },
        };
        if report.outcome == RunOutcome::Ok {
            set.insert("lastSuccessAt", "$$NOW");
        }
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(guard.filter(), set, &mut session).await? else { return Ok(None) };
            let Some(end) = after.get_datetime("busyUntil").ok().copied() else { return Ok(None) };
            let ended = RunReport { finished_at: Some(from_bson(end)), ..report.clone() };
            let record = doc! { "$set": finished(&ended) };
            self.runs.update_one(doc! { "_id": &report.run_id }, record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(Some(from_bson(end)))
        };
        if let Some(end) = self.timed(work).await? {
            return Ok(Some(end));
        }
        // An earlier try may have succeeded without an answer.
        let last = self.read_one(report.job).await?.and_then(|state| state.last);
        Ok(last.filter(|last| last.run_id == report.run_id && last.worker == report.worker).map(|last| last.finished_at))
    }

    /// Gives the run back: the next process that looks goes on with it.
    pub async fn hand_over(&self, guard: &Guard, report: &RunReport) -> Result<(), ScheduleError> {
        let set = doc! { "owner": null, "leaseUntil": "$$NOW", "running.counts": { "$literal": counts(&report.counts) } };
        let record = doc! { "$set": { "outcome": RunOutcome::Stopped.as_str(), "counts": counts(&report.counts) } };
        let work = async {
            let mut session = self.begin().await?;
            if self.change(guard.filter(), set, &mut session).await?.is_some() {
                self.runs.update_one(doc! { "_id": &report.run_id }, record).session(&mut session).await?;
                commit(&mut session).await?;
            }
            Ok(())
        };
        self.timed(work).await
    }

    /// The record of a run that took no lease.
    pub async fn record(&self, report: &RunReport) -> Result<(), ScheduleError> {
        self.timed(self.runs.insert_one(finished(report))).await?;
        Ok(())
    }

    /// `state`'s document, if it is still as it was read and nobody holds its lease. What this very process holds it does
    /// not hold any more when it asks: a claim whose answer was lost.
    fn unowned(&self, state: &State) -> Document {
        doc! {
            "_id": &state.job, "epoch": state.epoch, "schedule": &state.schedule,
            "$or": [{ "owner": &self.me.worker }, { "$expr": { "$lte": ["$leaseUntil", "$$NOW"] } }],
        }
    }

    fn lease_end(&self) -> Document {
        doc! { "$add": ["$$NOW", i64::try_from(self.me.lease.as_millis()).unwrap_or(i64::MAX)] }
    }

    async fn begin(&self) -> mongodb::error::Result<ClientSession> {
        let mut session = self.db.client().start_session().await?;
        session.start_transaction().write_concern(durable()).await?;
        Ok(session)
    }

    async fn change(
        &self,
        filter: Document,
        set: Document,
        session: &mut ClientSession,
    ) -> mongodb::error::Result<Option<Document>> {
        let update = vec![doc! { "$set": set }];
        self.schedules.find_one_and_update(filter, update).return_document(ReturnDocument::After).session(session).await
    }

    async fn timed<T>(
        &self,
        work: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T, ScheduleError> {
        match tokio::time::timeout(self.me.timeout, work.into_future()).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(ScheduleError::TimedOut(self.me.timeout)),
        }
    }
}

/// Commits; asks again for as long as the answer is unknown (the caller limits the time).
async fn commit(session: &mut ClientSession) -> mongodb::error::Result<()> {
    loop {
        match session.commit_transaction().await {
            Err(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            done => return done,
        }
    }
}

fn lease(job: &'static str, after: Document) -> Result<Lease, ScheduleError> {
    #[derive(Deserialize)]
    struct Claimed {
        epoch: i64,
        running: Running,
    }
    let Claimed { epoch, running } = parse(after)?;
    Ok(Lease { job, epoch, running })
}

fn parse<T: DeserializeOwned>(document: Document) -> Result<T, ScheduleError> {
    let id = document.get("_id").map_or_else(String::new, |id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
    bson::deserialize_from_document(document).map_err(|e| ScheduleError::Damaged(id, e.to_string()))
}

/// Protects text that begins with `$` from being read as an expression.
fn literal(text: &str) -> Document {
    doc! { "$literal": text }
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    const DUPLICATE: i32 = 11000;
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(e)) => e.code == DUPLICATE,
        ErrorKind::Command(e) => e.code == DUPLICATE,
        _ => false,
    }
}
