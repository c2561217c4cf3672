//! `[cache]`: kinds and strategies, and how they fit together.

use std::time::Duration;

use bytesize::ByteSize;

use super::Check;
use crate::config::{CacheKind, Config};

/// Names that readers know for something else, or whose keys are another cache's.
const RESERVED: [&str; 6] = ["analysis", "ai_interaction", "hold", "memory", "typing", "version"];
const DAYS_30: Duration = Duration::from_secs(30 * 86_400);

fn is_kind(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Strategies, environments and collections stand in the first line of every cached value.
fn is_word(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn is_field(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('_') && !name.contains(['.', '$'])
}

pub(super) fn cache(config: &Config, check: &mut Check) {
    let cache = &config.cache;
    let environment = &cache.environment;
    let mut environments: Vec<&str> =
        cache.kinds.values().flat_map(|k| k.environments.keys()).map(String::as_str).collect();
    environments.sort_unstable();
    environments.dedup();
    let known = environment.is_empty() || environments.contains(&environment.as_str());
    let must = format!("be empty or one of the environments that the kinds have: {}", environments.join(", "));
    check.must("cache.environment", known, &must);
    check.must("cache.memory", cache.memory >= ByteSize::kib(64), "be at least 64KiB (`memory_ttl = \"0s\"`: none)");
    check.must(
        "cache.memory_ttl",
        cache.memory_ttl <= Duration::from_secs(60),
        "be at most 1m: so late are writes seen",
    );
    let within = Duration::from_millis(1)..=Duration::from_secs(5);
    check.must("cache.sync_within", within.contains(&cache.sync_within), "be from 1ms to 5s");
    check.must("cache.sync_waiting", cache.sync_waiting <= 1_000, "be at most 1000 (0: always by the repair loop)");
    let every = Duration::from_millis(50)..=Duration::from_secs(300);
    check.must("cache.repair_every", every.contains(&cache.repair_every), "be from 50ms to 5m");
    let live = Duration::from_secs(1)..=DAYS_30;
    check.must("cache.live_user", live.contains(&cache.live_user), "be from 1s to 30days");
    check.must("cache.live_anonymous", live.contains(&cache.live_anonymous), "be from 1s to 30days");
    for (name, kind) in &cache.kinds {
        self::kind(name, kind, check);
    }
}

fn kind(name: &str, kind: &CacheKind, check: &mut Check) {
    let at = |key: &str| format!("cache.kinds.{name}.{key}");
    let section = format!("cache.kinds.{name}");
    check.must(&section, is_kind(name), "have a name of 1 to 64 of a-z, 0-9 and _ (it is part of Redis keys)");
    check.must(&section, !RESERVED.contains(&name), "have another name: contextd uses this one itself");
    check.must(&at("collection"), is_word(&kind.collection), "name a collection, in letters, digits and _");
    check.must(&at("by"), kind.by.is_empty() || is_field(&kind.by), "be a field at the top of the record, or empty");
    let never = kind.never.iter().all(|f| is_field(f) && *f != kind.by);
    check.must(&at("never"), never, "hold fields at the top of the record, and not the one in `by`");
    let names = || kind.strategies.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let must = format!("be one of its strategies: {}", names());
    check.must(&at("default"), kind.strategies.contains_key(&kind.default), &must);
    for (environment, strategy) in &kind.environments {
        let path = at(&format!("environments.{environment}"));
        check.must(&path, is_word(environment), "have a name of letters, digits, _ and -");
        check.must(&path, kind.strategies.contains_key(strategy), &must);
    }
    for (strategy, settings) in &kind.strategies {
        let path = |key: &str| at(&format!("strategies.{strategy}{key}"));
        check.must(&path(""), is_word(strategy), "have a name of letters, digits, _ and -");
        let fields = &settings.fields;
        let fits = fields == &["*"] || fields.iter().all(|f| is_field(f) || f == "_id");
        check.must(&path(".fields"), fits, "be [\"*\"] or hold fields at the top of the record");
        if settings.ttl.is_zero() {
            check.must(&path(".ttl"), fields.is_empty(), "be more than 0s, or `fields` be []: nothing is cached then");
        } else {
            let range = Duration::from_secs(1)..=DAYS_30;
            check.must(&path(".ttl"), range.contains(&settings.ttl), "be 0s (nothing is cached) or from 1s to 30days");
            check.must(
                &path(".fields"),
                !fields.is_empty(),
                "hold a field, or `ttl` be \"0s\": nothing is cached then",
            );
        }
    }
}
