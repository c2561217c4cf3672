//! `contextd jobs`, as its functions print it.

use chrono::TimeDelta;
use contextd::{
    cli::{
        failure::Failure,
        jobs::{RunArgs, list, run},
    },
    config::{self, Config},
    store::Store,
};
use contextd_jobs::kit::to_bson;
use mongodb::{Database, bson::doc};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::harness::{db, server_now, uri};

async fn connected(db: &Database) -> (Config, Store) {
    let vars = [("CONTEXTD_MONGODB__URI", uri()), ("CONTEXTD_MONGODB__DATABASE", db.name())];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = config::load(None, vars).expect("valid settings");
    let store = Store::new(&config.mongodb).await.expect("a usable URI");
    (config, store)
}

fn args(job: &str, dry_run: bool, json: bool) -> RunArgs {
    RunArgs { job: job.into(), dry_run, over_cap: false, json }
}

#[tokio::test]
async fn jobs_are_listed_run_dry_and_run() {
    let db = db().await;
    let (config, store) = connected(&db).await;
    let listed = list(&config, &store, true).await.expect("listed").text;
    let listed: Value = serde_json::from_str(&listed).expect("one JSON document");
    let jobs = listed["jobs"].as_array().expect("a list");
    let job = jobs.iter().find(|job| job["name"] == "retention").expect("it is listed");
    assert_eq!(
        (&job["name"], &job["schedule"], &job["zone"]),
        (&"retention".into(), &"17 3 * * *".into(), &"UTC".into())
    );
    assert!(job["lastRun"].is_null() && job["nextRun"].as_str().is_some_and(|at| at.ends_with("T03:17:00Z")), "{job}");

    store.migrate(server_now(&db).await).await.expect("migrated");
    let old = to_bson(server_now(&db).await - TimeDelta::days(31));
    db.collection("dead_letters").insert_one(doc! { "_id": "old", "deadAt": old }).await.expect("inserted");
    let go = CancellationToken::new();
    let dry = run(&args("retention", true, false), &config, &store, go.clone()).await.expect("it runs");
    assert!(dry.text.contains("would change 1") && dry.text.contains("purge old"), "{}", dry.text);
    let ran = run(&args("retention", false, true), &config, &store, go).await.expect("it runs");
    let report: Value = serde_json::from_str(&ran.text).expect("one JSON document");
    assert_eq!((&report["outcome"], &report["counts"]["changed"], ran.wrong), (&"ok".into(), &1.into(), None));

    let table = list(&config, &store, false).await.expect("listed").text;
    assert!(["retention", "idle", "ok", "17 3 * * *"].iter().all(|cell| table.contains(cell)), "{table}");
    db.drop().await.expect("dropped");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_exit_status() {
    let db = db().await;
    let (config, store) = connected(&db).await;
    let unknown = run(&args("housekepping", false, false), &config, &store, CancellationToken::new()).await;
    assert_eq!(unknown.expect_err("no such job").code(), 64);

    // No index yet: the job fails, and says what to do.
    db.collection("dead_letters").insert_one(doc! { "_id": "x" }).await.expect("inserted");
    let failed = run(&args("retention", false, true), &config, &store, CancellationToken::new()).await.expect("it ran");
    assert!(failed.wrong.is_some_and(|why| why.contains("contextd migrate")));
    serde_json::from_str::<Value>(&failed.text).expect("one JSON document all the same");

    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = run(&args("retention", false, false), &config, &store, stop).await.expect_err("stopped");
    assert!(matches!(&stopped, Failure::NotFinished(_)), "{stopped:?}");
    db.drop().await.expect("dropped");
}
