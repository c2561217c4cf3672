//! Clocks that differ, and jump.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    boundaries::at,
    check::{compare, right, rules_of},
    place::Place,
    rows::{CASES, user},
};

/// A run of dead letters' purge with clocks that differ: whether it ran, and which of three items are left.
async fn with_clocks(worker: DateTime<Utc>, server: DateTime<Utc>) -> (Result<(), String>, Vec<String>) {
    let place = Place::new().await;
    let case = CASES.iter().find(|case| case.rule == "dead-letter").expect("a case");
    let cutoff = at() - TimeDelta::milliseconds(case.term);
    place
        .put(&[
            case.item("long", cutoff - TimeDelta::days(1)),
            case.item("before", cutoff - TimeDelta::seconds(20)),
            case.item("after", cutoff + TimeDelta::seconds(20)),
        ])
        .await;
    let job = place.job(case.job);
    // The scheduler takes the earlier of both clocks as "now".
    let mut run =
        place.at(&*job, worker.min(server)).simulated(server).on_clock(Arc::new(move || worker), TimeDelta::zero());
    let done = job.run(&mut run).await.map_err(|e| e.to_string());
    let mut left: Vec<String> = place.stores().await.of("dead_letters").map(|(id, _)| id.clone()).collect();
    left.sort();
    place.end().await;
    (done, left)
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_within_the_limit_count_as_the_earlier_one() {
    let off = TimeDelta::seconds(40);
    for (worker, server) in [(at(), at() + off), (at() + off, at())] {
        let (done, left) = with_clocks(worker, server).await;
        assert_eq!((done, left), (Ok(()), vec!["after".to_owned()]), "worker {worker}, server {server}");
    }
    for (worker, server) in [(at() - off, at()), (at(), at() - off)] {
        let (done, left) = with_clocks(worker, server).await;
        assert_eq!(done, Ok(()));
        assert_eq!(left, ["after", "before"], "worker {worker}, server {server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_clocks_over_the_limit_does_nothing() {
    let off = TimeDelta::milliseconds(60_001);
    for (worker, server) in [(at() + off, at()), (at(), at() + off), (at() - off, at()), (at(), at() - off)] {
        let (done, left) = with_clocks(worker, server).await;
        assert!(done.is_err(), "worker {worker}, server {server}");
        assert_eq!(left, ["after", "before", "long"], "worker {worker}, server {server}");
    }
    let most = TimeDelta::seconds(60);
    assert_eq!(with_clocks(at() + most, at()).await.0, Ok(()), "at the limit it runs");
}

/// A run is given a "now" that neither clock has reached: by a scheduler with a clock that was ahead for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_now_from_ahead_of_both_clocks_destroys_nothing_early() {
    let place = Place::new().await;
    let case = CASES.iter().find(|case| case.rule == "dead-letter").expect("a case");
    place.put(&[case.item("young", at() - TimeDelta::days(1))]).await;
    let job = place.job(case.job);
    let mut run =
        place.at(&*job, at() + TimeDelta::days(400)).simulated(at()).on_clock(Arc::new(at), TimeDelta::zero());
    // Refused or left alone, but not gone.
    drop(job.run(&mut run).await);
    assert!(place.one("dead_letters", "young").await.is_some(), "{:?}", run.outcome);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_back_takes_nothing_early() {
    let place = Place::new().await;
    place.put(&[user("u1", at() - TimeDelta::days(1000))]).await;
    for hours in [0, -30, -29, 2, -700, 3] {
        let now = at() + TimeDelta::hours(hours);
        for job in ["session-archival", "version-pruning", "anonymous-cleanup", "retention", "anonymization"] {
            let mut items = Vec::new();
            for case in CASES.iter().filter(|case| case.job == job) {
                for (what, off) in [("due", -1), ("young", 1)] {
                    let id = format!("{}-{}-{what}-{hours}", case.rule, case.case);
                    items.push(case.item(&id, now - TimeDelta::milliseconds(case.term) + TimeDelta::milliseconds(off)));
                }
            }
            place.put(&items).await;
            let before = place.stores().await;
            place.run(job, now).await;
            let after = place.stores().await;
            right(&format!("{job} at {hours} h"), &compare(&before, &after, &rules_of(job, false), now));
        }
    }
    place.end().await;
}

/// Both clocks agree, but this one has just been put ahead by hours.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumped_ahead_ends_the_run() {
    let place = Place::new().await;
    let case = CASES.iter().find(|case| case.rule == "dead-letter").expect("a case");
    let due = at() - TimeDelta::milliseconds(case.term) - TimeDelta::minutes(1);
    place.put(&[case.item("due", due)]).await;
    let job = place.job(case.job);
    let mut run = place.at(&*job, at()).on_clock(Arc::new(at), TimeDelta::hours(2));
    let done = job.run(&mut run).await;
    assert!(done.is_err() && place.one("dead_letters", "due").await.is_some(), "{done:?} {:?}", run.outcome);
    place.end().await;
}
