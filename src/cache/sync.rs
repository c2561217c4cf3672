//! Keeping the cached records in step with MongoDB.
//!
//! After MongoDB's acknowledgement the cache is written: at once while that is quick, otherwise the record is noted in
//! `kvshadow` and a repair loop writes it. A process that dies in between has not settled its tasks: they come again,
//! end as duplicates, and refresh the cache. So a cached record is behind until its task is settled, then for as long as
//! its row in `kvshadow` lives (see `repair`), and never longer than its TTL, not even after a failover of Redis that
//! lost writes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use mongodb::bson::Document;

use super::{AccessCounter, Entry, Put, RecordCache};
use crate::{
    clock,
    config::Cache as Settings,
    metrics::{CacheEvent, RecordCacheMetrics, SyncMetrics},
    record::{
        Life, Live,
        cached::{Absence, INTERACTION_COUNT, Kind, Kinds, Plan},
    },
    store::{Access, Shadow, Store, StoreFault},
};

/// Records that wait in memory to be noted while MongoDB does not answer. What does not fit is behind until its TTL ends.
const BACKLOG: usize = 10_000;
/// Attempts to note records before they wait in memory.
const NOTES: u32 = 3;

/// A record that MongoDB has just acknowledged.
#[derive(Debug, Clone)]
pub struct Written {
    /// The name of its section in `cache.kinds`.
    pub kind: Arc<str>,
    /// The whole record as it is in MongoDB now.
    pub document: Document,
    /// Whether the write left the strategy that the record names, and its state, as they were.
    pub kept_strategy: bool,
}

/// Writes the cache after MongoDB. Clones share everything.
#[derive(Clone)]
pub struct CacheWriter(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub cache: RecordCache,
    pub store: Store,
    pub kinds: Arc<Kinds>,
    live: Live,
    within: Duration,
    most_waiting: u32,
    pub every: Duration,
    waiting: AtomicU32,
    backlog: Mutex<HashMap<(String, String), Shadow>>,
    pub metrics: SyncMetrics,
    kind_metrics: HashMap<Arc<str>, RecordCacheMetrics>,
    pub access: Arc<AccessCounter>,
}

impl CacheWriter {
    pub fn new(cache: RecordCache, store: Store, kinds: Arc<Kinds>, settings: &Settings) -> Self {
        let kind_metrics = kinds.iter().map(|k| (k.name.clone(), RecordCacheMetrics::new(&k.name))).collect();
        Self(Arc::new(Inner {
            cache,
            store,
            kinds,
            live: Live { user: settings.live_user, anonymous: settings.live_anonymous },
            within: settings.sync_within,
            most_waiting: settings.sync_waiting,
            every: settings.repair_every,
            waiting: AtomicU32::new(0),
            backlog: Mutex::default(),
            metrics: SyncMetrics::new(),
            kind_metrics,
            access: AccessCounter::new(&settings.kinds),
        }))
    }

    /// The kinds under which records of a collection are cached.
    pub fn kinds_of(&self, collection: &str) -> Vec<Arc<str>> {
        let of_it = self.0.kinds.iter().filter(|kind| &*kind.collection == collection);
        of_it.map(|kind| kind.name.clone()).collect()
    }

    /// Brings the cache in step with what MongoDB has acknowledged, or notes what is not. Never fails; with Redis away
    /// it takes `cache.sync_within` at most, and what noting in MongoDB takes. Belongs before the settling of the tasks.
    ///
    /// Records whose kind is not declared are passed over.
    pub async fn after_write(&self, written: Vec<Written>) {
        let this = &*self.0;
        if written.is_empty() {
            return;
        }
        let acked = Instant::now();
        let since = clock::now();
        let known = |w: Written| Some(((this.kinds.get(&w.kind)?, w.document), w.kept_strategy));
        let (mut records, kept): (Vec<(&Kind, Document)>, Vec<bool>) = written.into_iter().filter_map(known).unzip();
        records.iter().for_each(|(kind, _)| this.access.note(&kind.name, Access::Write, 1));
        let waiting = this.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = Waiting(&this.waiting);
        let mut behind = vec![true; records.len()];
        if waiting < this.most_waiting && !this.cache.is_away() {
            let sync = this.sync(&mut records, &kept, since.timestamp_millis(), &mut behind);
            if tokio::time::timeout(this.within, sync).await.is_err() {
                this.cache.answered(false);
            }
        }
        drop(guard);
        let in_step = behind.iter().filter(|b| !**b).count();
        this.metrics.in_step(in_step, acked.elapsed());
        let late = records.iter().zip(&behind).filter(|(_, behind)| **behind);
        let shadows = late.filter_map(|((kind, document), _)| {
            let (id, rev) = (kind.key(document)?.to_owned(), kind.rev(document));
            Some(Shadow { kind: kind.name.to_string(), id, collection: kind.collection.to_string(), rev, since })
        });
        this.note(shadows.collect()).await;
    }
}

/// One more that waits for its cache writes; less on every way out.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_sessions(kind: &Kind) -> bool {
    &*kind.collection == "sessions"
}

impl Inner {
    pub fn backlog(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Shadow>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes values and markers; clears the flags of `behind` whose records are in step.
    async fn sync(&self, records: &mut [(&Kind, Document)], kept: &[bool], now_ms: i64, behind: &mut [bool]) {
        if self.count_interactions(records).await.is_err() {
            return;
        }
        let mut entries = Vec::with_capacity(records.len());
        let mut positions = Vec::with_capacity(records.len());
        for (i, (kind, document)) in records.iter().enumerate() {
            match self.entry(kind, document, kept[i], now_ms) {
                Some(entry) => {
                    entries.push(entry);
                    positions.push(i);
                }
                None => behind[i] = false,
            }
        }
        let live = self.live(records.iter().map(|(kind, document)| (*kind, document)), now_ms);
        let (put, told) = tokio::join!(self.cache.put(&entries), self.cache.live(&live));
        for (i, put) in positions.into_iter().zip(put) {
            behind[i] = matches!(put, Put::Full | Put::Unknown);
            if put == Put::Full {
                self.event(&records[i].0.name, CacheEvent::Full);
            }
        }
        if !told {
            records.iter().zip(behind).for_each(|((kind, _), behind)| *behind |= is_sessions(kind));
        }
    }

    /// Which of the records are sessions, and how long they live.
    pub fn live<'r>(
        &self,
        records: impl Iterator<Item = (&'r Kind, &'r Document)>,
        now_ms: i64,
    ) -> Vec<(String, Life)> {
        let sessions = records.filter(|(kind, _)| is_sessions(kind));
        sessions.filter_map(|(_, d)| Some((d.get_str("_id").ok()?.to_owned(), self.live.of(d, now_ms)))).collect()
    }

    pub async fn count_interactions(&self, records: &mut [(&Kind, Document)]) -> Result<(), StoreFault> {
        let counted: Vec<usize> =
            (0..records.len()).filter(|i| records[*i].0.wants_interactions(&records[*i].1)).collect();
        if counted.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = counted.iter().filter_map(|i| records[*i].1.get_str("_id").ok()).collect();
        let counts = self.store.interaction_counts(&ids).await?;
        for i in counted {
            let document = &mut records[i].1;
            let count = document.get_str("_id").ok().and_then(|id| counts.get(id)).copied().unwrap_or(0);
            document.insert(INTERACTION_COUNT, count);
        }
        Ok(())
    }

    /// What Redis is to be told; `None`: nothing. With `kept` the record's strategy was the same before: if that has it
    /// not cached, whoever chose it has told Redis, or does until the task that did so is settled.
    pub fn entry(&self, kind: &Kind, document: &Document, kept: bool, now_ms: i64) -> Option<Entry> {
        let is_new = document.get_document("_sync").is_ok_and(|s| s.get_i64("rev").is_ok_and(|rev| rev == 1));
        match kind.plan(document, now_ms) {
            Plan::Put(c) => {
                if c.unknown_strategy {
                    self.event(&kind.name, CacheEvent::UnknownStrategy);
                }
                let (id, rev, bytes, ttl) = (c.id, c.rev, c.bytes, c.ttl);
                Some(Entry { kind: kind.name.clone(), id, rev, bytes, ttl, is_marker: false, is_new })
            }
            // What never was in Redis needs no marker.
            Plan::Gone { why, .. } if (is_new || kept) && kind.by.is_empty() && why == Absence::Strategy => None,
            Plan::Gone { id, rev, why } => {
                match why {
                    Absence::TooLarge => self.event(&kind.name, CacheEvent::TooLarge),
                    Absence::Ambiguous => self.event(&kind.name, CacheEvent::Ambiguous),
                    Absence::Strategy | Absence::Removed => {}
                }
                Some(Entry::gone(kind.name.clone(), id, rev, now_ms))
            }
            Plan::Nothing => None,
        }
    }

    fn event(&self, kind: &str, event: CacheEvent) {
        if let Some(metrics) = self.kind_metrics.get(kind) {
            metrics.event(event).increment(1);
        }
    }

    /// Notes records in `kvshadow`; what MongoDB does not take now waits in memory.
    pub async fn note(&self, shadows: Vec<Shadow>) {
        if shadows.is_empty() {
            return;
        }
        for attempt in 0..NOTES {
            match self.store.shadow_note(&shadows).await {
                Ok(()) => return self.metrics.more_noted(shadows.len()),
                Err(fault) => {
                    tracing::warn!(%fault, records = shadows.len(), "cached records that are behind cannot be noted yet");
                    tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
                }
            }
        }
        let mut dropped = 0;
        {
            let mut backlog = self.backlog();
            for shadow in shadows {
                let key = (shadow.kind.clone(), shadow.id.clone());
                if backlog.len() < BACKLOG || backlog.contains_key(&key) {
                    backlog.insert(key, shadow);
                } else {
                    dropped += 1;
                    self.event(&shadow.kind, CacheEvent::NotNoted);
                }
            }
        }
        if dropped > 0 {
            tracing::error!(
                dropped,
                "cached records stay behind until their time is over: MongoDB did not take the note"
            );
        }
    }
}
