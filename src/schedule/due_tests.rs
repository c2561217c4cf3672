use chrono_tz::{Europe::Berlin, UTC};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a date in the test")
}

fn hourly() -> Timetable {
    Timetable::new("0 * * * *", UTC).expect("valid")
}

fn policy(misfire: Misfire, overlap: Overlap) -> Policy {
    Policy { misfire, overlap, catch_up: TimeDelta::hours(5), grace: TimeDelta::minutes(1) }
}

fn run(at_: Option<&str>, missed: u64, next: &str) -> Option<Plan> {
    Some(Plan { run: at_.map(at), missed, next: at(next) })
}

#[test]
fn what_is_on_time_runs_under_every_policy() {
    for misfire in [Misfire::Skip, Misfire::Once, Misfire::All] {
        let policy = policy(misfire, Overlap::Skip);
        let next = at("2026-05-01T10:00:00Z");
        assert_eq!(plan(&hourly(), policy, next, None, at("2026-05-01T09:59:59.999Z")), None);
        let planned = plan(&hourly(), policy, next, None, at("2026-05-01T10:00:59Z"));
        assert_eq!(planned, run(Some("2026-05-01T10:00:00Z"), 0, "2026-05-01T11:00:00Z"));
    }
}

#[test]
fn missed_slots_follow_the_policy_within_the_window() {
    let (next, now) = (at("2026-05-01T00:00:00Z"), at("2026-05-01T10:30:00Z"));
    let planned = |misfire| plan(&hourly(), policy(misfire, Overlap::Skip), next, None, now);
    // 00:00 to 05:00 are out of the window, 06:00 to 10:00 in it.
    assert_eq!(planned(Misfire::Skip), run(None, 11, "2026-05-01T11:00:00Z"));
    assert_eq!(planned(Misfire::Once), run(Some("2026-05-01T10:00:00Z"), 10, "2026-05-01T11:00:00Z"));
    assert_eq!(planned(Misfire::All), run(Some("2026-05-01T06:00:00Z"), 6, "2026-05-01T07:00:00Z"));
    // With nothing in the window, nothing runs.
    let later = at("2026-05-01T10:30:00Z");
    let narrow = Policy { catch_up: TimeDelta::zero(), ..policy(Misfire::All, Overlap::Skip) };
    assert_eq!(plan(&hourly(), narrow, next, None, later), run(None, 11, "2026-05-01T11:00:00Z"));
}

#[test]
fn a_skipped_misfire_still_runs_the_slot_that_is_on_time() {
    let planned = plan(
        &hourly(),
        policy(Misfire::Skip, Overlap::Skip),
        at("2026-05-01T08:00:00Z"),
        None,
        at("2026-05-01T10:00:20Z"),
    );
    assert_eq!(planned, run(Some("2026-05-01T10:00:00Z"), 2, "2026-05-01T11:00:00Z"));
}

#[test]
fn queued_slots_run_one_after_the_other_whatever_the_misfire_policy() {
    let (next, busy, now) = (at("2026-05-01T08:00:00Z"), at("2026-05-01T10:20:00Z"), at("2026-05-01T10:20:01Z"));
    for misfire in [Misfire::Skip, Misfire::Once, Misfire::All] {
        let planned = plan(&hourly(), policy(misfire, Overlap::Queue), next, Some(busy), now);
        assert_eq!(planned, run(Some("2026-05-01T08:00:00Z"), 0, "2026-05-01T09:00:00Z"));
    }
    // Long after the run ended they are missed like any other.
    let planned = plan(&hourly(), policy(Misfire::Skip, Overlap::Queue), next, Some(busy), at("2026-05-01T12:30:00Z"));
    assert_eq!(planned, run(None, 5, "2026-05-01T13:00:00Z"));
}

#[test]
fn a_year_of_seconds_is_settled_at_once() {
    let table = Timetable::new("* * * * * *", Berlin).expect("valid");
    let (next, now) = (at("2025-05-01T00:00:00Z"), at("2026-05-01T10:30:00.5Z"));
    let once = plan(&table, policy(Misfire::Once, Overlap::Skip), next, None, now).expect("due");
    assert_eq!((once.run, once.next), (Some(at("2026-05-01T10:30:00Z")), at("2026-05-01T10:30:01Z")));
    assert!(once.missed >= COUNTED);
    let all = plan(&table, policy(Misfire::All, Overlap::Skip), next, None, now).expect("due");
    assert_eq!(all.run, Some(at("2026-05-01T05:30:01Z")));
    assert_eq!(skip_due(&table, next, now), (COUNTED, at("2026-05-01T10:30:01Z")));
}

proptest! {
    /// Whatever the policy: nothing early, nothing twice, every slot either run or counted, and it comes to an end.
    #[test]
    fn every_slot_is_run_or_counted(
        misfire in prop::sample::select(vec![Misfire::Skip, Misfire::Once, Misfire::All]),
        overlap in prop::sample::select(vec![Overlap::Skip, Overlap::Queue]),
        start in 0i64..40_000_000, gaps in prop::collection::vec(1i64..300_000, 1..8),
        catch_up in 0i64..400_000, busy_for in prop::option::of(0i64..20_000),
        cron in prop::sample::select(vec!["0 * * * *", "30 2 * * *", "*/20 1-3 * * *"]),
    ) {
        let table = Timetable::new(cron, Berlin).expect("valid");
        let policy = Policy {
            misfire, overlap, catch_up: TimeDelta::seconds(catch_up), grace: TimeDelta::seconds(60),
        };
        let start = at("2026-01-01T00:00:00Z") + TimeDelta::seconds(start);
        let first = table.next(start).expect("a slot");
        let (mut next, mut now, mut accounted, mut ran) = (first, start, 0u64, Vec::new());
        for gap in gaps {
            now += TimeDelta::seconds(gap);
            let busy = busy_for.map(|b| now - TimeDelta::seconds(b));
            for _ in 0..1_000 {
                let Some(planned) = plan(&table, policy, next, busy, now) else { break };
                prop_assert!(planned.next > next, "it moves on");
                accounted += planned.missed + u64::from(planned.run.is_some());
                if let Some(slot) = planned.run {
                    prop_assert!(slot <= now && slot >= next);
                    ran.push(slot);
                }
                next = planned.next;
            }
            prop_assert!(next > now);
        }
        prop_assert!(ran.windows(2).all(|w| w[0] < w[1]));
        prop_assert_eq!(accounted, count(&table, first, next));
    }
}
