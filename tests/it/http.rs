//! What the worker tells about itself over HTTP.

use serde_json::Value;

use crate::harness::{Env, Metrics, analyze, typing};

/// Section 9 of the contract: name and type.
const METRICS: &[(&str, &str)] = &[
    ("queue_depth", "gauge"),
    ("queue_oldest_task_timestamp_seconds", "gauge"),
    ("queue_delayed", "gauge"),
    ("tasks_in_flight", "gauge"),
    ("stream_pending_entries", "gauge"),
    ("tasks_received_total", "counter"),
    ("tasks_finished_total", "counter"),
    ("tasks_returned_total", "counter"),
    ("ledger_gap", "gauge"),
    ("task_failures_total", "counter"),
    ("task_retries_total", "counter"),
    ("task_reclaims_total", "counter"),
    ("task_queue_wait_seconds", "histogram"),
    ("task_end_to_end_seconds", "histogram"),
    ("dead_letters", "gauge"),
    ("batch_size_tasks", "histogram"),
    ("batch_size_bytes", "histogram"),
    ("batch_flushes_total", "counter"),
    ("mongodb_write_duration_seconds", "histogram"),
    ("mongodb_write_errors_total", "counter"),
    ("redis_command_duration_seconds", "histogram"),
    ("analysis_duration_seconds", "histogram"),
    ("cache_lookups_total", "counter"),
    ("last_progress_timestamp_seconds", "gauge"),
    ("job_last_success_timestamp_seconds", "gauge"),
    ("job_last_completion_timestamp_seconds", "gauge"),
    ("job_duration_seconds", "histogram"),
    ("job_items_total", "counter"),
    ("job_missed_slots_total", "counter"),
    ("job_overlap_skips_total", "counter"),
    ("scheduler_leader", "gauge"),
    ("build_info", "gauge"),
];

/// Metric, and the labels that the contract gives it.
const LABELS: &[(&str, &[&str])] = &[
    ("queue_depth", &["queue", "priority"]),
    ("queue_delayed", &["queue"]),
    ("tasks_in_flight", &["queue"]),
    ("stream_pending_entries", &["queue"]),
    ("tasks_received_total", &["queue", "type"]),
    ("tasks_finished_total", &["queue", "outcome"]),
    ("tasks_returned_total", &["queue", "reason"]),
    ("ledger_gap", &["queue"]),
    ("task_queue_wait_seconds_count", &["queue", "priority"]),
    ("dead_letters", &["queue"]),
    ("batch_size_tasks_count", &["queue"]),
    ("batch_flushes_total", &["queue", "trigger"]),
    ("mongodb_write_duration_seconds_count", &["collection", "outcome"]),
    ("mongodb_write_errors_total", &["class"]),
    ("redis_command_duration_seconds_count", &["command"]),
    ("analysis_duration_seconds_count", &["analyzer"]),
    ("cache_lookups_total", &["cache", "tier", "result"]),
    ("last_progress_timestamp_seconds", &["queue"]),
    ("job_last_success_timestamp_seconds", &["job"]),
    ("job_duration_seconds_count", &["job", "outcome"]),
    ("job_items_total", &["job", "action"]),
];

#[tokio::test]
async fn every_metric_of_the_contract_is_there_from_the_start() {
    let env = Env::new().await;
    let worker = env.worker("").scheduler().ready().await;
    let metrics = worker.metrics().await;
    let mut wrong = Vec::new();
    for (name, kind) in METRICS {
        let name = format!("contextd_{name}");
        match metrics.types.get(&name) {
            None => wrong.push(format!("{name}: no TYPE line")),
            Some(have) if have != kind => wrong.push(format!("{name}: a {have}, not a {kind}")),
            Some(_) if !metrics.help.contains(&name) => wrong.push(format!("{name}: no HELP line")),
            Some(_) => {}
        }
        // A histogram's series are its _count and _sum and buckets.
        let sample = if *kind == "histogram" { format!("{name}_count") } else { name.clone() };
        if !metrics.samples.iter().any(|s| s.name == sample) {
            wrong.push(format!("{name}: no series from the start"));
        }
    }
    for (name, labels) in LABELS {
        let full = format!("contextd_{name}");
        for sample in metrics.samples.iter().filter(|s| s.name == full) {
            let mut have: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
            let mut want = labels.to_vec();
            have.sort_unstable();
            want.sort_unstable();
            if have != want {
                wrong.push(format!("{name}: labels {have:?}, not {want:?}"));
                break;
            }
        }
    }
    for queue in ["analysis", "records", "typing"] {
        for outcome in ["written", "duplicate", "superseded", "expired", "dead"] {
            if !has(&metrics, "tasks_finished_total", &[("queue", queue), ("outcome", outcome)]) {
                wrong.push(format!("tasks_finished_total: no series for {queue} {outcome}"));
            }
        }
        for reason in ["retry", "release"] {
            if !has(&metrics, "tasks_returned_total", &[("queue", queue), ("reason", reason)]) {
                wrong.push(format!("tasks_returned_total: no series for {queue} {reason}"));
            }
        }
        for trigger in ["count", "bytes", "time", "shutdown"] {
            if !has(&metrics, "batch_flushes_total", &[("queue", queue), ("trigger", trigger)]) {
                wrong.push(format!("batch_flushes_total: no series for {queue} {trigger}"));
            }
        }
    }
    for priority in ["critical", "high", "normal", "low"] {
        if !has(&metrics, "queue_depth", &[("queue", "analysis"), ("priority", priority)]) {
            wrong.push(format!("queue_depth: no series for analysis {priority}"));
        }
    }
    if !has(&metrics, "job_last_success_timestamp_seconds", &[("job", "retention")]) {
        wrong.push("job_last_success_timestamp_seconds: no series for retention".into());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    worker.stop().await;
}

#[tokio::test]
async fn no_label_holds_an_id_and_work_adds_no_series() {
    let env = Env::new().await;
    let worker = env.worker("analysis,typing").ready().await;
    let series = |m: &Metrics| m.samples.iter().filter(|s| !s.name.ends_with("_bucket")).count();
    let before = series(&worker.metrics().await);
    for i in 0..20 {
        let odd = analyze(&format!("secret-id-{i}"), "Text.")
            .with("tenant", format!("secret-tenant-{i}"))
            .with("type", format!("secret.type.{i}.v1"));
        env.push("analysis", "normal", &[odd, analyze(&format!("secret-ok-{i}"), "Good.")]).await;
        env.xadd("typing", &[typing(&format!("secret-e{i}"), &format!("secret-d{i}"), "secret-s", 1)]).await;
    }
    env.drained("analysis").await;
    env.drained("typing").await;
    worker.at_rest().await;
    let (_, text) = worker.get("/metrics").await.unwrap();
    assert!(!text.contains("secret"), "{:?}", text.lines().find(|l| l.contains("secret")));
    let after = series(&worker.metrics().await);
    assert!(after <= before + 3, "every series exists from the start: {before} before, {after} after the work");
    worker.stop().await;
}

#[tokio::test]
async fn the_gauges_show_what_waits() {
    let env = Env::new().await;
    env.command(&["pause", "analysis"]).end().await.code(0);
    env.push("analysis", "critical", &[analyze("c", "Text.")]).await;
    env.push("analysis", "low", &[analyze("l1", "Text."), analyze("l2", "Text.")]).await;
    let worker = env.worker("analysis").ready().await;
    crate::harness::eventually("the depths are shown", || async {
        let m = worker.metrics().await;
        let depth = |p| m.sum("queue_depth", &[("queue", "analysis"), ("priority", p)]);
        crate::harness::when((depth("critical"), depth("high"), depth("low")) == (1.0, 0.0, 2.0))
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn live_ready_status_and_page_answer() {
    let env = Env::new().await;
    let worker = env.worker("").ready().await;
    assert_eq!(worker.get("/live").await.unwrap().0, 200);
    let (code, ready) = worker.get("/ready").await.unwrap();
    assert_eq!(code, 200);
    serde_json::from_str::<Value>(&ready).unwrap_or_else(|e| panic!("/ready is JSON: {e}: {ready}"));
    let (code, status) = worker.get("/api/status").await.unwrap();
    assert_eq!(code, 200);
    let json: Value = serde_json::from_str(&status).unwrap_or_else(|e| panic!("/api/status is JSON: {e}: {status}"));
    assert!(json.is_object());
    for queue in ["analysis", "records", "typing"] {
        assert!(status.contains(queue), "{queue}: {status}");
    }
    assert!(status.contains("retention") || status.contains("jobs"), "{status}");
    let (code, page) = worker.get("/").await.unwrap();
    assert_eq!(code, 200);
    assert!(page.to_lowercase().contains("<html") && page.contains("contextd"), "{page}");
    assert_eq!(worker.get("/no/such/page").await.unwrap().0, 404);
    // No secret on any of them.
    for path in ["/", "/api/status", "/ready", "/metrics"] {
        let (_, text) = worker.get(path).await.unwrap();
        assert!(!text.contains("mongodb://") && !text.contains("redis://"), "{path} shows an address");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_draining_worker_is_unready_and_alive() {
    let env = Env::new().await.set("worker.drain", "20s").set("analysis.time_limit", "3s");
    let content = "The cat have sat on an mat and it's tail were to long for the room.\n\n".repeat(2_000);
    let data = serde_json::json!({ "documentId": "d", "content": content, "language": "en-US" });
    env.push("analysis", "high", &[crate::harness::Event::new("document.analyze.v1", "slow", data)]).await;
    let worker = env.worker("analysis").ready().await;
    crate::harness::eventually("a task is in flight", || async {
        crate::harness::when(worker.metrics().await.sum("tasks_in_flight", &[]) > 0.0)
    })
    .await;
    worker.signal("TERM");
    let reasons = worker.becomes_unready().await;
    let json: Value = serde_json::from_str(&reasons).expect("the reasons are JSON");
    assert!(!json.is_null());
    assert_eq!(worker.get("/live").await.map(|(code, _)| code), Some(200));
    let mut worker = worker;
    assert_eq!(worker.exit().await, 0);
    env.analysis("slow").await;
}

fn has(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> bool {
    let name = format!("contextd_{name}");
    metrics
        .samples
        .iter()
        .any(|s| s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|have| have == v)))
}
