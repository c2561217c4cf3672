//! Several processes, their clocks apart, some of them dying.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use chrono::TimeDelta;
use contextd::config::{Misfire, Overlap};
use contextd_jobs::{Run, kit::to_bson};
use futures::FutureExt;
use mongodb::{
    bson::{Document, doc},
    options::UpdateModifications,
};

use crate::harness::{Fields, all, db, ended, identity, overdue, probe, schedule, start, time, timing, until};

const LEASE: Duration = Duration::from_millis(1_500);
const SKEWS: [i64; 6] = [-20, -3, 0, 2, 30, 0];

/// Leaves one trace for each execution of a slot, with MongoDB's time.
async fn trace(run: &mut Run) -> Result<(), contextd_jobs::JobError> {
    run.page(None).await?;
    let traces = run.db.collection::<Document>("traces");
    let fields = doc! { "slot": to_bson(run.tick), "cutoff": to_bson(run.now) };
    let id = format!("{}-{}", run.tick.timestamp(), uuid::Uuid::now_v7());
    let set = vec![doc! { "$set": fields }, doc! { "$set": { "at": "$$NOW" } }];
    traces.update_one(doc! { "_id": id }, UpdateModifications::Pipeline(set)).upsert(true).await?;
    tokio::time::sleep(Duration::from_millis(150)).await;
    run.page(None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_slot_once_none_early_none_missed_whatever_the_clocks_say() {
    let db = db().await;
    let job = probe(timing("* * * * * *"), |run| trace(run).boxed());
    let mut fleet = Vec::new();
    for (n, skew) in SKEWS.into_iter().enumerate() {
        fleet.push(start(&db, identity(&format!("w{n}"), skew, LEASE), &job).await);
    }
    let runs = ended(&db, 8).await;
    assert_eq!(fleet.iter().map(|(_, heard)| heard.leads.load(Ordering::SeqCst)).sum::<u64>(), 1, "one leads");
    let mut missed = 0;
    for (handle, heard) in fleet {
        assert!(handle.stop(Duration::from_secs(5)).await);
        missed += heard.missed.load(Ordering::SeqCst);
    }
    assert_eq!(missed, 0);
    let traces = all(&db, "traces").await;
    let mut slots: Vec<i64> = traces.iter().map(|t| time(t, "slot").timestamp()).collect();
    slots.sort_unstable();
    assert!(slots.windows(2).all(|w| w[1] == w[0] + 1), "each second once: {slots:?}");
    for trace in &traces {
        assert!(time(trace, "at") >= time(trace, "slot"), "early: {trace}");
        assert!(time(trace, "cutoff") <= time(trace, "at"), "a fast clock made the cutoff late: {trace}");
    }
    assert!(runs.iter().all(|r| time(r, "startedAt") >= time(r, "slot")));
    db.drop().await.expect("dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_die_at_any_moment_cost_no_slot() {
    let db = db().await;
    let often = contextd::config::JobTiming { misfire: Misfire::All, overlap: Overlap::Queue, ..timing("* * * * * *") };
    let job = probe(often, |run| trace(run).boxed());
    let mut fleet = Vec::new();
    for (n, skew) in SKEWS.into_iter().enumerate() {
        fleet.push(start(&db, identity(&format!("w{n}"), skew, LEASE), &job).await.0);
    }
    // Whoever runs is killed, at growing distances from its start.
    for round in 0..6_u64 {
        until("a run goes on", || async {
            schedule(&db).await.get_document("running").ok()?;
            Some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(round * 37)).await;
        fleet.remove(0).kill().await;
        let skew = SKEWS[round as usize];
        fleet.push(start(&db, identity(&format!("x{round}"), skew, LEASE), &job).await.0);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let last = all(&db, "job_runs").await.len();
    let runs = ended(&db, last + 3).await;
    for handle in fleet {
        handle.stop(Duration::from_secs(5)).await;
    }
    let mut slots: Vec<i64> = runs.iter().map(|r| time(r, "slot").timestamp()).collect();
    slots.sort_unstable();
    assert!(slots.windows(2).all(|w| w[1] == w[0] + 1), "no slot without a run: {slots:?}");
    let mut executions: BTreeMap<i64, u64> = BTreeMap::new();
    for trace in all(&db, "traces").await {
        assert!(time(&trace, "at") >= time(&trace, "slot"), "early: {trace}");
        *executions.entry(time(&trace, "slot").timestamp()).or_default() += 1;
    }
    for run in all(&db, "job_runs").await {
        let owners = 1 + run.get_array("takenOverFrom").map_or(0, Vec::len) as u64;
        let traced = executions.get(&time(&run, "slot").timestamp()).copied().unwrap_or(0);
        assert!(traced <= owners, "executed {traced} times by {owners} owners: {run}");
        if run.text("outcome") == "ok" {
            assert!(traced >= 1, "ended well without having been executed: {run}");
        }
    }
    db.drop().await.expect("dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_that_start_at_once_run_an_overdue_slot_once() {
    let db = db().await;
    let job = probe(timing("0 * * * *"), |run| trace(run).boxed());
    overdue(&db, &job, TimeDelta::hours(3)).await;
    let starts = (0..8).map(|n| start(&db, identity(&format!("w{n}"), n * 7 - 20, LEASE), &job).boxed());
    let fleet = futures::future::join_all(starts).await;
    ended(&db, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut started, mut missed) = (0, 0);
    for (handle, heard) in fleet {
        handle.stop(Duration::from_secs(5)).await;
        started += heard.started.load(Ordering::SeqCst);
        missed += heard.missed.load(Ordering::SeqCst);
    }
    assert_eq!((started, all(&db, "traces").await.len(), all(&db, "job_runs").await.len()), (1, 1, 1));
    assert_eq!(missed, 2, "each missed slot is counted by one process");
    db.drop().await.expect("dropped");
}
