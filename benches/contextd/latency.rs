//! From the push of a task until its document is there for a majority, at a steady rate.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use mongodb::{
    Collection,
    bson::{Document, RawDocumentBuf, doc, rawdoc},
};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    input::{self, Shape},
    worker::Worker,
    world::{LIST, STREAM, World},
};

pub const PER_SECOND: usize = 200;
/// Connections and threads are still warming up in the first second; not counted.
const WARM_UP: usize = PER_SECOND;
const LIMIT: Duration = Duration::from_secs(30);

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    fn of(mut latencies: Vec<Duration>) -> Result<Self> {
        if latencies.is_empty() {
            bail!("no latencies were measured");
        }
        latencies.sort();
        let at = |share: f64| {
            let index = ((latencies.len() as f64 * share).ceil() as usize).clamp(1, latencies.len()) - 1;
            latencies[index].as_secs_f64() * 1e3
        };
        Ok(Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) })
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// One write alone, until its majority-journaled acknowledgement.
    pub bare_acknowledged: Percentiles,
    /// The same write, until the change stream shows it.
    pub bare_visible: Percentiles,
    pub list_visible: Percentiles,
    pub stream_visible: Percentiles,
}

pub fn measure(world: &mut World, seconds: usize) -> Result<Latency> {
    let count = WARM_UP + PER_SECOND * seconds;
    let (bare_acknowledged, bare_visible) = bare(world, count)?;
    let list_visible = through_worker(world, LIST, count)?;
    let stream_visible = through_worker(world, STREAM, count)?;
    Ok(Latency { bare_acknowledged, bare_visible, list_visible, stream_visible })
}

fn bare(world: &mut World, count: usize) -> Result<(Percentiles, Percentiles)> {
    let stage = world.stage()?;
    let collection = world.database(&stage).collection::<RawDocumentBuf>("typing_contexts");
    let watcher = Watcher::start(world, &collection, count)?;
    let (sent, acknowledged) = world.runtime.block_on(async {
        let begin = Instant::now();
        let mut writes = Vec::with_capacity(count);
        for index in 0..count {
            tokio::time::sleep_until((begin + due(index)).into()).await;
            let collection = collection.clone();
            writes.push(tokio::spawn(async move {
                let document =
                    rawdoc! { "_id": input::typing_key(index), "sequence": 1_i64, "paragraph": "x".repeat(400) };
                let sent = Instant::now();
                collection.insert_one(document).await.map(|_| (sent, sent.elapsed()))
            }));
        }
        let mut times = (Vec::with_capacity(count), Vec::with_capacity(count));
        for write in writes {
            let (sent, took) = write.await??;
            times.0.push(sent);
            times.1.push(took);
        }
        anyhow::Ok(times)
    })?;
    let visible = watcher.finish(world, &sent)?;
    world.clear(&stage)?;
    Ok((Percentiles::of(acknowledged.into_iter().skip(WARM_UP).collect())?, visible))
}

fn through_worker(world: &mut World, queue: &str, count: usize) -> Result<Percentiles> {
    let stage = world.stage()?;
    let collection = world.database(&stage).collection::<RawDocumentBuf>("typing_contexts");
    let worker = Worker::start(&stage, queue, &[])?;
    let watcher = Watcher::start(world, &collection, count)?;
    let time = input::now();
    let begin = Instant::now();
    let mut sent = Vec::with_capacity(count);
    for index in 0..count {
        let event = input::typing_event(Shape::Distinct, index, &time);
        thread::sleep((begin + due(index)).saturating_duration_since(Instant::now()));
        sent.push(Instant::now());
        input::push(&mut world.redis, &stage, queue, std::iter::once(event))?;
    }
    let visible = watcher.finish(world, &sent)?;
    worker.stop()?;
    world.clear(&stage)?;
    Ok(visible)
}

/// When the `index`-th task is sent, with some jitter, so that nothing falls into step with it.
fn due(index: usize) -> Duration {
    let period = Duration::from_secs(1) / PER_SECOND as u32;
    period * index as u32 + period.mul_f64((input::scatter(index) % 100) as f64 / 100.0)
}

/// Notes when each document appears, by a change stream, which shows what a majority has.
struct Watcher {
    seen: tokio::task::JoinHandle<Result<HashMap<String, Instant>>>,
}

impl Watcher {
    fn start(world: &World, collection: &Collection<RawDocumentBuf>, count: usize) -> Result<Self> {
        let collection = collection.clone_with_type::<Document>();
        let (ready, is_ready) = oneshot::channel();
        let seen = world.runtime.spawn(async move {
            let only_ids = doc! {"$project": {"documentKey": 1, "operationType": 1, "ns": 1}};
            let stream = collection.watch().pipeline([only_ids]).batch_size(1_000).await?;
            let mut stream = stream.with_type::<Document>();
            let _ = ready.send(());
            let mut seen = HashMap::with_capacity(count);
            while seen.len() < count {
                let event = match tokio::time::timeout(LIMIT, stream.next()).await {
                    Ok(event) => event.context("the change stream ended")??,
                    Err(_) => bail!("{} of {count} documents appeared, then none for {LIMIT:?}", seen.len()),
                };
                let now = Instant::now();
                if let Ok(id) = event.get_document("documentKey").and_then(|key| key.get_str("_id")) {
                    seen.entry(id.to_owned()).or_insert(now);
                }
            }
            Ok(seen)
        });
        world.runtime.block_on(is_ready).context("the change stream did not open")?;
        Ok(Self { seen })
    }

    fn finish(self, world: &World, sent: &[Instant]) -> Result<Percentiles> {
        let seen = world.runtime.block_on(self.seen)??;
        let took = sent.iter().enumerate().skip(WARM_UP).map(|(index, sent)| {
            let shown = seen.get(&input::typing_key(index)).with_context(|| format!("task {index} never appeared"))?;
            Ok(shown.saturating_duration_since(*sent))
        });
        Percentiles::of(took.collect::<Result<_>>()?)
    }
}
