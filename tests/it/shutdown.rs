//! How a worker ends: drained, told to, told twice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Env, Event, Worker, analyze, eventually, in_seconds, typing, when};

#[tokio::test]
async fn until_drained_ends_with_0_when_all_is_done() {
    let env = Env::new().await;
    let events: Vec<Event> = (0..100).map(|i| analyze(&format!("t{i}"), &format!("Text {i}."))).collect();
    env.push("analysis", "low", &events).await;
    env.xadd("typing", &[typing("e1", "d", "s", 1)]).await;
    let later = analyze("later", "In an hour.").with("notbefore", in_seconds(3600));
    env.push("analysis", "low", &[later]).await;
    let mut worker = env.worker("").arg("--until-drained").start();
    assert_eq!(worker.exit().await, 0);
    assert_eq!(env.size("analyses").await, 100);
    assert_eq!(env.size("typing_contexts").await, 1);
    assert_eq!(env.count("ZCARD", &env.key("analysis", "delayed")).await, 1, "what is not due stays");

    // With nothing to do it ends as well.
    let mut worker = env.worker("typing,records").arg("--until-drained").start();
    assert_eq!(worker.exit().await, 0);
}

#[tokio::test]
async fn until_drained_waits_for_what_another_worker_holds() {
    let env = Env::new().await.short_lease();
    env.push("analysis", "high", &slow(4)).await;
    let mut holder = env.worker("analysis").ready().await;
    holds(&holder, 1.0).await;
    holder.kill();
    let mut worker = env.worker("analysis").set("analysis.time_limit", "1s").arg("--until-drained").start();
    assert_eq!(worker.exit().await, 0);
    assert_eq!(env.size("analyses").await, 4, "what the dead worker held is taken over and done");
    assert_eq!(env.left("analysis").await, [""; 0]);
}

#[tokio::test]
async fn sigterm_lets_finish_what_is_in_flight() {
    for signal in ["TERM", "INT"] {
        let env = Env::new().await;
        let events: Vec<Event> = (0..2_000).map(|i| analyze(&format!("t{i}"), &format!("Text {i}."))).collect();
        env.push("analysis", "normal", &events).await;
        let mut worker = env.worker("analysis").ready().await;
        holds(&worker, 1.0).await;
        worker.signal(signal);
        assert_eq!(worker.exit().await, 0, "SIG{signal}");
        // Whatever it took is either done or back in the list: no lease is waited for.
        let done = env.size("analyses").await;
        let waiting = env.count("LLEN", &env.key("analysis", "normal")).await as u64;
        assert_eq!(done + waiting, 2_000, "SIG{signal}: {done} done, {waiting} waiting");
        assert!(done > 0);
        let others: Vec<String> = env.left("analysis").await.into_iter().filter(|k| !k.contains(":normal")).collect();
        assert_eq!(others, [""; 0], "SIG{signal}: no lease is left");
        drop(worker);
    }
}

#[tokio::test]
async fn what_is_not_done_by_the_deadline_is_given_back_and_taken_at_once() {
    // A lease that no test waits for: what is given back must not wait for it.
    let env = Env::new().await.set("worker.lease", "10m").set("worker.drain", "1s");
    env.push("analysis", "high", &slow(4)).await;
    let mut worker = env.worker("analysis").ready().await;
    holds(&worker, 1.0).await;
    let start = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.exit().await, 0);
    assert!(start.elapsed() < Duration::from_secs(15), "the deadline is one second, not {:?}", start.elapsed());
    assert!(env.size("analyses").await < 4, "nothing was left to be given back");

    let other = env.worker("analysis").set("analysis.time_limit", "1s").ready().await;
    env.size_is("analyses", 4).await;
    env.drained("analysis").await;
    other.at_rest().await;
    assert_eq!(env.size("dead_letters").await, 0);
    other.stop().await;
}

#[tokio::test]
async fn stream_entries_are_given_back_as_well() {
    let env = Env::new().await.set("worker.lease", "10m");
    let events: Vec<Event> = (0..20_000).map(|i| typing(&format!("e{i}"), &format!("d{i}"), "s", 1)).collect();
    env.xadd("typing", &events).await;
    let mut worker = env.worker("typing").set("worker.drain", "1ms").ready().await;
    worker.signal("TERM");
    assert_eq!(worker.exit().await, 0);
    // The other one does not wait ten minutes for pending entries.
    let other = env.worker("typing").ready().await;
    env.size_is("typing_contexts", 20_000).await;
    env.drained("typing").await;
    other.at_rest().await;
    other.stop().await;
}

#[tokio::test]
async fn a_second_signal_gives_back_and_ends_at_once() {
    let env = Env::new().await.set("worker.lease", "10m").set("worker.drain", "5m");
    env.push("analysis", "high", &slow(6)).await;
    let mut worker = env.worker("analysis").set("analysis.time_limit", "5m").ready().await;
    holds(&worker, 1.0).await;
    worker.signal("TERM");
    worker.becomes_unready().await;
    worker.signal("TERM");
    let code = worker.exit_within(Duration::from_secs(20)).await;
    assert!([0, 75].contains(&code), "exit status {code}");
    assert!(env.size("analyses").await < 6, "nothing was left to be given back");
    // The lease is ten minutes; what was given back is there for the taking.
    let other = env.worker("analysis").set("analysis.time_limit", "1s").ready().await;
    env.size_is("analyses", 6).await;
    env.drained("analysis").await;
    assert_eq!(env.size("dead_letters").await, 0);
    other.stop().await;
}

/// Texts whose grammar takes seconds.
fn slow(n: usize) -> Vec<Event> {
    (0..n)
        .map(|i| {
            let paragraph =
                format!("Number {i}: the cat have sat on an mat, and it's tail were to long for the room. ");
            let content = (0..800).map(|k| format!("{k}. {paragraph}\n\n")).collect::<String>();
            let data = json!({ "documentId": format!("slow-{i}"), "content": content, "language": "en-US" });
            Event::new("document.analyze.v1", &format!("slow-{i}"), data)
        })
        .collect()
}

/// Waits until the worker holds at least `n` tasks.
async fn holds(worker: &Worker, n: f64) {
    eventually("tasks are in flight", || async { when(worker.metrics().await.sum("tasks_received_total", &[]) >= n) })
        .await;
}
