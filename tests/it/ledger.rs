//! Every task received is accounted for, at any time.

use crate::harness::{Env, Event, analyze, in_seconds, typing};

#[tokio::test]
async fn every_outcome_is_counted_once() {
    let env = Env::new().await;
    let mut events: Vec<Event> = (0..50).map(|i| analyze(&format!("ok-{i}"), &format!("Text {i}."))).collect();
    events.extend((0..5).map(|i| analyze(&format!("ok-{i}"), &format!("Text {i}."))));
    events.extend((0..3).map(|i| analyze(&format!("old-{i}"), "Too late.").with("expirytime", in_seconds(-60))));
    events.extend((0..4).map(|i| Event::new("no.such.type.v1", &format!("odd-{i}"), serde_json::json!({}))));
    env.push("analysis", "normal", &events).await;
    let keystrokes: Vec<Event> = (0..30).map(|i| typing(&format!("k{i}"), "d", "s", i)).collect();
    env.xadd("typing", &keystrokes).await;

    let metrics = env.drain("analysis,typing").await;
    assert_eq!(metrics.sum("tasks_received_total", &[("queue", "analysis")]), 62.0);
    assert_eq!(metrics.finished("analysis", "written"), 50.0);
    assert_eq!(metrics.finished("analysis", "duplicate"), 5.0);
    assert_eq!(metrics.finished("analysis", "expired"), 3.0);
    assert_eq!(metrics.finished("analysis", "dead"), 4.0);
    assert_eq!(metrics.sum("tasks_returned_total", &[]), 0.0);
    assert_eq!(metrics.sum("tasks_received_total", &[("queue", "typing")]), 30.0);
    assert_eq!(metrics.finished("typing", "written") + metrics.finished("typing", "superseded"), 30.0);
    assert_eq!(env.size("analyses").await, 50);
    assert_eq!(env.size("dead_letters").await, 4);
}

#[tokio::test]
async fn the_ledger_adds_up_while_tasks_are_in_flight() {
    let env = Env::new().await;
    let events: Vec<Event> = (0..600).map(|i| analyze(&format!("t{i}"), &format!("Text {i}."))).collect();
    let worker = env.worker("analysis").ready().await;
    env.push("analysis", "normal", &events).await;
    let mut readings = 0;
    loop {
        let metrics = worker.metrics().await;
        metrics.assert_ledger("analysis");
        readings += 1;
        if metrics.sum("tasks_finished_total", &[("queue", "analysis")]) == 600.0 {
            break;
        }
    }
    assert!(readings > 1, "the metrics were read while tasks were in flight");
    worker.stop().await;
}
