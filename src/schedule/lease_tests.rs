//! Two that want the same, against a real MongoDB. What [`super::super::scheduler`] checks before it asks is left out here
//! on purpose: the change itself must hold.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use contextd_jobs::{Job, JobError, Run};
use futures::{FutureExt, future::BoxFuture};
use mongodb::{Client, Database};

use super::*;
use crate::{
    clock,
    config::{JobTiming, Misfire, Overlap},
    schedule::Identity,
};

#[path = "../../tests/schedule/services.rs"]
mod services;

struct Idle;

impl Job for Idle {
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

fn hourly() -> ScheduledJob {
    let timing = JobTiming {
        enabled: true,
        cron: "0 * * * *".into(),
        zone: chrono_tz::UTC,
        misfire: Misfire::Once,
        catch_up: Duration::from_secs(7200),
        overlap: Overlap::Skip,
    };
    ScheduledJob::new(timing, Arc::new(Idle)).expect("valid")
}

async fn db() -> Database {
    let client = Client::with_uri_str(services::uri()).await.expect("MongoDB answers");
    client.database(&format!("lease_{}", uuid::Uuid::now_v7().simple()))
}

fn worker(db: &Database, name: &str) -> Schedules {
    let (lease, timeout) = (Duration::from_secs(60), Duration::from_secs(10));
    Schedules::new(db, Identity { worker: name.into(), clock: Arc::new(clock::now), lease, timeout })
}

/// The job with a slot that came an hour ago, as both workers have read it.
async fn due(db: &Database) -> (Schedules, Schedules, ScheduledJob, State, Plan) {
    let (one, other, job) = (worker(db, "one"), worker(db, "$other"), hourly());
    one.adopt(&job).await.expect("made");
    let state = one.read_one("idle").await.expect("read").expect("made");
    let slot = from_bson(state.next_at) - TimeDelta::hours(2);
    assert!(one.advance(&state, slot).await.expect("set back"));
    let state = one.read_one("idle").await.expect("read").expect("made");
    let plan = Plan { run: Some(slot), missed: 0, next: slot + TimeDelta::hours(1) };
    (one, other, job, state, plan)
}

async fn claim(by: &Schedules, job: &ScheduledJob, state: &State, plan: &Plan) -> Claim {
    by.claim(job, state, plan, plan.run.expect("a slot")).await.expect("asked")
}

async fn read(by: &Schedules) -> State {
    by.read_one("idle").await.expect("read").expect("there")
}

#[tokio::test]
async fn of_two_that_claim_a_slot_one_gets_it() {
    let db = db().await;
    let (one, other, job, state, plan) = due(&db).await;
    let (a, b) = tokio::join!(claim(&one, &job, &state, &plan), claim(&other, &job, &state, &plan));
    assert!(matches!((&a, &b), (Claim::Mine(_), Claim::Not) | (Claim::Not, Claim::Mine(_))), "{a:?} {b:?}");
    let after = read(&one).await;
    assert_eq!((after.epoch, from_bson(after.next_at)), (1, plan.next));
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_slot_that_has_not_come_by_mongodbs_clock_is_not_claimed() {
    let db = db().await;
    let (one, _, job, state, plan) = due(&db).await;
    let early = from_bson(state.now) + TimeDelta::seconds(30);
    // The stored slot has come, the one that is asked for has not.
    let ahead = Plan { run: Some(early), ..plan };
    assert!(matches!(claim(&one, &job, &state, &ahead).await, Claim::Not));
    // The stored one has not come; the worker believes so by its own clock.
    assert!(one.advance(&state, early).await.expect("set"));
    let mut state = read(&one).await;
    state.now = to_bson(early + TimeDelta::seconds(1));
    assert!(matches!(claim(&one, &job, &state, &plan).await, Claim::Not));
    assert!(read(&one).await.running.is_none());
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_slot_that_has_a_record_does_not_run_again() {
    let db = db().await;
    let (one, other, job, state, plan) = due(&db).await;
    let id = run_id("idle", Trigger::Schedule, plan.run.expect("a slot"));
    one.runs.insert_one(doc! { "_id": id }).await.expect("inserted");
    assert!(matches!(claim(&one, &job, &state, &plan).await, Claim::RanBefore));
    let after = read(&one).await;
    assert_eq!((after.epoch, after.running.is_none()), (0, true), "all or nothing");
    assert!(one.advance(&state, plan.next).await.expect("asked"));
    assert!(!other.advance(&state, plan.next).await.expect("asked"), "counted by one");
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_live_run_is_not_taken_and_a_dead_one_is_taken_once() {
    let db = db().await;
    let (one, other, job, state, plan) = due(&db).await;
    let third = worker(&db, "third");
    let Claim::Mine(lease) = claim(&one, &job, &state, &plan).await else { panic!("not mine") };
    let mut seen = read(&other).await;
    seen.lease_until = to_bson(DateTime::<Utc>::UNIX_EPOCH);
    assert!(matches!(other.take_over(&job, &seen).await, Ok(Claim::Not)), "its lease lasts, whatever was seen");
    assert!(!other.close(&seen).await.expect("asked"));
    assert!(matches!(other.claim_by_hand(&job, &seen).await, Ok(Claim::Not)));

    let end = doc! { "$set": { "leaseUntil": to_bson(DateTime::<Utc>::UNIX_EPOCH) } };
    one.schedules.update_one(doc! { "_id": "idle" }, end).await.expect("ended");
    let seen = read(&other).await;
    let (a, b) = tokio::join!(other.take_over(&job, &seen), third.take_over(&job, &seen));
    let taken = [a, b].into_iter().filter(|c| matches!(c, Ok(Claim::Mine(_)))).count();
    assert_eq!((taken, read(&one).await.epoch), (1, 2));
    // The first owner can do nothing any more.
    let guard = one.guard(&lease);
    assert!(!one.renew(&guard).await.expect("asked"));
    assert!(matches!(guard.check_in(None, &Default::default()).await, Err(JobError::LeaseLost)));
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_run_that_has_ended_is_not_taken_over_by_who_read_it_before() {
    let db = db().await;
    let (one, other, job, state, plan) = due(&db).await;
    let Claim::Mine(lease) = claim(&one, &job, &state, &plan).await else { panic!("not mine") };
    let seen = read(&other).await;
    let guard = one.guard(&lease);
    let report = RunReport {
        run_id: lease.running.run_id.clone(),
        job: "idle",
        slot: from_bson(lease.running.slot),
        trigger: Trigger::Schedule,
        dry_run: false,
        epoch: lease.epoch,
        worker: "one".into(),
        cutoff: from_bson(lease.running.cutoff),
        started_at: from_bson(lease.running.started_at),
        finished_at: None,
        duration_ms: 1,
        outcome: RunOutcome::Ok,
        counts: Default::default(),
        error: None,
    };
    let end = one.finish(&guard, &report).await.expect("asked");
    assert!(end.is_some());
    assert_eq!(one.finish(&guard, &report).await.expect("asked"), end, "said again, it has ended as before");
    for by in [&one, &other] {
        assert!(matches!(by.take_over(&job, &seen).await, Ok(Claim::Not)));
        assert!(!by.close(&seen).await.expect("asked"));
    }
    assert!(matches!(other.claim_by_hand(&job, &state).await, Ok(Claim::Not)), "an epoch is never given twice");
    assert_eq!(read(&one).await.last.map(|last| last.outcome), Some(RunOutcome::Ok));
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn one_leads_until_it_resigns() {
    let db = db().await;
    let (one, other) = (worker(&db, "one"), worker(&db, "other"));
    let (a, b) = tokio::join!(one.lead(), other.lead());
    let (a, b) = (a.expect("asked"), b.expect("asked"));
    assert!(a ^ b, "one of two: {a} {b}");
    let (leader, follower) = if a { (&one, &other) } else { (&other, &one) };
    assert!(leader.lead().await.expect("asked") && !follower.lead().await.expect("asked"));
    leader.resign().await.expect("asked");
    assert!(follower.lead().await.expect("asked"));
    db.drop().await.expect("dropped");
}
