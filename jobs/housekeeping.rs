//! Purges old dead letters and old run records.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The job's own figures (`[jobs.housekeeping]`).
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Settings {
    #[serde(with = "humantime_serde")]
    pub dead_letters_after: Duration,
    #[serde(with = "humantime_serde")]
    pub job_runs_after: Duration,
    pub page: u32,
    #[serde(with = "humantime_serde")]
    pub page_time: Duration,
}
