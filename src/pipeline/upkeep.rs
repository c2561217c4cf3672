//! What goes on beside the batches: leases are renewed, queues are measured, a drained worker stops.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::DateTime;
use tokio_util::sync::CancellationToken;

use super::queue::QueueRuntime;
use crate::{
    clock,
    intake::{BatchSource, QueueAdmin, QueueStats},
    metrics::{ErrorClass, QueueMetrics},
    status::Health,
    store::Store,
    task::Priority,
};

/// How often queues are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether audit entries wait.
const LINK_EVERY: Duration = Duration::from_secs(1);

/// Renews the leases of one queue until `done`; a failed renewal is repeated soon.
pub async fn renew<S: BatchSource>(queue: Arc<QueueRuntime<S>>, lease: Duration, done: CancellationToken) {
    let every = (lease / 3).min(Duration::from_secs(10));
    let mut pause = every;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = done.cancelled() => return,
        }
        // While all handlers are busy nobody claims: work in flight is a sign of life, too.
        if queue.metrics.ledger().in_flight > 0 {
            queue.health.beat(&queue.component(), Instant::now());
        }
        pause = match queue.source.renew().await {
            Ok(0) => every,
            Ok(lost) => {
                queue.metrics.failures(ErrorClass::LeaseLost).increment(lost as u64);
                tracing::warn!(
                    queue = queue.name,
                    lost,
                    "leases were lost: this process or Redis stood still for longer than a lease"
                );
                every
            }
            Err(fault) => {
                queue.health.unready("redis", &fault.to_string(), clock::now());
                (lease / 30).clamp(Duration::from_millis(20), Duration::from_secs(1))
            }
        };
    }
}

/// The last measurement of every queue, for the status page.
pub type Latest = Arc<Mutex<Vec<QueueStats>>>;

/// Measures queues until `done`.
pub async fn measure(
    queues: Vec<(QueueAdmin, Arc<QueueMetrics>)>,
    store: Store,
    health: Arc<Health>,
    latest: Latest,
    done: CancellationToken,
) {
    loop {
        let mut all = Vec::new();
        let dead = store.dead_by_queue().await;
        if let Err(fault) = &dead {
            health.unready("mongodb", &fault.to_string(), clock::now());
        } else {
            health.ready("mongodb", clock::now());
        }
        for (admin, metrics) in &queues {
            let stats = match admin.stats(clock::now().timestamp_millis()).await {
                Ok(stats) => stats,
                Err(fault) => {
                    health.unready("redis", &fault.to_string(), clock::now());
                    continue;
                }
            };
            for (i, priority) in Priority::ALL.into_iter().enumerate() {
                metrics.depth(priority).set(stats.depth[i] as f64);
                metrics.oldest(priority, stats.oldest_ms[i].and_then(DateTime::from_timestamp_millis));
            }
            metrics.delayed().set(stats.delayed as f64);
            metrics.stream_pending().set(stats.stream_pending as f64);
            if let Ok(dead) = &dead {
                let count = dead.iter().find(|(queue, _)| *queue == stats.queue).map_or(0, |(_, n)| *n);
                metrics.dead_letters().set(count as f64);
            }
            all.push(stats);
        }
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = all;
        tokio::select! {
            () = tokio::time::sleep(MEASURE_EVERY) => {}
            () = done.cancelled() => return,
        }
    }
}

/// Links what is new in the audit log until `done`. Every worker does it; most look and find nothing.
pub async fn link_audit(store: Store, done: CancellationToken) {
    let mut told = String::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LINK_EVERY) => {}
            () = done.cancelled() => return,
        }
        match store.link_audit().await {
            Ok(linked) => {
                told.clear();
                if linked > 0 {
                    tracing::debug!(linked, "audit entries were linked");
                }
            }
            // MongoDB's outages are told by those who measure.
            Err(error) if error.is_transient() => {}
            Err(error) => {
                let error = error.to_string();
                if error != told {
                    tracing::error!(error, "the audit log cannot be linked");
                }
                told = error;
            }
        }
    }
}

/// Returns when all queues are found empty, with nothing in flight and nothing due, twice in a row.
pub async fn drained(queues: &[(QueueAdmin, Arc<QueueMetrics>)]) {
    let mut quiet = 0;
    while quiet < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut is_quiet = queues.iter().all(|(_, metrics)| metrics.ledger().in_flight == 0);
        for (admin, _) in queues {
            if !is_quiet {
                break;
            }
            is_quiet = admin.stats(clock::now().timestamp_millis()).await.is_ok_and(|s| s.is_drained());
        }
        quiet = if is_quiet { quiet + 1 } else { 0 };
    }
}
