//! What is known about a run, while it goes on and after.

use chrono::{DateTime, SecondsFormat, Utc};
use contextd_jobs::{Outcome, kit::to_bson};
use mongodb::bson::{self, Bson, Document, doc};
use serde::{Deserialize, Serialize};

/// Why a run was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Schedule,
    Manual,
}

impl Trigger {
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Schedule => "schedule",
            Trigger::Manual => "manual",
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// It goes on.
    Running,
    Ok,
    Failed,
    /// Told to stop before its end. A scheduled run goes on from there in the next process that has the time.
    Stopped,
    /// The lease went to another worker, which goes on with it.
    Lost,
    /// Its worker died, and nobody went on with it.
    Crashed,
}

impl RunOutcome {
    pub const ENDS: [RunOutcome; 5] =
        [RunOutcome::Ok, RunOutcome::Failed, RunOutcome::Stopped, RunOutcome::Lost, RunOutcome::Crashed];

    pub fn as_str(self) -> &'static str {
        match self {
            RunOutcome::Running => "running",
            RunOutcome::Ok => "ok",
            RunOutcome::Failed => "failed",
            RunOutcome::Stopped => "stopped",
            RunOutcome::Lost => "lost",
            RunOutcome::Crashed => "crashed",
        }
    }
}

/// A run that ended in this process.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Its `_id` in `job_runs`.
    pub run_id: String,
    pub job: &'static str,
    /// The slot it was for; for a run by hand, when it was started.
    pub slot: DateTime<Utc>,
    pub trigger: Trigger,
    pub dry_run: bool,
    /// How often the job changed hands, this run included. 0 for a dry run, which takes no lease.
    pub epoch: i64,
    pub worker: String,
    /// The run's "now": the earlier of the worker's and MongoDB's clock.
    pub cutoff: DateTime<Utc>,
    pub started_at: DateTime<Utc>,
    /// None if the run goes on elsewhere.
    pub finished_at: Option<DateTime<Utc>>,
    /// In this process.
    pub duration_ms: u64,
    pub outcome: RunOutcome,
    pub counts: Outcome,
    pub error: Option<String>,
}

/// The run that a job's document in `job_schedules` holds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Running {
    pub run_id: String,
    pub slot: bson::DateTime,
    pub trigger: Trigger,
    pub cutoff: bson::DateTime,
    pub started_at: bson::DateTime,
    #[serde(default)]
    pub cursor: Option<Document>,
    #[serde(default)]
    pub counts: Option<Outcome>,
}

/// The last run that ended, as `job_schedules` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    pub run_id: String,
    pub worker: String,
    #[serde(deserialize_with = "date")]
    pub slot: DateTime<Utc>,
    pub trigger: Trigger,
    #[serde(deserialize_with = "date")]
    pub started_at: DateTime<Utc>,
    #[serde(deserialize_with = "date")]
    pub finished_at: DateTime<Utc>,
    pub outcome: RunOutcome,
    pub duration_ms: u64,
    pub error: Option<String>,
}

pub(super) fn date<'de, D: serde::Deserializer<'de>>(from: D) -> Result<DateTime<Utc>, D::Error> {
    bson::DateTime::deserialize(from).map(contextd_jobs::kit::from_bson)
}

pub(super) fn some_date<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    Option::<bson::DateTime>::deserialize(from).map(|date| date.map(contextd_jobs::kit::from_bson))
}

/// `_id` in `job_runs`: a slot has one, whoever runs it.
pub(super) fn run_id(job: &str, trigger: Trigger, slot: DateTime<Utc>) -> String {
    let slot = slot.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    match trigger {
        Trigger::Schedule => format!("{job}:{slot}"),
        Trigger::Manual => format!("{job}:manual:{slot}"),
    }
}

/// Counts without the samples, which may name what is private: those are for the eyes of whoever asked.
pub(super) fn counts(outcome: &Outcome) -> Bson {
    let plain = Outcome { samples: Vec::new(), ..outcome.clone() };
    bson::serialize_to_bson(&plain).unwrap_or(Bson::Null)
}

/// The document in `job_runs` of a run that ended.
pub(super) fn finished(report: &RunReport) -> Document {
    doc! {
        "_id": &report.run_id,
        "job": report.job,
        "slot": to_bson(report.slot),
        "trigger": report.trigger.as_str(),
        "dryRun": report.dry_run,
        "epoch": report.epoch,
        "worker": &report.worker,
        "cutoff": to_bson(report.cutoff),
        "startedAt": to_bson(report.started_at),
        "finishedAt": report.finished_at.map_or(Bson::Null, |at| to_bson(at).into()),
        "outcome": report.outcome.as_str(),
        "durationMs": i64::try_from(report.duration_ms).unwrap_or(i64::MAX),
        "counts": counts(&report.counts),
        "error": report.error.clone(),
    }
}
