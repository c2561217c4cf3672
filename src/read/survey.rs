//! Gathers what the advice on strategies rests on.

use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::Document;

use super::advise::{Advice, Observed, advise};
use crate::{
    config::{CacheKind, Config, Strategy},
    store::{Store, StoreFault},
};

/// Records looked at for their sizes, of each kind.
const SAMPLE: u32 = 200;

/// Advice on each cached kind, or on `only` one, from what the fleet counted in the last `window`.
pub async fn survey(
    store: &Store,
    config: &Config,
    only: Option<&str>,
    window: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Vec<Advice>, StoreFault> {
    let counted = store.access(now - window).await?;
    let mut all = Vec::new();
    for (kind, settings) in config.cache.kinds.iter().filter(|(kind, _)| only.is_none_or(|only| only == *kind)) {
        let sample = store.sample(&settings.collection, SAMPLE).await?;
        let observed = Observed {
            kind,
            settings,
            environment: &config.cache.environment,
            key_bytes: config.namespace.len() + ":cache::".len() + kind.len(),
            counted: counted.get(kind).copied(),
            records: store.size(&settings.collection).await?,
            sampled: sample.len(),
            value_bytes: value_bytes(settings, &sample, config.cache.compress_over.as_u64() as usize),
        };
        all.push(advise(&observed, now));
    }
    Ok(all)
}

/// Mean bytes of a cached value of these records under each strategy.
fn value_bytes<'k>(settings: &'k CacheKind, sample: &[Document], compress_over: usize) -> Vec<(&'k str, f64)> {
    if sample.is_empty() {
        return Vec::new();
    }
    let mean = |strategy: &Strategy| {
        let sum: usize = sample.iter().map(|record| cached_bytes(record, settings, strategy, compress_over)).sum();
        sum as f64 / sample.len() as f64
    };
    settings.strategies.iter().map(|(name, strategy)| (name.as_str(), mean(strategy))).collect()
}

/// Bytes of the header line of a cached value.
const HEADER: usize = 80;

/// Bytes of what Redis would hold of `record`.
fn cached_bytes(record: &Document, settings: &CacheKind, strategy: &Strategy, compress_over: usize) -> usize {
    if strategy.fields.is_empty() {
        return 0;
    }
    let all = strategy.fields.iter().any(|f| f == "*");
    let is_cached = |name: &String| {
        name != "_sync" && !settings.never.contains(name) && (all || name == "_id" || strategy.fields.contains(name))
    };
    let view: Document = record.iter().filter(|(n, _)| is_cached(n)).map(|(n, v)| (n.clone(), v.clone())).collect();
    let text = serde_json::to_string(&super::plain::record(&view)).unwrap_or_default();
    let payload = if text.len() > compress_over {
        zstd::bulk::compress(text.as_bytes(), zstd::DEFAULT_COMPRESSION_LEVEL).map_or(text.len(), |z| z.len())
    } else {
        text.len()
    };
    HEADER + payload
}
