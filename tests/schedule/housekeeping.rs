//! The job `housekeeping`, run by hand against real collections.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use contextd::schedule::{RunOutcome, RunReport, ScheduledJob, indexes, run_now};
use contextd_jobs::{
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

fn job(page: u32) -> ScheduledJob {
    let settings = Settings {
        dead_letters_after: Duration::from_secs(30 * DAY),
        job_runs_after: Duration::from_secs(90 * DAY),
        page,
        page_time: Duration::from_millis(200),
    };
    ScheduledJob::new(timing("17 3 * * *"), Arc::new(settings)).expect("a valid timetable")
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
    run_now(db, me, job, dry, CancellationToken::new(), |_| {}).await.expect("it runs")
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
