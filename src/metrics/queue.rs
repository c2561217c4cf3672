//! The metrics of one queue, and its ledger.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ::metrics::{Counter, Gauge, Histogram};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    catalogue as c,
    labels::{ErrorClass, Outcome, ReclaimReason, ReturnReason, Trigger},
};
use crate::task::{Priority, Reason};

/// The `type` label of tasks whose type this queue does not know.
pub const UNKNOWN_TYPE: &str = "unknown";

/// What became of the tasks that this process received from one queue.
///
/// `gap` is 0 at any time: a task leaves `in_flight` in the same step in which its end or its return is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    pub received: u64,
    pub written: u64,
    pub duplicate: u64,
    pub superseded: u64,
    pub expired: u64,
    pub dead: u64,
    pub returned: u64,
    pub in_flight: u64,
    /// Received less everything else.
    pub gap: i64,
    /// `received` by task type.
    pub types: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Counts {
    /// One per known type, then the unknown ones.
    received: Vec<u64>,
    finished: [u64; Outcome::ALL.len()],
    returned: [u64; ReturnReason::ALL.len()],
    in_flight: u64,
}

impl Counts {
    fn gap(&self) -> i64 {
        let out = self.finished.iter().chain(&self.returned).sum::<u64>() + self.in_flight;
        self.received.iter().sum::<u64>() as i64 - out as i64
    }
}

/// Handles of one queue's series, resolved once, so that counting looks up no labels.
///
/// The ledger's series are only brought up to date by [`QueueMetrics::publish`] (which `Metrics::render`
/// calls), so that every scrape sees one consistent moment.
pub struct QueueMetrics {
    name: String,
    types: Vec<String>,
    counts: Mutex<Counts>,
    received: Vec<Counter>,
    finished: Vec<Counter>,
    returned: Vec<Counter>,
    in_flight: Gauge,
    gap: Gauge,
    dead: Vec<Counter>,
    failures: Vec<Counter>,
    retries: Vec<Counter>,
    reclaims: Vec<Counter>,
    depth: Vec<Gauge>,
    oldest: Vec<Gauge>,
    wait: Vec<Histogram>,
    end_to_end: Vec<Histogram>,
    delayed: Gauge,
    stream_pending: Gauge,
    dead_letters: Gauge,
    last_progress: Gauge,
    batch_tasks: Histogram,
    batch_bytes: Histogram,
    flushes: Vec<Counter>,
}

impl QueueMetrics {
    /// Registers every series of `queue` with 0; `types` are the task types it takes.
    pub fn new<S: AsRef<str>>(queue: &str, types: &[S]) -> Self {
        let of = |value: &'static str| [("queue", queue), ("outcome", value)];
        let reason = |value: &'static str| [("queue", queue), ("reason", value)];
        let class = |class: &ErrorClass| [("queue", queue), ("class", class.as_str())];
        let priority = |priority: &Priority| [("queue", queue), ("priority", priority.as_str())];
        let only = [("queue", queue)];
        let types: Vec<String> = types.iter().map(|t| t.as_ref().to_owned()).collect();
        let kinds = types.iter().map(String::as_str).chain([UNKNOWN_TYPE]);
        Self {
            received: kinds.map(|kind| c::TASKS_RECEIVED.with(&[("queue", queue), ("type", kind)])).collect(),
            finished: Outcome::ALL.iter().map(|o| c::TASKS_FINISHED.with(&of(o.as_str()))).collect(),
            returned: ReturnReason::ALL.iter().map(|r| c::TASKS_RETURNED.with(&reason(r.as_str()))).collect(),
            in_flight: c::TASKS_IN_FLIGHT.with(&only),
            gap: c::LEDGER_GAP.with(&only),
            dead: Reason::ALL.iter().map(|r| c::TASKS_DEAD.with(&reason(r.as_str()))).collect(),
            failures: ErrorClass::ALL.iter().map(|e| c::TASK_FAILURES.with(&class(e))).collect(),
            retries: ErrorClass::ALL.iter().map(|e| c::TASK_RETRIES.with(&class(e))).collect(),
            reclaims: ReclaimReason::ALL.iter().map(|r| c::TASK_RECLAIMS.with(&reason(r.as_str()))).collect(),
            depth: Priority::ALL.iter().map(|p| c::QUEUE_DEPTH.with(&priority(p))).collect(),
            oldest: Priority::ALL.iter().map(|p| c::QUEUE_OLDEST.with(&priority(p))).collect(),
            wait: Priority::ALL.iter().map(|p| c::TASK_QUEUE_WAIT.with(&priority(p))).collect(),
            end_to_end: Priority::ALL.iter().map(|p| c::TASK_END_TO_END.with(&priority(p))).collect(),
            delayed: c::QUEUE_DELAYED.with(&only),
            stream_pending: c::STREAM_PENDING.with(&only),
            dead_letters: c::DEAD_LETTERS.with(&only),
            last_progress: c::LAST_PROGRESS.with(&only),
            batch_tasks: c::BATCH_SIZE_TASKS.with(&only),
            batch_bytes: c::BATCH_SIZE_BYTES.with(&only),
            flushes: Trigger::ALL
                .iter()
                .map(|t| c::BATCH_FLUSHES.with(&[("queue", queue), ("trigger", t.as_str())]))
                .collect(),
            counts: Mutex::new(Counts { received: vec![0; types.len() + 1], ..Counts::default() }),
            name: queue.to_owned(),
            types,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts tasks as received and in flight; `kinds` are their types, one per task, `None` for one that
    /// cannot be read. What is returned must account for every one of them.
    #[must_use = "dropping it leaves the tasks unaccounted for, which shows as a gap"]
    pub fn received<'a>(self: &Arc<Self>, kinds: impl IntoIterator<Item = Option<&'a str>>) -> Held {
        let mut counts = self.counts();
        let mut tasks = 0;
        for kind in kinds {
            // A queue knows a handful of types: a scan is as fast as a map.
            let known = kind.and_then(|kind| self.types.iter().position(|known| known == kind));
            counts.received[known.unwrap_or(self.types.len())] += 1;
            tasks += 1;
        }
        counts.in_flight += tasks;
        drop(counts);
        Held { queue: Arc::clone(self), tasks }
    }

    /// One consistent moment of the ledger.
    pub fn ledger(&self) -> Ledger {
        let counts = self.counts();
        let finished = |outcome: Outcome| counts.finished[outcome as usize];
        let kinds = self.types.iter().map(String::as_str).chain([UNKNOWN_TYPE]);
        Ledger {
            received: counts.received.iter().sum(),
            written: finished(Outcome::Written),
            duplicate: finished(Outcome::Duplicate),
            superseded: finished(Outcome::Superseded),
            expired: finished(Outcome::Expired),
            dead: finished(Outcome::Dead),
            returned: counts.returned.iter().sum(),
            in_flight: counts.in_flight,
            gap: counts.gap(),
            types: kinds.map(str::to_owned).zip(counts.received.iter().copied()).collect(),
        }
    }

    /// Brings the ledger's series up to date.
    pub fn publish(&self) {
        let counts = self.counts();
        let pairs = self.received.iter().zip(&counts.received);
        let pairs = pairs.chain(self.finished.iter().zip(&counts.finished));
        for (counter, count) in pairs.chain(self.returned.iter().zip(&counts.returned)) {
            counter.absolute(*count);
        }
        self.in_flight.set(counts.in_flight as f64);
        self.gap.set(counts.gap() as f64);
    }

    /// Tasks that became dead letters, beside their outcome in the ledger.
    pub fn dead(&self, reason: Reason) -> &Counter {
        &self.dead[reason as usize]
    }
    pub fn failures(&self, class: ErrorClass) -> &Counter {
        &self.failures[class as usize]
    }
    pub fn retries(&self, class: ErrorClass) -> &Counter {
        &self.retries[class as usize]
    }
    pub fn reclaims(&self, reason: ReclaimReason) -> &Counter {
        &self.reclaims[reason as usize]
    }
    /// Waiting tasks; a stream's count as normal.
    pub fn depth(&self, priority: Priority) -> &Gauge {
        &self.depth[priority as usize]
    }
    /// When the oldest waiting task was made; `None`: none waits, or not known.
    pub fn oldest(&self, priority: Priority, made: Option<DateTime<Utc>>) {
        self.oldest[priority as usize].set(made.map_or(0.0, super::seconds));
    }
    /// Seconds from a task's `time` to its taking.
    pub fn wait(&self, priority: Priority) -> &Histogram {
        &self.wait[priority as usize]
    }
    /// Seconds from a task's `time` to its end.
    pub fn end_to_end(&self, priority: Priority) -> &Histogram {
        &self.end_to_end[priority as usize]
    }
    pub fn delayed(&self) -> &Gauge {
        &self.delayed
    }
    pub fn stream_pending(&self) -> &Gauge {
        &self.stream_pending
    }
    pub fn dead_letters(&self) -> &Gauge {
        &self.dead_letters
    }
    pub fn progress(&self, now: DateTime<Utc>) {
        self.last_progress.set(super::seconds(now));
    }
    /// A batch was closed with this many tasks and bytes of bodies.
    pub fn flushed(&self, trigger: Trigger, tasks: usize, bytes: usize) {
        self.flushes[trigger as usize].increment(1);
        self.batch_tasks.record(tasks as f64);
        self.batch_bytes.record(bytes as f64);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Plain additions under the lock: a panic elsewhere cannot leave them half done.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tasks in flight, to be accounted for one way or another. What is left when it is dropped is no longer
/// in flight and shows as a gap.
#[must_use]
pub struct Held {
    queue: Arc<QueueMetrics>,
    tasks: u64,
}

impl Held {
    /// Tasks not yet accounted for.
    pub fn tasks(&self) -> u64 {
        self.tasks
    }

    pub fn finished(&mut self, outcome: Outcome, tasks: u64) {
        let mut counts = self.queue.counts();
        counts.finished[outcome as usize] += tasks;
        self.tasks = release(&mut counts, self.tasks, tasks);
    }

    pub fn returned(&mut self, reason: ReturnReason, tasks: u64) {
        let mut counts = self.queue.counts();
        counts.returned[reason as usize] += tasks;
        self.tasks = release(&mut counts, self.tasks, tasks);
    }
}

/// Takes `tasks` of the `held` ones out of flight; counting more than are held makes a gap as well.
fn release(counts: &mut Counts, held: u64, tasks: u64) -> u64 {
    let tasks = tasks.min(held);
    counts.in_flight -= tasks;
    held - tasks
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.tasks > 0 {
            self.queue.counts().in_flight -= self.tasks;
        }
    }
}
