use std::sync::Arc;

use chrono::TimeDelta;
use contextd_jobs::{
    Job, anonymization, anonymous_cleanup, audit_anchor, auth_log_archival, document_archival, kit::World,
    orphan_sweep, reconciliation, retention, session_archival, version_pruning,
};

use super::{ScheduleError, due::Policy, slot::Timetable};
use crate::config::{self, JobTiming};

/// The registry: one line for each job. The order is the order of `jobs list`.
///
/// `world` is what jobs reach besides MongoDB.
pub fn jobs(config: &config::Jobs, world: &World) -> Result<Vec<ScheduledJob>, ScheduleError> {
    macro_rules! job {
        ($name:ident) => {{
            let job = $name::job(config.$name.settings.clone(), world.clone());
            ScheduledJob::new(config.$name.timing.clone(), Arc::new(job))?
        }};
    }
    Ok(vec![
        job!(session_archival),
        job!(version_pruning),
        job!(anonymous_cleanup),
        job!(document_archival),
        job!(retention),
        job!(anonymization),
        job!(auth_log_archival),
        job!(orphan_sweep),
        job!(reconciliation),
        job!(audit_anchor),
    ])
}

/// A job and when it runs.
#[derive(Clone)]
pub struct ScheduledJob {
    pub(super) job: Arc<dyn Job>,
    pub(super) timing: JobTiming,
    pub(super) table: Timetable,
}

impl ScheduledJob {
    pub fn new(timing: JobTiming, job: Arc<dyn Job>) -> Result<Self, ScheduleError> {
        let table = Timetable::new(&timing.cron, timing.zone)
            .map_err(|error| ScheduleError::Timetable { job: job.name(), error })?;
        Ok(Self { job, timing, table })
    }

    pub fn name(&self) -> &'static str {
        self.job.name()
    }

    /// Every action that its runs can report, for series that exist from the start.
    pub fn actions(&self) -> &'static [&'static str] {
        self.job.actions()
    }

    pub fn cron(&self) -> &str {
        self.table.cron()
    }

    pub fn enabled(&self) -> bool {
        self.timing.enabled
    }

    pub(super) fn policy(&self, grace: std::time::Duration) -> Policy {
        let delta = |d| TimeDelta::from_std(d).unwrap_or(TimeDelta::MAX);
        Policy {
            misfire: self.timing.misfire,
            overlap: self.timing.overlap,
            catch_up: delta(self.timing.catch_up),
            grace: delta(grace),
        }
    }
}
