//! `contextd jobs`: the scheduled jobs, how they stand, and one of them now.

use std::{fmt::Write, sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use indicatif::ProgressBar;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    failure::{Failure, Printed},
    table,
};
use crate::{
    clock,
    config::Config,
    lifecycle,
    schedule::{
        self, ByHand, Identity, JobState, JobStatus, Outcome, RunOutcome, RunReport, ScheduleError, ScheduledJob,
    },
    store::{Store, StoreFault},
};

#[derive(Debug, Clone, clap::Subcommand)]
pub enum JobsCommand {
    /// Every job with its schedule, time zone, last and next run
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Runs one job now, whether or not its schedule is enabled
    Run(RunArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The job's name in the configuration
    pub job: String,
    /// Look and count, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go on although a rule of the policy is over its cap
    #[arg(long)]
    pub over_cap: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Lists the configured jobs.
///
/// # Errors
/// MongoDB cannot be reached, or a schedule cannot be read.
pub async fn list(config: &Config, store: &Store, json: bool) -> Result<Printed, Failure> {
    let jobs = jobs(config)?;
    let listed = schedule::list(store.database(), identity(config), &jobs).await?;
    if json { Printed::json(&json!({ "jobs": listed })) } else { Ok(Printed::text(table_of(&listed))) }
}

/// Runs one job to its end. `stop` (a signal) ends it at its next page.
///
/// # Errors
/// There is no such job; it is running elsewhere; MongoDB cannot be reached; it was stopped. A job that fails is reported
/// with what it did, and is found wrong.
pub async fn run(args: &RunArgs, config: &Config, store: &Store, stop: CancellationToken) -> Result<Printed, Failure> {
    let jobs = jobs(config)?;
    let job = find(&jobs, &args.job)?;
    // Hidden where stderr is no terminal.
    let bar = ProgressBar::new_spinner().with_prefix(job.name());
    bar.enable_steady_tick(Duration::from_millis(200));
    let shown = bar.clone();
    let progress = move |outcome: &Outcome| {
        shown.set_message(format!("examined {}, changed {}", outcome.examined, outcome.changed));
    };
    let how = ByHand { dry_run: args.dry_run, over_cap: args.over_cap };
    let ran = schedule::run_now(store.database(), identity(config), job, how, stop, progress).await;
    bar.finish_and_clear();
    let report = ran?;
    let mut printed = if args.json { Printed::json(&report)? } else { Printed::text(account(&report)) };
    match report.outcome {
        RunOutcome::Ok | RunOutcome::Running => {}
        RunOutcome::Stopped => {
            let done = report.counts.changed;
            return Err(Failure::NotFinished(format!(
                "job `{}` was stopped after {done} changes; run it again to go on",
                report.job
            )));
        }
        RunOutcome::Failed | RunOutcome::Lost | RunOutcome::Crashed => {
            let why = report.error.as_deref().unwrap_or("its lease in MongoDB was lost to another process");
            printed.wrong = Some(format!("job `{}` {}: {why}", report.job, report.outcome.as_str()));
        }
    }
    Ok(printed)
}

fn jobs(config: &Config) -> Result<Vec<ScheduledJob>, Failure> {
    let world = lifecycle::world(config).map_err(Failure::Configuration)?;
    Ok(schedule::jobs(&config.jobs, &world)?)
}

fn find<'j>(jobs: &'j [ScheduledJob], name: &str) -> Result<&'j ScheduledJob, Failure> {
    jobs.iter().find(|job| job.name() == name).ok_or_else(|| {
        let near = jobs.iter().find(|job| strsim::damerau_levenshtein(job.name(), name) <= 2);
        let all = || jobs.iter().map(ScheduledJob::name).collect::<Vec<_>>().join(", ");
        let hint = near.map_or_else(|| format!("there are {}", all()), |job| format!("did you mean `{}`?", job.name()));
        Failure::Usage(format!("there is no job {name:?}: {hint}"))
    })
}

/// A name of its own for each process: a lease is never taken for one's own by mistake.
pub(super) fn identity(config: &Config) -> Identity {
    Identity {
        worker: format!("jobs-{}", uuid::Uuid::now_v7()),
        clock: Arc::new(clock::now),
        lease: config.schedule.lease,
        timeout: config.mongodb.timeout,
    }
}

impl From<ScheduleError> for Failure {
    fn from(error: ScheduleError) -> Self {
        match error {
            ScheduleError::Mongo(e) => StoreFault::from(e).into(),
            ScheduleError::TimedOut(_) => {
                Failure::Unavailable(format!("{error}: check that it runs and `mongodb.uri`"))
            }
            ScheduleError::Timetable { .. } => Failure::Configuration(error.to_string()),
            ScheduleError::Busy { .. } | ScheduleError::Damaged(..) => Failure::Wrong(error.to_string()),
            ScheduleError::Timer(_) => Failure::Internal(error.to_string()),
        }
    }
}

fn table_of(jobs: &[JobStatus]) -> String {
    let mut table = table::new(&["job", "state", "schedule", "zone", "last run", "outcome", "took", "next run"]);
    for job in jobs {
        let state = match (job.enabled, job.state) {
            (false, JobState::Idle) => "disabled",
            (_, JobState::Idle) => "idle",
            (_, JobState::Running) => "running",
            (_, JobState::Interrupted) => "interrupted",
        };
        let last = job.last_run.as_ref();
        table.add_row([
            job.name.to_owned(),
            state.to_owned(),
            job.schedule.clone(),
            job.zone.to_string(),
            last.map_or_else(|| "never".into(), |run| time(run.started_at)),
            last.map_or_else(String::new, |run| run.outcome.as_str().into()),
            last.map_or_else(String::new, |run| took(run.duration_ms)),
            job.next_run.map_or_else(String::new, time),
        ]);
    }
    table.to_string()
}

/// A run in a few lines.
fn account(report: &RunReport) -> String {
    let counts = &report.counts;
    let (what, would) = if report.dry_run { ("dry run", "would change") } else { ("run", "changed") };
    let mut text = format!(
        "{} {what}: {} in {}\nexamined {}, {would} {}, held {}",
        report.job,
        report.outcome.as_str(),
        took(report.duration_ms),
        counts.examined,
        counts.changed,
        counts.held,
    );
    if let Some(remaining) = counts.remaining.filter(|_| !report.dry_run) {
        let _ = write!(text, ", remaining {remaining}");
    }
    for (action, rows) in &counts.by_action {
        let _ = write!(text, "\n  {action} {rows}");
    }
    for sample in &counts.samples {
        let _ = write!(text, "\n  for instance {} {} ({})", sample.action, sample.id, time(sample.date));
    }
    text
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn took(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1000.0),
        _ => format!("{} min {} s", millis / 60_000, millis % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn jobs() -> Vec<ScheduledJob> {
        let config = config::load(None, std::iter::empty()).expect("the defaults are valid");
        super::jobs(&config).expect("the defaults are valid")
    }

    #[test]
    fn an_unknown_job_is_refused_with_the_near_one() {
        let refused = |name| find(&jobs(), name).map(|j| j.name()).expect_err(name);
        assert_eq!(
            refused("retension"),
            Failure::Usage("there is no job \"retension\": did you mean `retention`?".into())
        );
        let Failure::Usage(all) = refused("vacuum") else { panic!("usage") };
        assert!(all.contains("there are session-archival, ") && all.contains("retention"), "{all}");
        assert_eq!(find(&jobs(), "retention").map(ScheduledJob::name), Ok("retention"));
    }

    #[test]
    fn a_run_is_told_in_a_few_lines() {
        let at: DateTime<Utc> = "2026-05-01T03:17:00Z".parse().expect("a date");
        let mut counts = Outcome { examined: 12, remaining: Some(11), ..Outcome::default() };
        counts.count("purge_dead_letters", 11);
        counts.sample("purge_dead_letters", "a@/x", at);
        let report = RunReport {
            run_id: "retention:manual:x".into(),
            job: "retention",
            slot: at,
            trigger: schedule::Trigger::Manual,
            dry_run: true,
            epoch: 0,
            worker: "w".into(),
            cutoff: at,
            started_at: at,
            finished_at: Some(at),
            duration_ms: 61_500,
            outcome: RunOutcome::Ok,
            counts,
            error: None,
        };
        assert_eq!(
            account(&report),
            "retention dry run: ok in 1 min 1 s\nexamined 12, would change 11, held 0\n  purge_dead_letters 11\n  \
             for instance purge_dead_letters a@/x (2026-05-01T03:17:00Z)"
        );
    }
}
