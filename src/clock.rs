//! The one place where the wall clock is read; everything else is given the time.

use std::{sync::OnceLock, time::Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// The wall clock, read once at the rim and passed on.
#[expect(clippy::disallowed_methods, reason = "this is the one permitted reading of the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// How far the wall clock has jumped since the first call: what it says, less what has passed. It is not zero when
/// somebody set it, or when the machine slept. The first call is made when the process starts.
#[expect(clippy::disallowed_methods, reason = "this is the one permitted reading of the clocks")]
pub fn jumped() -> TimeDelta {
    static START: OnceLock<(Instant, DateTime<Utc>)> = OnceLock::new();
    let (instant, wall) = *START.get_or_init(|| (Instant::now(), Utc::now()));
    let passed = TimeDelta::from_std(instant.elapsed()).unwrap_or(TimeDelta::zero());
    Utc::now() - wall - passed
}
