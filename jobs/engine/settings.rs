use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How gently a job goes about its rules; the same figures for every job that runs rules.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Settings {
    /// Rows of one page at most.
    pub page: u32,
    /// What a page should take; its size follows.
    #[serde(with = "humantime_serde")]
    pub page_time: Duration,
    /// Pauses while a member of the replica set is further behind than this. Zero: not looked at.
    #[serde(with = "humantime_serde")]
    pub lag: Duration,
    /// Pauses while a small majority write takes longer than this. Zero: not looked at.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// The share of the time that a run works while others use the database, 0 to 1.
    pub yield_share: f64,
}
