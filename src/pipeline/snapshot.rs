//! What `/api/status` shows beyond this process, and what the schedule reports to the metrics.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::upkeep::Latest;
use crate::{
    clock,
    metrics::{JobAction, JobMetrics, JobOutcome, SchedulerMetrics},
    schedule::{self, JobStatus, RunOutcome, RunReport, ScheduleEvents, ScheduledJob},
    store::Store,
    task::Priority,
};

/// Where the snapshot comes from.
pub struct Source {
    pub worker: String,
    pub queues: Vec<String>,
    pub latest: Latest,
    pub store: Store,
    pub jobs: Vec<ScheduledJob>,
    pub identity: schedule::Identity,
}

fn time(ms: i64) -> Option<String> {
    DateTime::from_timestamp_millis(ms).map(|t| t.to_rfc3339_opts(SecondsFormat::Millis, true))
}

impl Source {
    /// The snapshot. What cannot be read says so in its place.
    pub async fn read(&self) -> Value {
        let dead: HashMap<String, u64> =
            self.store.dead_by_queue().await.map(|rows| rows.into_iter().collect()).unwrap_or_default();
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = |name: &String| {
            let Some(stats) = latest.iter().find(|s| s.queue == *name) else {
                return json!({"name": name, "error": "not measured yet"});
            };
            let priorities: Map<String, Value> = Priority::ALL
                .into_iter()
                .enumerate()
                .map(|(i, p)| {
                    let oldest = stats.oldest_ms[i].and_then(time);
                    (p.to_string(), json!({"depth": stats.depth[i], "oldest": oldest}))
                })
                .collect();
            json!({
                "name": name,
                "priorities": priorities,
                "delayed": stats.delayed,
                "inFlight": stats.in_flight,
                "deadLetters": dead.get(name).copied().unwrap_or(0),
                "paused": stats.paused,
            })
        };
        let queues: Vec<Value> = self.queues.iter().map(queue).collect();
        let jobs = match schedule::list(self.store.database(), self.identity.clone(), &self.jobs).await {
            Ok(list) => list.iter().map(job).collect(),
            Err(error) => vec![json!({"error": error.to_string()})],
        };
        json!({"worker": self.worker, "queues": queues, "jobs": jobs})
    }
}

fn job(status: &JobStatus) -> Value {
    json!({
        "name": status.name,
        "cron": status.schedule,
        "zone": status.zone.name(),
        "enabled": status.enabled,
        "state": status.state,
        "lastRun": status.last_completion,
        "lastOutcome": status.last_run.as_ref().map(|r| &r.outcome),
        "nextRun": status.next_run,
    })
}

/// Reports scheduled runs to the metrics.
pub struct JobEvents {
    jobs: HashMap<&'static str, JobMetrics>,
    scheduler: SchedulerMetrics,
}

impl JobEvents {
    pub fn new(jobs: &[ScheduledJob]) -> Self {
        let jobs = jobs.iter().map(|j| (j.name(), JobMetrics::new(j.name()))).collect();
        Self { jobs, scheduler: SchedulerMetrics::new() }
    }

    /// Starts the gauges from what earlier processes did.
    pub fn seed(&self, list: &[JobStatus]) {
        for status in list {
            if let Some(metrics) = self.jobs.get(status.name) {
                metrics.seed(status.last_success, status.last_completion);
            }
        }
    }
}

impl ScheduleEvents for JobEvents {
    fn on_finish(&self, report: &RunReport) {
        let Some(metrics) = self.jobs.get(report.job) else { return };
        let outcome = match report.outcome {
            RunOutcome::Ok => JobOutcome::Success,
            RunOutcome::Failed | RunOutcome::Crashed => JobOutcome::Failure,
            RunOutcome::Stopped | RunOutcome::Lost | RunOutcome::Running => JobOutcome::Stopped,
        };
        let now: DateTime<Utc> = report.finished_at.unwrap_or_else(clock::now);
        metrics.ran(outcome, Duration::from_millis(report.duration_ms), now);
        for (action, n) in [
            (JobAction::Examined, report.counts.examined),
            (JobAction::Changed, report.counts.changed),
            (JobAction::Held, report.counts.held),
        ] {
            metrics.items(action).increment(n);
        }
    }

    fn on_missed(&self, job: &'static str, slots: u64) {
        if let Some(metrics) = self.jobs.get(job) {
            metrics.missed_slots().increment(slots);
        }
    }

    fn on_overlap(&self, job: &'static str, slots: u64) {
        if let Some(metrics) = self.jobs.get(job) {
            metrics.overlap_skips().increment(slots);
        }
    }

    fn on_leader(&self, leads: bool) {
        self.scheduler.leader().set(f64::from(u8::from(leads)));
    }
}
