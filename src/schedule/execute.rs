//! One run, from the claimed lease to its record.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use contextd_jobs::{Guard, JobError, Outcome, Run, kit::from_bson};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{
    job::ScheduledJob,
    lease::Lease,
    record::{RunOutcome, RunReport, Trigger},
    schedules::Schedules,
};
use crate::clock;

/// How often a run goes on from its cursor after a transient error before it counts as failed.
const ATTEMPTS: u32 = 5;

pub(super) type Progress = Box<dyn Fn(&Outcome) + Send + Sync>;

/// Runs what was claimed and records it. Returns when the run has ended, was given back or was lost.
pub(super) async fn execute(
    schedules: &Schedules,
    job: &ScheduledJob,
    lease: Lease,
    stop: &CancellationToken,
    over_cap: bool,
    progress: Progress,
) -> RunReport {
    let started = Instant::now();
    let guard = schedules.guard(&lease);
    let Lease { epoch, running, .. } = lease;
    let (slot, cutoff) = (from_bson(running.slot), from_bson(running.cutoff));
    let mut run =
        Run::new(schedules.db(), job.name(), slot, cutoff, stop.clone(), Some(guard.clone())).on_progress(progress);
    run = run.on_clock(schedules.me().clock.clone(), clock::jumped());
    run.over_cap = over_cap;
    run.resume = running.cursor;
    run.outcome = running.counts.unwrap_or_default();

    let keep = keep(schedules, &guard);
    tokio::pin!(keep);
    let ended = tokio::select! {
        ended = work(job, &mut run) => ended,
        // The job is dropped where it stands: from here on the run is another worker's.
        () = &mut keep => Err(JobError::LeaseLost),
    };
    let (outcome, error) = verdict(&ended);
    let mut report = RunReport {
        run_id: running.run_id,
        job: job.name(),
        slot,
        trigger: running.trigger,
        dry_run: false,
        epoch,
        worker: schedules.me().worker.clone(),
        cutoff,
        started_at: from_bson(running.started_at),
        finished_at: None,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        outcome,
        counts: run.outcome,
        error,
    };
    if report.outcome != RunOutcome::Lost {
        // The lease is renewed until the end is recorded.
        tokio::select! {
            () = settle(schedules, &guard, &mut report) => {}
            () = &mut keep => report.outcome = RunOutcome::Lost,
        }
    }
    report
}

/// The job itself, tried again from its cursor after errors that pass. A panic is this run's failure alone.
pub(super) async fn work(job: &ScheduledJob, run: &mut Run) -> Result<(), JobError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let error = match AssertUnwindSafe(job.job.run(run)).catch_unwind().await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(panic) => {
                let what = panic.downcast_ref::<&str>().map(|s| s.to_string());
                let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                return Err(JobError::Failed(anyhow::anyhow!("panicked: {what}")));
            }
        };
        if !error.is_transient() || attempt >= ATTEMPTS {
            return Err(error);
        }
        let pause = Duration::from_millis(500 << attempt);
        tracing::warn!(job = job.name(), attempt, ?pause, %error, "run interrupted, it goes on from its last page");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = run.stop.cancelled() => return Err(JobError::Stopped),
        }
    }
}

pub(super) fn verdict(ended: &Result<(), JobError>) -> (RunOutcome, Option<String>) {
    match ended {
        Ok(()) => (RunOutcome::Ok, None),
        Err(JobError::Stopped) => (RunOutcome::Stopped, None),
        Err(JobError::LeaseLost) => (RunOutcome::Lost, None),
        Err(error) => (RunOutcome::Failed, Some(format!("{error:#}"))),
    }
}

/// Renews the lease for as long as it can; returns when the lease is lost, or may be.
async fn keep(schedules: &Schedules, guard: &Guard) {
    let lease = schedules.me().lease;
    let mut confirmed = Instant::now();
    loop {
        tokio::time::sleep(lease / 4).await;
        let asked = Instant::now();
        match tokio::time::timeout(lease / 4, schedules.renew(guard)).await {
            Ok(Ok(true)) => confirmed = asked,
            Ok(Ok(false)) => return,
            Ok(Err(error)) => tracing::warn!(%error, "lease of a scheduled run not renewed, trying again"),
            Err(_) => tracing::warn!("lease of a scheduled run not renewed in time, trying again"),
        }
        // MongoDB may end the lease from here on, by its own clock.
        if confirmed.elapsed() >= lease {
            return;
        }
    }
}

/// Records the end, as often as it takes while the lease lasts.
async fn settle(schedules: &Schedules, guard: &Guard, report: &mut RunReport) {
    loop {
        // A scheduled run that was told to stop goes on elsewhere. One by hand ends here: nobody asked for more.
        let settled = if report.outcome == RunOutcome::Stopped && report.trigger == Trigger::Schedule {
            schedules.hand_over(guard, report).await.map(|()| true)
        } else {
            schedules.finish(guard, report).await.map(|end| {
                report.finished_at = end;
                end.is_some()
            })
        };
        match settled {
            Ok(true) => return,
            Ok(false) => return report.outcome = RunOutcome::Lost,
            Err(error) => {
                tracing::warn!(job = report.job, %error, "end of a run not recorded, trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}
