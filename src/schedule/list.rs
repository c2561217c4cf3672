use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use contextd_jobs::kit::from_bson;
use mongodb::Database;
use serde::Serialize;

use super::{
    Identity, ScheduleError,
    job::ScheduledJob,
    record::LastRun,
    schedules::{Schedules, State},
};
use crate::config::{Misfire, Overlap};

/// A job as operators see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    pub name: &'static str,
    pub enabled: bool,
    /// The cron expression, read in `zone`.
    pub schedule: String,
    pub zone: Tz,
    pub misfire: Misfire,
    pub overlap: Overlap,
    pub state: JobState,
    /// Who runs it.
    pub worker: Option<String>,
    /// The slot of the run that goes on or waits to be gone on with.
    pub current_slot: Option<DateTime<Utc>>,
    /// The last run that ended.
    pub last_run: Option<LastRun>,
    pub last_success: Option<DateTime<Utc>>,
    pub last_completion: Option<DateTime<Utc>>,
    /// None when disabled. In the past when it is due and nobody has taken it.
    pub next_run: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Idle,
    Running,
    /// Its run was cut off or given back and nobody has gone on with it yet.
    Interrupted,
}

/// How the jobs stand, in the given order. Changes nothing; also gives the values that the metrics of the last runs
/// start from.
pub async fn list(db: &Database, me: Identity, jobs: &[ScheduledJob]) -> Result<Vec<JobStatus>, ScheduleError> {
    let schedules = Schedules::new(db, me);
    let names: Vec<&str> = jobs.iter().map(ScheduledJob::name).collect();
    let states = schedules.read(&names).await?;
    let now = schedules.now().await?;
    Ok(jobs.iter().map(|job| status(job, states.iter().find(|s| s.job == job.name()), now)).collect())
}

fn status(job: &ScheduledJob, state: Option<&State>, now: DateTime<Utc>) -> JobStatus {
    let running = state.and_then(|s| s.running.as_ref());
    let leased = state.is_some_and(State::is_leased);
    let stored = state.filter(|s| s.schedule == job.table.id()).map(|s| from_bson(s.next_at));
    JobStatus {
        name: job.name(),
        enabled: job.enabled(),
        schedule: job.table.cron().to_owned(),
        zone: job.table.zone(),
        misfire: job.timing.misfire,
        overlap: job.timing.overlap,
        state: match (running, leased) {
            (None, _) => JobState::Idle,
            (Some(_), true) => JobState::Running,
            (Some(_), false) => JobState::Interrupted,
        },
        worker: state.filter(|_| leased).and_then(|s| s.owner.clone()),
        current_slot: running.map(|run| from_bson(run.slot)),
        last_run: state.and_then(|s| s.last.clone()),
        last_success: state.and_then(|s| s.last_success_at),
        last_completion: state.and_then(|s| s.last_completion_at),
        next_run: if job.enabled() { stored.or_else(|| job.table.next(now)) } else { None },
    }
}
