//! The job `housekeeping`, run by hand against real collections.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use contextd::schedule::{RunOutcome, RunReport, ScheduledJob, indexes, run_now};
use contextd_jobs::{
    Guard, Job, JobError, Run,
    housekeeping::{BODIES, Settings},
    kit::to_bson,
};
use futures::AsyncWriteExt;
use mongodb::{
    Database,
    bson::{Bson, Document, doc, oid::ObjectId},
    options::GridFsBucketOptions,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Fields, all, db, identity, server_now, timing};

const DAY: u64 = 86_400;

fn settings(page: u32) -> Settings {
    Settings {
        dead_letters_after: Duration::from_secs(30 * DAY),
        job_runs_after: Duration::from_secs(90 * DAY),
        page,
        page_time: Duration::from_millis(200),
    }
}

fn job(page: u32) -> ScheduledJob {
    ScheduledJob::new(timing("17 3 * * *"), Arc::new(settings(page))).expect("a valid timetable")
}

/// A run that owns its lease until somebody changes the document that is made here.
async fn owned(db: &Database, stop: &CancellationToken, progress: impl Fn(u64) + Send + Sync + 'static) -> Run {
    let until = to_bson(server_now(db).await + TimeDelta::minutes(5));
    let lease = doc! { "$set": { "epoch": 1_i64, "owner": "hand", "leaseUntil": until, "running": {} } };
    let schedules = db.collection::<Document>("job_schedules");
    schedules.update_one(doc! { "_id": "housekeeping" }, lease).upsert(true).await.expect("made");
    let (guard, now) = (Guard::new(db, "housekeeping", 1, "hand"), server_now(db).await);
    Run::new(db, "housekeeping", now, now, stop.clone(), Some(guard)).on_progress(move |o| progress(o.examined))
}

async fn migrated() -> Database {
    let db = db().await;
    for (collection, index) in indexes() {
        db.collection::<Document>(collection).create_index(index).await.expect("index made");
    }
    db
}

async fn run(db: &Database, job: &ScheduledJob, dry: bool) -> RunReport {
    let me = identity("hand", 0, Duration::from_secs(30));
    run_now(
        db,
        me,
        job,
        contextd::schedule::ByHand { dry_run: dry, ..Default::default() },
        CancellationToken::new(),
        |_| {},
    )
    .await
    .expect("it runs")
}

async fn letters(db: &Database, now: DateTime<Utc>, ages: impl IntoIterator<Item = TimeDelta>) {
    let rows: Vec<Document> = ages
        .into_iter()
        .enumerate()
        .map(|(n, age)| doc! { "_id": format!("{n:05}"), "deadAt": to_bson(now - age), "queue": "typing" })
        .collect();
    db.collection("dead_letters").insert_many(rows).await.expect("inserted");
}

#[tokio::test]
async fn purges_what_is_old_and_nothing_else_and_the_second_run_changes_nothing() {
    let db = migrated().await;
    let now = server_now(&db).await;
    let days = TimeDelta::days;
    let near = [days(30) + TimeDelta::seconds(1), days(30) - TimeDelta::minutes(10), days(1), days(-3)];
    letters(&db, now, near.into_iter().chain((0..950).map(|n| days(31) + TimeDelta::seconds(n / 7)))).await;
    let odd = [
        doc! { "_id": "no date" },
        doc! { "_id": "text", "deadAt": "2001-01-01" },
        doc! { "_id": "null", "deadAt": null },
    ];
    db.collection("dead_letters").insert_many(odd).await.expect("inserted");
    let runs = [(91, true), (89, true), (400, false)].map(|(age, ended)| {
        let at = to_bson(now - days(age));
        doc! { "_id": format!("old-{age}"), "startedAt": at, "finishedAt": if ended { Bson::from(at) } else { Bson::Null } }
    });
    db.collection("job_runs").insert_many(runs).await.expect("inserted");

    let job = job(64);
    let dry = run(&db, &job, true).await;
    assert_eq!((dry.outcome, dry.counts.changed, dry.counts.remaining), (RunOutcome::Ok, 952, Some(952)));
    assert_eq!(dry.counts.samples.len(), 6, "five dead letters and one run: {:?}", dry.counts.samples);
    assert_eq!(all(&db, "dead_letters").await.len(), 957, "a dry run changes nothing");

    let first = run(&db, &job, false).await;
    assert_eq!((first.outcome, first.counts.changed, first.counts.remaining), (RunOutcome::Ok, 952, Some(0)));
    assert_eq!(first.counts.by_action["purge_dead_letters"], 951);
    assert_eq!(first.counts.by_action["purge_job_runs"], 1);
    let left: Vec<String> = all(&db, "dead_letters").await.iter().map(|d| d.text("_id").into()).collect();
    assert_eq!(left, ["00001", "00002", "00003", "no date", "null", "text"]);
    let records: Vec<String> = all(&db, "job_runs").await.iter().map(|d| d.text("_id").into()).collect();
    assert!(records.contains(&"old-89".into()) && records.contains(&"old-400".into()), "{records:?}");
    assert_eq!(records.len(), 4, "those two, the dry run and the run: {records:?}");

    let second = run(&db, &job, false).await;
    assert_eq!((second.outcome, second.counts.examined, second.counts.changed), (RunOutcome::Ok, 0, 0));
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn large_bodies_go_with_their_rows() {
    let db = migrated().await;
    let now = server_now(&db).await;
    let bucket = db.gridfs_bucket(GridFsBucketOptions::builder().bucket_name(BODIES.to_string()).build());
    let mut files = Vec::new();
    for name in ["old", "young"] {
        let mut upload = bucket.open_upload_stream(name).await.expect("opened");
        upload.write_all(&vec![7; 600_000]).await.expect("written");
        upload.close().await.expect("closed");
        files.push(upload.id().clone());
    }
    let (old, young) = (to_bson(now - TimeDelta::days(31)), to_bson(now - TimeDelta::days(29)));
    let rows = [
        doc! { "_id": "old", "deadAt": old, "bodyFile": files[0].clone() },
        doc! { "_id": "young", "deadAt": young, "bodyFile": files[1].clone() },
        // Cut off after its body was deleted, the last time.
        doc! { "_id": "gone", "deadAt": old, "bodyFile": ObjectId::new(), "state": "purging" },
        doc! { "_id": "none", "deadAt": old, "bodyFile": null },
    ];
    db.collection("dead_letters").insert_many(rows).await.expect("inserted");
    let report = run(&db, &job(2), false).await;
    assert_eq!(report.outcome, RunOutcome::Ok, "{:?}", report.error);
    assert_eq!(report.counts.by_action["purge_dead_letters"], 3);
    let left = all(&db, "dead_letters").await;
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].text("_id"), left[0].contains_key("state")), ("young", false));
    assert_eq!(all(&db, &format!("{BODIES}.files")).await.len(), 1);
    let chunks = all(&db, &format!("{BODIES}.chunks")).await;
    assert!(!chunks.is_empty() && chunks.iter().all(|c| c.get("files_id") == Some(&files[1])));
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn without_its_index_it_says_what_to_do() {
    let db = db().await;
    letters(&db, server_now(&db).await, [TimeDelta::days(31)]).await;
    let report = run(&db, &job(10), false).await;
    assert_eq!(report.outcome, RunOutcome::Failed);
    let error = report.error.unwrap_or_default();
    assert!(error.contains("`dead_letters`") && error.contains("contextd migrate"), "{error}");
    assert_eq!(all(&db, "dead_letters").await.len(), 1);
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn it_stops_between_pages_and_goes_on_from_there() {
    let db = migrated().await;
    letters(&db, server_now(&db).await, (0..500).map(|n| TimeDelta::days(40) - TimeDelta::seconds(n))).await;
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let settings = settings(50);
    let mut run = owned(&db, &stop, move |examined| {
        if examined >= 150 {
            stopper.cancel()
        }
    })
    .await;
    assert!(matches!(settings.run(&mut run).await, Err(JobError::Stopped)));
    assert_eq!((run.outcome.examined, run.outcome.changed, run.outcome.remaining), (150, 150, None));
    assert_eq!(all(&db, "dead_letters").await.len(), 350, "no page after the stop");

    let document = all(&db, "job_schedules").await.remove(0);
    let running = document.get_document("running").expect("running");
    assert_eq!(running.get_document("cursor").expect("cursor").text("id"), "00099", "up to the page before the last");
    let mut rest = owned(&db, &CancellationToken::new(), |_| {}).await;
    rest.resume = running.get_document("cursor").ok().cloned();
    settings.run(&mut rest).await.expect("it ends");
    assert_eq!((rest.outcome.changed, all(&db, "dead_letters").await.len()), (350, 0));
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn rows_that_become_young_between_scan_and_delete_survive_and_hold_up_nobody() {
    let db = migrated().await;
    let now = server_now(&db).await;
    letters(&db, now, (0..60).map(|n| TimeDelta::days(40) - TimeDelta::seconds(n))).await;
    // As if touched after the scan: the delete has the ids, and the predicate decides.
    let index = contextd_jobs::kit::DueIndex { collection: "dead_letters", field: "deadAt" };
    let strict = contextd_jobs::kit::strict(&db);
    let cutoff = now - TimeDelta::days(30);
    let rows = index.page(&strict, cutoff, None, 10, &[]).await.expect("a page");
    let ids: Vec<Bson> = rows.iter().map(|r| r.id.clone()).collect();
    let touched = doc! { "$set": { "deadAt": to_bson(now) } };
    let letters = db.collection::<Document>("dead_letters");
    letters.update_many(doc! { "_id": { "$in": &ids[..5] } }, touched).await.expect("touched");
    assert_eq!(index.delete(&strict, cutoff, &ids).await.expect("deleted"), 5);
    assert_eq!(letters.count_documents(doc! {}).await.expect("counted"), 55);

    // Every page is behind the one before it, though nothing of it was deleted; equal dates included.
    let same = doc! { "$set": { "deadAt": to_bson(now - TimeDelta::days(50)) } };
    letters.update_many(doc! {}, same).await.expect("changed");
    let (mut seen, mut place) = (Vec::new(), None);
    loop {
        let after = place.as_ref().map(|(date, id)| (*date, id));
        let page = index.page(&strict, cutoff, after, 1, &[]).await.expect("a page");
        let Some(row) = page.into_iter().next() else { break };
        seen.push(row.id.as_str().expect("an id").to_owned());
        place = Some((row.date, row.id));
    }
    assert_eq!(seen.len(), 55);
    assert!(seen.is_sorted());
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn nothing_is_deleted_after_the_epoch_has_changed() {
    let db = migrated().await;
    letters(&db, server_now(&db).await, (0..300).map(|n| TimeDelta::days(40) - TimeDelta::seconds(n))).await;
    let mut run = owned(&db, &CancellationToken::new(), |_| {}).await;
    let schedules = db.collection::<Document>("job_schedules");
    schedules.update_one(doc! {}, doc! { "$inc": { "epoch": 1_i64 } }).await.expect("changed");
    assert!(matches!(settings(50).run(&mut run).await, Err(JobError::LeaseLost)));
    // Nor after the lease has ended by MongoDB's clock, though nobody has taken it.
    let mut late = owned(&db, &CancellationToken::new(), |_| {}).await;
    let past = doc! { "$set": { "leaseUntil": to_bson(server_now(&db).await) } };
    schedules.update_one(doc! {}, past).await.expect("changed");
    assert!(matches!(settings(50).run(&mut late).await, Err(JobError::LeaseLost)));
    assert_eq!(all(&db, "dead_letters").await.len(), 300);
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn a_page_reads_no_more_of_the_index_than_it_returns() {
    let db = migrated().await;
    let now = server_now(&db).await;
    letters(&db, now, (0..3_000).map(|n| TimeDelta::days(if n < 200 { 40 } else { 1 }))).await;
    db.run_command(doc! { "profile": 2 }).await.expect("profiling");
    let report = run(&db, &job(50), true).await;
    db.run_command(doc! { "profile": 0 }).await.expect("no profiling");
    assert_eq!(report.counts.examined, 200);
    let finds = all(&db, "system.profile").await;
    let of = |d: &Document| d.text("op") == "query" && d.text("ns").ends_with(".dead_letters");
    let finds: Vec<&Document> = finds.iter().filter(|d| of(d)).collect();
    assert_eq!(finds.len(), 5, "four full pages and the empty one");
    for find in finds {
        let read = ["keysExamined", "docsExamined"].map(|f| find.get_i32(f).expect(f));
        assert!(read.iter().all(|n| *n <= 51), "one more than the page at most: {find}");
    }
    db.drop().await.expect("dropped");
}
