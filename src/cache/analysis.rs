//! Finished analyses by content: memory, then Redis. (MongoDB, the third tier, is the caller's.)

use std::{sync::Arc, time::Duration};

use quick_cache::{Weighter, sync::Cache};
use redis::Value;

use crate::{
    analysis::Analysis,
    intake::Link,
    metrics::{CacheMetrics, Lookup, Tier},
};

/// zstd at its fastest useful level: results are small and read soon.
const LEVEL: i32 = 3;
/// No honest result is larger when unpacked.
const MAX_UNPACKED: usize = 64 * 1024 * 1024;

#[derive(Clone)]
struct Weight;

/// A result and the size of its JSON.
type Entry = (Arc<Analysis>, u64);

impl Weighter<String, Entry> for Weight {
    fn weight(&self, key: &String, entry: &Entry) -> u64 {
        key.len() as u64 + entry.1 + 64
    }
}

/// The two faster tiers. Only complete results come in.
pub struct AnalysisCache {
    link: Link,
    namespace: String,
    ttl: Duration,
    memory: Cache<String, Entry, Weight>,
    pub metrics: CacheMetrics,
}

impl AnalysisCache {
    pub fn new(link: Link, namespace: &str, ttl: Duration, bytes: u64) -> Self {
        let entries = (bytes / 8192).max(16) as usize;
        Self {
            link,
            namespace: namespace.into(),
            ttl,
            memory: Cache::with_weighter(entries, bytes, Weight),
            metrics: CacheMetrics::new("analysis", &[Tier::Memory, Tier::Redis, Tier::MongoDb]),
        }
    }

    fn key(&self, hash: &str) -> String {
        key(&self.namespace, hash)
    }

    /// The results that are there. An unreadable value, or no answer from Redis, is a miss.
    pub async fn get(&self, keys: &[String]) -> Vec<Option<Arc<Analysis>>> {
        let mut found: Vec<Option<Arc<Analysis>>> = keys.iter().map(|k| self.memory.get(k).map(|e| e.0)).collect();
        for hit in &found {
            self.metrics.lookup(Tier::Memory, lookup(hit.is_some())).increment(1);
        }
        let missing: Vec<usize> = (0..keys.len()).filter(|i| found[*i].is_none()).collect();
        if missing.is_empty() {
            return found;
        }
        // GETs in a pipeline rather than one MGET: on Cluster the keys lie in many slots.
        let mut pipe = redis::pipe();
        for i in &missing {
            pipe.cmd("GET").arg(self.key(&keys[*i]));
        }
        let values: Vec<Option<Vec<u8>>> = match self.link.pipe("cache_get", &pipe).await {
            Ok(values) => values,
            Err(fault) => {
                tracing::debug!(%fault, "the analysis cache does not answer");
                vec![None; missing.len()]
            }
        };
        for (i, value) in missing.into_iter().zip(values) {
            let analysis = value.and_then(|bytes| unpack(&bytes)).map(Arc::new);
            self.metrics.lookup(Tier::Redis, lookup(analysis.is_some())).increment(1);
            if let Some(analysis) = &analysis {
                self.remember(&keys[i], analysis);
            }
            found[i] = analysis;
        }
        found
    }

    /// Keeps a complete result in memory; answers its JSON.
    pub fn remember(&self, key: &str, analysis: &Arc<Analysis>) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(analysis.as_ref()).ok()?;
        self.memory.insert(key.to_string(), (analysis.clone(), json.len() as u64 * 2));
        Some(json)
    }

    /// Keeps complete results in both tiers. A Redis that is away or full is no error: it is a cache.
    pub async fn put(&self, results: &[(String, Arc<Analysis>)]) {
        let mut pipe = redis::pipe();
        for (key, analysis) in results {
            let Some(json) = self.remember(key, analysis) else { continue };
            let Ok(packed) = zstd::bulk::compress(&json, LEVEL) else { continue };
            pipe.cmd("SET").arg(self.key(key)).arg(packed).arg("PX").arg(self.ttl.as_millis() as u64);
        }
        if pipe.is_empty() {
            return;
        }
        if let Err(fault) = self.link.pipe::<Value>("cache_set", &pipe).await {
            tracing::debug!(%fault, "analyses are not cached in Redis");
        }
    }
}

fn lookup(hit: bool) -> Lookup {
    if hit { Lookup::Hit } else { Lookup::Miss }
}

fn unpack(bytes: &[u8]) -> Option<Analysis> {
    let json = zstd::bulk::decompress(bytes, MAX_UNPACKED.min(bytes.len().saturating_mul(400).max(1024))).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Where the result with this key ([`crate::analysis::Keys`]) lies.
pub(super) fn key(namespace: &str, hash: &str) -> String {
    format!("{namespace}:cache:analysis:{hash}")
}
