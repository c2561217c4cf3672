//! Which strategy a cached kind should have, judged by how it is read and written. Pure.
//!
//! The classes are those of a store's usual life: records that are looked at while they change, records that are looked
//! at often, records that are evaluated now and then, records that are kept. The thresholds are chosen, not measured;
//! every piece of advice therefore comes with the figures that it rests on.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    config::{CacheKind, Strategy},
    store::{Access, Counted, Counts},
};

/// Fewer reads and writes than this say nothing.
pub const MIN_OPERATIONS: u64 = 100;
/// Nor does a shorter time than this, in hours.
pub const MIN_HOURS: f64 = 0.1;
/// Fewer reads than this for every write: records are kept rather than used.
pub const ARCHIVAL_READS_PER_WRITE: f64 = 0.1;
/// From here on a read finds what an earlier one or a write left in the cache often enough.
pub const FREQUENT_READS_PER_WRITE: f64 = 1.0;
/// One a minute: below, most entries end before they are read again.
pub const FREQUENT_READS_PER_HOUR: f64 = 60.0;
/// Records that change at least once a minute while they are read...
pub const REAL_TIME_WRITES_PER_HOUR: f64 = 60.0;
/// ...and of whose reads at least this share asks for the whole record.
pub const REAL_TIME_WHOLE_SHARE: f64 = 0.5;
/// A cached kind that is read often should answer at least this share of its reads.
pub const GOOD_HIT_RATE: f64 = 0.5;
/// Bytes that Redis needs for a key with a TTL beside key and value: measured with Redis 7.0.15 as the growth of
/// `used_memory` over 20,000 keys of 40 bytes with values of 300.
pub const REDIS_OVERHEAD: f64 = 135.0;
/// What a record's id is taken to add to the length of `NAMESPACE:cache:KIND:`; a UUID has 36 characters.
pub const ID_BYTES: usize = 36;

/// How a kind is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    HighFrequency,
    RealTime,
    Analytical,
    Archival,
}

impl Pattern {
    pub const ALL: [Self; 4] = [Self::HighFrequency, Self::RealTime, Self::Analytical, Self::Archival];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::HighFrequency => "high_frequency",
            Self::RealTime => "real_time",
            Self::Analytical => "analytical",
            Self::Archival => "archival",
        }
    }

    pub fn means(self) -> &'static str {
        match self {
            Self::HighFrequency => "read often: what most reads ask for is cached, which balances speed and memory",
            Self::RealTime => "read whole while it changes: the whole record is cached for a short time",
            Self::Analytical => "read now and then: queries go to MongoDB, at most a little is cached",
            Self::Archival => "written and hardly ever read: nothing is cached",
        }
    }

    /// The strategy of `kind` that suits this pattern.
    pub fn strategy<'k>(self, kind: &str, settings: &'k CacheKind) -> Option<&'k str> {
        let named = match (kind, self) {
            ("session", Self::HighFrequency) => "WITH_CONTEXT",
            ("session", Self::Analytical) => "CRITICAL_ONLY",
            ("interaction", Self::HighFrequency) => "RESPONSE_ONLY",
            _ => "",
        };
        if let Some((name, _)) = settings.strategies.get_key_value(named) {
            return Some(name);
        }
        let ranked = ranked(settings);
        let (none, cached) = ranked.split_at(ranked.iter().take_while(|(_, s)| !caches(s)).count());
        let chosen = match self {
            Self::RealTime => cached.last(),
            Self::HighFrequency => cached.get(cached.len().saturating_sub(1) / 2),
            Self::Analytical | Self::Archival => none.first().or(cached.first()),
        };
        chosen.or(ranked.first()).map(|(name, _)| *name)
    }
}

/// Whether anything is cached under it.
pub fn caches(strategy: &Strategy) -> bool {
    !strategy.ttl.is_zero() && !strategy.fields.is_empty()
}

/// The strategies of a kind by how much they cache, the least first.
fn ranked(settings: &CacheKind) -> Vec<(&str, &Strategy)> {
    let mut all: Vec<(&str, &Strategy)> = settings.strategies.iter().map(|(name, s)| (name.as_str(), s)).collect();
    let amount = |s: &Strategy| match s.fields.iter().any(|f| f == "*") {
        _ if !caches(s) => 0,
        true => usize::MAX,
        false => s.fields.len(),
    };
    all.sort_by_key(|(_, s)| amount(s));
    all
}

/// The strategy of records that name none.
pub fn default_strategy<'k>(settings: &'k CacheKind, environment: &str) -> &'k str {
    settings.environments.get(environment).unwrap_or(&settings.default)
}

/// What is known of a kind.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    pub kind: &'a str,
    pub settings: &'a CacheKind,
    /// `cache.environment`.
    pub environment: &'a str,
    /// Length of the keys' first part, `NAMESPACE:cache:KIND:`.
    pub key_bytes: usize,
    pub counted: Option<Counted>,
    /// Records in the collection.
    pub records: u64,
    /// How many of them were looked at.
    pub sampled: usize,
    /// Mean bytes of the cached value under each strategy, in the order of their names; empty when nothing was sampled.
    pub value_bytes: Vec<(&'a str, f64)>,
}

/// What a strategy would cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    pub strategy: String,
    pub ttl_seconds: u64,
    /// Mean bytes of one entry, with its key and what Redis adds.
    pub entry_bytes: u64,
    /// At most this many entries at a time: a record written twice within the TTL counts twice.
    pub entries: u64,
    pub redis_bytes: u64,
}

/// The figures that the advice rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    pub hours: f64,
    pub reads: u64,
    pub writes: u64,
    pub fills: u64,
    pub memory_hits: u64,
    pub redis_hits: u64,
    pub mongodb_reads: u64,
    pub absent_reads: u64,
    pub whole_reads: u64,
    pub reads_per_hour: f64,
    pub writes_per_hour: f64,
    pub reads_per_write: f64,
    /// The share of reads of existing records that memory or Redis answered.
    pub hit_rate: f64,
    pub whole_share: f64,
    pub records: u64,
    pub sampled: usize,
}

/// Advice on one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Advice {
    pub kind: String,
    pub current: String,
    /// `None`: too little data.
    pub pattern: Option<Pattern>,
    pub advised: Option<String>,
    pub why: String,
    /// What else stands out.
    pub findings: Vec<String>,
    pub figures: Figures,
    /// One for each strategy of the kind; empty without records to look at.
    pub costs: Vec<Cost>,
}

impl Advice {
    pub fn cost(&self, strategy: &str) -> Option<&Cost> {
        self.costs.iter().find(|c| c.strategy == strategy)
    }
}

/// The advice on one kind.
pub fn advise(observed: &Observed<'_>, now: DateTime<Utc>) -> Advice {
    let figures = figures(observed, now);
    let current = default_strategy(observed.settings, observed.environment).to_owned();
    let costs = costs(observed, &figures);
    let (pattern, why) = classify(&figures);
    let advised = pattern.and_then(|p| p.strategy(observed.kind, observed.settings)).map(str::to_owned);
    let findings = findings(&figures, pattern, &current, observed);
    Advice { kind: observed.kind.to_owned(), current, pattern, advised, why, findings, figures, costs }
}

fn figures(observed: &Observed<'_>, now: DateTime<Utc>) -> Figures {
    let counts = observed.counted.map_or(Counts::default(), |c| c.counts);
    let seconds = observed.counted.map_or(0, |c| (now - c.since).num_seconds().max(1));
    let hours = seconds as f64 / 3_600.0;
    let per_hour = |n: u64| if hours > 0.0 { n as f64 / hours } else { 0.0 };
    let share = |part: u64, whole: u64| if whole > 0 { part as f64 / whole as f64 } else { 0.0 };
    let (reads, writes) = (counts.reads(), counts[Access::Write]);
    let hits = counts[Access::Memory] + counts[Access::Redis];
    Figures {
        hours,
        reads,
        writes,
        fills: counts[Access::Fill],
        memory_hits: counts[Access::Memory],
        redis_hits: counts[Access::Redis],
        mongodb_reads: counts[Access::MongoDb],
        absent_reads: counts[Access::Absent],
        whole_reads: counts[Access::Whole],
        reads_per_hour: per_hour(reads),
        writes_per_hour: per_hour(writes),
        reads_per_write: reads as f64 / writes.max(1) as f64,
        hit_rate: share(hits, hits + counts[Access::MongoDb]),
        whole_share: share(counts[Access::Whole].min(reads), reads),
        records: observed.records,
        sampled: observed.sampled,
    }
}

/// The pattern, and why in one sentence.
fn classify(f: &Figures) -> (Option<Pattern>, String) {
    let operations = f.reads + f.writes;
    if operations < MIN_OPERATIONS || f.hours < MIN_HOURS {
        let why = format!(
            "too little data: {operations} reads and writes in {:.1} hours; it takes {MIN_OPERATIONS} in {MIN_HOURS} hours",
            f.hours
        );
        return (None, why);
    }
    let rates = format!("{:.0} reads an hour, {:.1} for every write", f.reads_per_hour, f.reads_per_write);
    if f.reads_per_write < ARCHIVAL_READS_PER_WRITE {
        return (Some(Pattern::Archival), format!("{rates}: under {ARCHIVAL_READS_PER_WRITE}, hardly read"));
    }
    if f.reads_per_write < FREQUENT_READS_PER_WRITE {
        let why = format!("{rates}: under {FREQUENT_READS_PER_WRITE}, most of what is cached is never read");
        return (Some(Pattern::Analytical), why);
    }
    if f.reads_per_hour < FREQUENT_READS_PER_HOUR {
        let why =
            format!("{rates}: under {FREQUENT_READS_PER_HOUR} an hour, most entries end before they are read again");
        return (Some(Pattern::Analytical), why);
    }
    let whole = format!("{:.0} % of reads want the whole record", f.whole_share * 100.0);
    if f.whole_share >= REAL_TIME_WHOLE_SHARE && f.writes_per_hour >= REAL_TIME_WRITES_PER_HOUR {
        let why = format!("{rates}; {whole}, and {:.0} changes an hour come in between", f.writes_per_hour);
        return (Some(Pattern::RealTime), why);
    }
    (Some(Pattern::HighFrequency), format!("{rates}; {whole}"))
}

fn findings(f: &Figures, pattern: Option<Pattern>, current: &str, observed: &Observed<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    let is_cached = observed.settings.strategies.get(current).is_some_and(caches);
    if pattern.is_none() {
        return findings;
    }
    if is_cached && f.reads >= MIN_OPERATIONS && f.hit_rate < GOOD_HIT_RATE {
        findings.push(format!(
            "only {:.0} % of reads are answered from the cache: a longer TTL, or a strategy that holds what is read",
            f.hit_rate * 100.0
        ));
    }
    let is_partial = observed.settings.strategies.get(current).is_some_and(|s| s.fields.iter().all(|f| f != "*"));
    if is_cached && is_partial && f.whole_share >= REAL_TIME_WHOLE_SHARE {
        findings.push(format!(
            "{current} holds a part, and {:.0} % of reads want the whole record, which only MongoDB can give them",
            f.whole_share * 100.0
        ));
    }
    if f.reads >= MIN_OPERATIONS && f.absent_reads * 2 > f.reads {
        findings.push(format!("{} of {} reads ask for records that are not there", f.absent_reads, f.reads));
    }
    findings
}

/// What each strategy would cost. What comes into the cache in a TTL's time is what lies in it.
fn costs(observed: &Observed<'_>, f: &Figures) -> Vec<Cost> {
    // Without caching there are no fills, but every read that MongoDB answered would have been one.
    let entries_per_hour = if f.hours > 0.0 { (f.writes + f.fills.max(f.mongodb_reads)) as f64 / f.hours } else { 0.0 };
    let cost = |(name, value_bytes): &(&str, f64)| {
        let strategy = observed.settings.strategies.get(*name)?;
        let ttl = strategy.ttl.as_secs_f64();
        let is_cached = caches(strategy);
        let entry = if is_cached { value_bytes + (observed.key_bytes + ID_BYTES) as f64 + REDIS_OVERHEAD } else { 0.0 };
        let entries = if is_cached { (entries_per_hour * ttl / 3_600.0).min(f.records as f64).ceil() } else { 0.0 };
        Some(Cost {
            strategy: (*name).to_owned(),
            ttl_seconds: strategy.ttl.as_secs(),
            entry_bytes: entry as u64,
            entries: entries as u64,
            redis_bytes: (entry * entries) as u64,
        })
    };
    observed.value_bytes.iter().filter_map(cost).collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{config::Config, task::attribute::parse_time};

    fn config() -> Config {
        crate::config::load(None, std::iter::empty()).unwrap()
    }

    fn counts(redis: u64, mongodb: u64, whole: u64, writes: u64) -> Counts {
        let mut counts = Counts::default();
        (counts[Access::Redis], counts[Access::MongoDb], counts[Access::Whole]) = (redis, mongodb, whole);
        (counts[Access::Write], counts[Access::Fill]) = (writes, mongodb);
        counts
    }

    /// Advice on what was counted in the last ten hours.
    fn advice(kind: &str, counts: Counts) -> Advice {
        let config = config();
        let now = parse_time("2026-01-31T12:00:00Z").unwrap();
        let settings = &config.cache.kinds[kind];
        let observed = Observed {
            kind,
            settings,
            environment: "",
            key_bytes: 23,
            counted: Some(Counted { counts, since: now - TimeDelta::hours(10) }),
            records: 5_000,
            sampled: 100,
            value_bytes: settings.strategies.keys().map(|name| (name.as_str(), 1_000.0)).collect(),
        };
        advise(&observed, now)
    }

    fn advised(kind: &str, counts: Counts) -> (Option<Pattern>, String) {
        let advice = advice(kind, counts);
        (advice.pattern, advice.advised.unwrap_or_default())
    }

    #[test]
    fn each_pattern_has_its_strategies() {
        let high = counts(50_000, 10_000, 0, 3_000);
        let real_time = counts(50_000, 10_000, 40_000, 3_000);
        let analytical = counts(100, 400, 500, 900);
        let archival = counts(1, 9, 10, 5_000);
        use Pattern::*;
        for (kind, counts, pattern, strategy) in [
            ("session", high, HighFrequency, "WITH_CONTEXT"),
            ("interaction", high, HighFrequency, "RESPONSE_ONLY"),
            ("session", real_time, RealTime, "FULL_SESSION"),
            ("interaction", real_time, RealTime, "FULL_INTERACTION"),
            ("session", analytical, Analytical, "CRITICAL_ONLY"),
            ("interaction", analytical, Analytical, "NONE"),
            ("session", archival, Archival, "NONE"),
            ("interaction", archival, Archival, "NONE"),
            ("document", high, HighFrequency, "FULL"),
            ("document", analytical, Analytical, "NONE"),
            ("ai", high, HighFrequency, "RESPONSE_ONLY"),
            ("ai", real_time, RealTime, "FULL"),
        ] {
            assert_eq!(advised(kind, counts), (Some(pattern), strategy.to_owned()), "{kind}");
        }
    }

    #[test]
    fn the_thresholds_are_where_they_are_said_to_be() {
        let pattern = |counts| advice("session", counts).pattern;
        assert_eq!(pattern(counts(0, 60, 0, 39)), None);
        assert_eq!(pattern(counts(0, 60, 0, 40)), Some(Pattern::Analytical));
        // 60 an hour for ten hours, and as many writes.
        assert_eq!(pattern(counts(600, 0, 0, 600)), Some(Pattern::HighFrequency));
        assert_eq!(pattern(counts(599, 0, 0, 500)), Some(Pattern::Analytical));
        assert_eq!(pattern(counts(600, 0, 0, 601)), Some(Pattern::Analytical));
        assert_eq!(pattern(counts(600, 0, 300, 600)), Some(Pattern::RealTime));
        assert_eq!(pattern(counts(600, 0, 299, 600)), Some(Pattern::HighFrequency));
        assert_eq!(pattern(counts(600, 0, 300, 599)), Some(Pattern::HighFrequency));
        assert_eq!(pattern(counts(100, 0, 0, 1_000)), Some(Pattern::Analytical));
        assert_eq!(pattern(counts(99, 0, 0, 1_000)), Some(Pattern::Archival));
    }

    #[test]
    fn too_little_says_so_and_advises_nothing() {
        let little = advice("session", counts(5, 5, 0, 2));
        assert_eq!((little.pattern, little.advised.as_deref()), (None, None));
        assert!(little.why.contains("too little data: 12 reads and writes in 10.0 hours"), "{}", little.why);
        let config = config();
        let none = Observed {
            kind: "session",
            settings: &config.cache.kinds["session"],
            environment: "production",
            key_bytes: 0,
            counted: None,
            records: 0,
            sampled: 0,
            value_bytes: vec![],
        };
        let none = advise(&none, DateTime::UNIX_EPOCH);
        assert_eq!((none.pattern, none.current.as_str(), none.costs.len()), (None, "WITH_CONTEXT", 0));
        assert!(serde_json::to_string(&none).unwrap().contains("\"hitRate\":0.0"));
    }

    #[test]
    fn memory_is_what_comes_in_during_a_ttl_and_never_more_than_there_is() {
        // 4,000 entries an hour come in: 3,000 writes and 1,000 fills.
        let busy = advice("session", counts(50_000, 10_000, 0, 30_000));
        let cost = |name: &str| busy.cost(name).unwrap().clone();
        assert_eq!((cost("NONE").entries, cost("NONE").redis_bytes), (0, 0));
        assert_eq!((cost("FULL_SESSION").entries, cost("CRITICAL_ONLY").entries), (1_000, 4_000));
        assert_eq!(cost("FULL_SESSION").entry_bytes, 1_000 + 23 + 36 + 135);
        assert_eq!(cost("FULL_SESSION").redis_bytes, 1_194_000);
        let busier = advice("session", counts(500_000, 100_000, 0, 300_000));
        assert_eq!(busier.cost("CRITICAL_ONLY").unwrap().entries, 5_000);
    }

    #[test]
    fn what_stands_out_is_said() {
        let poor = advice("session", counts(100, 9_900, 9_000, 1_000));
        assert_eq!(poor.findings.len(), 2, "{:?}", poor.findings);
        assert!(
            poor.findings[0].starts_with("only 1 % of reads") && poor.findings[1].starts_with("CRITICAL_ONLY holds")
        );
        assert!(advice("session", counts(9_900, 100, 0, 1_000)).findings.is_empty());
    }
}
