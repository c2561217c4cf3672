//! Counts reads and writes of cached kinds in memory, and adds them to the fleet's now and then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    config::CacheKind,
    store::{Access, Counts, Store, StoreFault},
};

/// How often a long-lived process adds what it has counted.
pub const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// Counters of every cached kind; shared by all readers and writers of a process. Counting takes no lock.
#[derive(Debug, Default)]
pub struct AccessCounter {
    kinds: HashMap<String, [AtomicU64; Access::ALL.len()]>,
}

impl AccessCounter {
    pub fn new(kinds: &BTreeMap<String, CacheKind>) -> Arc<Self> {
        Arc::new(Self { kinds: kinds.keys().map(|kind| (kind.clone(), Default::default())).collect() })
    }

    /// Counts `n` at once. A kind that is not configured is not counted.
    pub fn note(&self, kind: &str, access: Access, n: u64) {
        if let Some(counters) = self.kinds.get(kind) {
            counters[access as usize].fetch_add(n, Ordering::Relaxed);
        }
    }

    /// One read of `kind` that `tier` answered; `whole`: the reader asked for the whole record.
    pub fn read(&self, kind: &str, tier: Access, whole: bool) {
        self.note(kind, tier, 1);
        if whole {
            self.note(kind, Access::Whole, 1);
        }
    }

    /// What was counted since the last time.
    fn take(&self) -> Vec<(&str, Counts)> {
        let taken = self.kinds.iter().map(|(kind, counters)| {
            let mut counts = Counts::default();
            for access in Access::ALL {
                counts[access] = counters[access as usize].swap(0, Ordering::Relaxed);
            }
            (kind.as_str(), counts)
        });
        taken.filter(|(_, counts)| !counts.is_empty()).collect()
    }

    /// Adds what was counted to the fleet's counts; after an error it is kept for the next time.
    pub async fn flush(&self, store: &Store, now: DateTime<Utc>) -> Result<(), StoreFault> {
        let taken = self.take();
        let result = store.add_access(now, &taken).await;
        if result.is_err() {
            for (kind, counts) in taken {
                Access::ALL.into_iter().for_each(|access| self.note(kind, access, counts[access]));
            }
        }
        result
    }

    /// Flushes every `every` until `stop`, and once more then. That MongoDB cannot be reached is others' to report.
    pub async fn keep(&self, store: &Store, every: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(every) => {}
            }
            if let Err(fault) = self.flush(store, clock::now()).await {
                tracing::debug!(error = %fault, "the counts of reads and writes are kept for later");
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_taken_once() {
        let config = crate::config::load(None, std::iter::empty()).unwrap();
        let counter = AccessCounter::new(&config.cache.kinds);
        counter.read("session", Access::Redis, true);
        counter.read("session", Access::MongoDb, false);
        counter.note("session", Access::Write, 5);
        counter.note("nothing", Access::Write, 5);
        let taken = counter.take();
        let [("session", counts)] = taken.as_slice() else { panic!("{taken:?}") };
        assert_eq!((counts.reads(), counts[Access::Whole], counts[Access::Write]), (2, 1, 5));
        assert!(counter.take().is_empty());
    }
}
