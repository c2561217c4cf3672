use std::sync::Arc;

use super::*;
use crate::task::Priority;

/// Runs `test` with a recorder of its own.
fn recorded(test: impl FnOnce(&Metrics)) {
    let recorder = recorder().unwrap();
    let handle = recorder.handle();
    ::metrics::with_local_recorder(&recorder, || test(&Metrics::describe(handle)));
}

fn everything(metrics: &Metrics) -> Arc<QueueMetrics> {
    MongoMetrics::new(&["analyses"]);
    register_redis_commands(&["take"]);
    AnalysisMetrics::new(&["grammar"]);
    CacheMetrics::new("analysis", &[Tier::Memory, Tier::Redis]);
    RecordCacheMetrics::new("session");
    SyncMetrics::new();
    JobMetrics::new("retention");
    SchedulerMetrics::new();
    metrics.queue("analysis", &["document.analyze.v1"])
}

#[test]
fn every_series_exists_from_the_start_with_zero() {
    recorded(|metrics| {
        let _queue = everything(metrics);
        let text = metrics.render();
        for name in catalogue::NAMES {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help text:\n{text}");
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no type");
        }
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            assert!(line.starts_with("contextd_"), "{line}");
            let expected = if line.starts_with("contextd_build_info") { " 1" } else { " 0" };
            assert!(line.ends_with(expected), "{line}");
        }
        for series in [
            r#"contextd_tasks_finished_total{queue="analysis",outcome="superseded"}"#,
            r#"contextd_tasks_received_total{queue="analysis",type="unknown"}"#,
            r#"contextd_tasks_returned_total{queue="analysis",reason="release"}"#,
            r#"contextd_queue_depth{queue="analysis",priority="low"}"#,
            r#"contextd_batch_flushes_total{queue="analysis",trigger="shutdown"}"#,
            r#"contextd_task_queue_wait_seconds_count{queue="analysis",priority="critical"}"#,
            r#"contextd_mongodb_write_duration_seconds_count{collection="analyses",outcome="duplicate"}"#,
            r#"contextd_cache_lookups_total{cache="analysis",tier="redis",result="hit"}"#,
            r#"contextd_cache_lookups_total{cache="session",tier="mongodb",result="miss"}"#,
            r#"contextd_cache_events_total{cache="session",event="other_format"}"#,
        ] {
            assert!(text.contains(series), "{series} is missing:\n{text}");
        }
        let tier = r#"contextd_cache_lookups_total{cache="analysis",tier="mongodb""#;
        assert!(!text.contains(tier), "this cache has no such tier");
    });
}

#[test]
fn unknown_names_do_not_make_new_series() {
    recorded(|metrics| {
        let queue = everything(metrics);
        let before = metrics.render().lines().count();
        let mut held = queue.received([Some("document.analyze.v1"), Some("made.up.v1"), None]);
        held.finished(Outcome::Dead, 3);
        AnalysisMetrics::new(&["grammar"]).analyzed("made-up", Duration::from_millis(1));
        let text = metrics.render();
        assert_eq!(text.lines().count(), before);
        assert!(text.contains(r#"contextd_tasks_received_total{queue="analysis",type="unknown"} 2"#));
        assert!(text.contains(r#"contextd_analysis_duration_seconds_count{analyzer="other"} 1"#));
    });
}

#[test]
fn the_ledger_adds_up_at_every_step() {
    let queue = Arc::new(QueueMetrics::new("typing", &["typing.context.v1"]));
    let mut held = queue.received(std::iter::repeat_n(Some("typing.context.v1"), 10));
    assert_eq!((queue.ledger().in_flight, queue.ledger().gap), (10, 0));
    held.finished(Outcome::Written, 4);
    assert_eq!((queue.ledger().in_flight, queue.ledger().gap), (6, 0));
    held.finished(Outcome::Superseded, 3);
    held.returned(ReturnReason::Retry, 3);
    assert_eq!(held.tasks(), 0);
    drop(held);
    let ledger = queue.ledger();
    assert_eq!(
        (ledger.received, ledger.written, ledger.superseded, ledger.returned, ledger.in_flight, ledger.gap),
        (10, 4, 3, 3, 0, 0)
    );
    assert_eq!(ledger.types["typing.context.v1"], 10);
}

#[test]
fn a_task_that_is_forgotten_or_counted_twice_is_a_gap() {
    recorded(|metrics| {
        let queue = everything(metrics);
        drop(queue.received([None, None]));
        assert_eq!((queue.ledger().gap, queue.ledger().in_flight), (2, 0));
        assert!(metrics.render().contains(r#"contextd_ledger_gap{queue="analysis"} 2"#));
        let mut held = queue.received([None]);
        held.finished(Outcome::Written, 4);
        assert_eq!(queue.ledger().gap, -1);
    });
}

#[test]
fn a_scrape_sees_one_moment() {
    recorded(|metrics| {
        let queue = everything(metrics);
        let mut held = queue.received([None, None, None]);
        held.finished(Outcome::Expired, 1);
        let text = metrics.render();
        for line in [
            r#"contextd_tasks_received_total{queue="analysis",type="unknown"} 3"#,
            r#"contextd_tasks_finished_total{queue="analysis",outcome="expired"} 1"#,
            r#"contextd_tasks_in_flight{queue="analysis"} 2"#,
            r#"contextd_ledger_gap{queue="analysis"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing:\n{text}");
        }
        held.returned(ReturnReason::Release, 2);
        assert_eq!(metrics.ledgers()["analysis"].returned, 2);
    });
}

#[test]
fn samples_fall_into_the_buckets_of_their_metric() {
    recorded(|metrics| {
        let queue = everything(metrics);
        queue.wait(Priority::High).record(0.007);
        queue.flushed(Trigger::Bytes, 500, 8 << 20);
        metrics.upkeep();
        let text = metrics.render();
        for line in [
            r#"contextd_task_queue_wait_seconds_bucket{queue="analysis",priority="high",le="0.005"} 0"#,
            r#"contextd_task_queue_wait_seconds_bucket{queue="analysis",priority="high",le="0.01"} 1"#,
            r#"contextd_batch_size_tasks_bucket{queue="analysis",le="500"} 1"#,
            r#"contextd_batch_flushes_total{queue="analysis",trigger="bytes"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is missing:\n{text}");
        }
    });
}
