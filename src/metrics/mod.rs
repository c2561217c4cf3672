//! Every metric, declared once (`catalogue`), behind typed handles with closed labels.
//!
//! No label ever holds an id, a tenant or an error's text. Handles register their series when they are made;
//! make them at the start, after [`Metrics::install`], so that every series exists with 0. Without a
//! recorder (in tests) the handles count nowhere; the ledgers work all the same.

mod catalogue;
mod labels;
mod parts;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use self::{
    labels::{
        CacheEvent, ErrorClass, JobAction, JobOutcome, Lookup, Outcome, ReclaimReason, ReturnReason, Tier, Trigger,
        WriteOutcome,
    },
    parts::{
        AnalysisMetrics, CacheMetrics, JobMetrics, MongoMetrics, RecordCacheMetrics, SchedulerMetrics, SyncMetrics,
        redis_command, register_redis_commands,
    },
    queue::{Held, Ledger, QueueMetrics, UNKNOWN_TYPE},
};

/// How often [`Metrics::upkeep`] should be called: recorded samples are kept one by one until then.
pub const UPKEEP: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be set up: {0}")]
pub struct InstallError(String);

/// The process's metrics: what `/metrics` shows.
pub struct Metrics {
    handle: PrometheusHandle,
    queues: Mutex<Vec<Arc<QueueMetrics>>>,
}

impl Metrics {
    /// Installs the process-wide recorder. Once per process; a second call is an error.
    pub fn install() -> Result<Arc<Self>, InstallError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        ::metrics::set_global_recorder(recorder).map_err(|e| InstallError(e.to_string()))?;
        Ok(Self::describe(handle))
    }

    /// Metrics that are not the process's: handles made now count nowhere. For tests.
    #[cfg(test)]
    pub(crate) fn detached() -> Arc<Self> {
        let recorder = recorder().expect("the catalogue's buckets are constants");
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || Self::describe(handle))
    }

    fn describe(handle: PrometheusHandle) -> Arc<Self> {
        catalogue::describe();
        catalogue::BUILD_INFO.with(&[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Arc::new(Self { handle, queues: Mutex::default() })
    }

    /// The metrics of `queue`, all with 0; `types` are the task types it takes.
    pub fn queue<S: AsRef<str>>(&self, queue: &str, types: &[S]) -> Arc<QueueMetrics> {
        let metrics = Arc::new(QueueMetrics::new(queue, types));
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&metrics));
        metrics
    }

    /// Prometheus text. In it, each queue's ledger is of one moment and adds up.
    pub fn render(&self) -> String {
        // Held to the end: a second scrape must not publish between this one's publishing and rendering.
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().for_each(|queue| queue.publish());
        self.handle.render()
    }

    /// Folds recorded samples into their histograms.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Every queue's ledger, by name.
    pub fn ledgers(&self) -> BTreeMap<String, Ledger> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|queue| (queue.name().to_owned(), queue.ledger())).collect()
    }
}

fn recorder() -> Result<PrometheusRecorder, InstallError> {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in catalogue::HISTOGRAMS {
        builder = builder
            .set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
            .map_err(|e| InstallError(e.to_string()))?;
    }
    Ok(builder.build_recorder())
}

/// Unix time in seconds.
fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}
