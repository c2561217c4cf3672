//! Which of the slots that have come are run, and which are not. Pure.

use chrono::{DateTime, TimeDelta, Utc};

use super::slot::Timetable;
use crate::config::{Misfire, Overlap};

/// How a job treats slots that could not be run on time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    pub misfire: Misfire,
    pub overlap: Overlap,
    /// Slots further back than this are only counted.
    pub catch_up: TimeDelta,
    /// A slot this late is still on time: taking over from a worker that died is not a misfire.
    pub grace: TimeDelta,
}

/// What to do about the slots up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The slot to run now.
    pub run: Option<DateTime<Utc>>,
    /// Slots that are given up.
    pub missed: u64,
    /// The slot that comes after; it may be due as well.
    pub next: DateTime<Utc>,
}

/// Missed slots are counted one by one up to this many.
pub const COUNTED: u64 = 10_000;

/// Decides about the slots from `next` (the stored one) up to `now`. `busy_until` is when the job's last run ended: what
/// came due before that waited for it, and is late only since then. None if no slot is due.
pub fn plan(
    table: &Timetable,
    policy: Policy,
    next: DateTime<Utc>,
    busy_until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<Plan> {
    if next > now {
        return None;
    }
    let late = |slot: DateTime<Utc>| now - busy_until.map_or(slot, |busy| slot.max(busy)) > policy.grace;
    let first = if late(next) {
        let window = now.checked_sub_signed(policy.catch_up.max(policy.grace)).unwrap_or(DateTime::<Utc>::MIN_UTC);
        first_from(table, next, window)
    } else {
        next
    };
    let missed = count(table, next, first);
    if first > now {
        return Some(Plan { run: None, missed, next: first });
    }
    let waited = policy.overlap == Overlap::Queue && busy_until.is_some_and(|busy| first <= busy) && !late(first);
    if waited || policy.misfire == Misfire::All {
        return Some(Plan { run: Some(first), missed, next: after(table, first) });
    }
    let newest = newest(table, first, now);
    let missed = missed + count(table, first, newest);
    let next = after(table, newest);
    if policy.misfire == Misfire::Skip && late(newest) {
        return Some(Plan { run: None, missed: missed + 1, next });
    }
    Some(Plan { run: Some(newest), missed, next })
}

/// How many slots from `next` on are due at `now`, and the first that is not.
pub fn skip_due(table: &Timetable, next: DateTime<Utc>, now: DateTime<Utc>) -> (u64, DateTime<Utc>) {
    let following = after(table, now);
    (count(table, next, following), following)
}

/// The slots in [`from`, `to`), at most [`COUNTED`].
fn count(table: &Timetable, from: DateTime<Utc>, to: DateTime<Utc>) -> u64 {
    let (mut slot, mut counted) = (from, 0);
    while slot < to && counted < COUNTED {
        slot = after(table, slot);
        counted += 1;
    }
    counted
}

/// The first slot that is neither before `slot` (which is one) nor before `window`.
fn first_from(table: &Timetable, slot: DateTime<Utc>, window: DateTime<Utc>) -> DateTime<Utc> {
    if slot >= window { slot } else { after(table, window - TimeDelta::nanoseconds(1)) }
}

/// The last slot up to `now`; `first` is one. Looks back from `now` in growing steps, so that the distance to `first`
/// does not matter.
fn newest(table: &Timetable, first: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    let mut back = TimeDelta::seconds(1);
    let mut newest = loop {
        let from = now - back;
        if from <= first {
            break first;
        }
        let slot = after(table, from);
        if slot <= now {
            break slot;
        }
        back = back * 2;
    };
    loop {
        let following = after(table, newest);
        if following > now {
            return newest;
        }
        newest = following;
    }
}

/// The next slot; at the end of the calendar, never.
fn after(table: &Timetable, slot: DateTime<Utc>) -> DateTime<Utc> {
    table.next(slot).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
