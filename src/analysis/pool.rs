//! The threads that analyze. They are threads of the operating system, and always the same: the engine keeps models
//! and automata per thread, which are costly to build, and its work must not hold up asynchronous tasks.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{
    Request,
    grammar::{self, BlockCache, CheckTask, Engine, Limits},
    keys::Keys,
    result::Analysis,
    run::{self, Shared},
};
use crate::config;

/// A text with fewer blocks to compute is not worth waking another thread for.
const WORTH_SHARING: usize = 8;

/// Texts waiting per thread; further callers wait before they hand theirs over.
const QUEUED_PER_THREAD: usize = 4;

/// How a pool works. Not `Debug`: it holds a secret.
#[derive(Clone)]
pub struct PoolConfig {
    pub threads: usize,
    /// Longer texts are refused.
    pub text_bytes: u64,
    /// After this long the rest of a text is left unchecked. Exceeded by one block at most, under a second.
    pub time_limit: Duration,
    pub block_cache_bytes: u64,
    pub grammar: grammar::Settings,
    /// Key of the hashes in cache keys; the same on all workers that share a cache.
    pub secret: Vec<u8>,
}

impl PoolConfig {
    pub fn new(settings: &config::Analysis, secret: &[u8]) -> Self {
        let cores = || thread::available_parallelism().map_or(1, usize::from).min(4);
        Self {
            threads: if settings.threads == 0 { cores() } else { settings.threads },
            text_bytes: settings.text_bytes.as_u64(),
            time_limit: settings.time_limit,
            block_cache_bytes: settings.block_cache.as_u64(),
            grammar: grammar::Settings {
                dialect: match settings.dialect {
                    config::Dialect::American => harper_core::Dialect::American,
                    config::Dialect::British => harper_core::Dialect::British,
                    config::Dialect::Canadian => harper_core::Dialect::Canadian,
                    config::Dialect::Australian => harper_core::Dialect::Australian,
                    config::Dialect::Indian => harper_core::Dialect::Indian,
                },
                dictionary: settings.dictionary.clone(),
                matches_per_block: settings.matches_per_block,
            },
            secret: secret.to_vec(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnalysisError {
    /// Permanent: the same text is refused again.
    #[error("the text has {bytes} bytes, more than analysis.text_bytes = {limit} allows")]
    TextTooLarge { bytes: u64, limit: u64 },
    /// A defect of this program that the text brought out; other texts are not affected.
    #[error("the analysis failed unexpectedly on this text")]
    Panicked,
    /// The pool has no threads any more.
    #[error("the analysis has stopped")]
    Stopped,
}

/// A fixed set of threads. They end when the pool is dropped.
pub struct AnalysisPool {
    inner: Arc<Inner>,
    ready: watch::Receiver<bool>,
}

struct Inner {
    shared: Shared,
    text_bytes: u64,
    time_limit: Duration,
    queue: Mutex<Queue>,
    changed: Condvar,
    slots: Arc<Semaphore>,
    ready: watch::Sender<bool>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Texts of other threads that can be helped with.
    tasks: VecDeque<Arc<CheckTask>>,
    /// Threads that wait for something to do.
    idle: usize,
    closed: bool,
}

struct Job {
    request: Request,
    reply: oneshot::Sender<Result<Analysis, AnalysisError>>,
    cancelled: Arc<AtomicBool>,
    queued: Instant,
    _slot: OwnedSemaphorePermit,
}

enum Work {
    Text(Job),
    Blocks(Arc<CheckTask>),
}

impl AnalysisPool {
    /// Starts the threads and returns at once; they load the engine while the first texts already wait.
    pub fn new(config: PoolConfig) -> io::Result<Self> {
        let threads = config.threads.max(1);
        let (sender, ready) = watch::channel(false);
        let inner = Arc::new(Inner {
            shared: Shared {
                keys: Keys::new(&config.secret, &config.grammar.fingerprint()),
                settings: Arc::new(config.grammar),
                cache: BlockCache::new(config.block_cache_bytes),
            },
            text_bytes: config.text_bytes,
            time_limit: config.time_limit,
            queue: Mutex::default(),
            changed: Condvar::new(),
            slots: Arc::new(Semaphore::new(threads * QUEUED_PER_THREAD)),
            ready: sender,
        });
        // Made first: if a thread cannot be started, dropping the pool ends those before it.
        let pool = Self { inner, ready };
        for number in 0..threads {
            let inner = pool.inner.clone();
            // The engine's rules and the Markdown parser recurse; the memory is only taken when it is used.
            let builder = thread::Builder::new().name(format!("analysis-{number}")).stack_size(8 << 20);
            builder.spawn(move || inner.run())?;
        }
        Ok(pool)
    }

    /// Makes the keys under which results of this pool may be cached.
    pub fn keys(&self) -> &Keys {
        &self.inner.shared.keys
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns when the engine is loaded. Texts may be handed over before.
    pub async fn ready(&self) {
        // The sender lives in `inner`, so that waiting cannot fail.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Analyzes one text. When the future is dropped, the work ends before it begins, or after the current block.
    pub async fn analyze(&self, request: Request) -> Result<Analysis, AnalysisError> {
        let (bytes, limit) = (request.text.len() as u64, self.inner.text_bytes);
        if bytes > limit {
            return Err(AnalysisError::TextTooLarge { bytes, limit });
        }
        let slot = self.inner.slots.clone().acquire_owned().await.map_err(|_| AnalysisError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let _cancel = CancelOnDrop(cancelled.clone());
        let job = Job { request, reply, cancelled, queued: Instant::now(), _slot: slot };
        self.inner.queue().jobs.push_back(job);
        self.inner.changed.notify_one();
        answer.await.unwrap_or(Err(AnalysisError::Stopped))
    }
}

impl Drop for AnalysisPool {
    fn drop(&mut self) {
        let mut queue = self.inner.queue();
        queue.closed = true;
        queue.jobs.clear();
        queue.tasks.clear();
        self.inner.changed.notify_all();
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Inner {
    /// What a thread does all its life.
    fn run(&self) {
        let mut engine = Engine::load(self.shared.settings.clone());
        self.ready.send_replace(true);
        while let Some(work) = self.next() {
            match work {
                Work::Text(job) => self.answer(job, &mut engine),
                Work::Blocks(task) => task.work(&mut engine, &self.shared.cache),
            }
        }
    }

    fn answer(&self, job: Job, engine: &mut Engine) {
        let Job { request, reply, cancelled, queued, _slot: slot } = job;
        drop(slot);
        if cancelled.load(Ordering::Relaxed) {
            return;
        }
        let queued_ms = (queued.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        let limits = Limits { deadline: Instant::now() + self.time_limit, cancelled };
        let share = |task: &Arc<CheckTask>| self.share(task);
        let analyze = AssertUnwindSafe(|| run::analyze(&request, engine, &self.shared, limits, share));
        let result = catch_unwind(analyze);
        let result = match result {
            Ok(mut analysis) => {
                analysis.timings.queued_ms = queued_ms;
                Ok(analysis)
            }
            Err(_) => {
                engine.reset();
                Err(AnalysisError::Panicked)
            }
        };
        // Nobody waits any more: nothing to tell.
        let _ = reply.send(result);
    }

    /// Lets idle threads help with a long text.
    fn share(&self, task: &Arc<CheckTask>) {
        let helpers = task.untaken() / WORTH_SHARING;
        if helpers == 0 {
            return;
        }
        let mut queue = self.queue();
        for _ in 0..helpers.min(queue.idle) {
            queue.tasks.push_back(task.clone());
            self.changed.notify_one();
        }
    }

    /// Waits for something to do; `None` when the pool is gone. Whole texts come before helping with one.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(Work::Text(job));
            }
            if let Some(task) = queue.tasks.pop_front() {
                return Some(Work::Blocks(task));
            }
            queue.idle += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing can panic between two changes that belong together.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
