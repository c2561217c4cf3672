//! The commands: exit status, what is printed where, what they change.

use mongodb::bson::doc;
use serde_json::{Value, json};

use crate::harness::{Env, analyze, cli::objects_with, typing};

/// Those that are looked into by more than `_id`.
const COLLECTIONS: [&str; 3] = ["analyses", "dead_letters", "job_runs"];

#[tokio::test]
async fn migrate_brings_the_indexes_and_a_second_time_changes_nothing() {
    let env = Env::new().await;
    let before = env.command(&["migrate", "--status"]).end().await;
    assert!([0, 1].contains(&before.code), "{before:?}");
    assert_eq!(env.db().list_collection_names().await.unwrap(), [""; 0], "--status changes nothing");
    env.command(&["migrate"]).end().await.code(0);
    let first = indexes(&env).await;
    for collection in COLLECTIONS {
        assert!(first.iter().any(|i| i.starts_with(collection)), "{collection}: {first:?}");
    }
    assert!(env.size("schema_migrations").await > 0);
    env.command(&["migrate"]).end().await.code(0);
    assert_eq!(indexes(&env).await, first);
    let after = env.command(&["migrate", "--status"]).end().await.code(0);
    assert_ne!(after.out, before.out, "the status tells the difference");
}

#[tokio::test]
async fn run_migrates_at_its_start() {
    let env = Env::new().await;
    let worker = env.worker("typing").ready().await;
    assert!(indexes(&env).await.len() >= COLLECTIONS.len());
    worker.stop().await;
}

#[tokio::test]
async fn two_workers_may_migrate_at_once() {
    let env = Env::new().await;
    let (a, b, c) =
        tokio::join!(env.command(&["migrate"]).end(), env.command(&["migrate"]).end(), env.command(&["migrate"]).end());
    for ended in [a, b, c] {
        ended.code(0);
    }
}

async fn indexes(env: &Env) -> Vec<String> {
    let mut all = Vec::new();
    for collection in env.db().list_collection_names().await.unwrap() {
        for name in env.coll(&collection).list_index_names().await.unwrap() {
            all.push(format!("{collection}.{name}"));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn enqueue_pushes_one_task_that_the_worker_takes() {
    let env = Env::new().await;
    let data = json!({ "documentId": "d1", "content": "Enqueued by hand.", "analyzers": ["statistics"] }).to_string();
    let full = [
        "enqueue",
        "--type",
        "document.analyze.v1",
        "--queue",
        "analysis",
        "--priority",
        "critical",
        "--id",
        "by-hand",
        "--source",
        "/hand",
        "--data",
        &data,
    ];
    env.command(&full).end().await.code(0);
    assert_eq!(env.count("LLEN", &env.key("analysis", "critical")).await, 1);
    // The queue follows from the type, the id is made.
    env.command(&["enqueue", "--type", "document.analyze.v1", "--data", &data]).end().await.code(0);
    let event = json!({ "sessionId": "s", "documentId": "d", "sequence": 1 }).to_string();
    env.command(&["enqueue", "--type", "typing.context.v1", "--data", "-"]).stdin(event).end().await.code(0);
    assert_eq!(env.count("XLEN", &env.key("typing", "events")).await, 1);
    let file = crate::harness::cli::config_file(&data);
    let at = format!("@{}", file.path().display());
    env.command(&["enqueue", "--type", "document.analyze.v1", "--id", "from-file", "--data", &at]).end().await.code(0);

    let metrics = env.drain("analysis,typing").await;
    assert_eq!(metrics.finished("analysis", "written"), 3.0);
    assert_eq!(metrics.finished("typing", "written"), 1.0);
    assert!(env.one("analyses", "by-hand@/hand").await.is_some());
    let found = env.coll("analyses").find_one(doc! { "_id": { "$regex": "^from-file@" } }).await.unwrap();
    assert!(found.is_some());
}

#[tokio::test]
async fn enqueue_pushes_one_task_per_line_of_a_jsonl_file() {
    let env = Env::new().await;
    let lines: String = (0..25)
        .map(|i| {
            let data =
                json!({ "documentId": format!("d{i}"), "content": format!("Line {i}."), "analyzers": ["statistics"] });
            format!("{data}\n")
        })
        .collect();
    let file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let at = format!("@{}", file.path().display());
    env.command(&["enqueue", "--type", "document.analyze.v1", "--priority", "low", "--data", &at]).end().await.code(0);
    assert_eq!(env.count("LLEN", &env.key("analysis", "low")).await, 25);
    let metrics = env.drain("analysis").await;
    assert_eq!(metrics.finished("analysis", "written"), 25.0);
}

#[tokio::test]
async fn enqueue_refuses_what_would_be_dead_at_once() {
    let env = Env::new().await;
    let good = json!({ "documentId": "d", "content": "x" }).to_string();
    for args in [
        &["enqueue", "--type", "document.analyze.v1", "--data", "{not json"][..],
        &["enqueue", "--type", "document.analyze.v1", "--data", "{\"documentId\":\"d\"}"],
        &["enqueue", "--type", "no.such.type.v1", "--data", "{}"],
        &["enqueue", "--type", "document.analyze.v1", "--id", "an id", "--data", &good],
        &["enqueue", "--type", "document.analyze.v1", "--queue", "analisys", "--data", &good],
        &["enqueue", "--type", "document.analyze.v1", "--priority", "urgent", "--data", &good],
        &["enqueue", "--type", "document.analyze.v1", "--data", "@/nowhere/data.json"],
    ] {
        let ended = env.command(args).end().await.readable();
        assert!([1, 64, 78].contains(&ended.code) && !ended.err.is_empty(), "{args:?}: {ended:?}");
    }
    assert_eq!(env.keys("{analysis}:*").await.len(), 0, "nothing was pushed");
}

#[tokio::test]
async fn queues_shows_depth_oldest_delayed_and_paused() {
    let env = Env::new().await;
    env.push("analysis", "critical", &[analyze("c1", "x"), analyze("c2", "y")]).await;
    env.push("analysis", "low", &[analyze("l1", "z")]).await;
    env.xadd("typing", &[typing("t1", "d", "s", 1)]).await;
    env.command(&["pause", "typing"]).end().await.code(0);
    let ended = env.command(&["queues", "--json"]).end().await.code(0);
    let json = ended.json();
    let text = json.to_string();
    for part in ["analysis", "records", "typing", "critical", "low"] {
        assert!(text.contains(part), "{part}: {}", ended.out);
    }
    let typing = of_queue(&json, "typing").expect("typing is listed");
    assert!(objects_with(typing, "paused").iter().any(|o| o["paused"] == true), "{}", ended.out);
    let analysis = of_queue(&json, "analysis").expect("analysis is listed");
    assert!(objects_with(analysis, "paused").iter().all(|o| o["paused"] == false), "{}", ended.out);
    let table = env.command(&["queues"]).end().await.code(0);
    for part in ["analysis", "typing", "critical"] {
        assert!(table.out.contains(part), "{part}:\n{}", table.out);
    }
}

/// The object that is about this queue: under its name, or with its name.
fn of_queue<'a>(json: &'a Value, queue: &str) -> Option<&'a Value> {
    match json {
        Value::Object(map) => match map.get(queue) {
            Some(found) => Some(found),
            None if ["queue", "name"].iter().any(|f| map.get(*f).is_some_and(|v| v == queue)) => Some(json),
            None => map.values().find_map(|v| of_queue(v, queue)),
        },
        Value::Array(items) => items.iter().find_map(|v| of_queue(v, queue)),
        _ => None,
    }
}

#[tokio::test]
async fn json_output_is_one_document_and_nothing_else() {
    let env = Env::new().await;
    env.command(&["migrate"]).end().await.code(0);
    for args in [
        &["queues", "--json"][..],
        &["dead", "list", "--json"],
        &["jobs", "list", "--json"],
        &["jobs", "run", "retention", "--dry-run", "--json"],
        &["dead", "requeue", "--queue", "analysis", "--json"],
        &["dead", "purge", "--queue", "analysis", "--json"],
    ] {
        env.command(args).end().await.code(0).json();
    }
}

#[tokio::test]
async fn commands_without_redis_or_mongodb_end_with_69() {
    let env = Env::new().await;
    let port = crate::harness::ports::free();
    let no_redis = format!("redis://127.0.0.1:{port}");
    let no_mongodb = format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=1000");
    for args in [&["queues"][..], &["pause", "analysis"]] {
        env.command(args).set("redis.url", &no_redis).end().await.code(69).readable().says(&["redis"]);
    }
    for args in [&["dead", "list"][..], &["migrate"], &["jobs", "list"]] {
        env.command(args).set("mongodb.uri", &no_mongodb).end().await.code(69).readable().says(&["mongodb"]);
    }
}

#[tokio::test]
async fn the_demo_ends_with_an_account() {
    let env = Env::new().await;
    let ended = env.command(&["demo"]).end().await.code(0);
    for part in ["written", "superseded", "dead", "analyses", "typing_contexts"] {
        assert!(ended.out.contains(part), "{part}:\n{}", ended.out);
    }
    assert!(env.size("analyses").await > 10);
    assert!(env.size("dead_letters").await > 0);
}
