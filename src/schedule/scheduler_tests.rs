use std::sync::Arc;

use contextd_jobs::{JobError, Run, kit::to_bson};
use futures::{FutureExt, future::BoxFuture};

use super::*;
use crate::{
    config::{JobTiming, Misfire},
    schedule::record::Running,
};

struct Idle;

impl contextd_jobs::Job for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }
    fn actions(&self) -> &'static [&'static str] {
        &[]
    }
    fn run<'a>(&'a self, _: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>> {
        async { Ok(()) }.boxed()
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a date in the test")
}

fn hourly(overlap: Overlap) -> ScheduledJob {
    let timing = JobTiming {
        enabled: true,
        cron: "0 * * * *".into(),
        zone: chrono_tz::UTC,
        misfire: Misfire::Once,
        catch_up: Duration::from_secs(7200),
        overlap,
    };
    ScheduledJob::new(timing, Arc::new(Idle)).expect("valid")
}

fn me() -> Identity {
    Identity {
        worker: "me".into(),
        clock: Arc::new(|| DateTime::<Utc>::MAX_UTC),
        lease: Duration::from_secs(60),
        timeout: Duration::from_secs(1),
    }
}

/// Next slot 10:00, read at `now`, nobody there.
fn state(now: &str) -> State {
    State {
        job: "idle".into(),
        schedule: "0 * * * * UTC".into(),
        next_at: to_bson(at("2026-05-01T10:00:00Z")),
        epoch: 7,
        owner: None,
        lease_until: to_bson(at("2026-05-01T09:00:00Z")),
        busy_until: None,
        running: None,
        last: None,
        last_success_at: None,
        last_completion_at: None,
        now: to_bson(at(now)),
    }
}

fn leased(mut state: State, owner: &str, until: &str, slot: &str, trigger: Trigger) -> State {
    state.owner = Some(owner.into());
    state.lease_until = to_bson(at(until));
    state.running = Some(Running {
        run_id: "idle:x".into(),
        slot: to_bson(at(slot)),
        trigger,
        cutoff: state.now,
        started_at: state.now,
        cursor: None,
        counts: None,
    });
    state
}

fn decide(state: &State, overlap: Overlap, here: bool, leader: bool) -> Step {
    step(&hourly(overlap), state, here, leader, &me())
}

#[test]
fn nothing_before_the_slot_whatever_the_workers_clock_says() {
    assert_eq!(decide(&state("2026-05-01T09:59:59.999Z"), Overlap::Skip, false, true), Step::Nothing);
}

#[test]
fn the_leader_takes_a_slot_at_once_and_the_others_when_it_is_left_lying() {
    let run = Step::Settle(Plan { run: Some(at("2026-05-01T10:00:00Z")), missed: 0, next: at("2026-05-01T11:00:00Z") });
    assert_eq!(decide(&state("2026-05-01T10:00:00Z"), Overlap::Skip, false, true), run);
    assert_eq!(decide(&state("2026-05-01T10:00:01.900Z"), Overlap::Skip, false, false), Step::Nothing);
    assert_eq!(decide(&state("2026-05-01T10:00:02Z"), Overlap::Skip, false, false), run);
}

#[test]
fn a_slot_during_a_run_is_skipped_or_waits() {
    let busy = |now| leased(state(now), "other", "2026-05-01T10:05:00Z", "2026-05-01T09:00:00Z", Trigger::Schedule);
    let skip = Step::SkipOverlap { slots: 1, next: at("2026-05-01T11:00:00Z") };
    assert_eq!(decide(&busy("2026-05-01T10:01:00Z"), Overlap::Skip, false, true), skip);
    assert_eq!(decide(&busy("2026-05-01T10:01:00Z"), Overlap::Queue, false, true), Step::Nothing);
    assert_eq!(decide(&busy("2026-05-01T09:59:00Z"), Overlap::Skip, false, true), Step::Nothing);
}

#[test]
fn what_a_dead_worker_left_is_gone_on_with_unless_old_or_by_hand() {
    let left = |slot, trigger| leased(state("2026-05-01T09:30:00Z"), "other", "2026-05-01T09:29:59Z", slot, trigger);
    let fresh = left("2026-05-01T09:00:00Z", Trigger::Schedule);
    assert_eq!(decide(&fresh, Overlap::Skip, false, false), Step::TakeOver);
    assert_eq!(decide(&fresh, Overlap::Skip, true, false), Step::Nothing, "it ends here just now");
    assert_eq!(decide(&left("2026-05-01T07:00:00Z", Trigger::Schedule), Overlap::Skip, false, true), Step::Close);
    assert_eq!(decide(&left("2026-05-01T09:20:00Z", Trigger::Manual), Overlap::Skip, false, true), Step::Close);
    // Claimed by this process, which never learned of it.
    let mine =
        leased(state("2026-05-01T09:30:00Z"), "me", "2026-05-01T09:31:00Z", "2026-05-01T09:00:00Z", Trigger::Schedule);
    assert_eq!(decide(&mine, Overlap::Skip, false, false), Step::TakeOver);
}

#[test]
fn slots_of_another_configuration_are_left_to_those_that_have_it() {
    let mut other = state("2026-05-01T10:30:00Z");
    other.schedule = "30 * * * * UTC".into();
    assert_eq!(decide(&other, Overlap::Skip, false, true), Step::Nothing);
}
