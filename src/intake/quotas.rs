//! How a claim is divided among the priorities. Pure.

use crate::task::Priority;

/// Tasks of a claim of `tasks` that are reserved for each priority, highest first; only priorities
/// with waiting tasks make use of it. The highest needs none. A share of less than one task per claim
/// comes true over several claims: `turn` counts them.
pub(super) fn reserves(share: f64, tasks: usize, turn: u64) -> [usize; 4] {
    let per_claim = share * tasks as f64;
    let mut out = [0; 4];
    for (i, reserve) in out.iter_mut().enumerate().skip(1) {
        // The turns are shifted so that two priorities rarely claim the same single place.
        let turn = (turn + 3 * i as u64) % 1_000_000;
        let until = |n: u64| (per_claim * n as f64).floor();
        *reserve = ((until(turn + 1) - until(turn)) as usize).min(tasks);
    }
    out
}

/// Where the position `index` of a batch came from, given the counts per class (delayed tasks, then
/// each list): `None` for a delayed one.
pub(super) fn class_of(index: usize, counts: &[usize]) -> Option<Priority> {
    let mut end = 0;
    for (class, count) in counts.iter().enumerate() {
        end += count;
        if index < end {
            return class.checked_sub(1).map(|p| Priority::ALL[p.min(3)]);
        }
    }
    Some(Priority::Normal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_lower_priority_gets_its_share_over_time(share in 0.01f64..0.3, tasks in 1usize..1000) {
            let turns = 1000;
            let mut sum = [0usize; 4];
            for turn in 0..turns {
                for (s, r) in sum.iter_mut().zip(reserves(share, tasks, turn)) { *s += r; }
            }
            prop_assert_eq!(sum[0], 0);
            for s in &sum[1..] {
                let expected = share * tasks as f64 * turns as f64;
                prop_assert!((*s as f64 - expected).abs() <= tasks as f64 * share + 2.0, "{s} of {expected}");
            }
        }
    }

    #[test]
    fn positions_follow_the_counts() {
        let counts = [1, 2, 0, 1, 0];
        let classes: Vec<_> = (0..4).map(|i| class_of(i, &counts)).collect();
        assert_eq!(classes, [None, Some(Priority::Critical), Some(Priority::Critical), Some(Priority::Normal)]);
    }
}
