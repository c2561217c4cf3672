//! The typing stream: the newest context of each session and document, in Redis and MongoDB.

use serde_json::{Value, json};

use crate::{
    harness::{Env, Event, Worker, eventually, typing, when},
    list_queue::{date, number},
};

#[tokio::test]
async fn a_burst_is_coalesced_to_its_newest() {
    let env = Env::new().await;
    // Four keys, fifty keystrokes each, all there before the worker is.
    let burst: Vec<Event> =
        (0..200).map(|i| typing(&format!("e{i}"), &format!("d{}", i % 4), "s1", 1 + i / 4)).collect();
    env.xadd("typing", &burst).await;
    let metrics = env.drain("typing").await;

    assert_eq!(env.size("typing_contexts").await, 4);
    for document in env.all("typing_contexts").await {
        assert_eq!(number(&document, "sequence"), 50, "{document}");
    }
    let written = metrics.finished("typing", "written");
    let superseded = metrics.finished("typing", "superseded");
    assert_eq!(written + superseded, 200.0);
    assert!(superseded >= 100.0, "of a burst in one batch only the newest is written, not {written} of 200");
    assert_eq!(env.count("XLEN", &env.key("typing", "events")).await, 0, "finished entries are deleted");
    assert_eq!(env.pending("typing").await, 0, "finished entries are acknowledged");
}

#[tokio::test]
async fn a_typing_context_has_the_fields_of_its_data_in_both_stores() {
    let env = Env::new().await;
    let data = json!({
        "sessionId": "s-1", "documentId": "d-1", "sequence": 9_007_199_254_740_993_i64, "userId": "u-1",
        "cursor": { "offset": 42 }, "selection": { "start": 40, "end": 44 },
        "paragraph": "A paragraph – with ✍️.", "recentText": "with ✍️.", "clientTime": "2026-01-02T03:04:05.678Z",
    });
    env.xadd("typing", &[Event::new("typing.context.v1", "e1", data)]).await;
    env.drain("typing").await;

    let found = env.one("typing_contexts", "d-1:s-1").await.expect("_id is <documentId>:<sessionId>");
    assert_eq!(found.get_str("sessionId").unwrap(), "s-1");
    assert_eq!(found.get_str("documentId").unwrap(), "d-1");
    assert_eq!(found.get_str("userId").unwrap(), "u-1");
    assert_eq!(found.get_i64("sequence").unwrap(), 9_007_199_254_740_993, "an int64 keeps its every digit");
    assert_eq!(number(found.get_document("cursor").unwrap(), "offset"), 42);
    assert_eq!(number(found.get_document("selection").unwrap(), "start"), 40);
    assert_eq!(number(found.get_document("selection").unwrap(), "end"), 44);
    assert_eq!(found.get_str("paragraph").unwrap(), "A paragraph – with ✍️.");
    assert_eq!(found.get_str("recentText").unwrap(), "with ✍️.");
    assert!(found.contains_key("clientTime"));
    date(&found, "updatedAt");

    let (value, ttl) = latest(&env, "d-1", "s-1").await.expect("the latest context is in Redis");
    assert_eq!(value["sequence"], json!(9_007_199_254_740_993_i64));
    assert_eq!(value["recentText"], "with ✍️.");
    assert!((1..=1800).contains(&ttl), "a TTL of at most 30 minutes, not {ttl}");
}

#[tokio::test]
async fn the_newest_wins_in_any_order_of_arrival() {
    let env = Env::new().await;
    let sequences = [3, 9, 1, 7, 10, 2, 8, 4, 6, 5];
    let events: Vec<Event> = sequences.iter().map(|s| typing(&format!("e{s}"), "d", "s", *s)).collect();
    env.xadd("typing", &events).await;
    env.drain("typing").await;
    assert_sequence(&env, 10).await;
}

#[tokio::test]
async fn an_older_sequence_never_overwrites_a_newer_one() {
    let env = Env::new().await;
    let worker = env.worker("typing").ready().await;
    send(&env, &worker, 10).await;
    assert_sequence(&env, 10).await;
    // In a later batch of the same worker.
    send(&env, &worker, 5).await;
    assert_sequence(&env, 10).await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.finished("typing", "written"), 1.0);
    assert_eq!(metrics.finished("typing", "superseded"), 1.0);
    worker.stop().await;

    // After a restart, and with the key in Redis gone.
    let worker = env.worker("typing").ready().await;
    send(&env, &worker, 7).await;
    assert_sequence(&env, 10).await;
    let key = format!("{}:typing:d:s", env.namespace);
    redis::cmd("DEL").arg(&key).query_async::<()>(&mut env.redis()).await.unwrap();
    send(&env, &worker, 8).await;
    assert_eq!(number(&env.one("typing_contexts", "d:s").await.unwrap(), "sequence"), 10);
    let stale = latest(&env, "d", "s").await;
    assert!(stale.is_none_or(|(value, _)| value["sequence"] == 10), "an older context came back to Redis");
    // And a newer one still gets through.
    send(&env, &worker, 11).await;
    assert_sequence(&env, 11).await;
    worker.stop().await;
}

#[tokio::test]
async fn the_same_typing_event_twice_is_a_duplicate() {
    let env = Env::new().await;
    let worker = env.worker("typing").ready().await;
    send(&env, &worker, 3).await;
    send(&env, &worker, 3).await;
    let metrics = worker.at_rest().await;
    assert_eq!(metrics.finished("typing", "written"), 1.0);
    assert_eq!(metrics.finished("typing", "duplicate"), 1.0);
    assert_sequence(&env, 3).await;
    worker.stop().await;
}

#[tokio::test]
async fn sessions_and_documents_do_not_mix() {
    let env = Env::new().await;
    let events = [typing("1", "a", "x", 5), typing("2", "a", "y", 1), typing("3", "b", "x", 2)];
    env.xadd("typing", &events).await;
    env.drain("typing").await;
    for (id, sequence) in [("a:x", 5), ("a:y", 1), ("b:x", 2)] {
        assert_eq!(number(&env.one("typing_contexts", id).await.unwrap(), "sequence"), sequence, "{id}");
    }
}

/// Adds the event of this sequence (its id is the sequence) and waits until it has an outcome.
async fn send(env: &Env, worker: &Worker, sequence: i64) {
    let before = worker.metrics().await.sum("tasks_finished_total", &[("queue", "typing")]);
    env.xadd("typing", &[typing(&format!("e{sequence}"), "d", "s", sequence)]).await;
    eventually("the event has an outcome", || async {
        when(worker.metrics().await.sum("tasks_finished_total", &[("queue", "typing")]) > before)
    })
    .await;
}

async fn assert_sequence(env: &Env, sequence: i64) {
    assert_eq!(number(&env.one("typing_contexts", "d:s").await.unwrap(), "sequence"), sequence);
    let (value, _) = latest(env, "d", "s").await.expect("the latest context is in Redis");
    assert_eq!(value["sequence"], sequence);
}

/// The latest context in Redis and the seconds it has left.
async fn latest(env: &Env, document: &str, session: &str) -> Option<(Value, i64)> {
    let key = format!("{}:typing:{document}:{session}", env.namespace);
    let (text, ttl): (Option<String>, i64) =
        redis::pipe().cmd("GET").arg(&key).cmd("TTL").arg(&key).query_async(&mut env.redis()).await.unwrap();
    Some((serde_json::from_str(&text?).expect("the latest context is JSON"), ttl))
}
