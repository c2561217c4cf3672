//! The tier in this process's memory: records by kind and id, bounded by bytes, for a short time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync::Cache};

use super::reader::Held;

/// That a record is not there is remembered at most this long: it may be written any moment.
const ABSENT: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Weight;

#[derive(Clone)]
struct Entry {
    /// `None`: there is no such record.
    held: Option<Arc<Held>>,
    since: Instant,
}

impl Weighter<(u16, String), Entry> for Weight {
    fn weight(&self, key: &(u16, String), entry: &Entry) -> u64 {
        (key.1.len() + 96 + entry.held.as_ref().map_or(0, |held| held.size)) as u64
    }
}

pub(super) struct Memory {
    entries: Cache<(u16, String), Entry, Weight>,
    ttl: Duration,
}

/// Borrowed form of the key: a look-up makes no string.
#[derive(Hash)]
struct Key<'a>(u16, &'a str);

impl quick_cache::Equivalent<(u16, String)> for Key<'_> {
    fn equivalent(&self, key: &(u16, String)) -> bool {
        self.0 == key.0 && self.1 == key.1
    }
}

impl Memory {
    /// With `ttl` 0 nothing is kept.
    pub fn new(bytes: u64, ttl: Duration) -> Self {
        Self { entries: Cache::with_weighter((bytes / 1024).max(16) as usize, bytes, Weight), ttl }
    }

    /// What is known: a record, or (`Some(None)`) that there is none.
    pub fn get(&self, kind: u16, id: &str) -> Option<Option<Arc<Held>>> {
        let entry = self.entries.get(&Key(kind, id))?;
        let ttl = if entry.held.is_some() { self.ttl } else { self.ttl.min(ABSENT) };
        (entry.since.elapsed() < ttl).then_some(entry.held)
    }

    /// Keeps what was read at `since`, unless something newer is there.
    pub fn put(&self, kind: u16, id: &str, held: Option<Arc<Held>>, since: Instant) {
        if self.ttl.is_zero() {
            return;
        }
        let there = self.entries.get(&Key(kind, id)).filter(|entry| entry.since.elapsed() < self.ttl);
        let is_older = there.is_some_and(|there| match (&there.held, &held) {
            (Some(there), Some(held)) => {
                there.rev > held.rev || (there.rev == held.rev && there.complete && !held.complete)
            }
            _ => there.since > since,
        });
        if !is_older {
            self.entries.insert((kind, id.to_owned()), Entry { held, since });
        }
    }
}
