//! One run: its record, its end, its change of hands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use contextd::schedule::{JobState, RunOutcome, ScheduleError, list, run_now};
use contextd_jobs::{JobError, Run};
use futures::FutureExt;
use mongodb::bson::doc;
use tokio_util::sync::CancellationToken;

use crate::harness::{Fields, all, db, ended, identity, overdue, probe, schedule, set, start, time, timing, until};

const LEASE: Duration = Duration::from_secs(2);

/// Goes through ten pages; waits at the fifth as long as `hold` says so.
async fn pages(run: &mut Run, hold: &AtomicBool) -> Result<(), JobError> {
    let mut page = run.resume.as_ref().and_then(|c| c.get_i32("page").ok()).unwrap_or(0);
    while page < 10 {
        run.page(Some(doc! { "page": page })).await?;
        while page == 5 && hold.load(Ordering::SeqCst) {
            run.page(Some(doc! { "page": page })).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        run.outcome.count("probe", 1);
        page += 1;
    }
    run.page(Some(doc! { "page": page })).await
}

async fn at_page_five(db: &mongodb::Database) {
    until("the run is at page five", || async {
        let document = schedule(db).await;
        let cursor = document.get_document("running").ok()?.get_document("cursor").ok()?;
        (cursor.get_i32("page").ok() == Some(5)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_run_whose_worker_died_goes_on_from_its_cursor() {
    let db = db().await;
    let hold = Arc::new(AtomicBool::new(true));
    let held = hold.clone();
    let job = probe(timing("0 * * * *"), move |run| {
        let hold = held.clone();
        async move { pages(run, &hold).await }.boxed()
    });
    let slot = overdue(&db, &job, TimeDelta::hours(1)).await;
    let (first, _) = start(&db, identity("first", 0, LEASE), &job).await;
    at_page_five(&db).await;
    let before = schedule(&db).await;
    first.kill().await;
    hold.store(false, Ordering::SeqCst);
    let (second, heard) = start(&db, identity("second", 30, LEASE), &job).await;
    let runs = ended(&db, 1).await;
    assert!(second.stop(Duration::from_secs(5)).await);
    let run = &runs[0];
    assert_eq!((run.text("worker"), run.text("outcome")), ("second", "ok"));
    assert_eq!(run.number("epoch"), before.number("epoch") + 1);
    assert_eq!(time(run, "slot"), slot);
    let counts = run.get_document("counts").expect("counts");
    assert_eq!(counts.number("changed"), 10, "each page once: {run}");
    let cutoff = before.get_document("running").expect("running").get_datetime("cutoff").ok().copied();
    assert_eq!(run.get_datetime("cutoff").ok().copied(), cutoff, "the cutoff is the run's, not the worker's");
    assert!(time(run, "finishedAt") >= time(&before, "leaseUntil"), "not before the lease ended");
    assert_eq!(heard.reports().len(), 1);
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_stopped_process_gives_its_run_back_at_once() {
    let db = db().await;
    let hold = Arc::new(AtomicBool::new(true));
    let held = hold.clone();
    let job = probe(timing("0 * * * *"), move |run| {
        let hold = held.clone();
        async move { pages(run, &hold).await }.boxed()
    });
    overdue(&db, &job, TimeDelta::hours(1)).await;
    let (first, heard) = start(&db, identity("first", 0, Duration::from_secs(600)), &job).await;
    at_page_five(&db).await;
    assert!(first.stop(Duration::from_secs(5)).await);
    assert_eq!(heard.reports()[0].outcome, RunOutcome::Stopped);
    let me = identity("looker", 0, LEASE);
    let status = list(&db, me, std::slice::from_ref(&job)).await.expect("listed");
    assert_eq!((status[0].state, status[0].worker.clone()), (JobState::Interrupted, None));
    assert!(all(&db, "job_runs").await[0].get_datetime("finishedAt").is_err(), "it has not ended");

    hold.store(false, Ordering::SeqCst);
    let (second, _) = start(&db, identity("second", 0, LEASE), &job).await;
    let runs = ended(&db, 1).await;
    second.stop(Duration::from_secs(5)).await;
    assert_eq!((runs.len(), runs[0].text("outcome"), runs[0].text("worker")), (1, "ok", "second"));
    assert_eq!(runs[0].get_document("counts").expect("counts").number("changed"), 10);
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_run_whose_lease_was_lost_stops_and_leaves_the_record_alone() {
    let db = db().await;
    let hold = Arc::new(AtomicBool::new(true));
    let job = probe(timing("0 * * * *"), move |run| {
        let hold = hold.clone();
        async move { pages(run, &hold).await }.boxed()
    });
    overdue(&db, &job, TimeDelta::hours(1)).await;
    let (handle, heard) = start(&db, identity("first", 0, LEASE), &job).await;
    at_page_five(&db).await;
    // Another worker took it: a new epoch, another owner, a lease far in the future.
    let epoch = schedule(&db).await.number("epoch") + 1;
    let until_ = mongodb::bson::DateTime::from_millis(4_000_000_000_000);
    set(&db, doc! { "epoch": epoch, "owner": "other", "leaseUntil": until_ }).await;
    let report = until("the run ends", || async { heard.reports().pop() }).await;
    assert_eq!(report.outcome, RunOutcome::Lost);
    handle.stop(Duration::from_secs(5)).await;
    assert_eq!(schedule(&db).await.text("owner"), "other");
    assert_eq!(all(&db, "job_runs").await[0].text("outcome"), "running");
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn failures_and_panics_are_recorded_and_the_next_slot_runs() {
    let db = db().await;
    let job = probe(timing("* * * * * *"), |run| {
        let second = run.tick.timestamp() % 3;
        async move {
            match second {
                0 => Err(JobError::Failed(anyhow::anyhow!("it would not"))),
                1 => panic!("out of luck"),
                _ => Ok(()),
            }
        }
        .boxed()
    });
    let (handle, _) = start(&db, identity("w", 0, LEASE), &job).await;
    let runs = ended(&db, 4).await;
    handle.stop(Duration::from_secs(5)).await;
    for run in runs.iter().filter(|r| r.get_datetime("finishedAt").is_ok()) {
        let (outcome, error) = match time(run, "slot").timestamp() % 3 {
            0 => ("failed", Some("it would not")),
            1 => ("failed", Some("panicked: out of luck")),
            _ => ("ok", None),
        };
        assert_eq!((run.text("outcome"), run.get_str("error").ok()), (outcome, error), "{run}");
    }
    let last = schedule(&db).await;
    assert!(last.get_datetime("lastSuccessAt").is_ok() && last.get_datetime("lastCompletionAt").is_ok());
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_run_by_hand_takes_the_same_lease() {
    let db = db().await;
    let job = probe(timing("0 0 1 1 *"), |run| {
        async {
            let stop = run.stop.clone();
            tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(Duration::from_secs(20)) => {} }
            run.page(None).await
        }
        .boxed()
    });
    let stop = CancellationToken::new();
    let (first, second) = (identity("first", 0, LEASE), identity("second", 0, LEASE));
    let running = run_now(&db, first, &job, contextd::schedule::ByHand::default(), stop.clone(), |_| {});
    let other = async {
        until("it runs", || async { all(&db, "job_runs").await.pop() }).await;
        let busy =
            run_now(&db, second.clone(), &job, contextd::schedule::ByHand::default(), stop.clone(), |_| {}).await;
        assert!(matches!(&busy, Err(ScheduleError::Busy { owner, .. }) if owner == "first"), "{busy:?}");
        let status = list(&db, second, std::slice::from_ref(&job)).await.expect("listed");
        assert_eq!((status[0].state, status[0].worker.as_deref()), (JobState::Running, Some("first")));
        stop.cancel();
    };
    let (report, ()) = tokio::join!(running, other);
    assert_eq!(report.expect("it ran").outcome, RunOutcome::Stopped);
    let runs = all(&db, "job_runs").await;
    assert_eq!((runs[0].text("outcome"), runs[0].text("trigger")), ("stopped", "manual"));
    assert!(runs[0].get_datetime("finishedAt").is_ok(), "nobody goes on with it");
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_run_by_hand_closes_what_a_dead_worker_left() {
    let db = db().await;
    let hold = Arc::new(AtomicBool::new(true));
    let held = hold.clone();
    let job = probe(timing("0 * * * *"), move |run| {
        let hold = held.clone();
        async move { pages(run, &hold).await }.boxed()
    });
    overdue(&db, &job, TimeDelta::hours(1)).await;
    let (first, _) = start(&db, identity("first", 0, Duration::from_millis(500)), &job).await;
    at_page_five(&db).await;
    first.kill().await;
    hold.store(false, Ordering::SeqCst);
    let report = until("the lease ends", || async {
        run_now(
            &db,
            identity("hand", 0, LEASE),
            &job,
            contextd::schedule::ByHand::default(),
            CancellationToken::new(),
            |_| {},
        )
        .await
        .ok()
    })
    .await;
    assert_eq!((report.outcome, report.counts.changed), (RunOutcome::Ok, 10));
    let outcomes: Vec<String> = all(&db, "job_runs").await.iter().map(|r| r.text("outcome").to_owned()).collect();
    assert_eq!(outcomes, ["crashed", "ok"]);
    db.drop().await.expect("dropped");
}
