//! Runs started by hand.

use std::time::Instant;

use contextd_jobs::{Outcome, Run, kit::from_bson};
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
    let (begun, started) = (schedules.now().await?, Instant::now());
    let me = schedules.me();
    let cutoff = (me.clock)().min(begun);
    let mut run = Run::new(schedules.db(), job.name(), begun, cutoff, stop, None).on_progress(progress);
    run = run.on_clock(me.clock.clone(), clock::jumped());
    let ended = work(job, &mut run).await;
    let (outcome, error) = verdict(&ended);
    let report = RunReport {
        run_id: format!("{}:dry:{}", run_id(job.name(), Trigger::Manual, begun), me.worker),
        job: job.name(),
        slot: begun,
        trigger: Trigger::Manual,
        dry_run: true,
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
    Ok(report)
}
