//! Scheduled jobs: listed, run now, run dry; `retention` takes what is old and nothing else.

use chrono::{DateTime, Duration, Utc};
use mongodb::bson::{self, Document, doc};
use serde_json::Value;

use crate::{
    harness::{Env, cli::objects_with, eventually, now},
    list_queue::date,
};

fn at(time: DateTime<Utc>) -> bson::DateTime {
    bson::DateTime::from_millis(time.timestamp_millis())
}

fn letter(id: &str, dead_at: DateTime<Utc>) -> Document {
    doc! {
        "_id": id, "queue": "analysis", "priority": "high", "eventId": id, "source": "/it", "type": "x.v1",
        "reason": "schema", "error": "made for the test", "attempts": 1, "crashes": 0, "deadAt": at(dead_at),
        "body": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: b"{}".to_vec() },
    }
}

/// Dead letters before, near and after the limit of 30 days; the limit itself moves on while the test runs.
async fn letters(env: &Env) {
    env.command(&["migrate"]).end().await.code(0);
    let now = now();
    let limit = now - Duration::days(30);
    let mut all = vec![
        letter("a-year", now - Duration::days(365)),
        letter("just-over", limit - Duration::seconds(1)),
        letter("just-under", limit + Duration::minutes(10)),
        letter("fresh", now),
        letter("tomorrow", now + Duration::days(1)),
    ];
    // More than one page.
    all.extend((0..2_500).map(|i| letter(&format!("old-{i}"), now - Duration::days(40) - Duration::seconds(i))));
    env.coll("dead_letters").insert_many(all).await.unwrap();
}

async fn survivors(env: &Env) -> Vec<String> {
    let mut ids: Vec<String> =
        env.all("dead_letters").await.iter().map(|d| d.get_str("_id").unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn retention_prunes_old_dead_letters_and_the_boundary_survives() {
    let env = Env::new().await;
    letters(&env).await;
    let dry = env.command(&["jobs", "run", "retention", "--dry-run", "--json"]).end().await.code(0);
    assert!(dry.json().to_string().contains("2502"), "a dry run says what it would do: {}", dry.out);
    assert_eq!(env.size("dead_letters").await, 2_505, "a dry run changes nothing");

    let run = env.command(&["jobs", "run", "retention", "--json"]).end().await.code(0);
    assert!(run.json().to_string().contains("2502"), "{}", run.out);
    assert_eq!(survivors(&env).await, ["fresh", "just-under", "tomorrow"]);
}

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let env = Env::new().await;
    letters(&env).await;
    env.command(&["jobs", "run", "retention"]).end().await.code(0);
    let after_first = survivors(&env).await;
    let second = env.command(&["jobs", "run", "retention", "--json"]).end().await.code(0);
    assert_eq!(survivors(&env).await, after_first);
    let json = second.json();
    let outcome = objects_with(&json, "changed");
    assert!(outcome.iter().all(|o| o["changed"] == 0), "{}", second.out);
    assert!(!outcome.is_empty(), "{}", second.out);
}

#[tokio::test]
async fn every_run_leaves_a_record() {
    let env = Env::new().await;
    letters(&env).await;
    env.command(&["jobs", "run", "retention"]).end().await.code(0);
    let runs = env.all("job_runs").await;
    assert_eq!(runs.len(), 1, "{runs:?}");
    let run = &runs[0];
    assert_eq!(run.get_str("job").unwrap(), "retention");
    assert!(date(run, "startedAt") <= date(run, "finishedAt"));
    assert!(run.to_string().contains("2502"), "what it did is recorded: {run}");

    // Records of runs are pruned as well, 90 days after their end.
    let mut old = run.clone();
    old.insert("_id", "retention:old");
    old.insert("startedAt", at(now() - Duration::days(91)));
    old.insert("finishedAt", at(now() - Duration::days(91)));
    let mut young = run.clone();
    young.insert("_id", "retention:young");
    young.insert("finishedAt", at(now() - Duration::days(89)));
    env.coll("job_runs").insert_many([old, young]).await.unwrap();
    env.command(&["jobs", "run", "retention"]).end().await.code(0);
    assert!(env.one("job_runs", "retention:old").await.is_none());
    assert!(env.one("job_runs", "retention:young").await.is_some());
    assert_eq!(env.size("job_runs").await, 3);
}

#[tokio::test]
async fn jobs_are_listed_with_schedule_zone_last_and_next_run() {
    let env = Env::new().await;
    env.command(&["migrate"]).end().await.code(0);
    let list = || async {
        let ended = env.command(&["jobs", "list", "--json"]).end().await.code(0);
        let json = ended.json();
        let found: Vec<Value> = [objects_with(&json, "name"), objects_with(&json, "job")]
            .concat()
            .into_iter()
            .filter(|j| j["name"] == "retention" || j["job"] == "retention")
            .cloned()
            .collect();
        assert_eq!(found.len(), 1, "{}", ended.out);
        found[0].clone()
    };
    let before = list().await.to_string();
    assert!(before.contains("17 3 * * *") && before.contains("UTC"), "{before}");
    env.command(&["jobs", "run", "retention"]).end().await.code(0);
    let after = list().await.to_string();
    let today = now().format("%Y-%m-%d").to_string();
    assert!(after.contains(&today) && !after.eq(&before), "the last run is shown: {after}");
    let table = env.command(&["jobs", "list"]).end().await.code(0);
    assert!(table.out.contains("retention"), "{}", table.out);
}

#[tokio::test]
async fn a_job_that_does_not_exist_is_refused_with_the_names() {
    let env = Env::new().await;
    env.command(&["jobs", "run", "retension"]).end().await.code(64).readable().says(&["retention"]);
}

#[tokio::test]
async fn a_due_job_runs_once_in_a_fleet() {
    let env = Env::new().await;
    letters(&env).await;
    // Every second, in two workers.
    let often = "[jobs.retention]\ncron = \"* * * * * *\"\n";
    let one = env.worker("typing").config(often).scheduler().ready().await;
    let other = env.worker("typing").config(often).scheduler().ready().await;
    eventually("some runs are recorded", || async {
        let done = env.coll("job_runs").count_documents(doc! { "finishedAt": { "$type": "date" } }).await.ok()?;
        crate::harness::when(done >= 4)
    })
    .await;
    assert_eq!(survivors(&env).await, ["fresh", "just-under", "tomorrow"]);
    one.stop().await;
    other.stop().await;
    let runs = env.all("job_runs").await;
    let mut slots: Vec<String> = runs.iter().map(|r| r.get_str("_id").unwrap().to_owned()).collect();
    slots.sort();
    slots.dedup();
    assert_eq!(slots.len(), runs.len(), "no slot runs twice");
    let pruned = runs.iter().filter(|r| r.to_string().contains("2502")).count();
    assert_eq!(pruned, 1, "one run pruned them all");
}
