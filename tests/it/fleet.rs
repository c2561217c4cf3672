//! Several workers on one namespace and database.

use std::time::Duration;

use serde_json::json;

use crate::{
    harness::{Env, Event, analyze, eventually, typing, when},
    list_queue::number,
};

#[tokio::test]
async fn two_workers_share_the_work_and_do_nothing_twice() {
    let env = Env::new().await;
    let events: Vec<Event> = (0..3_000).map(|i| analyze(&format!("a{i}"), &format!("Text {i}."))).collect();
    let stream: Vec<Event> = (0..3_000).map(|i| typing(&format!("t{i}"), &format!("d{i}"), "s", 1)).collect();
    let (one, other) = (env.worker("analysis,typing").ready().await, env.worker("analysis,typing").ready().await);
    env.push("analysis", "normal", &events).await;
    env.xadd("typing", &stream).await;
    env.size_is("analyses", 3_000).await;
    env.size_is("typing_contexts", 3_000).await;
    env.drained("analysis").await;
    env.drained("typing").await;
    let (m1, m2) = (one.at_rest().await, other.at_rest().await);
    for queue in ["analysis", "typing"] {
        let (a, b) = (m1.finished(queue, "written"), m2.finished(queue, "written"));
        assert_eq!(a + b, 3_000.0, "{queue}");
        assert!(a > 0.0 && b > 0.0, "{queue}: {a} and {b}");
    }
    for outcome in ["duplicate", "dead"] {
        assert_eq!(m1.sum("tasks_finished_total", &[("outcome", outcome)]), 0.0, "nobody got a task of the other");
        assert_eq!(m2.sum("tasks_finished_total", &[("outcome", outcome)]), 0.0, "nobody got a task of the other");
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_worker_frozen_for_longer_than_its_lease_does_nothing_twice() {
    let env = Env::new().await.set("worker.lease", "2s");
    let n = 120;
    let events: Vec<Event> = (0..n)
        .map(|i| {
            let content = format!("Number {i}: this is an text with a error in it. ").repeat(20);
            let data = json!({ "documentId": format!("d{i}"), "content": content, "language": "en-US" });
            Event::new("document.analyze.v1", &format!("a{i}"), data)
        })
        .collect();
    let burst: Vec<Event> = (0..n).map(|i| typing(&format!("t{i}"), "d", "s", i64::from(i))).collect();
    env.push("analysis", "normal", &events).await;
    let frozen = env.worker("analysis,typing").ready().await;
    eventually("tasks are in hand", || async {
        when(frozen.metrics().await.sum("tasks_in_flight", &[("queue", "analysis")]) > 0.0)
    })
    .await;
    frozen.signal("STOP");
    env.xadd("typing", &burst).await;

    // Twice the lease passes while the other one does all of it.
    let other = env.worker("analysis,typing").ready().await;
    env.size_is("analyses", n as u64).await;
    env.drained("analysis").await;
    env.drained("typing").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let before: Vec<_> = sorted(&env).await;
    frozen.signal("CONT");
    eventually("the thawed worker answers", || frozen.get("/metrics")).await;
    frozen.at_rest().await;
    assert_eq!(sorted(&env).await, before, "the thawed worker changed what was written");
    assert_eq!(env.size("dead_letters").await, 0);
    assert_eq!(env.left("analysis").await, [""; 0]);

    // Both go on working.
    env.push("analysis", "normal", &[analyze("after", "After the thaw.")]).await;
    env.analysis("after").await;
    assert_eq!(number(&env.one("typing_contexts", "d:s").await.unwrap(), "sequence"), i64::from(n) - 1);
    other.at_rest().await;
    frozen.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_a_killed_worker_held_is_taken_over_and_its_crash_counted() {
    let env = Env::new().await.set("worker.lease", "2s");
    let events: Vec<Event> = (0..200)
        .map(|i| {
            let content = format!("Number {i}: this is an text with a error in it. ").repeat(20);
            Event::new("document.analyze.v1", &format!("a{i}"), json!({ "documentId": "d", "content": content }))
        })
        .collect();
    env.push("analysis", "normal", &events).await;
    let mut first = env.worker("analysis").ready().await;
    eventually("tasks are in hand", || async {
        when(first.metrics().await.sum("tasks_in_flight", &[("queue", "analysis")]) > 0.0)
    })
    .await;
    first.kill();
    let second = env.worker("analysis").ready().await;
    env.size_is("analyses", 200).await;
    env.drained("analysis").await;
    let metrics = second.at_rest().await;
    assert!(metrics.sum("task_reclaims_total", &[("queue", "analysis")]) > 0.0);
    assert_eq!(env.size("dead_letters").await, 0, "one crash is not held against a task");
    second.stop().await;
}

async fn sorted(env: &Env) -> Vec<mongodb::bson::Document> {
    let mut all = env.all("analyses").await;
    all.extend(env.all("typing_contexts").await);
    all.sort_by_key(|d| d.get_str("_id").unwrap().to_owned());
    all
}
