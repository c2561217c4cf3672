//! One queue at work in this process: claiming within the memory budget, settling, giving back.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::flight::{Claimed, Settlement};
use crate::{
    batch::{Decision, Gate},
    clock,
    config::BatchLimits,
    intake::{Ask, BatchSource, Claim, Fault, QueueAdmin, SettleAnswer},
    metrics::{ErrorClass, QueueMetrics, ReclaimReason, ReturnReason, Trigger},
    retry::Backoff,
    status::Health,
};

/// The memory budget is counted in units of this many bytes.
pub const MEMORY_UNIT: usize = 1024;

pub struct QueueRuntime<S: BatchSource> {
    pub name: String,
    pub source: S,
    pub limits: BatchLimits,
    pub admin: QueueAdmin,
    pub metrics: Arc<QueueMetrics>,
    pub health: Arc<Health>,
    /// Bytes of task bodies that all queues together may hold, in [`MEMORY_UNIT`]s.
    pub memory: Arc<Semaphore>,
    pub memory_units: usize,
    pub poll_min: Duration,
    pub poll_max: Duration,
    /// No new claims.
    pub stop: CancellationToken,
    /// The drain is over: give back whatever is unfinished.
    pub abort: CancellationToken,
    pub idle: Mutex<Idle>,
}

/// How long the queue has been found empty.
pub struct Idle {
    pause: Duration,
    backoff: Backoff,
    gate: Gate,
}

impl Idle {
    pub fn new(limits: &BatchLimits) -> Self {
        Self { pause: Duration::ZERO, backoff: Backoff::new(), gate: Gate::new(limits.tasks, limits.linger) }
    }
}

impl<S: BatchSource> QueueRuntime<S> {
    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Its name among the components of the process's health.
    pub fn component(&self) -> String {
        format!("queue:{}", self.name)
    }

    /// The next batch; `None` after a pause without one, so that the caller can look around.
    pub async fn next_batch(&self) -> Option<Claimed> {
        if self.stop.is_cancelled() {
            return None;
        }
        self.health.beat(&self.component(), Instant::now());
        let bytes = self.limits.bytes.as_u64() as usize;
        let units = bytes.div_ceil(MEMORY_UNIT).clamp(1, self.memory_units);
        let memory = tokio::select! {
            permit = self.memory.clone().acquire_many_owned(units as u32) => permit.ok()?,
            () = self.stop.cancelled() => return None,
        };
        if let Some(pause) = self.linger().await {
            drop(memory);
            self.pause(pause).await;
            return None;
        }
        match self.source.claim(Ask { tasks: self.limits.tasks, bytes }).await {
            Ok(Claim::Batch(batch)) => {
                self.health.ready("redis", clock::now());
                *self.idle() = Idle::new(&self.limits);
                Some(self.claimed(batch, memory, bytes))
            }
            Ok(Claim::Empty | Claim::Paused) => {
                drop(memory);
                self.health.ready("redis", clock::now());
                let pause = {
                    let mut idle = self.idle();
                    idle.backoff.reset();
                    idle.pause = (idle.pause * 2).clamp(self.poll_min, self.poll_max);
                    idle.pause
                };
                self.pause(pause).await;
                None
            }
            Err(fault) => {
                drop(memory);
                let pause = self.redis_failed(&fault);
                self.pause(pause).await;
                None
            }
        }
    }

    fn claimed(&self, batch: crate::intake::Batch, mut memory: OwnedSemaphorePermit, limit: usize) -> Claimed {
        let bytes: usize = batch.deliveries.iter().map(crate::intake::Delivery::size).sum();
        let tasks = batch.deliveries.len();
        let trigger = if self.stop.is_cancelled() {
            Trigger::Shutdown
        } else if tasks >= self.limits.tasks {
            Trigger::Count
        } else if bytes + bytes / tasks.max(1) > limit {
            Trigger::Bytes
        } else {
            Trigger::Time
        };
        self.metrics.flushed(trigger, tasks, bytes);
        if batch.deliveries.iter().any(|d| d.crashes > 0) {
            self.metrics.reclaims(ReclaimReason::LeaseEnded).increment(tasks as u64);
        }
        // What was reserved and is not needed is for the other queues.
        let needed = bytes.div_ceil(MEMORY_UNIT).max(1);
        if needed < memory.num_permits() {
            drop(memory.split(memory.num_permits() - needed));
        }
        Claimed::new(batch, memory)
    }

    /// How long an incomplete batch still waits for more; `None`: claim now.
    async fn linger(&self) -> Option<Duration> {
        if !self.idle().gate.lingers() {
            return None;
        }
        let stats = self.admin.stats(clock::now().timestamp_millis()).await.ok()?;
        let waiting = stats.depth.iter().sum::<u64>() as usize;
        match self.idle().gate.decide(waiting, Instant::now()) {
            Decision::Take => None,
            Decision::Wait(left) => Some(left.min(self.poll_min.max(Duration::from_millis(1)))),
        }
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Notes a failed call and says how long to wait.
    fn redis_failed(&self, fault: &Fault) -> Duration {
        self.health.unready("redis", &fault.to_string(), clock::now());
        self.metrics.failures(fault.class()).increment(1);
        self.idle().backoff.next(rand::random())
    }

    /// Settles a batch whose effects are durable, however long Redis takes.
    pub async fn settle(&self, claimed: &Claimed, settlement: Settlement) {
        let mut again = false;
        let mut backoff = Backoff::new();
        let answer = loop {
            let now_ms = clock::now().timestamp_millis();
            match self.source.settle(&claimed.batch, &settlement.leftovers, now_ms, again).await {
                Ok(answer) => break answer,
                Err(fault) => {
                    self.health.unready("redis", &fault.to_string(), clock::now());
                    again = true;
                    let pause = backoff.next(rand::random());
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        // The lease gives it back; its tasks will be found done.
                        () = self.abort.cancelled() => break SettleAnswer::Lost,
                    }
                }
            }
        };
        let Some(mut held) = claimed.take_held() else { return };
        let now = clock::now();
        self.metrics.progress(now);
        match answer {
            SettleAnswer::Settled => {
                for (outcome, tasks) in settlement.finished {
                    held.finished(outcome, tasks);
                }
                for (reason, tasks) in settlement.returned {
                    held.returned(reason, tasks);
                }
                for (priority, made_at) in settlement.made_at {
                    let ms = (now.timestamp_millis() - made_at).max(0);
                    self.metrics.end_to_end(priority).record(ms as f64 / 1000.0);
                }
            }
            SettleAnswer::Lost => {
                self.metrics.failures(ErrorClass::LeaseLost).increment(1);
                tracing::warn!(
                    queue = self.name,
                    tasks = held.tasks(),
                    "the batch is another worker's by now; its effects are had only once all the same"
                );
                let tasks = held.tasks();
                held.returned(ReturnReason::Release, tasks);
            }
        }
    }

    /// Gives back what the source has read ahead.
    pub async fn close(&self) {
        if let Err(fault) = self.source.close().await {
            tracing::warn!(queue = self.name, %fault, "what was read ahead comes back when its lease ends");
        }
    }

    /// Gives a batch back at once: unfinished (`crashed` false), or because it failed as a whole.
    pub async fn give_back(&self, claimed: &Claimed, crashed: bool) {
        let mut backoff = Backoff::new();
        while let Err(fault) = self.source.hand_back(&claimed.batch.ack, crashed).await {
            self.health.unready("redis", &fault.to_string(), clock::now());
            let pause = backoff.next(rand::random());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.abort.cancelled() => break,
            }
        }
        if let Some(mut held) = claimed.take_held() {
            let tasks = held.tasks();
            held.returned(ReturnReason::Release, tasks);
        }
    }
}

/// Adds up outcomes.
pub fn count<T: PartialEq + Copy>(items: impl IntoIterator<Item = T>) -> Vec<(T, u64)> {
    let mut counts: Vec<(T, u64)> = Vec::new();
    for item in items {
        match counts.iter_mut().find(|(known, _)| *known == item) {
            Some((_, n)) => *n += 1,
            None => counts.push((item, 1)),
        }
    }
    counts
}
