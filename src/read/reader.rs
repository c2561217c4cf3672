//! The library's way to a record.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use mongodb::bson::{Document, serialize_to_vec};

use super::{
    flight::Flights,
    kinds::{Readable, Readables},
    memory::Memory,
};
use crate::{
    cache::{AccessCounter, Entry, RecordCache},
    clock,
    config::Cache as Settings,
    metrics::{CacheEvent, RecordCacheMetrics, Tier},
    record::cached::{self, INTERACTION_COUNT, Kind, Kinds, Plan, Stale},
    store::{Access, Store, StoreFault},
    vault::{Vault, VaultFault, has_sealed},
};

/// A fill that took longer is dropped. Far below the life of a marker ([`cached::GONE_TTL`]).
pub const SLOWEST_FILL: Duration = Duration::from_secs(5);
/// Redis is to be faster than MongoDB: who has no answer by then asks there.
const REDIS_WITHIN: Duration = Duration::from_millis(250);

/// Which tier an answer came from.
pub type Source = Tier;

/// What is asked for, apart from the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ask {
    /// The whole record, where the cached one is a part.
    pub full: bool,
    /// Also a record that is deleted or on the way out: from MongoDB.
    pub deleted: bool,
}

/// A record, and where it was found.
#[derive(Debug, Clone)]
pub struct Found {
    pub tier: Source,
    /// How long ago it was taken from MongoDB; changes since then are not in it.
    pub age: Duration,
    /// Whether nothing was left out.
    pub complete: bool,
    /// The strategy under which it is cached; `None`: it is not.
    pub strategy: Option<String>,
    /// The record without `_sync`; sealed fields are opened.
    pub document: Arc<Document>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("there is no kind {0:?} of record to read")]
    UnknownKind(String),
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// A sealed field cannot be opened.
    #[error(transparent)]
    Vault(#[from] VaultFault),
    #[error("a read came to an unexpected end; the log says more")]
    Broken,
}

/// A record as the tiers hand it on.
#[derive(Debug)]
pub(super) struct Held {
    pub rev: i64,
    pub complete: bool,
    /// Bytes in memory, roughly.
    pub size: usize,
    at_ms: i64,
    strategy: Option<String>,
    document: Arc<Document>,
}

/// The end of a load: where the record was found, if it is there.
type Loaded = Result<(Tier, Option<Arc<Held>>), ReadError>;
type Key = (u16, String, Ask);

/// Reads records. Clones share everything.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

struct Inner {
    cache: RecordCache,
    store: Store,
    kinds: Arc<Kinds>,
    vault: Arc<Vault>,
    readables: Readables,
    memory: Memory,
    flights: Flights<Key, Loaded>,
    metrics: Vec<RecordCacheMetrics>,
    access: Arc<AccessCounter>,
}

impl Reader {
    /// With a vault that has no keys, a record with sealed fields is an error.
    pub fn new(cache: RecordCache, store: Store, kinds: Arc<Kinds>, vault: Arc<Vault>, settings: &Settings) -> Self {
        let readables = Readables::new(&kinds);
        let metrics = readables.iter().map(|r| RecordCacheMetrics::new(&r.name)).collect();
        let memory = Memory::new(settings.memory.as_u64(), settings.memory_ttl);
        let access = AccessCounter::new(&settings.kinds);
        let flights = Flights::new();
        Self(Arc::new(Inner { cache, store, kinds, vault, readables, memory, flights, metrics, access }))
    }

    /// What it has counted; to be added to the fleet's counts now and then.
    pub fn access(&self) -> &AccessCounter {
        &self.0.access
    }

    /// Every kind that can be read.
    pub fn kinds(&self) -> &Readables {
        &self.0.readables
    }

    /// The record `id` of the kind, from the fastest tier that has it; `None`: there is none.
    ///
    /// # Errors
    /// The kind is unknown, or MongoDB was needed and does not answer. Errors are not remembered.
    pub async fn get(&self, kind: &str, id: &str, ask: Ask) -> Result<Option<Found>, ReadError> {
        let this = &self.0;
        let Some((index, readable)) = this.readables.get(kind) else {
            return Err(ReadError::UnknownKind(kind.to_owned()));
        };
        let index = index as u16;
        if readable.cached.is_some() && !ask.deleted {
            let known = this.known(index, id, ask);
            this.metrics[index as usize].lookup(Tier::Memory, known.is_some());
            if let Some(held) = known {
                this.count(readable, Tier::Memory, &held, ask);
                return this.found(readable, Tier::Memory, held).await;
            }
        }
        let key: Key = (index, id.to_owned(), ask);
        let known = || this.known(index, id, ask).map(|held| Ok((Tier::Memory, held)));
        let load = || {
            let (this, key) = (this.clone(), key.clone());
            async move {
                // Whatever happens, nobody joins a load that has ended.
                let _landing = Landing(&this, &key);
                this.load(&key).await
            }
            .boxed()
        };
        let flight = this.flights.join(key.clone(), known, load, Err(ReadError::Broken));
        let (tier, held) = flight.await?;
        this.count(readable, tier, &held, ask);
        this.found(readable, tier, held).await
    }
}

struct Landing<'a>(&'a Inner, &'a Key);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.flights.landed(self.1);
    }
}

impl Inner {
    /// Who asks for deleted records looks after them, and is no reader to judge a strategy by.
    fn count(&self, readable: &Readable, tier: Tier, held: &Option<Arc<Held>>, ask: Ask) {
        let Some(kind) = readable.cached.as_ref().filter(|_| !ask.deleted) else { return };
        let access = match (held, tier) {
            (None, _) => Access::Absent,
            (Some(_), Tier::Memory) => Access::Memory,
            (Some(_), Tier::Redis) => Access::Redis,
            (Some(_), Tier::MongoDb) => Access::MongoDb,
        };
        self.access.read(kind, access, ask.full);
    }

    /// The answer. No tier holds opened fields: they are opened for each reader.
    async fn found(
        &self,
        readable: &Readable,
        tier: Tier,
        held: Option<Arc<Held>>,
    ) -> Result<Option<Found>, ReadError> {
        let Some(held) = held else { return Ok(None) };
        let mut document = held.document.clone();
        if has_sealed(&document) {
            self.vault.open_document(&readable.collection, Arc::make_mut(&mut document)).await?;
        }
        let age = (clock::now().timestamp_millis() - held.at_ms).max(0) as u64;
        let (complete, strategy) = (held.complete, held.strategy.clone());
        Ok(Some(Found { tier, age: Duration::from_millis(age), complete, strategy, document }))
    }

    /// What memory answers, if it can.
    fn known(&self, index: u16, id: &str, ask: Ask) -> Option<Option<Arc<Held>>> {
        if ask.deleted {
            return None;
        }
        let known = self.memory.get(index, id)?;
        known.as_ref().is_none_or(|held| held.complete || !ask.full).then_some(known)
    }

    async fn load(&self, key: &Key) -> Loaded {
        let (index, id, ask) = key;
        let (Some(readable), metrics) = (self.readables.iter().nth(*index as usize), &self.metrics[*index as usize])
        else {
            return Err(ReadError::Broken);
        };
        let kind = readable.cached.as_ref().and_then(|name| self.kinds.get(name));
        let started = Instant::now();
        if let Some(kind) = kind.filter(|_| !ask.deleted) {
            let held = self.look_in_redis(kind, id, metrics).await.filter(|held| held.complete || !ask.full);
            metrics.lookup(Tier::Redis, held.is_some());
            if let Some(held) = held {
                let held = readable.is(&held.document).then(|| Arc::new(held));
                self.memory.put(*index, id, held.clone(), started);
                return Ok((Tier::Redis, held));
            }
        }
        let (by, at_ms) = (kind.map_or("", |k| &k.by), clock::now().timestamp_millis());
        let document = self.store.record_of(&readable.collection, by, id).await?;
        let visible = |d: &Document| readable.is(d) && (ask.deleted || !cached::is_removed(d));
        let document = document.filter(visible);
        metrics.lookup(Tier::MongoDb, document.is_some());
        let Some(document) = document else {
            if kind.is_some() && !ask.deleted {
                self.memory.put(*index, id, None, started);
            }
            return Ok((Tier::MongoDb, None));
        };
        Ok((Tier::MongoDb, Some(self.held(key, kind, document, at_ms, started).await?)))
    }

    /// The value in Redis; one that cannot be used counts, and is a miss.
    async fn look_in_redis(&self, kind: &Kind, id: &str, metrics: &RecordCacheMetrics) -> Option<Held> {
        let keys = [(&*kind.name, id)];
        let bytes = match tokio::time::timeout(REDIS_WITHIN, self.cache.get(&keys)).await {
            Ok(values) => values.ok()?.pop()??,
            Err(_) => {
                self.cache.answered(false);
                return None;
            }
        };
        match cached::parse(&bytes) {
            Ok(parsed) => Some(Held {
                rev: parsed.header.rev,
                complete: parsed.complete,
                size: bytes.len() * 3,
                at_ms: parsed.header.at,
                strategy: Some(parsed.header.strategy),
                document: Arc::new(parsed.document?),
            }),
            Err(stale) => {
                let event = if stale == Stale::Format { CacheEvent::OtherFormat } else { CacheEvent::Garbage };
                metrics.event(event).increment(1);
                None
            }
        }
    }

    /// A record from MongoDB, shown in the faster tiers as far as it is to be there.
    async fn held(
        &self,
        key: &Key,
        kind: Option<&Kind>,
        mut document: Document,
        at_ms: i64,
        started: Instant,
    ) -> Result<Arc<Held>, ReadError> {
        let (index, id, ask) = key;
        let mut complete = true;
        let mut value = None;
        let mut rev = 0;
        if let Some(kind) = kind {
            rev = kind.rev(&document);
            if kind.wants_interactions(&document) {
                let counts = self.store.interaction_counts(&[id]).await?;
                document.insert(INTERACTION_COUNT, counts.get(id.as_str()).copied().unwrap_or(0));
            }
            value = match kind.plan(&document, at_ms) {
                Plan::Put(cached) => Some(cached),
                Plan::Gone { .. } | Plan::Nothing => None,
            };
            if !ask.full {
                let left_out: Vec<String> =
                    document.keys().filter(|name| kind.is_never_cached(name)).cloned().collect();
                complete = left_out.is_empty();
                left_out.iter().for_each(|name| drop(document.remove(name)));
            }
        }
        document.remove("_sync");
        let strategy = kind.filter(|_| value.is_some()).map(|kind| kind.strategy_name(&document).to_owned());
        // What a full record holds beyond its cached form is not for those who do not ask for it.
        let secret = ask.full && kind.is_some_and(|kind| document.keys().any(|name| kind.is_never_cached(name)));
        let size = serialize_to_vec(&document).map_or(0, |bytes| bytes.len()) * 3;
        let held = Arc::new(Held { rev, complete, size, at_ms, strategy, document: Arc::new(document) });
        if let (Some(kind), Some(cached)) = (kind, value)
            && !ask.deleted
            && started.elapsed() < SLOWEST_FILL
        {
            if !secret {
                self.memory.put(*index, id, Some(held.clone()), started);
            }
            let (id, rev, bytes, ttl) = (cached.id, cached.rev, cached.bytes, cached.ttl);
            let entry = Entry { kind: kind.name.clone(), id, rev, bytes, ttl, is_marker: false, is_new: false };
            self.fill(entry).await;
        }
        Ok(held)
    }

    async fn fill(&self, entry: Entry) {
        if self.cache.is_away() {
            return;
        }
        self.access.note(&entry.kind, Access::Fill, 1);
        if tokio::time::timeout(REDIS_WITHIN, self.cache.put(&[entry])).await.is_err() {
            self.cache.answered(false);
        }
    }
}
