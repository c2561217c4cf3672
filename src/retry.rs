//! How long to wait before trying again. Pure: chance is an argument.

use std::time::Duration;

/// Exponential backoff with full jitter: somewhere between nothing and `base * 2^(attempt-1)`, at most
/// `max`. `chance` lies in 0..1. Full jitter spreads retries of tasks that failed together.
pub fn delay(attempt: u32, base: Duration, max: Duration, chance: f64) -> Duration {
    let ceiling = base.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX)).min(max);
    ceiling.mul_f64(chance.clamp(0.0, 1.0))
}

/// Waits that grow while a store does not answer.
#[derive(Debug, Default)]
pub struct Backoff {
    attempt: u32,
}

impl Backoff {
    const BASE: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(1);

    pub fn new() -> Self {
        Self::default()
    }

    /// The next wait: never much less than half of its ceiling, so that nobody spins.
    pub fn next(&mut self, chance: f64) -> Duration {
        self.attempt = self.attempt.saturating_add(1);
        delay(self.attempt, Self::BASE, Self::MAX, 0.5 + chance / 2.0)
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_stays_between_nothing_and_the_ceiling(attempt in 1u32..100, base in 1u64..10_000, max in 1u64..1_000_000, chance in 0.0f64..1.0) {
            let (base, max) = (Duration::from_millis(base), Duration::from_millis(max));
            let d = delay(attempt, base, max, chance);
            prop_assert!(d <= max);
            prop_assert!(d <= base.saturating_mul(2u32.saturating_pow(attempt - 1)));
            prop_assert!(delay(attempt + 1, base, max, chance) >= d);
        }
    }
}
