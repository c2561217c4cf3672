//! Cached records: what a read costs from each tier, what a stampede costs, what writing values costs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use contextd::{
    cache::{Entry, Put, RecordCache},
    config::Config,
    intake::Link,
    metrics::Tier,
    read::{Ask, Reader},
    record::cached::{Kinds, Plan},
    store::Store,
    vault::Vault,
};
use futures::future::join_all;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;

use crate::{
    report::{Report, Target, number},
    world::World,
};

const RECORDS: usize = 2_000;
/// Values written together, as a batch of the worker writes them.
const BATCH: usize = 500;
const READERS: usize = 1_000;

struct Tiers {
    config: Config,
    kinds: Arc<Kinds>,
    cache: RecordCache,
    store: Store,
    vault: Arc<Vault>,
}

impl Tiers {
    fn reader(&self, memory_ttl: Duration) -> Reader {
        let mut settings = self.config.cache.clone();
        settings.memory_ttl = memory_ttl;
        Reader::new(self.cache.clone(), self.store.clone(), self.kinds.clone(), self.vault.clone(), &settings)
    }
}

pub fn measure(world: &mut World, report: &mut Report) -> Result<()> {
    let stage = world.stage()?;
    let config = stage.config()?;
    let database = world.database(&stage);
    world.runtime.block_on(async {
        let kinds = Arc::new(Kinds::new(&config.cache).map_err(|e| anyhow!(e))?);
        let cache = RecordCache::new(Link::new(&config.redis).map_err(|e| anyhow!(e))?, &config.namespace);
        let store = Store::new(&config.mongodb).await.map_err(|e| anyhow!(e))?;
        let sessions: Vec<Document> = (0..RECORDS).map(session).collect();
        database.collection::<Document>("sessions").insert_many(&sessions).await?;
        let vault = Arc::new(Vault::new(&config.encryption, store.clone())?);
        let tiers = Tiers { config, kinds, cache, store, vault };
        reads(&tiers, report).await?;
        stampede(&tiers, report).await?;
        writes(&tiers, &sessions, report).await
    })?;
    world.clear(&stage)
}

/// About a kilobyte, as a chat's session has it; with its context it is cached as a part.
fn session(i: usize) -> Document {
    doc! {
        "_id": format!("session-{i:06}"), "userId": format!("user-{}", i % 97), "status": "active", "state": "active",
        "context": { "task": "an answer to a letter", "turns": (0..8).map(|n| format!("turn {n}: some words of it")).collect::<Vec<_>>() },
        "metadata": { "client": "web", "version": "4.2.1", "note": "x".repeat(300) }, "cacheStrategy": "WITH_CONTEXT",
        "lastActivityAt": DateTime::from_millis(1_769_860_800_000), "_sync": { "rev": 1_i64, "order": 1_i64, "task": "t@/bench" },
    }
}

/// One after the other, in microseconds, sorted.
async fn read_all(reader: &Reader, rounds: usize, expected: Tier) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(rounds * RECORDS);
    for _ in 0..rounds {
        for i in 0..RECORDS {
            let id = format!("session-{i:06}");
            let started = Instant::now();
            let found = reader.get("session", &id, Ask::default()).await?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
            let tier = found.context("the record is there")?.tier;
            anyhow::ensure!(tier == expected, "{id} came from {tier} instead of {expected}");
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

async fn reads(tiers: &Tiers, report: &mut Report) -> Result<()> {
    let none = Duration::ZERO;
    let cold = read_all(&tiers.reader(none), 1, Tier::MongoDb).await?;
    let redis = read_all(&tiers.reader(none), 3, Tier::Redis).await?;
    let warm = tiers.reader(Duration::from_secs(3_600));
    read_all(&warm, 1, Tier::Redis).await?;
    let memory = read_all(&warm, 20, Tier::Memory).await?;
    let note =
        |sorted: &[f64]| format!("p99 {} us, {} reads one after the other", number(at(sorted, 0.99)), sorted.len());
    report.row('t', "a read from memory, p50", at(&memory, 0.5), "us", Target::AtMost(20.0), note(&memory));
    report.row('t', "a read from Redis, p50", at(&redis, 0.5) / 1e3, "ms", Target::AtMost(1.0), note(&redis));
    let what = "a read from MongoDB, p50";
    let told = format!("{}; with counting its interactions and the fill of Redis", note(&cold));
    report.row('t', what, at(&cold, 0.5) / 1e3, "ms", Target::None, told);
    let shares = [&memory, &redis, &cold].map(|sorted| [at(sorted, 0.5), at(sorted, 0.95), at(sorted, 0.99)]);
    report.raw("tierReadsUs", json!({ "p50p95p99": { "memory": shares[0], "redis": shares[1], "mongodb": shares[2] } }))
}

/// All at once, on a key that no tier but MongoDB has.
async fn stampede(tiers: &Tiers, report: &mut Report) -> Result<()> {
    let mut times = Vec::new();
    for i in 0..20 {
        let reader = tiers.reader(Duration::from_secs(2));
        let id = format!("session-{i:06}");
        tiers.cache.gone(&[("session".into(), id.clone(), 1)], 0).await;
        let started = Instant::now();
        let readers = (0..READERS).map(|_| {
            let (reader, id) = (reader.clone(), id.clone());
            tokio::spawn(async move { reader.get("session", &id, Ask::default()).await })
        });
        for found in join_all(readers).await {
            found??.context("the record is there")?;
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let note = format!("until the last of {READERS} has it; slowest of {} {} ms", times.len(), number(at(&times, 1.0)));
    report.row('t', "a stampede on one missing key, p50", at(&times, 0.5), "ms", Target::None, note);
    Ok(())
}

async fn writes(tiers: &Tiers, sessions: &[Document], report: &mut Report) -> Result<()> {
    let kind = tiers.kinds.get("session").context("the kind is declared")?;
    let started = Instant::now();
    let rounds = 20;
    let mut bytes = 0;
    for _ in 0..rounds {
        for document in sessions {
            match kind.plan(document, 1) {
                Plan::Put(cached) => bytes += cached.bytes.len(),
                _ => anyhow::bail!("the record is cached"),
            }
        }
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / (rounds * sessions.len()) as f64;
    let note = format!("{} bytes each", number(bytes as f64 / (rounds * sessions.len()) as f64));
    report.row('t', "making a value", each, "us", Target::None, note);
    for (what, is_new, first) in [
        ("new records, set where nothing is", true, 0),
        ("new records, by the script", false, 1_000_000),
        ("records that are there, by the script", false, 1_000_000),
    ] {
        let mut times = Vec::new();
        for round in 0..40 {
            let entries: Vec<Entry> = (0..BATCH)
                .map(|i| match kind.plan(&session(first + round * BATCH + i), 1) {
                    Plan::Put(c) => Ok(Entry {
                        kind: kind.name.clone(),
                        id: c.id,
                        rev: c.rev,
                        bytes: c.bytes,
                        ttl: c.ttl,
                        is_marker: false,
                        is_new,
                    }),
                    _ => Err(anyhow!("the record is cached")),
                })
                .collect::<Result<_>>()?;
            // The first sessions were read, and are in Redis: what is new begins behind them.
            let entries: Vec<Entry> = entries.into_iter().map(|e| Entry { id: format!("w-{}", e.id), ..e }).collect();
            let started = Instant::now();
            let put = tiers.cache.put(&entries).await;
            times.push(started.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
            anyhow::ensure!(put.iter().all(|put| *put == Put::Stored), "everything is stored");
        }
        times.sort_by(f64::total_cmp);
        let note = format!("batches of {BATCH}; p95 {} us", number(at(&times, 0.95)));
        report.row('t', format!("{what}: a value, p50"), at(&times, 0.5), "us", Target::None, note);
    }
    Ok(())
}
