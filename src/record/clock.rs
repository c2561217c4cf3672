//! What "newer" means.

use chrono::{DateTime, Utc};

/// Bits of the clock that tell tasks of one order apart.
const TIE_BITS: u32 = 11;
/// Orders are below this: 2^52 microseconds are 142 years after 1970.
pub const MAX_ORDER: i64 = 1 << 52;

/// When a task's change counts as made: its order, and among equals a hash of the task's identity. So two tasks with
/// one order have the same winner everywhere (unless their hashes agree, one time in 2,048: then the first stays).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clock(pub i64);

/// An order that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    #[error("is before 1970 or below 0")]
    TooLow,
    #[error("is above 2^52")]
    TooHigh,
}

impl Clock {
    /// `order` in microseconds since 1970, or the producer's own number.
    pub fn new(order: i64, identity: &str) -> Result<Self, ClockError> {
        match order {
            ..0 => Err(ClockError::TooLow),
            MAX_ORDER.. => Err(ClockError::TooHigh),
            _ => Ok(Self((order << TIE_BITS) | tie(identity))),
        }
    }

    pub fn of_time(time: DateTime<Utc>, identity: &str) -> Result<Self, ClockError> {
        Self::new(time.timestamp_micros(), identity)
    }

    /// The order, without what tells equals apart.
    pub fn order(self) -> i64 {
        self.0 >> TIE_BITS
    }

    /// The same order, and newer than `other`, as far as there is room.
    pub(crate) fn after(self, other: Self) -> Self {
        if self.order() != other.order() || self > other {
            return self;
        }
        let next = Self(other.0 + 1);
        if next.order() == self.order() { next } else { other }
    }
}

fn tie(identity: &str) -> i64 {
    let hash = blake3::hash(identity.as_bytes());
    let bytes = hash.as_bytes();
    i64::from(u16::from_le_bytes([bytes[0], bytes[1]])) & ((1 << TIE_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_decides_before_identity() {
        let older = Clock::new(41, "zzz@/a").unwrap();
        assert!((0..200).all(|i| Clock::new(42, &format!("{i}@/a")).unwrap() > older));
        assert_eq!(Clock::new(42, "a@/b"), Clock::new(42, "a@/b"));
        assert_eq!(Clock::new(42, "a@/b").unwrap().order(), 42);
    }

    #[test]
    fn out_of_range_is_refused() {
        assert_eq!(Clock::new(-1, "a"), Err(ClockError::TooLow));
        assert_eq!(Clock::new(MAX_ORDER, "a"), Err(ClockError::TooHigh));
        assert!(Clock::new(MAX_ORDER - 1, "a").unwrap().0 > 0);
    }

    #[test]
    fn after_stays_in_its_order() {
        let last = Clock((7 << TIE_BITS) | ((1 << TIE_BITS) - 1));
        let first = Clock(7 << TIE_BITS);
        assert_eq!(first.after(first), Clock((7 << TIE_BITS) + 1));
        assert_eq!(first.after(last), last);
        assert_eq!(first.after(Clock(6 << TIE_BITS)), first);
    }
}
