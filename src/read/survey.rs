//! Gathers what the advice on strategies rests on.

use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::Document;

use super::advise::{Advice, Observed, advise, caches};
use crate::{
    config::{CacheKind, Config},
    record::cached::{Kind, Kinds, Plan},
    store::{Store, StoreFault},
};

/// Records looked at for their sizes, of each kind.
const SAMPLE: u32 = 200;

/// Advice on each cached kind, or on `only` one, from what the fleet counted in the last `window`.
pub async fn survey(
    store: &Store,
    config: &Config,
    kinds: &Kinds,
    only: Option<&str>,
    window: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Vec<Advice>, StoreFault> {
    let counted = store.access(now - window).await?;
    let mut all = Vec::new();
    for (name, settings) in config.cache.kinds.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let sample = store.sample(&settings.collection, SAMPLE).await?;
        let observed = Observed {
            kind: name,
            settings,
            environment: &config.cache.environment,
            key_bytes: config.namespace.len() + ":cache::".len() + name.len(),
            counted: counted.get(name).copied(),
            records: store.size(&settings.collection).await?,
            sampled: sample.len(),
            value_bytes: kinds.get(name).map(|kind| value_bytes(kind, settings, &sample)).unwrap_or_default(),
        };
        all.push(advise(&observed, now));
    }
    Ok(all)
}

/// Mean bytes of the value that Redis would hold of these records under each strategy; records that are not cached
/// whatever the strategy, such as ended sessions, do not count.
fn value_bytes<'k>(kind: &Kind, settings: &'k CacheKind, sample: &[Document]) -> Vec<(&'k str, f64)> {
    let mut all = Vec::new();
    for (name, strategy) in &settings.strategies {
        let under = |record: &Document| {
            let mut record = record.clone();
            record.insert("cacheStrategy", name.as_str());
            match kind.plan(&record, 0) {
                Plan::Put(cached) => Some(cached.bytes.len()),
                Plan::Gone { .. } | Plan::Nothing => None,
            }
        };
        let sizes: Vec<usize> = sample.iter().filter_map(under).collect();
        if !caches(strategy) {
            all.push((name.as_str(), 0.0));
        } else if !sizes.is_empty() {
            all.push((name.as_str(), sizes.iter().sum::<usize>() as f64 / sizes.len() as f64));
        }
    }
    all
}
