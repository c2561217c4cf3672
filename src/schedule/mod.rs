//! Runs the jobs of the `contextd-jobs` crate on time, each slot once in the whole fleet.
//!
//! Who, when, what:
//! - [`slot`] and [`due`] (pure) say which slots of a job have come and which of them are run.
//! - [`schedules`] are the jobs' documents in `job_schedules`, and [`lease`] how a run gets and loses its owner. MongoDB's
//!   clock alone decides whether a slot has come and whether a lease has ended; a slot is claimed, and its record
//!   `job:slot` made in `job_runs`, in one transaction.
//! - [`execute`] runs one claimed slot: renews the lease, stops when it is lost, records what came of it.
//! - [`scheduler`] looks once a second, and leaves slots to the [`leader`] at first. A worker's own clock is used for nothing but a run's cutoff, which is the earlier
//!   of the two clocks.
//!
//! What is not promised: a slot is not due *within* a second; MongoDB's clock jumping ahead by a failover makes slots
//! early by as much.

mod due;
mod events;
mod execute;
mod job;
mod leader;
mod lease;
mod list;
mod manual;
mod record;
mod scheduler;
mod schedules;
mod slot;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

pub use contextd_jobs::Outcome;
pub use events::{NoEvents, ScheduleEvents};
pub use job::{ScheduledJob, jobs};
pub use list::{JobState, JobStatus, list};
pub use manual::{ByHand, run_now, run_once, simulate};
pub use record::{LastRun, RunOutcome, RunReport, Trigger};
pub use scheduler::{Handle, Scheduler};
pub use slot::{Timetable, TimetableError};

/// The worker's clock.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// Who this process is to the others, and how long things may take.
#[derive(Clone)]
pub struct Identity {
    /// Unique for each start of a process: a lease is never taken for one's own by mistake.
    pub worker: String,
    pub clock: Clock,
    /// How long a run stays with a worker that does not renew.
    pub lease: Duration,
    /// A call to MongoDB without an answer after this long is tried again.
    pub timeout: Duration,
}

/// What goes wrong outside of the jobs themselves.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error("job `{job}`: {error}")]
    Timetable { job: &'static str, error: TimetableError },
    #[error("MongoDB: {}", .0.kind)]
    Mongo(#[from] mongodb::error::Error),
    #[error("MongoDB did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("`{0}` in `job_schedules` is not as contextd writes it: {1}")]
    Damaged(String, String),
    #[error("job `{job}` is running on {owner} (until {until} unless renewed); wait for it to end and try again")]
    Busy { job: &'static str, owner: String, until: DateTime<Utc> },
    #[error("the wake-up timer does not start: {0}")]
    Timer(String),
}
