//! Touches of one record come often and say little: a record is written by them at most once per flush interval.
//!
//! The first touch is written at once. Later ones within the interval wait in Redis like any task with a `notbefore`;
//! when they are due, those of one record come in one batch and make one write. Of a batch only the newest waits, the
//! others are moot. Nothing is held in memory but when records were last written.

use std::time::Duration;

use quick_cache::sync::Cache;

/// Records that are remembered; the least used are forgotten, which costs a write too many and nothing else.
const REMEMBERED: usize = 50_000;

/// Which records were written by a touch lately.
pub struct TouchGate {
    flush: Duration,
    last: Cache<(&'static str, String), i64>,
}

impl TouchGate {
    /// With no `flush` every touch is written.
    pub fn new(flush: Duration) -> Self {
        Self { flush, last: Cache::new(REMEMBERED) }
    }

    /// Whether a touch of the record may be written now; otherwise, when (ms since 1970). Who may, counts as having
    /// written.
    pub fn admit(&self, collection: &'static str, key: &str, now_ms: i64) -> Result<(), i64> {
        let flush = i64::try_from(self.flush.as_millis()).unwrap_or(i64::MAX);
        let id = (collection, key.to_owned());
        match self.last.get(&id) {
            Some(last) if now_ms < last.saturating_add(flush) && now_ms >= last => Err(last.saturating_add(flush)),
            _ => {
                self.last.insert(id, now_ms);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_write_per_interval_and_record() {
        let gate = TouchGate::new(Duration::from_secs(10));
        assert_eq!(gate.admit("documents", "d", 1_000), Ok(()));
        assert_eq!(gate.admit("documents", "d", 1_001), Err(11_000));
        assert_eq!(gate.admit("documents", "e", 1_001), Ok(()));
        assert_eq!(gate.admit("sessions", "d", 1_001), Ok(()));
        assert_eq!(gate.admit("documents", "d", 11_000), Ok(()));
        // A clock that was set back does not close the gate for longer than it would have been.
        assert_eq!(gate.admit("documents", "d", 5_000), Ok(()));
    }

    #[test]
    fn without_an_interval_every_touch_is_written() {
        let gate = TouchGate::new(Duration::ZERO);
        assert!((0..5).all(|_| gate.admit("documents", "d", 1_000).is_ok()));
    }
}
