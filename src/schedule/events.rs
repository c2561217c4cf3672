use chrono::{DateTime, Utc};

use super::record::RunReport;

/// What the scheduler tells others as it happens: metrics, logs. Called from the scheduler's own tasks; must not block.
pub trait ScheduleEvents: Send + Sync + 'static {
    fn on_start(&self, _job: &'static str, _slot: DateTime<Utc>) {}

    /// A run ended in this process, whatever came of it.
    fn on_finish(&self, _report: &RunReport) {}

    /// This process gave up `slots` slots that came while nobody ran them.
    fn on_missed(&self, _job: &'static str, _slots: u64) {}

    /// This process skipped `slots` slots that came while the job was still running (in any process).
    fn on_overlap(&self, _job: &'static str, _slots: u64) {}

    /// Whether this process is the one that looks for due slots first; one in the fleet.
    fn on_leader(&self, _leads: bool) {}
}

/// Nobody listens.
pub struct NoEvents;

impl ScheduleEvents for NoEvents {}
