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
    let env = Env::new().await.short_lease();
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
    let env = Env::new().await.short_lease();
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

#[tokio::test]
async fn entries_that_a_dead_consumer_holds_are_reclaimed() {
    let env = Env::new().await.short_lease();
    let key = env.key("typing", "events");
    let mut redis = env.redis();
    let events: Vec<Event> = (0..10).map(|i| typing(&format!("t{i}"), &format!("d{i}"), "s", 1)).collect();
    env.xadd("typing", &events).await;
    redis::cmd("XGROUP").arg("CREATE").arg(&key).arg("contextd").arg("0").query_async::<()>(&mut redis).await.unwrap();
    let held: redis::streams::StreamReadReply = redis::cmd("XREADGROUP")
        .arg("GROUP")
        .arg("contextd")
        .arg("a-consumer-that-is-gone")
        .arg("COUNT")
        .arg(10)
        .arg("STREAMS")
        .arg(&key)
        .arg(">")
        .query_async(&mut redis)
        .await
        .unwrap();
    // One of them was deleted by hand while it was pending: it is nobody's task any more and must not stay in the way.
    let deleted = &held.keys[0].ids[3].id;
    redis::cmd("XDEL").arg(&key).arg(deleted).query_async::<()>(&mut redis).await.unwrap();
    assert_eq!(env.pending("typing").await, 10);

    let worker = env.worker("typing").ready().await;
    env.size_is("typing_contexts", 9).await;
    env.drained("typing").await;
    assert_eq!(env.pending("typing").await, 0);
    assert!(env.one("typing_contexts", "d3:s").await.is_none());
    let metrics = worker.at_rest().await;
    assert!(metrics.sum("task_reclaims_total", &[("queue", "typing")]) >= 9.0);
    worker.stop().await;
}

#[tokio::test]
async fn a_large_backlog_is_not_held_in_memory() {
    let env = Env::new().await.set("worker.memory", "8MiB");
    let idle = env.worker("typing").ready().await;
    let Some(baseline) = peak_memory(idle.pid()) else {
        println!("skipped: this system does not tell the peak memory of a process");
        return;
    };
    idle.stop().await;
    // 150 MB of bodies wait.
    let text = "x".repeat(500_000);
    for i in 0..30 {
        let ten: Vec<Event> = (0..10)
            .map(|k| typing(&format!("t{i}-{k}"), &format!("d{i}-{k}"), "s", 1).data("paragraph", &*text))
            .collect();
        env.xadd("typing", &ten).await;
    }
    let worker = env.worker("typing").ready().await;
    env.size_is("typing_contexts", 300).await;
    env.drained("typing").await;
    let peak = peak_memory(worker.pid()).expect("told before");
    assert!(peak - baseline < 75_000, "{} MB more than an idle worker, for 8 MiB in hand", (peak - baseline) / 1000);
    worker.at_rest().await;
    worker.stop().await;
}

/// Peak resident memory in kB.
fn peak_memory(pid: u32) -> Option<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
