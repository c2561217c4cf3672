//! Runs started by hand.

use std::time::Instant;

use chrono::{DateTime, Utc};
use contextd_jobs::{JobError, Outcome, Run, kit::from_bson};
use mongodb::Database;
use tokio_util::sync::CancellationToken;

use super::{
    Identity, ScheduleError,
    execute::{execute, verdict, work},
    job::ScheduledJob,
    lease::Claim,
    record::{RunReport, Trigger, run_id},
    schedules::Schedules,
};
use crate::clock;

/// What a run by hand may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByHand {
    /// Look and count, change nothing.
    pub dry_run: bool,
    /// Go on although a rule of the policy is over its cap.
    pub over_cap: bool,
}

/// Runs `job` now, outside of its schedule and whether or not that is enabled, under the same lease as its scheduled
/// runs; returns when it has ended. A dry run takes no lease and changes nothing but `job_runs`. `stop` ends it at its
/// next page; `progress` is called at each.
pub async fn run_now(
    db: &Database,
    me: Identity,
    job: &ScheduledJob,
    how: ByHand,
    stop: CancellationToken,
    progress: impl Fn(&Outcome) + Send + Sync + 'static,
) -> Result<RunReport, ScheduleError> {
    let schedules = Schedules::new(db, me);
    if how.dry_run {
        return look(&schedules, job, stop, progress).await;
    }
    schedules.make(job).await?;
    loop {
        let Some(state) = schedules.read_one(job.name()).await? else {
            return Err(ScheduleError::Damaged(job.name().into(), "it was deleted while in use".into()));
        };
        if state.is_leased() {
            let owner = state.owner.unwrap_or_default();
            return Err(ScheduleError::Busy { job: job.name(), owner, until: from_bson(state.lease_until) });
        }
        if state.running.is_some() {
            schedules.close(&state).await?;
            continue;
        }
        // Not mine: another worker was quicker, which the next look shows.
        if let Claim::Mine(lease) = schedules.claim_by_hand(job, &state).await? {
            return Ok(execute(&schedules, job, *lease, &stop, how.over_cap, Box::new(progress)).await);
        }
    }
}

async fn look(
    schedules: &Schedules,
    job: &ScheduledJob,
    stop: CancellationToken,
    progress: impl Fn(&Outcome) + Send + Sync + 'static,
) -> Result<RunReport, ScheduleError> {
    let by_hand = async |run: &mut Run| work(job, run).await;
    let (report, _) = recorded(schedules, job.name(), true, stop, progress, by_hand).await?;
    Ok(report)
}

/// Does `work` as a run of its own under the name `job`, outside of every schedule and without a lease, and records it
/// in `job_runs`. What it does must be safe beside scheduled runs.
///
/// Answers the record, and what `work` answered if it came to its end.
pub async fn run_once<T>(
    db: &Database,
    me: Identity,
    job: &'static str,
    how: ByHand,
    stop: CancellationToken,
    progress: impl Fn(&Outcome) + Send + Sync + 'static,
    work: impl AsyncFnOnce(&mut Run) -> Result<T, JobError>,
) -> Result<(RunReport, Option<T>), ScheduleError> {
    let work = async |run: &mut Run| {
        run.over_cap = how.over_cap;
        work(run).await
    };
    recorded(&Schedules::new(db, me), job, how.dry_run, stop, progress, work).await
}

async fn recorded<T>(
    schedules: &Schedules,
    job: &'static str,
    dry_run: bool,
    stop: CancellationToken,
    progress: impl Fn(&Outcome) + Send + Sync + 'static,
    work: impl AsyncFnOnce(&mut Run) -> Result<T, JobError>,
) -> Result<(RunReport, Option<T>), ScheduleError> {
    let (begun, started) = (schedules.now().await?, Instant::now());
    let me = schedules.me();
    let cutoff = (me.clock)().min(begun);
    let mut run = Run::new(schedules.db(), job, begun, cutoff, stop, None).on_progress(progress);
    run = run.on_clock(me.clock.clone(), clock::jumped());
    run.dry_run = dry_run;
    let (ended, answer) = match work(&mut run).await {
        Ok(answer) => (Ok(()), Some(answer)),
        Err(error) => (Err(error), None),
    };
    let (outcome, error) = verdict(&ended);
    let kind = if dry_run { "dry" } else { "hand" };
    let report = RunReport {
        run_id: format!("{}:{kind}:{}", run_id(job, Trigger::Manual, begun), me.worker),
        job,
        slot: begun,
        trigger: Trigger::Manual,
        dry_run,
        epoch: 0,
        worker: me.worker.clone(),
        cutoff,
        started_at: begun,
        finished_at: Some(schedules.now().await?),
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        outcome,
        counts: run.outcome,
        error,
    };
    schedules.record(&report).await?;
    Ok((report, answer))
}

/// Runs a job at a moved time, without a lease or a record: for simulations and demonstrations, on a database of their
/// own. Both clocks are taken to say `now`.
pub async fn simulate(db: &Database, job: &ScheduledJob, now: DateTime<Utc>) -> Result<Outcome, JobError> {
    let mut run = Run::new(db, job.name(), now, now, CancellationToken::new(), None).simulated(now);
    run.dry_run = false;
    work(job, &mut run).await?;
    Ok(run.outcome)
}
