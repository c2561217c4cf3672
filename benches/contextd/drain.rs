//! How fast the worker drains a backlog, and what each task costs.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use mongodb::bson::{Document, doc};
use serde::Serialize;

use crate::{
    input::{self, Shape},
    proc,
    worker::Worker,
    world::{LIST, STREAM, Servers, Stage, World},
};

/// A drain without progress for this long has failed.
const STALL: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub queue: &'static str,
    pub shape: Shape,
}

impl Case {
    pub const ALL: [Case; 4] = [
        Case { queue: LIST, shape: Shape::Distinct },
        Case { queue: STREAM, shape: Shape::Distinct },
        Case { queue: LIST, shape: Shape::Bursts },
        Case { queue: STREAM, shape: Shape::Bursts },
    ];

    pub fn name(self) -> &'static str {
        match (self.queue == LIST, self.shape) {
            (true, Shape::Distinct) => "list, distinct keys",
            (false, Shape::Distinct) => "stream, distinct keys",
            (true, Shape::Bursts) => "list, bursts of 20",
            (false, Shape::Bursts) => "stream, bursts of 20",
        }
    }
}

/// What a stretch of work took; per task where it says so.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    pub tasks: usize,
    pub seconds: f64,
    pub tasks_per_second: f64,
    /// Microseconds of CPU a task: of the worker or of the bare driver's process.
    pub client_us: f64,
    /// Of the servers; missing when they do not run as plain processes here.
    pub mongodb_us: Option<f64>,
    pub redis_us: Option<f64>,
    /// Cores that were kept busy by processes that have no part in this.
    pub other_cores: f64,
}

impl Cost {
    /// Client and servers together.
    pub fn all_us(&self) -> f64 {
        self.client_us + self.mongodb_us.unwrap_or(f64::NAN) + self.redis_us.unwrap_or(f64::NAN)
    }
}

/// CPU clocks at one moment.
pub struct Clocks {
    at: Instant,
    client: Duration,
    mongodb: Option<Duration>,
    redis: Option<Duration>,
    own: Duration,
    machine: Duration,
}

impl Clocks {
    pub fn read(servers: &Servers, client: Duration) -> Result<Self> {
        let server = |pid: Option<u32>| pid.and_then(|pid| proc::cpu(pid).ok());
        Ok(Self {
            at: Instant::now(),
            client,
            mongodb: server(servers.mongodb),
            redis: server(servers.redis),
            own: proc::own_cpu()?,
            machine: proc::machine_cpu()?,
        })
    }

    /// `client_is_self`: the client's CPU is this process's.
    pub fn cost(&self, end: &Self, tasks: usize, client_is_self: bool) -> Cost {
        let seconds = end.at.duration_since(self.at).as_secs_f64();
        let each = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / tasks as f64;
        let server = |from: Option<Duration>, to: Option<Duration>| Some(each(from?, to?));
        let (mongodb_us, redis_us) = (server(self.mongodb, end.mongodb), server(self.redis, end.redis));
        let client_us = each(self.client, end.client);
        let own_us = if client_is_self { 0.0 } else { each(self.own, end.own) };
        let known = client_us + own_us + mongodb_us.unwrap_or(0.0) + redis_us.unwrap_or(0.0);
        let other = (each(self.machine, end.machine) - known) * tasks as f64 / 1e6 / seconds;
        Cost {
            tasks,
            seconds,
            tasks_per_second: tasks as f64 / seconds,
            client_us,
            mongodb_us,
            redis_us,
            other_cores: other.max(0.0),
        }
    }
}

pub struct Drained {
    pub cost: Cost,
    /// Peak resident memory in bytes, of the whole life of the worker.
    pub peak: u64,
    pub ready_after: Duration,
    /// The documents that were written, when asked for.
    pub documents: Vec<mongodb::bson::RawDocumentBuf>,
}

/// Drains `tasks` tasks from their queue, from the first claim to the last settled batch.
pub fn drain(world: &mut World, case: Case, tasks: usize, keep_documents: bool) -> Result<Drained> {
    let stage = world.stage()?;
    stage.pause(&mut world.redis, case.queue)?;
    let time = input::now();
    let events = (0..tasks).map(|index| input::typing_event(case.shape, index, &time));
    input::push(&mut world.redis, &stage, case.queue, events)?;

    let mut worker = Worker::start(&stage, case.queue, &["--until-drained"])?;
    let ready_after = worker.ready_after;
    let cost = resume_and_wait(world, &stage, case.queue, &mut worker, tasks)?;
    let peak = worker.peak();
    worker.finish()?;
    check_written(world, &stage, case.shape.keys(tasks))?;
    let documents = if keep_documents { documents(world, &stage)? } else { Vec::new() };
    world.clear(&stage)?;
    Ok(Drained { cost, peak, ready_after, documents })
}

/// Lets a paused queue go and measures until nothing is left of its `tasks` tasks.
pub fn resume_and_wait(
    world: &mut World,
    stage: &Stage,
    queue: &str,
    worker: &mut Worker,
    tasks: usize,
) -> Result<Cost> {
    stage.resume(&mut world.redis, queue)?;
    let mut before = Clocks::read(&world.servers, worker.cpu()?)?;
    let mut last = (tasks as u64, Instant::now());
    let mut started = false;
    loop {
        let left = stage.left(&mut world.redis, queue)?;
        // Read before the worker can end: with nothing left it soon does.
        let cpu = worker.cpu();
        worker.peak();
        if left.is_nothing() {
            let end = Clocks::read(&world.servers, cpu?)?;
            return Ok(before.cost(&end, tasks, false));
        }
        if left.waiting < last.0 {
            last = (left.waiting, Instant::now());
        }
        if !started {
            started = left.waiting < tasks as u64 || left.in_flight;
            if !started {
                before = Clocks::read(&world.servers, cpu?)?;
            }
        }
        if last.1.elapsed() > STALL {
            worker.check_alive()?;
            bail!(
                "no progress for {STALL:?} with {} tasks of {queue} waiting; see {}",
                left.waiting,
                stage.log.display()
            );
        }
        sleep(LOOK_EVERY);
    }
}

fn check_written(world: &World, stage: &Stage, expected: usize) -> Result<()> {
    let database = world.database(stage);
    let count = |name: &str| {
        world.runtime.block_on(database.collection::<Document>(name).count_documents(doc! {}).into_future())
    };
    let (written, dead) = (count("typing_contexts")?, count("dead_letters")?);
    if written != expected as u64 || dead != 0 {
        bail!(
            "{expected} documents were due, {written} are there and {dead} dead letters: no figures from wrong results"
        );
    }
    Ok(())
}

fn documents(world: &World, stage: &Stage) -> Result<Vec<mongodb::bson::RawDocumentBuf>> {
    use futures::TryStreamExt;
    let collection = world.database(stage).collection::<mongodb::bson::RawDocumentBuf>("typing_contexts");
    Ok(world.runtime.block_on(async { collection.find(doc! {}).batch_size(5_000).await?.try_collect().await })?)
}
