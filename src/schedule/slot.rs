//! When a job is due: its slots, as instants. Pure.

use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use croner::Cron;

/// A cron expression read in a time zone.
///
/// A slot is an instant, so a change to or from summer time neither repeats nor skips one:
/// - With the hour left open (`*`), slots follow elapsed time: each hour that exists, once.
/// - Otherwise they follow the wall clock, each wall time once: one that the change skips is due at the first instant
///   after the gap, and one that occurs twice is due the first time.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    text: String,
    zone: Tz,
    every_hour: bool,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TimetableError {
    #[error("cron \"{0}\" has {1} fields; write five (minute hour day month weekday) or six (second first)")]
    Fields(String, usize),
    #[error("cron \"{0}\" cannot be read: {1}")]
    Syntax(String, String),
    #[error("cron \"{0}\" names no date that ever comes")]
    Never(String),
}

impl Timetable {
    /// Reads `cron`: five fields, or six with the seconds first; `L`, `W` and `#` as croner knows them. A day of the
    /// month and a day of the week together mean either, as in cron.
    pub fn new(cron: &str, zone: Tz) -> Result<Self, TimetableError> {
        let fields: Vec<&str> = cron.split_whitespace().collect();
        let text = fields.join(" ");
        if !matches!(fields.len(), 5 | 6) {
            return Err(TimetableError::Fields(text, fields.len()));
        }
        let cron = Cron::from_str(&text).map_err(|e| TimetableError::Syntax(text.clone(), e.to_string()))?;
        let every_hour = (0..24).all(|h| cron.pattern.hour_match(h).unwrap_or(false));
        let this = Self { cron, text, zone, every_hour };
        let from = DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default();
        match this.next(from) {
            Some(_) => Ok(this),
            None => Err(TimetableError::Never(this.text)),
        }
    }

    pub fn cron(&self) -> &str {
        &self.text
    }

    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// Expression and zone in one line: what decides whether two timetables are the same.
    pub fn id(&self) -> String {
        format!("{} {}", self.text, self.zone)
    }

    /// The first slot after `after`. None only at the end of the calendar.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.with_nanosecond(0)?;
        if self.every_hour { self.next_elapsed(after) } else { self.next_wall(after) }
    }

    /// Walks along stretches of time with one offset; within each, local time and UTC run in step.
    fn next_elapsed(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = after.checked_add_signed(TimeDelta::seconds(1))?;
        loop {
            let offset = self.offset(from);
            let slot = self
                .matching(from.naive_utc().checked_add_signed(offset)?, true)?
                .checked_sub_signed(offset)?
                .and_utc();
            if self.offset(slot) == offset {
                return Some(slot);
            }
            from = first_true(from, slot, |at| self.offset(at) != offset);
        }
    }

    fn next_wall(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut wall = after.with_timezone(&self.zone).naive_local();
        loop {
            wall = self.matching(wall, false)?;
            let slot = self.instant(wall)?;
            // Not so only within an hour that occurs twice, the second time: those wall times had their turn.
            if slot > after {
                return Some(slot);
            }
        }
    }

    /// The one instant at which a wall time is due.
    fn instant(&self, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
        if let Some(first) = self.zone.from_local_datetime(&wall).earliest() {
            return Some(first.with_timezone(&Utc));
        }
        let day = TimeDelta::days(1);
        let (low, high) = (wall.checked_sub_signed(day)?.and_utc(), wall.checked_add_signed(day)?.and_utc());
        Some(first_true(low, high, |at| at.with_timezone(&self.zone).naive_local() > wall))
    }

    fn offset(&self, at: DateTime<Utc>) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()))
    }

    /// The first wall time that the expression names, from `from` on or (not inclusive) after it. The search runs on a
    /// calendar without zones: croner alone repeats or loses slots where the offset changes.
    fn matching(&self, from: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        self.cron.find_next_occurrence(&from.and_utc(), inclusive).ok().map(|found| found.naive_utc())
    }
}

/// The first second in (`low`, `high`] for which `is` holds, given that it holds at `high` and, once, for good.
fn first_true(low: DateTime<Utc>, high: DateTime<Utc>, is: impl Fn(DateTime<Utc>) -> bool) -> DateTime<Utc> {
    let (mut low, mut high) = (low.timestamp(), high.timestamp());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match DateTime::from_timestamp(middle, 0) {
            Some(at) if !is(at) => low = middle,
            _ => high = middle,
        }
    }
    DateTime::from_timestamp(high, 0).unwrap_or_default()
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
