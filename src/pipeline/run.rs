//! The worker process: connect, start every part, run until told to stop, drain.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use apalis::layers::WorkerBuilderExt;
use apalis_core::{
    error::BoxDynError,
    monitor::Monitor,
    task::Task,
    worker::{builder::WorkerBuilder, ext::parallelize::ParallelizeExt},
};
use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::Instrument;

use super::{
    backend::SourceBackend,
    connect::Stores,
    error::RunError,
    flight::{Claimed, Settlement},
    process::Processor,
    queue::{Idle, MEMORY_UNIT, QueueRuntime},
    snapshot,
    upkeep::{self, Latest},
};
use crate::{
    cache::{CacheWriter, RecordCache, TypingCache},
    clock,
    config::{Config, Queue, QueueKind},
    content::Content,
    effect::{Analysis, Erasing, Records, TouchGate, Turns},
    intake::{LeaseSource, Link, QueueAdmin, QueueSource, SourceSettings, StreamSource},
    lifecycle,
    metrics::{Metrics, QueueMetrics},
    record::{Registry, cached::Kinds},
    schedule,
    status::{self, Health, Need, StatusState},
    store::Store,
    task::{Decoder, Schemas},
    vault::Vault,
};

/// A loop that has not turned for this long makes the process not live.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// After the drain's deadline: how long giving back may take.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// At the end: how long the last counts of writes may take. They are figures to judge by, and no reason to linger.
const COUNT_WITHIN: Duration = Duration::from_millis(500);

/// What `contextd run` was asked for.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Only these queues; all when empty.
    pub queues: Vec<String>,
    pub no_scheduler: bool,
    pub no_migrate: bool,
    pub until_drained: bool,
    /// Whether spans are exported.
    pub links: bool,
}

/// The worker's signals: no new claims (`stop`), give back what is unfinished (`abort`).
#[derive(Debug, Clone, Default)]
pub struct Signals {
    pub stop: CancellationToken,
    pub abort: CancellationToken,
}

/// Everything that the parts share.
struct Shared {
    config: Config,
    options: RunOptions,
    worker: String,
    link: Link,
    store: Store,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    signals: Signals,
    vault: Arc<Vault>,
    analysis: Arc<Analysis>,
    records: Arc<Records>,
    schemas: Arc<Schemas>,
    queue_metrics: BTreeMap<String, Arc<QueueMetrics>>,
    jobs: Vec<schedule::ScheduledJob>,
    events: Arc<snapshot::JobEvents>,
    memory: Arc<Semaphore>,
    memory_units: usize,
    /// Ends what goes on beside the batches, after the drain.
    done: CancellationToken,
}

/// Runs the worker until `signals.stop`, or until its queues are drained if asked so.
///
/// # Errors
/// Whatever keeps it from starting, and the unexpected end of any part.
pub async fn run(config: Config, options: RunOptions, metrics: Arc<Metrics>, signals: Signals) -> Result<(), RunError> {
    let started = Instant::now();
    let queues = selected(&config, &options)?;
    let schemas = Schemas::of_records(&config.records).map_err(|(_, e)| RunError::Configuration(e))?;
    let schemas = Arc::new(schemas);
    let registry = Registry::new(&config).map_err(|problems| {
        RunError::Configuration(problems.into_iter().map(|(_, e)| e).collect::<Vec<_>>().join("; "))
    })?;
    let types: Vec<String> = schemas.types().map(str::to_owned).collect();
    // Made before anything can be scraped: every series exists from the start.
    let queue_metrics = queues.keys().map(|name| (name.clone(), metrics.queue(name, &types))).collect();
    let world = lifecycle::world(&config).map_err(RunError::Configuration)?;
    let jobs = schedule::jobs(&config.jobs, &world).map_err(|e| RunError::Configuration(e.to_string()))?;
    let events = Arc::new(snapshot::JobEvents::new(&jobs));
    let listener = status::bind(&config.http.listen).await.map_err(|e| RunError::Configuration(e.to_string()))?;
    let link = Link::new(&config.redis).map_err(RunError::Configuration)?;
    let collections = registry.collections();
    let store = Store::with_records(&config.mongodb, &collections).await.map_err(RunError::Configuration)?;
    let store = store.with_audit_key(config.audit.secret());
    let health = Arc::new(Health::new(STUCK_AFTER));
    let reason = |name: &str, address: &str| format!("no answer yet from {name} at {address}");
    health.expect("redis", Need::Required, &reason("Redis", link.address()), clock::now());
    health.expect("mongodb", Need::Required, &reason("MongoDB", store.address()), clock::now());
    health.expect("worker", Need::Required, "starting", clock::now());
    let memory_units = (config.worker.memory.as_u64() as usize).div_ceil(MEMORY_UNIT).max(1);
    let analysis = Arc::new(Analysis::new(&config, link.clone(), store.clone(), health.clone()));
    let vault = Vault::new(&config.encryption, store.clone());
    let vault = Arc::new(vault.map_err(|fault| RunError::Configuration(fault.to_string()))?);
    let limits = &config.limits;
    let content = Content::new(&config.content, Some(vault.clone()))
        .map_err(|fault| RunError::Configuration(fault.to_string()))?;
    // What is to be drained is not kept for a later flush.
    let flush = if options.until_drained { Duration::ZERO } else { limits.records_flush };
    let kinds = Arc::new(Kinds::new(&config.cache).map_err(RunError::Configuration)?);
    let cache = RecordCache::new(link.clone(), &config.namespace);
    let caches = CacheWriter::new(cache, store.clone(), kinds, &config.cache);
    let records = Arc::new(Records {
        registry: Arc::new(registry),
        store: store.clone(),
        content,
        caches: caches.clone(),
        vault: vault.clone(),
        health: health.clone(),
        skew: limits.clock_skew,
        touches: TouchGate::new(flush),
        turns: Turns::default(),
        erasing: Erasing { world: world.clone(), settings: config.jobs.anonymization.settings.clone() },
    });
    let shared = Arc::new(Shared {
        worker: format!("w{:012x}", rand::random::<u64>() & 0xffff_ffff_ffff),
        memory: Arc::new(Semaphore::new(memory_units)),
        memory_units,
        config,
        options,
        link,
        store,
        health,
        metrics,
        signals,
        vault,
        analysis,
        records,
        schemas,
        queue_metrics,
        jobs,
        events,
        done: CancellationToken::new(),
    });
    let latest = Latest::default();
    let server = serve(&shared, listener, &queues, latest.clone());
    let result = shared.work(started, queues, latest).await;
    if shared.options.until_drained {
        // Nobody else may be there to bring the caches in step.
        let _ = tokio::time::timeout(GIVE_BACK, caches.repair_once(clock::now())).await;
    }
    let _ = tokio::time::timeout(COUNT_WITHIN, caches.count(clock::now())).await;
    // Another worker, or the next command that looks at the log, does it as well.
    let _ = tokio::time::timeout(COUNT_WITHIN, shared.store.link_audit()).await;
    shared.done.cancel();
    let _ = tokio::time::timeout(GIVE_BACK, server).await;
    result
}

fn selected(config: &Config, options: &RunOptions) -> Result<BTreeMap<String, Queue>, RunError> {
    if let Some(unknown) = options.queues.iter().find(|name| !config.queues.contains_key(*name)) {
        let known: Vec<&String> = config.queues.keys().collect();
        return Err(RunError::Configuration(format!(
            "there is no queue {unknown:?} in the configuration; there are {known:?}: add a section [queues.{unknown}] or choose one of these"
        )));
    }
    let wanted = |name: &String| options.queues.is_empty() || options.queues.contains(name);
    Ok(config.queues.iter().filter(|(name, _)| wanted(name)).map(|(n, q)| (n.clone(), q.clone())).collect())
}

fn serve(
    shared: &Arc<Shared>,
    listener: tokio::net::TcpListener,
    queues: &BTreeMap<String, Queue>,
    latest: Latest,
) -> JoinHandle<()> {
    let source = snapshot::Source {
        worker: shared.worker.clone(),
        queues: queues.keys().cloned().collect(),
        latest,
        store: shared.store.clone(),
        jobs: shared.jobs.clone(),
        identity: shared.identity(),
    };
    let source = Arc::new(source);
    let state = StatusState {
        health: shared.health.clone(),
        metrics: shared.metrics.clone(),
        snapshot: Arc::new(move || {
            let source = source.clone();
            async move { source.read().await }.boxed()
        }),
    };
    let done = shared.done.clone();
    tokio::spawn(async move {
        if let Err(error) = status::serve(listener, state, done).await {
            tracing::error!(%error, "the HTTP server has ended");
        }
    })
}

impl Shared {
    fn identity(&self) -> schedule::Identity {
        schedule::Identity {
            worker: self.worker.clone(),
            clock: Arc::new(clock::now),
            lease: self.config.schedule.lease,
            timeout: self.config.mongodb.timeout,
        }
    }

    async fn work(
        self: &Arc<Self>,
        started: Instant,
        queues: BTreeMap<String, Queue>,
        latest: Latest,
    ) -> Result<(), RunError> {
        let stores = Stores {
            link: self.link.clone(),
            store: self.store.clone(),
            vault: self.vault.clone(),
            health: self.health.clone(),
            wait: self.config.worker.start_wait,
            migrate: !self.options.no_migrate,
            indexes: self.config.policy.needed_indexes(),
        };
        tokio::select! {
            connected = stores.connect() => connected?,
            () = self.signals.stop.cancelled() => return Ok(()),
        }
        // apalis' monitor waits for all workers; one that ends alone must end the process, so that its
        // supervisor sees it.
        let failed = Arc::new(OnceLock::new());
        let mut monitor = Monitor::new().should_restart({
            let (signals, failed) = (self.signals.clone(), failed.clone());
            move |worker, error| {
                let _ = failed.set(format!("the worker {} ended by itself: {error}", worker.name()));
                signals.stop.cancel();
                false
            }
        });
        let mut measured = Vec::new();
        for (name, queue) in &queues {
            let metrics = self.queue_metrics[name].clone();
            let admin = QueueAdmin::new(self.link.clone(), &self.config.namespace, name, queue.kind);
            measured.push((admin.clone(), metrics.clone()));
            let processor = Arc::new(self.processor(name, queue, &metrics)?);
            let settings = SourceSettings {
                namespace: self.config.namespace.clone(),
                queue: name.clone(),
                worker: self.worker.clone(),
                lease: self.config.worker.lease,
                crash_limit: self.config.retry.crashes,
                low_share: queue.low_share,
            };
            let source = match queue.kind {
                QueueKind::List => QueueSource::List(LeaseSource::new(self.link.clone(), settings, true)),
                QueueKind::Stream => QueueSource::Stream(StreamSource::new(self.link.clone(), settings)),
            };
            monitor = self.register(monitor, source, queue, admin, metrics, processor);
        }
        if queues.contains_key(crate::effect::analyze::QUEUE) {
            self.analysis.warm();
        }
        let measuring =
            upkeep::measure(measured.clone(), self.store.clone(), self.health.clone(), latest, self.done.clone());
        tokio::spawn(measuring);
        tokio::spawn(upkeep::link_audit(self.store.clone(), self.done.clone()));
        let (caches, done) = (self.records.caches.clone(), self.done.clone());
        tokio::spawn(async move { caches.repair(done).await });
        let scheduler = self.schedule().await?;
        let names: Vec<&String> = queues.keys().collect();
        self.health.ready("worker", clock::now());
        tracing::info!(worker = self.worker, queues = ?names, http = self.config.http.listen, ready_ms = started.elapsed().as_millis() as u64, "at work");

        let mut running = tokio::spawn(
            {
                let stop = self.signals.stop.clone();
                monitor.run_with_signal(async move {
                    stop.cancelled().await;
                    Ok(())
                })
            }
            .boxed(),
        );
        tokio::select! {
            // An idle worker ends as soon as it is told to: then both are ready, and the order matters.
            biased;
            () = self.signals.stop.cancelled() => {}
            () = upkeep::drained(&measured), if self.options.until_drained => {
                tracing::info!("all queues are drained");
                self.signals.stop.cancel();
            }
            ended = &mut running => return Err(ended_early(ended)),
        }
        let drained = self.drain(&mut running, scheduler).await;
        failed.get().map_or(drained, |why| Err(RunError::Internal(why.clone())))
    }

    fn processor(&self, name: &str, queue: &Queue, metrics: &Arc<QueueMetrics>) -> Result<Processor, RunError> {
        Ok(Processor {
            queue: name.to_string(),
            decoder: Decoder::new(name, queue, &self.config.limits, self.schemas.clone())
                .map_err(|e| RunError::Configuration(e.to_string()))?,
            store: self.store.clone(),
            typing: TypingCache::new(self.link.clone(), &self.config.namespace, self.config.typing.redis_ttl),
            analysis: self.analysis.clone(),
            records: self.records.clone(),
            retry: self.config.retry.clone(),
            clock_skew: self.config.limits.clock_skew,
            metrics: metrics.clone(),
            health: self.health.clone(),
            abort: self.signals.abort.clone(),
            links: self.options.links,
        })
    }

    fn register(
        &self,
        monitor: Monitor,
        source: QueueSource,
        queue: &Queue,
        admin: QueueAdmin,
        metrics: Arc<QueueMetrics>,
        processor: Arc<Processor>,
    ) -> Monitor {
        let runtime = Arc::new(QueueRuntime {
            name: processor.queue.clone(),
            source,
            limits: queue.batch,
            admin,
            metrics,
            health: self.health.clone(),
            memory: self.memory.clone(),
            memory_units: self.memory_units,
            poll_min: self.config.worker.poll_min,
            poll_max: self.config.worker.poll_max,
            stop: self.signals.stop.clone(),
            abort: self.signals.abort.clone(),
            idle: Mutex::new(Idle::new(&queue.batch)),
        });
        tokio::spawn(upkeep::renew(runtime.clone(), self.config.worker.lease, self.done.clone()));
        let concurrency = queue.concurrency;
        monitor.register(move |_| {
            // Parallelized first: a batch that is cut off from outside does not go on by itself.
            WorkerBuilder::new(format!("queue:{}", runtime.name))
                .backend(SourceBackend::new(runtime.clone()))
                .parallelize(tokio::spawn)
                .concurrency(concurrency)
                .catch_panic()
                .build(Handler { processor: processor.clone() })
        })
    }

    async fn schedule(&self) -> Result<Option<schedule::Handle>, RunError> {
        if self.options.no_scheduler {
            return Ok(None);
        }
        let db = self.store.database();
        let list =
            schedule::list(db, self.identity(), &self.jobs).await.map_err(|e| RunError::Unreachable(e.to_string()))?;
        self.events.seed(&list);
        let handle = schedule::Scheduler::start(db, self.identity(), self.jobs.clone(), self.events.clone())
            .await
            .map_err(|e| RunError::Unreachable(format!("starting the schedule: {e}")))?;
        Ok(Some(handle))
    }

    /// No new claims; what is in flight may finish until the deadline, then it is given back.
    async fn drain(
        &self,
        running: &mut JoinHandle<Result<(), apalis_core::monitor::MonitorError>>,
        scheduler: Option<schedule::Handle>,
    ) -> Result<(), RunError> {
        let drain = self.config.worker.drain;
        tracing::info!(?drain, "stopping: no new claims, finishing what is in flight");
        self.health.unready("worker", "stopping: no new claims, finishing what is in flight", clock::now());
        let stopping = async {
            match scheduler {
                Some(handle) => handle.stop(drain).await,
                None => true,
            }
        };
        let abort = self.signals.abort.clone();
        let deadline = async {
            tokio::select! {
                () = tokio::time::sleep(drain) => tracing::warn!("the drain's deadline has passed: giving back what is unfinished"),
                () = abort.cancelled() => {}
            }
            abort.cancel();
            tokio::time::sleep(GIVE_BACK).await;
        };
        let finished = async {
            let (ended, _) = tokio::join!(&mut *running, stopping);
            ended
        };
        tokio::select! {
            ended = finished => match ended {
                Ok(Ok(())) => {
                    tracing::info!("stopped");
                    Ok(())
                }
                other => Err(ended_early(other)),
            },
            // Leases give back whatever could not be given back by hand.
            () = deadline => {
                tracing::warn!("some batches could not be given back in time; their leases will");
                Ok(())
            }
        }
    }
}

fn ended_early(ended: Result<Result<(), apalis_core::monitor::MonitorError>, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(Ok(())) => RunError::Internal("all workers ended by themselves".into()),
        Ok(Err(e)) => RunError::Internal(format!("a worker ended: {e}")),
        Err(e) => RunError::Internal(format!("the worker runtime panicked: {e}")),
    }
}

/// The innermost service: one batch processed.
#[derive(Clone)]
struct Handler {
    processor: Arc<Processor>,
}

impl Service<Task<Claimed>> for Handler {
    type Response = Settlement;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<Settlement, BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Claimed>) -> Self::Future {
        let processor = self.processor.clone();
        let span = tracing::info_span!("batch", queue = processor.queue, tasks = task.args.batch.deliveries.len());
        async move { Ok(processor.run(&task.args).await) }.instrument(span).boxed()
    }
}
