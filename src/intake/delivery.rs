//! What intake hands over: tasks as they came, and the right to settle them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::task::Priority;

/// One task as it came from Redis.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The original bytes, unchanged. `None`: a stream entry without the field `body`.
    pub body: Option<Bytes>,
    pub priority: Priority,
    /// Failed attempts of its effect so far.
    pub attempts: u32,
    /// How often a worker died while holding it.
    pub crashes: u32,
    /// Tells this element from every other, also from one with the same bytes, across retries and
    /// reclaims: where and when it was first taken, or its stream entry.
    pub identity: String,
}

impl Delivery {
    /// Bytes held in memory for this task.
    pub fn size(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len)
    }
}

/// Where a batch is held in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// A lease on a batch of list elements or delayed tasks.
    Lease { rid: String, token: String },
    /// Pending entries of a stream's consumer.
    Entries { ids: Vec<String>, crashes: u32 },
}

/// The right to settle a batch. It is consumed by settling or giving back.
#[derive(Debug)]
pub struct Ack {
    pub(super) hold: Hold,
    lost: Arc<AtomicBool>,
}

impl Ack {
    pub(super) fn new(hold: Hold) -> Self {
        Self { hold, lost: Arc::new(AtomicBool::new(false)) }
    }

    /// A flag that turns true when another worker has taken the batch over.
    pub fn lost_flag(&self) -> Arc<AtomicBool> {
        self.lost.clone()
    }

    /// Whether another worker has taken the batch over, as far as is known.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// One claimed batch.
#[derive(Debug)]
pub struct Batch {
    pub deliveries: Vec<Delivery>,
    pub ack: Ack,
}

/// What a claim brought.
#[derive(Debug)]
pub enum Claim {
    Batch(Batch),
    Empty,
    Paused,
}

/// How much a claim may take.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub tasks: usize,
    pub bytes: usize,
}

/// Why a task goes back to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// Its effect failed; one more attempt is counted, and it comes back after the delay.
    Retry { after: Duration },
    /// Not its time yet (`notbefore`), in milliseconds since 1970.
    NotBefore { at_ms: i64 },
    /// Nobody's fault: at once.
    Release,
}

/// What is left of a batch when it is settled: index into its deliveries, and why it returns.
/// Everything else has ended and leaves Redis.
#[derive(Debug, Default)]
pub struct Leftovers(pub Vec<(usize, Return)>);

/// Whether a settle took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleAnswer {
    Settled,
    /// The batch is somebody else's by now: its lease had run out.
    Lost,
}
