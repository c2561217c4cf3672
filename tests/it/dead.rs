//! The commands for dead letters.

use mongodb::bson::doc;
use serde_json::json;

use crate::{
    bad_input::body,
    harness::{Env, Event, analyze, cli::objects_with, typing},
};

/// Three dead letters: `unknown` and `schema` from analysis, `typed` from typing.
async fn three_letters() -> Env {
    let env = Env::new().await;
    let unknown = Event::new("no.such.type.v1", "unknown", json!({ "n": 1 }));
    let schema = Event::new("document.analyze.v1", "schema", json!({ "documentId": "d" }));
    env.push("analysis", "low", &[unknown, schema]).await;
    env.xadd("typing", &[Event::new("typing.context.v1", "typed", json!({ "sessionId": "s" }))]).await;
    env.drain("analysis,typing").await;
    assert_eq!(env.size("dead_letters").await, 3);
    env
}

async fn ids(env: &Env, args: &[&str]) -> Vec<String> {
    let mut all = vec!["dead", "list", "--json"];
    all.extend(args);
    let ended = env.command(&all).end().await.code(0);
    let mut ids: Vec<String> = objects_with(&ended.json(), "eventId")
        .iter()
        .map(|l| l["eventId"].as_str().unwrap_or_default().to_owned())
        .collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn dead_letters_are_listed_by_queue_reason_and_id() {
    let env = three_letters().await;
    assert_eq!(ids(&env, &[]).await, ["schema", "typed", "unknown"]);
    assert_eq!(ids(&env, &["--queue", "analysis"]).await, ["schema", "unknown"]);
    assert_eq!(ids(&env, &["--reason", "schema"]).await, ["schema", "typed"]);
    assert_eq!(ids(&env, &["--queue", "analysis", "--reason", "schema"]).await, ["schema"]);
    assert_eq!(ids(&env, &["--queue", "records"]).await, [""; 0]);
    let table = env.command(&["dead", "list"]).end().await.code(0);
    for part in ["schema", "typed", "unknown", "unknown_type", "analysis", "typing"] {
        assert!(table.out.contains(part), "{part}:\n{}", table.out);
    }
    let ended = env.command(&["dead", "list", "--reason", "shcema"]).end().await.readable().says(&["schema"]);
    assert_eq!(ended.code, 64, "{ended:?}");
}

#[tokio::test]
async fn a_dead_letter_is_shown_whole() {
    let env = three_letters().await;
    let id = letter_id(&env, "unknown").await;
    let shown = env.command(&["dead", "show", "--id", &id, "--json"]).end().await.code(0);
    let json = shown.json();
    let letters = objects_with(&json, "eventId");
    assert_eq!(letters.len(), 1, "{}", shown.out);
    assert_eq!(letters[0]["eventId"], "unknown");
    assert_eq!(letters[0]["reason"], "unknown_type");
    assert!(letters[0].get("body").is_some(), "{}", shown.out);
    let human = env.command(&["dead", "show", "--id", &id]).end().await.code(0);
    assert!(human.out.contains("no.such.type.v1"), "{}", human.out);
    env.command(&["dead", "show", "--id", "nobody"]).end().await.code(1).readable();
}

#[tokio::test]
async fn a_requeued_dead_letter_is_the_same_task_in_the_same_place() {
    let env = three_letters().await;
    let letter = env.dead("schema").await;
    let id = letter_id(&env, "schema").await;
    env.command(&["dead", "requeue", "--id", &id]).end().await.code(0);
    assert_eq!(env.size("dead_letters").await, 2);
    let waiting: Vec<Vec<u8>> = redis::cmd("LRANGE")
        .arg(env.key("analysis", "low"))
        .arg(0)
        .arg(-1)
        .query_async(&mut env.redis())
        .await
        .unwrap();
    assert_eq!(waiting, [body(&letter).to_vec()], "its bytes, in its priority");

    // All of a queue; the stream takes its entry again. They die again, nothing is lost on the way.
    env.command(&["dead", "requeue", "--queue", "typing"]).end().await.code(0);
    assert_eq!(env.count("XLEN", &env.key("typing", "events")).await, 1);
    env.drain("analysis,typing").await;
    assert_eq!(ids(&env, &[]).await, ["schema", "typed", "unknown"]);
}

#[tokio::test]
async fn purging_takes_only_what_was_named() {
    let env = three_letters().await;
    let id = letter_id(&env, "unknown").await;
    env.command(&["dead", "purge", "--id", &id]).end().await.code(0);
    assert_eq!(ids(&env, &[]).await, ["schema", "typed"]);
    env.command(&["dead", "purge", "--queue", "typing", "--reason", "schema"]).end().await.code(0);
    assert_eq!(ids(&env, &[]).await, ["schema"]);
    assert_eq!(env.count("EXISTS", &env.key("analysis", "low")).await, 0, "purged, not requeued");
}

#[tokio::test]
async fn the_dead_letters_gauge_counts_per_queue() {
    let env = three_letters().await;
    let worker = env.worker("analysis,typing").ready().await;
    crate::harness::eventually("the gauge shows the dead letters", || async {
        let m = worker.metrics().await;
        let of = |queue| m.sum("dead_letters", &[("queue", queue)]);
        crate::harness::when(of("analysis") == 2.0 && of("typing") == 1.0)
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn the_same_bad_task_dead_twice_is_not_lost() {
    let env = Env::new().await;
    let bad = b"no JSON".to_vec();
    env.push_bytes("analysis", "high", &[bad.clone(), bad.clone()]).await;
    let metrics = env.drain("analysis").await;
    let outcomes = metrics.finished("analysis", "dead") + metrics.finished("analysis", "duplicate");
    assert_eq!(outcomes, 2.0);
    let letters = env.all("dead_letters").await;
    assert!(!letters.is_empty());
    assert!(letters.iter().all(|l| body(l) == bad));
}

#[tokio::test]
async fn a_dead_letter_keeps_odd_spacing_and_unknown_attributes() {
    let env = Env::new().await;
    let body_text = "{ \"specversion\" : \"1.0\",\n\t\"id\":\"odd\", \"source\":\"/it\",\"type\":\"no.such.type.v1\", \
                     \"extra\" : 1.0e2, \"extra\": 2, \"data\":{\"\\u00e4\":\"ä\"} }\n";
    env.push_bytes("analysis", "critical", &[body_text.as_bytes().to_vec()]).await;
    env.xadd("typing", &[typing("e", "d", "s", 1)]).await;
    env.drain("analysis,typing").await;
    let letter = env.coll("dead_letters").find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(body(&letter), body_text.as_bytes());
    assert_eq!(letter.get_str("priority").unwrap(), "critical");
}

#[tokio::test]
async fn good_tasks_leave_no_dead_letters() {
    let env = Env::new().await;
    env.push("analysis", "low", &[analyze("fine", "All is well.")]).await;
    env.drain("analysis").await;
    assert_eq!(ids(&env, &[]).await, [""; 0]);
}

/// The `--id` of a letter: what `dead list --json` gives as its id.
async fn letter_id(env: &Env, event: &str) -> String {
    let ended = env.command(&["dead", "list", "--json"]).end().await.code(0);
    let json = ended.json();
    let letters = objects_with(&json, "eventId");
    let letter = letters.iter().find(|l| l["eventId"] == event).expect("the letter is listed");
    ["id", "_id", "eventId"].iter().find_map(|f| letter[*f].as_str()).expect("the letter has an id").to_owned()
}
