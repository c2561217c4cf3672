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

/// More missed slots than this are not counted one by one.
pub const COUNTED: u64 = 10_000;

/// Decides about the slots from `next` (the stored one) up to `now`. `busy_until` is when the job's last run ended: what
/// came due before that waited for it. None if no slot is due.
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
    let on_time = |slot: DateTime<Utc>| now - busy_until.map_or(slot, |busy| slot.max(busy)) <= policy.grace;
    let oldest = now.checked_sub_signed(policy.catch_up).unwrap_or(DateTime::<Utc>::MIN_UTC);
    let (first, mut missed) = skip_while(table, next, |slot| slot < oldest && !on_time(slot));
    if first > now {
        return Some(Plan { run: None, missed, next: first });
    }
    let waited = policy.overlap == Overlap::Queue && busy_until.is_some_and(|busy| first <= busy) && on_time(first);
    if waited || policy.misfire == Misfire::All {
        return Some(Plan { run: Some(first), missed, next: after(table, first) });
    }
    let (mut newest, mut following) = (first, after(table, first));
    while following <= now {
        missed += 1;
        if missed >= COUNTED {
            // Where so many were missed it makes no difference which one stands for them.
            following = after(table, now);
            break;
        }
        (newest, following) = (following, after(table, following));
    }
    if policy.misfire == Misfire::Once || on_time(newest) {
        Some(Plan { run: Some(newest), missed, next: following })
    } else {
        Some(Plan { run: None, missed: missed + 1, next: following })
    }
}

/// How many slots from `next` on are due at `now`, and the first that is not.
pub fn skip_due(table: &Timetable, next: DateTime<Utc>, now: DateTime<Utc>) -> (u64, DateTime<Utc>) {
    let (following, skipped) = skip_while(table, next, |slot| slot <= now);
    // Past the limit of what is counted there may be more.
    if following <= now { (skipped, after(table, now)) } else { (skipped, following) }
}

fn skip_while(table: &Timetable, from: DateTime<Utc>, drop: impl Fn(DateTime<Utc>) -> bool) -> (DateTime<Utc>, u64) {
    let (mut slot, mut dropped) = (from, 0);
    while drop(slot) && dropped < COUNTED {
        slot = after(table, slot);
        dropped += 1;
    }
    (slot, dropped)
}

/// The next slot; at the end of the calendar, never.
fn after(table: &Timetable, slot: DateTime<Utc>) -> DateTime<Utc> {
    table.next(slot).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
