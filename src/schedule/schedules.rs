//! The jobs' documents in `job_schedules`: made, read, moved on.
//!
//! Each change names the `epoch` that it was decided on, so of two that race one finds nothing to change. Every change of
//! owner adds one to it. `leaseUntil` and `nextAt` are compared with MongoDB's clock, inside the change itself.

use std::future::IntoFuture;

use chrono::{DateTime, Utc};
use contextd_jobs::kit::{SCHEDULES, from_bson, strict, to_bson};
use futures::{StreamExt, TryStreamExt};
use mongodb::{
    Collection, Database,
    bson::{self, Document, doc},
    error::{ErrorKind, WriteFailure},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Identity, ScheduleError,
    job::ScheduledJob,
    record::{LastRun, RunReport, Running, finished},
};

const RUNS: &str = "job_runs";

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

#[derive(Clone)]
pub(super) struct Schedules {
    pub(super) db: Database,
    pub(super) schedules: Collection<Document>,
    pub(super) runs: Collection<Document>,
    pub(super) me: Identity,
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

    pub(super) async fn matching(&self, filter: Document) -> mongodb::error::Result<Vec<Document>> {
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

    /// Gives up the slots before `next` without running any. Says whether it was this process that did it.
    pub async fn advance(&self, state: &State, next: DateTime<Utc>) -> Result<bool, ScheduleError> {
        let filter =
            doc! { "_id": &state.job, "epoch": state.epoch, "schedule": &state.schedule, "nextAt": state.next_at };
        let set = doc! { "$set": { "nextAt": to_bson(next) } };
        Ok(self.timed(self.schedules.update_one(filter, set)).await?.matched_count == 1)
    }

    /// The record of a run that took no lease.
    pub async fn record(&self, report: &RunReport) -> Result<(), ScheduleError> {
        self.timed(self.runs.insert_one(finished(report))).await?;
        Ok(())
    }

    pub(super) fn lease_end(&self) -> Document {
        doc! { "$add": ["$$NOW", i64::try_from(self.me.lease.as_millis()).unwrap_or(i64::MAX)] }
    }

    pub(super) async fn timed<T>(
        &self,
        work: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T, ScheduleError> {
        match tokio::time::timeout(self.me.timeout, work.into_future()).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(ScheduleError::TimedOut(self.me.timeout)),
        }
    }
}

pub(super) fn parse<T: DeserializeOwned>(document: Document) -> Result<T, ScheduleError> {
    let id =
        document.get("_id").map_or_else(String::new, |id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
    bson::deserialize_from_document(document).map_err(|e| ScheduleError::Damaged(id, e.to_string()))
}

/// Protects text that begins with `$` from being read as an expression.
pub(super) fn literal(text: &str) -> Document {
    doc! { "$literal": text }
}

pub(super) fn is_duplicate(error: &mongodb::error::Error) -> bool {
    const DUPLICATE: i32 = 11000;
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(e)) => e.code == DUPLICATE,
        ErrorKind::Command(e) => e.code == DUPLICATE,
        _ => false,
    }
}
