use std::{collections::BTreeMap, future::Future};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use mongodb::{
    Database,
    bson::{Bson, Document},
    error::{ErrorKind, RETRYABLE_WRITE_ERROR},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Guard, OutsideError, strict};

/// A scheduled job. What implements it is the job's settings, so that a job is nothing but its figures and its code.
pub trait Job: Send + Sync + 'static {
    /// Its name in the configuration, in `job_runs` and in the metrics.
    fn name(&self) -> &'static str;

    /// Every key that [`Outcome::by_action`] can hold.
    fn actions(&self) -> &'static [&'static str];

    /// Does the work. It must be safe to repeat from [`Run::resume`] (or from the start) after being cut off anywhere.
    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>>;
}

/// Everything a job knows about the world.
pub struct Run {
    /// Reads from the primary with majority, writes with majority and journal.
    pub db: Database,
    pub job: &'static str,
    /// The slot that this run is for (for a run by hand: when it was started). It identifies the run, it is not "now".
    pub tick: DateTime<Utc>,
    /// The run's one and only "now": the earlier of the worker's and MongoDB's clock when the run was claimed. A run
    /// that was taken over keeps it.
    pub now: DateTime<Utc>,
    /// Cancelled when the process shuts down or the lease is lost. [`Run::page`] looks at it.
    pub stop: CancellationToken,
    /// Look and count, write nothing.
    pub dry_run: bool,
    /// Go on although a rule is over its cap.
    pub over_cap: bool,
    /// What was done so far; it is kept when the run fails, stops or changes hands.
    pub outcome: Outcome,
    /// Where an earlier attempt of this run had come to.
    pub resume: Option<Document>,
    guard: Option<Guard>,
    clock: Option<WorkerClock>,
    jumped: TimeDelta,
    /// MongoDB's clock, in simulations.
    server: Option<DateTime<Utc>>,
    noted: Option<Vec<Noted>>,
    progress: Box<dyn Fn(&Outcome) + Send + Sync>,
    #[cfg(debug_assertions)]
    faults: Option<std::sync::Arc<dyn Faults>>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Run");
        out.field("job", &self.job).field("tick", &self.tick).field("now", &self.now);
        out.field("dry_run", &self.dry_run).field("outcome", &self.outcome).field("resume", &self.resume);
        out.finish_non_exhaustive()
    }
}

/// A worker's clock.
pub type WorkerClock = std::sync::Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// What the clocks say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    pub worker: DateTime<Utc>,
    pub server: DateTime<Utc>,
    /// How far the worker's has been set or slept since the process started.
    pub jumped: TimeDelta,
}

/// A row that a dry run found due.
#[derive(Debug, Clone, PartialEq)]
pub struct Noted {
    pub rule: String,
    pub id: Bson,
    /// The date that makes it due.
    pub date: DateTime<Utc>,
}

/// Cuts a run off at one of its store calls, in tests. Not in release builds.
#[cfg(debug_assertions)]
pub trait Faults: Send + Sync {
    /// Before the call: an error means that it does not take place.
    fn before(&self, call: &str) -> Result<(), JobError>;

    /// After the call: an error means that its answer is lost.
    fn after(&self, call: &str) -> Result<(), JobError>;
}

impl Run {
    /// A run that owns `guard`, or (without) a dry run.
    pub fn new(
        db: &Database,
        job: &'static str,
        tick: DateTime<Utc>,
        now: DateTime<Utc>,
        stop: CancellationToken,
        guard: Option<Guard>,
    ) -> Self {
        Self {
            db: strict(db),
            job,
            tick,
            now,
            stop,
            dry_run: guard.is_none(),
            over_cap: false,
            outcome: Outcome::default(),
            resume: None,
            guard,
            clock: None,
            jumped: TimeDelta::zero(),
            server: None,
            noted: None,
            progress: Box::new(|_| {}),
            #[cfg(debug_assertions)]
            faults: None,
        }
    }

    /// Compares MongoDB's clock with this one, which has jumped so far since the process started.
    pub fn on_clock(mut self, clock: WorkerClock, jumped: TimeDelta) -> Self {
        (self.clock, self.jumped) = (Some(clock), jumped);
        self
    }

    /// Takes this for MongoDB's clock: for simulations, on a database of their own.
    pub fn simulated(mut self, server: DateTime<Utc>) -> Self {
        self.server = Some(server);
        self
    }

    /// Both clocks now. `server`: what MongoDB says.
    pub(crate) fn clocks(&self, server: DateTime<Utc>) -> Clocks {
        let server = self.server.unwrap_or(server);
        Clocks { worker: self.clock.as_ref().map_or(server, |clock| clock()), server, jumped: self.jumped }
    }

    /// Keeps the ids of all rows that a dry run finds due.
    pub fn keep_notes(&mut self) {
        self.noted = Some(Vec::new());
    }

    /// The rows that a dry run found due.
    pub fn notes(&mut self) -> Vec<Noted> {
        self.noted.take().unwrap_or_default()
    }

    pub(crate) fn note(&mut self, rule: &str, due: impl Iterator<Item = (Bson, DateTime<Utc>)>) {
        if let Some(noted) = &mut self.noted {
            noted.extend(due.map(|(id, date)| Noted { rule: rule.to_owned(), id, date }));
        }
    }

    #[cfg(debug_assertions)]
    pub fn with_faults(mut self, faults: std::sync::Arc<dyn Faults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Makes one call to a store. Every call of the lifecycle goes through here, with a name of its own, so that tests
    /// can cut a run off before and after each.
    pub async fn call<T, E: Into<JobError>>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, JobError> {
        #[cfg(debug_assertions)]
        if let Some(faults) = &self.faults {
            faults.before(call)?;
            let done = work.await.map_err(Into::into)?;
            faults.after(call)?;
            return Ok(done);
        }
        tracing::trace!(call);
        match tokio::time::timeout(super::TIME_LIMIT, work).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(JobError::Unconfirmed(format!("{call}: no answer within {:?}", super::TIME_LIMIT))),
        }
    }

    /// Calls `progress` at every page.
    pub fn on_progress(mut self, progress: impl Fn(&Outcome) + Send + Sync + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// To be called before every page: ends the run if it was told to stop or no longer owns its lease, and stores
    /// `cursor`, from where the run goes on if it is cut off.
    pub async fn page(&mut self, cursor: Option<Document>) -> Result<(), JobError> {
        (self.progress)(&self.outcome);
        if self.stop.is_cancelled() {
            return Err(JobError::Stopped);
        }
        if let Some(guard) = &self.guard {
            guard.check_in(cursor.as_ref(), &self.outcome).await?;
        }
        self.resume = cursor;
        Ok(())
    }
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcome {
    /// Rows looked at.
    pub examined: u64,
    /// Rows changed or deleted; in a dry run, those that would be.
    pub changed: u64,
    /// Rows that are due and were left for the next run; unknown when the run did not get to its end.
    pub remaining: Option<u64>,
    /// Rows that are due but held back.
    pub held: u64,
    pub by_action: BTreeMap<String, u64>,
    /// Version and hash of the policy, of runs under one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// By rule, of runs under a policy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, RuleCounts>,
    /// A dry run's first finds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

/// What a run did under one rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleCounts {
    /// Rows acted on; in a dry run, those that would be.
    pub done: u64,
    /// Rows that were due by their date and stayed, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<String, u64>,
    /// Rows whose date lies in the future, which cannot be right.
    pub future: u64,
    /// Rows without a date, or with something else in its place.
    pub undated: u64,
    /// So many rows may go at once.
    pub cap: u64,
    pub over_cap: bool,
    /// The oldest date that a dry run found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<DateTime<Utc>>,
}

/// One row that a dry run found due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub action: String,
    pub id: String,
    /// The date that makes it due.
    pub date: DateTime<Utc>,
}

impl Outcome {
    const SAMPLES_PER_ACTION: usize = 5;

    pub fn count(&mut self, action: &str, rows: u64) {
        self.changed += rows;
        *self.by_action.entry(action.into()).or_default() += rows;
    }

    /// The counts of one rule.
    pub fn rule(&mut self, name: &str) -> &mut RuleCounts {
        self.rules.entry(name.to_owned()).or_default()
    }

    pub fn sample(&mut self, action: &str, id: impl ToString, date: DateTime<Utc>) {
        if self.samples.iter().filter(|s| s.action == action).count() < Self::SAMPLES_PER_ACTION {
            self.samples.push(Sample { action: action.into(), id: id.to_string(), date });
        }
    }
}

/// Why a job ended before its end. It carries the decision: stop, give up the run to its new owner, try again, fail.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("stopped")]
    Stopped,
    #[error("another worker has taken the run over")]
    LeaseLost,
    #[error("MongoDB: {}", .0.kind)]
    Mongo(#[from] mongodb::error::Error),
    /// It may have been done or not.
    #[error("MongoDB did not confirm: {0}")]
    Unconfirmed(String),
    #[error(transparent)]
    Outside(#[from] OutsideError),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl JobError {
    /// Whether the same again may succeed: the network, a failover, a time-out.
    pub fn is_transient(&self) -> bool {
        match self {
            JobError::Stopped | JobError::LeaseLost | JobError::Failed(_) => false,
            JobError::Unconfirmed(_) => true,
            JobError::Outside(e) => e.passes,
            JobError::Mongo(e) => {
                e.contains_label(RETRYABLE_WRITE_ERROR)
                    || matches!(
                        *e.kind,
                        ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. }
                    )
                    || matches!(&*e.kind, ErrorKind::Command(c) if TRANSIENT_CODES.contains(&c.code))
            }
        }
    }
}

/// Server errors that pass: a member steps down, shuts down or recovers, or an operation ran out of time.
const TRANSIENT_CODES: [i32; 16] = [6, 7, 50, 64, 89, 91, 112, 133, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436];
