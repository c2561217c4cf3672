//! The one place where the wall clock is read; everything else is given the time.

use chrono::{DateTime, Utc};

/// The wall clock, read once at the rim and passed on.
#[expect(clippy::disallowed_methods, reason = "this is the one permitted reading of the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
