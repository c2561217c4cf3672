//! Misfires, overlaps, changed schedules.

use std::{sync::atomic::Ordering, time::Duration};

use chrono::{TimeDelta, Timelike};
use contextd::config::{JobTiming, Misfire, Overlap};
use futures::FutureExt;
use mongodb::bson::doc;

use crate::harness::{
    Fields, all, db, ended, identity, overdue, probe, schedule, server_now, start, time, timing, until,
};

const LEASE: Duration = Duration::from_secs(3);

/// Slots of an hourly job that was due `hours` ago and since, run by one process: how many ran, how many were missed.
async fn after_hours(hours: i64, misfire: Misfire, catch_up: Duration) -> (usize, u64) {
    let db = db().await;
    // A minute that is half an hour away, so that no slot comes while the test runs.
    let minute = (server_now(&db).await.minute() + 30) % 60;
    let job =
        probe(JobTiming { misfire, catch_up, ..timing(&format!("{minute} * * * *")) }, |_| async { Ok(()) }.boxed());
    overdue(&db, &job, TimeDelta::hours(hours)).await;
    let (handle, heard) = start(&db, identity("w", 0, LEASE), &job).await;
    until("nothing is due any more", || async {
        let next = time(&schedule(&db).await, "nextAt");
        (next > server_now(&db).await && schedule(&db).await.get_document("running").is_err()).then_some(())
    })
    .await;
    handle.stop(Duration::from_secs(5)).await;
    let runs = all(&db, "job_runs").await;
    assert!(runs.iter().all(|r| r.text("outcome") == "ok"), "{runs:?}");
    db.drop().await.expect("dropped");
    (runs.len(), heard.missed.load(Ordering::SeqCst))
}

#[tokio::test]
async fn misfires_are_skipped_run_once_or_all_within_the_window() {
    let week = Duration::from_secs(7 * 86_400);
    let hours = Duration::from_secs(2 * 3600);
    let (skip, once, every, late) = tokio::join!(
        after_hours(4, Misfire::Skip, week),
        after_hours(4, Misfire::Once, week),
        after_hours(4, Misfire::All, week),
        after_hours(4, Misfire::All, hours),
    );
    assert_eq!(skip, (0, 4));
    assert_eq!(once, (1, 3));
    assert_eq!(every, (4, 0));
    assert_eq!(late, (2, 2));
}

async fn overlapping(overlap: Overlap) -> (Vec<i64>, u64) {
    let db = db().await;
    let job = probe(JobTiming { overlap, ..timing("* * * * * *") }, |run| {
        async {
            let first = run.db.collection::<mongodb::bson::Document>("job_runs").count_documents(doc! {}).await? == 1;
            tokio::time::sleep(Duration::from_millis(if first { 3_300 } else { 10 })).await;
            Ok(())
        }
        .boxed()
    });
    let (handle, heard) = start(&db, identity("w", 0, LEASE), &job).await;
    let runs = ended(&db, 5).await;
    handle.stop(Duration::from_secs(5)).await;
    assert_eq!(heard.missed.load(Ordering::SeqCst), 0);
    db.drop().await.expect("dropped");
    let mut slots: Vec<i64> = runs.iter().map(|r| time(r, "slot").timestamp()).collect();
    slots.sort_unstable();
    (slots, heard.overlaps.load(Ordering::SeqCst))
}

#[tokio::test]
async fn slots_during_a_long_run_are_skipped_or_queued() {
    let ((skipped, skips), (queued, none)) = tokio::join!(overlapping(Overlap::Skip), overlapping(Overlap::Queue));
    assert!((3..=4).contains(&(skipped[1] - skipped[0] - 1)), "{skipped:?}");
    assert_eq!(u64::try_from(skipped[1] - skipped[0] - 1), Ok(skips), "each is counted");
    assert!(queued.windows(2).all(|w| w[1] == w[0] + 1), "{queued:?}");
    assert_eq!(none, 0);
}

#[tokio::test]
async fn a_changed_schedule_counts_from_now_and_the_old_one_is_left_alone() {
    let db = db().await;
    let hourly = probe(timing("0 * * * *"), |_| async { Ok(()) }.boxed());
    overdue(&db, &hourly, TimeDelta::hours(5)).await;
    let later = probe(timing("0 0 1 1 *"), |_| async { Ok(()) }.boxed());
    let (new, heard) = start(&db, identity("new", 0, LEASE), &later).await;
    let document = schedule(&db).await;
    assert_eq!(document.text("schedule"), "0 0 1 1 * UTC");
    assert!(time(&document, "nextAt") > server_now(&db).await, "nothing of the old schedule is due");
    tokio::time::sleep(Duration::from_secs(2)).await;
    new.stop(Duration::from_secs(5)).await;
    assert_eq!((heard.started.load(Ordering::SeqCst), heard.missed.load(Ordering::SeqCst)), (0, 0));
    db.drop().await.expect("dropped");
}
