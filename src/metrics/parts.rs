//! The metrics of the stores, the analysis, the caches and the scheduled jobs.

use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram};
use chrono::{DateTime, Utc};

use super::{
    catalogue as c,
    labels::{CacheEvent, ErrorClass, JobAction, JobOutcome, Lookup, Tier, WriteOutcome},
};

/// The label value of names that were not announced at construction.
const OTHER: &str = "other";

/// Handles by name; an unannounced name goes to [`OTHER`], so that names cannot grow without bound.
struct Named<T> {
    known: Vec<(&'static str, T)>,
    other: T,
}

impl<T> Named<T> {
    fn new(names: &[&'static str], make: impl Fn(&'static str) -> T) -> Self {
        Self { known: names.iter().map(|name| (*name, make(name))).collect(), other: make(OTHER) }
    }

    fn get(&self, name: &str) -> &T {
        self.known.iter().find(|(known, _)| *known == name).map_or(&self.other, |(_, handle)| handle)
    }
}

pub struct MongoMetrics {
    durations: Named<Vec<Histogram>>,
    errors: Vec<Counter>,
}

impl MongoMetrics {
    /// `collections` are those that are written to.
    pub fn new(collections: &[&'static str]) -> Self {
        let outcomes = |collection: &'static str| {
            let labels = |o: &WriteOutcome| [("collection", collection), ("outcome", o.as_str())];
            WriteOutcome::ALL.iter().map(|o| c::MONGODB_WRITE_DURATION.with(&labels(o))).collect()
        };
        Self {
            durations: Named::new(collections, outcomes),
            errors: ErrorClass::ALL.iter().map(|e| c::MONGODB_WRITE_ERRORS.with(&[("class", e.as_str())])).collect(),
        }
    }

    /// One statement and what came of it.
    pub fn write(&self, collection: &str, outcome: WriteOutcome, took: Duration) {
        self.durations.get(collection)[outcome as usize].record(took);
    }

    pub fn errors(&self, class: ErrorClass) -> &Counter {
        &self.errors[class as usize]
    }
}

/// Makes the series of these commands and scripts exist from the start.
pub fn register_redis_commands(commands: &[&'static str]) {
    for command in commands {
        let _registered = c::REDIS_COMMAND_DURATION.with(&[("command", command)]);
    }
}

/// One command or script was answered, or failed, after `took`. Names are literals, so they are a closed set.
pub fn redis_command(command: &'static str, took: Duration) {
    c::REDIS_COMMAND_DURATION.with(&[("command", command)]).record(took);
}

pub struct AnalysisMetrics(Named<Histogram>);

impl AnalysisMetrics {
    pub fn new(analyzers: &[&'static str]) -> Self {
        Self(Named::new(analyzers, |analyzer| c::ANALYSIS_DURATION.with(&[("analyzer", analyzer)])))
    }

    pub fn analyzed(&self, analyzer: &str, took: Duration) {
        self.0.get(analyzer).record(took);
    }
}

/// Lookups in one cache ("analysis", "block", ...).
pub struct CacheMetrics(Vec<[Counter; 2]>);

impl CacheMetrics {
    pub fn new(cache: &str, tiers: &[Tier]) -> Self {
        let counter = |tier: Tier, result: Lookup| {
            c::CACHE_LOOKUPS.with(&[("cache", cache), ("tier", tier.as_str()), ("result", result.as_str())])
        };
        // A tier the cache does not have counts nowhere and shows no series.
        let of = |tier: &Tier| match tiers.contains(tier) {
            true => [counter(*tier, Lookup::Hit), counter(*tier, Lookup::Miss)],
            false => [Counter::noop(), Counter::noop()],
        };
        Self(Tier::ALL.iter().map(of).collect())
    }

    pub fn lookup(&self, tier: Tier, result: Lookup) -> &Counter {
        &self.0[tier as usize][result as usize]
    }
}

/// One kind of cached record.
pub struct RecordCacheMetrics {
    lookups: CacheMetrics,
    events: Vec<Counter>,
}

impl RecordCacheMetrics {
    /// Kinds come from the configuration: they are a closed set.
    pub fn new(kind: &str) -> Self {
        let event = |e: &CacheEvent| c::CACHE_EVENTS.with(&[("cache", kind), ("event", e.as_str())]);
        Self { lookups: CacheMetrics::new(kind, Tier::ALL), events: CacheEvent::ALL.iter().map(event).collect() }
    }

    pub fn lookup(&self, tier: Tier, is_hit: bool) {
        self.lookups.lookup(tier, if is_hit { Lookup::Hit } else { Lookup::Miss }).increment(1);
    }
    pub fn event(&self, event: CacheEvent) -> &Counter {
        &self.events[event as usize]
    }
}

/// How far the caches are in step with MongoDB.
pub struct SyncMetrics {
    staleness: Histogram,
    entries: Gauge,
    oldest: Gauge,
}

impl SyncMetrics {
    #[expect(clippy::new_without_default, reason = "making it registers series: never by accident")]
    pub fn new() -> Self {
        let oldest = c::KVSHADOW_OLDEST_AGE.with(&[]);
        Self { staleness: c::CACHE_STALENESS.with(&[]), entries: c::KVSHADOW_ENTRIES.with(&[]), oldest }
    }

    /// So many records are in step, this long after MongoDB had them.
    pub fn in_step(&self, records: usize, behind: Duration) {
        self.staleness.record_many(behind.as_secs_f64(), records);
    }

    /// What the fleet has noted, and how long the first of it has been waiting.
    pub fn noted(&self, entries: u64, oldest: Option<chrono::TimeDelta>) {
        self.entries.set(entries as f64);
        self.oldest.set(oldest.map_or(0.0, |age| age.as_seconds_f64().max(0.0)));
    }

    /// So many more, until they are counted again.
    pub fn more_noted(&self, entries: usize) {
        self.entries.increment(entries as f64);
    }
}

/// One scheduled job.
pub struct JobMetrics {
    last_success: Gauge,
    last_completion: Gauge,
    durations: Vec<Histogram>,
    items: Vec<Counter>,
    missed_slots: Counter,
    overlap_skips: Counter,
}

impl JobMetrics {
    pub fn new(job: &str) -> Self {
        let only = [("job", job)];
        let outcome = |o: &JobOutcome| [("job", job), ("outcome", o.as_str())];
        let action = |a: &JobAction| [("job", job), ("action", a.as_str())];
        Self {
            last_success: c::JOB_LAST_SUCCESS.with(&only),
            last_completion: c::JOB_LAST_COMPLETION.with(&only),
            durations: JobOutcome::ALL.iter().map(|o| c::JOB_DURATION.with(&outcome(o))).collect(),
            items: JobAction::ALL.iter().map(|a| c::JOB_ITEMS.with(&action(a))).collect(),
            missed_slots: c::JOB_MISSED_SLOTS.with(&only),
            overlap_skips: c::JOB_OVERLAP_SKIPS.with(&only),
        }
    }

    /// Sets what the run records in MongoDB say, at the start and whenever they are read again.
    pub fn seed(&self, last_success: Option<DateTime<Utc>>, last_completion: Option<DateTime<Utc>>) {
        self.last_success.set(last_success.map_or(0.0, super::seconds));
        self.last_completion.set(last_completion.map_or(0.0, super::seconds));
    }

    /// A run in this process ended at `now`.
    pub fn ran(&self, outcome: JobOutcome, took: Duration, now: DateTime<Utc>) {
        self.durations[outcome as usize].record(took);
        self.last_completion.set(super::seconds(now));
        if outcome == JobOutcome::Success {
            self.last_success.set(super::seconds(now));
        }
    }

    pub fn items(&self, action: JobAction) -> &Counter {
        &self.items[action as usize]
    }
    pub fn missed_slots(&self) -> &Counter {
        &self.missed_slots
    }
    pub fn overlap_skips(&self) -> &Counter {
        &self.overlap_skips
    }
}

/// Whose turn it is.
pub struct SchedulerMetrics(Gauge);

impl SchedulerMetrics {
    #[expect(clippy::new_without_default, reason = "making it registers a series: never by accident")]
    pub fn new() -> Self {
        Self(c::SCHEDULER_LEADER.with(&[]))
    }

    /// Scheduled runs whose lease this process holds.
    pub fn leader(&self) -> &Gauge {
        &self.0
    }
}
