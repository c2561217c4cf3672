use chrono_tz::{America::New_York, Australia::Lord_Howe, Europe::Berlin, Pacific::Apia, UTC};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a date in the test")
}

fn slots(cron: &str, zone: Tz, after: &str, until: &str) -> Vec<String> {
    let table = Timetable::new(cron, zone).expect(cron);
    let mut slot = at(after);
    std::iter::from_fn(|| {
        slot = table.next(slot)?;
        (slot <= at(until)).then(|| slot.format("%m-%dT%H:%M").to_string())
    })
    .collect()
}

#[test]
fn noon_stays_noon_over_both_changes() {
    let noon = slots("0 12 * * *", Berlin, "2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
    assert_eq!(noon, ["03-28T11:00", "03-29T10:00", "03-30T10:00"]);
    let noon = slots("0 12 * * *", New_York, "2026-10-31T00:00:00Z", "2026-11-02T20:00:00Z");
    assert_eq!(noon, ["10-31T16:00", "11-01T17:00", "11-02T17:00"]);
}

#[test]
fn a_wall_time_that_does_not_exist_is_due_right_after_the_gap() {
    // Berlin goes from 02:00 to 03:00 at 01:00 UTC.
    let night = slots("30 2 * * *", Berlin, "2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
    assert_eq!(night, ["03-28T01:30", "03-29T01:00", "03-30T00:30"]);
    // All that falls into the gap is one slot.
    let many = slots("*/20 2 * * *", Berlin, "2026-03-28T12:00:00Z", "2026-03-30T00:25:00Z");
    assert_eq!(many, ["03-29T01:00", "03-30T00:00", "03-30T00:20"]);
    // New York: 02:00 to 03:00 at 07:00 UTC.
    assert_eq!(slots("15 2 8 3 *", New_York, "2026-03-01T00:00:00Z", "2026-03-31T00:00:00Z"), ["03-08T07:00"]);
}

#[test]
fn a_wall_time_that_occurs_twice_is_due_the_first_time() {
    // Berlin repeats 02:00 to 03:00 from 01:00 UTC on.
    let night = slots("30 2 * * *", Berlin, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    assert_eq!(night, ["10-25T00:30", "10-26T01:30"]);
    // Asked in the repeated hour, what had its turn does not come again.
    assert_eq!(slots("30 2 * * *", Berlin, "2026-10-25T01:10:00Z", "2026-10-26T12:00:00Z"), ["10-26T01:30"]);
    assert_eq!(
        slots("30 1 * * *", New_York, "2026-11-01T00:00:00Z", "2026-11-02T12:00:00Z"),
        ["11-01T05:30", "11-02T06:30"]
    );
}

#[test]
fn an_open_hour_follows_elapsed_time() {
    let spring = slots("30 * * * *", Berlin, "2026-03-28T23:45:00Z", "2026-03-29T03:00:00Z");
    assert_eq!(spring, ["03-29T00:30", "03-29T01:30", "03-29T02:30"]);
    let autumn = slots("30 * * * *", Berlin, "2026-10-24T23:45:00Z", "2026-10-25T03:00:00Z");
    assert_eq!(autumn, ["10-25T00:30", "10-25T01:30", "10-25T02:30"]);
    // Lord Howe Island moves by half an hour.
    let half = slots("0 * * * *", Lord_Howe, "2026-04-04T12:30:00Z", "2026-04-04T17:45:00Z");
    assert_eq!(half, ["04-04T13:00", "04-04T14:00", "04-04T15:30", "04-04T16:30", "04-04T17:30"]);
}

#[test]
fn leap_days_and_skipped_days() {
    let leap = Timetable::new("0 0 29 2 *", UTC).expect("leap day");
    assert_eq!(leap.next(at("2026-01-01T00:00:00Z")), Some(at("2028-02-29T00:00:00Z")));
    assert_eq!(leap.next(at("2096-02-29T00:00:00Z")), Some(at("2104-02-29T00:00:00Z")));
    // Samoa had no 30 December 2011.
    assert_eq!(slots("0 12 30 12 *", Apia, "2011-12-01T00:00:00Z", "2012-01-31T00:00:00Z"), ["12-30T10:00"]);
    assert_eq!(slots("0 3 L * *", UTC, "2024-02-01T00:00:00Z", "2024-04-01T00:00:00Z"), ["02-29T03:00", "03-31T03:00"]);
}

#[test]
fn five_or_six_fields() {
    let seconds = Timetable::new("*/20  * * * * *", UTC).expect("six fields");
    assert_eq!(seconds.next(at("2026-01-01T00:00:19.999Z")), Some(at("2026-01-01T00:00:20Z")));
    assert_eq!(seconds.next(at("2026-01-01T00:00:20Z")), Some(at("2026-01-01T00:00:40Z")));
    assert_eq!(seconds.id(), "*/20 * * * * * UTC");
    let error = |cron| Timetable::new(cron, UTC).expect_err(cron);
    assert!(matches!(error("* * *"), TimetableError::Fields(_, 3)));
    assert!(matches!(error("0 0 0 1 1 * 2030"), TimetableError::Fields(_, 7)));
    assert!(matches!(error("@daily"), TimetableError::Fields(_, 1)));
    assert!(matches!(error("61 * * * *"), TimetableError::Syntax(..)));
    assert_eq!(error("0 0 30 2 *"), TimetableError::Never("0 0 30 2 *".into()));
}

fn zones() -> impl Strategy<Value = Tz> {
    prop::sample::select(vec![Berlin, New_York, Lord_Howe, UTC])
}

/// Within two days of a change in 2026, or anywhere in the year.
fn instants() -> impl Strategy<Value = DateTime<Utc>> {
    let changes = ["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z", "2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z"];
    let near = (prop::sample::select(changes.to_vec()), -172_800i64..172_800)
        .prop_map(|(change, by)| at(change) + TimeDelta::seconds(by));
    prop_oneof![3 => near, 1 => (0i64..31_536_000).prop_map(|s| at("2026-01-01T00:00:00Z") + TimeDelta::seconds(s))]
}

proptest! {
    /// With the hour open: exactly the minutes whose local time the expression names, found by looking at each.
    #[test]
    fn elapsed_slots_are_those_that_a_walk_over_every_minute_finds(
        zone in zones(), from in instants(), minute in 0u32..60, step in prop::sample::select(vec![0u32, 5, 7, 15, 30]),
    ) {
        let cron = if step == 0 { format!("{minute} * * * *") } else { format!("*/{step} * * * *") };
        let wanted = |at: DateTime<Utc>| {
            let local = at.with_timezone(&zone);
            if step == 0 { local.minute() == minute } else { local.minute().is_multiple_of(step) }
        };
        let start = from.with_second(0).expect("a second");
        let walked = (1..=26 * 60).map(|m| start + TimeDelta::minutes(m)).filter(|at| wanted(*at)).take(20);
        let table = Timetable::new(&cron, zone).expect("valid");
        let mut slot = from;
        for expected in walked {
            slot = table.next(slot).expect("a slot");
            prop_assert_eq!(slot, expected);
        }
    }

    /// With the hour set: one slot for each local day, at that time, or right after the gap that it fell into.
    #[test]
    fn every_local_day_has_exactly_one_slot(zone in zones(), from in instants(), hour in 0u32..24, minute in 0u32..60) {
        let table = Timetable::new(&format!("{minute} {hour} * * *"), zone).expect("valid");
        let mut slot = from;
        let mut day = None;
        for _ in 0..6 {
            let next = table.next(slot).expect("a slot");
            prop_assert!(next > slot);
            let local = next.with_timezone(&zone);
            if let Some(day) = day {
                prop_assert_eq!(Some(local.date_naive()), chrono::NaiveDate::succ_opt(&day));
            }
            let wall = local.date_naive().and_hms_opt(hour, minute, 0).expect("a time");
            match zone.from_local_datetime(&wall).earliest() {
                Some(first) => prop_assert_eq!(next, first),
                None => {
                    let before = next - TimeDelta::seconds(1);
                    prop_assert!(before.with_timezone(&zone).naive_local() < wall && wall < local.naive_local());
                }
            }
            (slot, day) = (next, Some(local.date_naive()));
        }
    }

    /// Asked from anywhere between two slots, the answer is the same: slots do not depend on who asks when.
    #[test]
    fn slots_do_not_depend_on_where_one_starts(
        zone in zones(), from in instants(), part in 0.0f64..1.0,
        cron in prop::sample::select(vec!["*/15 2 * * *", "30 1-3 * * *", "0 */2 * * *", "10 * * * *", "0 0 2 * * SUN"]),
    ) {
        let table = Timetable::new(cron, zone).expect("valid");
        let first = table.next(from).expect("a slot");
        let second = table.next(first).expect("a slot");
        prop_assert!(from < first && first < second);
        let between = first + TimeDelta::seconds(((second - first).num_seconds() as f64 * part) as i64);
        prop_assert_eq!(table.next(between), Some(second));
    }
}
