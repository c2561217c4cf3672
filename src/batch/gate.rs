//! When an incomplete batch stops waiting for more tasks.
//!
//! With a linger of zero (the default) a claim takes what is there: batches grow with the load by
//! themselves, because tasks gather while earlier batches are written.

use std::time::{Duration, Instant};

/// What to do about the tasks that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Take,
    /// Look again after this long.
    Wait(Duration),
}

/// The state of one queue's waiting tasks.
#[derive(Debug)]
pub struct Gate {
    tasks: usize,
    linger: Duration,
    waiting_since: Option<Instant>,
}

impl Gate {
    /// A batch is complete at `tasks`, and waits at most `linger` for that.
    pub fn new(tasks: usize, linger: Duration) -> Self {
        Self { tasks, linger, waiting_since: None }
    }

    /// Whether waiting tasks need to be counted at all.
    pub fn lingers(&self) -> bool {
        !self.linger.is_zero()
    }

    /// Decides with `waiting` tasks seen at `now`.
    pub fn decide(&mut self, waiting: usize, now: Instant) -> Decision {
        if waiting == 0 {
            self.waiting_since = None;
            return Decision::Take; // what was given back does not count as waiting
        }
        let since = *self.waiting_since.get_or_insert(now);
        let left = self.linger.saturating_sub(now.saturating_duration_since(since));
        if waiting >= self.tasks || left.is_zero() {
            self.waiting_since = None;
            return Decision::Take;
        }
        Decision::Wait(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However tasks arrive, none waits longer than the linger, and a full batch never waits.
        #[test]
        fn nobody_waits_longer_than_the_linger(steps in prop::collection::vec((0u64..30, 0usize..40), 1..60), tasks in 1usize..100, linger in 0u64..100) {
            let start = Instant::now();
            let mut gate = Gate::new(tasks, Duration::from_millis(linger));
            let (mut now, mut waiting, mut oldest) = (0u64, 0usize, 0u64);
            for (pause, arrivals) in steps {
                now += pause;
                if waiting == 0 { oldest = now; }
                waiting += arrivals;
                match gate.decide(waiting, start + Duration::from_millis(now)) {
                    Decision::Take => waiting = 0,
                    Decision::Wait(left) => {
                        prop_assert!(waiting < tasks);
                        prop_assert!(now - oldest < linger);
                        prop_assert!(now + left.as_millis() as u64 <= oldest + linger);
                    }
                }
            }
        }
    }
}
