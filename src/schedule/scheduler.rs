//! Looks for due slots once a second and runs them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::kit::from_bson;
use mongodb::Database;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_cron_scheduler::{Job as Timer, JobScheduler};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Identity, ScheduleError,
    due::{Plan, plan, skip_due},
    events::ScheduleEvents,
    execute::execute,
    job::ScheduledJob,
    lease::{Claim, Lease},
    record::Trigger,
    schedules::{Schedules, State},
};
use crate::config::Overlap;

/// Processes that do not lead leave a slot to the one that does for this long, so that they do not all reach for it.
const STAND_BACK: TimeDelta = TimeDelta::seconds(2);
/// Looks at the latest after this long, should the timer not wake it.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Runs the enabled jobs of this process's configuration, in a fleet of such.
pub struct Scheduler {
    schedules: Schedules,
    jobs: Vec<ScheduledJob>,
    events: Arc<dyn ScheduleEvents>,
    /// Jobs that run in this process.
    here: Mutex<HashSet<&'static str>>,
    runs: TaskTracker,
    stop: CancellationToken,
    /// Ends the runs that did not end in time.
    abort: CancellationToken,
}

/// A running [`Scheduler`].
pub struct Handle {
    scheduler: Arc<Scheduler>,
    timer: JobScheduler,
    looking: JoinHandle<()>,
}

impl Scheduler {
    /// Starts looking. Fails if MongoDB cannot be reached: the jobs' documents are made, or set to this configuration, first.
    pub async fn start(
        db: &Database,
        me: Identity,
        jobs: Vec<ScheduledJob>,
        events: Arc<dyn ScheduleEvents>,
    ) -> Result<Handle, ScheduleError> {
        let scheduler = Arc::new(Self {
            schedules: Schedules::new(db, me),
            jobs: jobs.into_iter().filter(ScheduledJob::enabled).collect(),
            events,
            here: Mutex::default(),
            runs: TaskTracker::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        });
        for job in &scheduler.jobs {
            scheduler.schedules.adopt(job).await?;
        }
        let wake = Arc::new(Notify::new());
        let timer = start_timer(wake.clone()).await.map_err(|e| ScheduleError::Timer(e.to_string()))?;
        let looking = tokio::spawn(scheduler.clone().look(wake));
        Ok(Handle { scheduler, timer, looking })
    }

    async fn look(self: Arc<Self>, wake: Arc<Notify>) {
        let mut leads = false;
        let mut well = true;
        loop {
            match self.look_once(&mut leads).await {
                Ok(()) => well = true,
                Err(error) => {
                    if std::mem::replace(&mut well, false) {
                        tracing::warn!(%error, "scheduled jobs cannot be looked up, trying again every second");
                    }
                    if std::mem::replace(&mut leads, false) {
                        self.events.on_leader(false);
                    }
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = wake.notified() => {}
                () = tokio::time::sleep(LONGEST_SLEEP) => {}
            }
        }
        if leads {
            self.events.on_leader(false);
            // If this fails the others wait until the lease ends.
            let _ = self.schedules.resign().await;
        }
    }

    async fn look_once(self: &Arc<Self>, leads: &mut bool) -> Result<(), ScheduleError> {
        let leader = self.schedules.lead().await?;
        if std::mem::replace(leads, leader) != leader {
            self.events.on_leader(leader);
        }
        let names: Vec<&str> = self.jobs.iter().map(ScheduledJob::name).collect();
        for state in self.schedules.read(&names).await? {
            let Some(job) = self.jobs.iter().find(|job| job.name() == state.job) else { continue };
            let here = self.here().contains(job.name());
            let step = step(job, &state, here, leader, self.schedules.me());
            if let Err(error) = self.take(job, &state, step).await {
                tracing::warn!(job = job.name(), %error, "scheduled job cannot be started, trying again");
            }
        }
        Ok(())
    }

    async fn take(self: &Arc<Self>, job: &ScheduledJob, state: &State, step: Step) -> Result<(), ScheduleError> {
        match step {
            Step::Nothing => {}
            Step::SkipOverlap { slots, next } => {
                if self.schedules.advance(state, next).await? {
                    tracing::info!(job = job.name(), slots, "still running, slots skipped");
                    self.events.on_overlap(job.name(), slots);
                }
            }
            Step::TakeOver => {
                if let Claim::Mine(lease) = self.schedules.take_over(job, state).await? {
                    tracing::info!(job = job.name(), run = lease.running.run_id, epoch = lease.epoch, "run taken over");
                    self.spawn(job, *lease);
                }
            }
            Step::Close => {
                self.schedules.close(state).await?;
            }
            Step::Settle(plan) => self.settle(job, state, plan).await?,
        }
        Ok(())
    }

    async fn settle(self: &Arc<Self>, job: &ScheduledJob, state: &State, plan: Plan) -> Result<(), ScheduleError> {
        let claim = match plan.run {
            Some(slot) => self.schedules.claim(job, state, &plan, slot).await?,
            None => Claim::RanBefore,
        };
        let mine = match claim {
            Claim::Mine(lease) => {
                self.spawn(job, *lease);
                true
            }
            Claim::Not => false,
            Claim::RanBefore => self.schedules.advance(state, plan.next).await?,
        };
        if mine && plan.missed > 0 {
            tracing::warn!(job = job.name(), slots = plan.missed, "slots passed without a run");
            self.events.on_missed(job.name(), plan.missed);
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, job: &ScheduledJob, lease: Lease) {
        let (this, job) = (self.clone(), job.clone());
        self.here().insert(job.name());
        self.runs.spawn(async move {
            let name = job.name();
            this.events.on_start(name, from_bson(lease.running.slot));
            let run = execute(&this.schedules, &job, lease, &this.stop, false, Box::new(|_| {}));
            let report = tokio::select! {
                report = run => Some(report),
                () = this.abort.cancelled() => None,
            };
            this.here().remove(name);
            let Some(report) = report else { return };
            match &report.error {
                None => tracing::info!(
                    job = name,
                    run = report.run_id,
                    outcome = report.outcome.as_str(),
                    ms = report.duration_ms,
                    changed = report.counts.changed,
                    "run ended"
                ),
                Some(error) => tracing::error!(job = name, run = report.run_id, error, "run failed"),
            }
            this.events.on_finish(&report);
        });
    }

    fn here(&self) -> std::sync::MutexGuard<'_, HashSet<&'static str>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// No new runs; those that go on are told to stop at their next page and are given back, so that another process can
    /// go on with them at once. What has not stopped after `deadline` is dropped and stays leased until its lease ends.
    /// Says whether all stopped in time.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        self.scheduler.stop.cancel();
        // It ends its own loop with the next tick; nothing waits for it.
        let _ = self.timer.shutdown().await;
        self.scheduler.runs.close();
        let all = async {
            let _ = (&mut self.looking).await;
            self.scheduler.runs.wait().await;
        };
        let in_time = tokio::time::timeout(deadline, all).await.is_ok();
        self.looking.abort();
        self.scheduler.abort.cancel();
        self.scheduler.runs.wait().await;
        in_time
    }

    /// As if the process had been killed: nothing is given back. For tests of what the others do then.
    pub async fn kill(mut self) {
        self.looking.abort();
        self.scheduler.abort.cancel();
        let _ = self.timer.shutdown().await;
    }
}

/// tokio-cron-scheduler wakes us every second, in UTC, and does no more: it loses ticks and miscounts summer time.
async fn start_timer(wake: Arc<Notify>) -> Result<JobScheduler, tokio_cron_scheduler::JobSchedulerError> {
    let mut timer = JobScheduler::new().await?;
    timer.init().await?;
    timer.add(Timer::new("* * * * * *", move |_, _| wake.notify_one())?).await?;
    timer.start().await?;
    Ok(timer)
}

/// What there is to do about a job.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    /// It came due while the job was running.
    SkipOverlap {
        slots: u64,
        next: DateTime<Utc>,
    },
    /// A run whose worker died or gave it back goes on here.
    TakeOver,
    /// A run whose worker died is too old, or was by hand: nobody goes on with it.
    Close,
    Settle(Plan),
}

/// Pure: from the job's document as it was read, with MongoDB's time. `here`: it runs in this process.
fn step(job: &ScheduledJob, state: &State, here: bool, leader: bool, me: &Identity) -> Step {
    let now = from_bson(state.now);
    let next = from_bson(state.next_at);
    let policy = job.policy(me.lease);
    // Its timetable was set by a process with another configuration, which alone can tell what comes next.
    let foreign = state.schedule != job.table.id();
    let busy = here || (state.is_leased() && state.owner.as_deref() != Some(&me.worker));
    if busy {
        return match policy.overlap {
            Overlap::Skip if next <= now && !foreign => {
                let (slots, next) = skip_due(&job.table, next, now);
                Step::SkipOverlap { slots, next }
            }
            _ => Step::Nothing,
        };
    }
    if let Some(run) = &state.running {
        let fresh = now - from_bson(run.slot) <= policy.catch_up.max(policy.grace * 2);
        return if run.trigger == Trigger::Schedule && fresh { Step::TakeOver } else { Step::Close };
    }
    if foreign || (!leader && now - next < STAND_BACK) {
        return Step::Nothing;
    }
    let busy_until = state.busy_until.map(from_bson);
    plan(&job.table, policy, next, busy_until, now).map_or(Step::Nothing, Step::Settle)
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
