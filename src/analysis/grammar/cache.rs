//! Findings of blocks, in memory, shared by the threads. Only finished blocks are in it.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};

use super::Checked;
use crate::analysis::{keys::BlockKey, result::Match};

pub struct BlockCache {
    entries: Cache<BlockKey, Arc<Checked>, Bytes>,
}

impl BlockCache {
    /// Holds about `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        // An estimate only, to size its tables: most blocks have few findings.
        let items = usize::try_from(capacity / 1024).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        Self { entries: Cache::with_weighter(items, capacity, Bytes) }
    }

    pub fn get(&self, key: &BlockKey) -> Option<Arc<Checked>> {
        self.entries.get(key)
    }

    pub fn insert(&self, key: BlockKey, checked: Arc<Checked>) {
        self.entries.insert(key, checked);
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<BlockKey, Arc<Checked>> for Bytes {
    fn weight(&self, _: &BlockKey, checked: &Arc<Checked>) -> u64 {
        let text = |found: &Match| {
            let replacements: usize = found.replacements.iter().map(|one| one.value.len() + 32).sum();
            found.message.len() + found.context.text.len() + found.rule.id.len() + replacements
        };
        let matches: usize = checked.matches.iter().map(|found| size_of::<Match>() + text(found)).sum();
        // The key, the shared pointer and the cache's own bookkeeping.
        (matches + 160) as u64
    }
}
