//! A batch in flight: what was claimed, what it holds, and what became of it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    intake::{Batch, Leftovers},
    metrics::{Held, Outcome, ReturnReason},
};

/// A claimed batch with its share of the memory budget; the arguments of an apalis task.
#[derive(Clone)]
pub struct Claimed {
    pub batch: Arc<Batch>,
    /// The tasks' place in the ledger, once they are counted; left here so that it outlives a panic.
    pub held: Arc<Mutex<Option<Held>>>,
    _memory: Arc<OwnedSemaphorePermit>,
}

impl Claimed {
    pub fn new(batch: Batch, memory: OwnedSemaphorePermit) -> Self {
        Self { batch: Arc::new(batch), held: Arc::default(), _memory: Arc::new(memory) }
    }

    pub fn hold(&self, held: Held) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    pub fn take_held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What became of a batch: its effects are durable, now Redis may forget it.
#[derive(Debug, Default)]
pub struct Settlement {
    /// How many tasks ended how.
    pub finished: Vec<(Outcome, u64)>,
    /// How many return to wait, and why.
    pub returned: Vec<(ReturnReason, u64)>,
    pub leftovers: Leftovers,
    /// Which ended, for the end-to-end time: (priority, made at, ms since 1970).
    pub made_at: Vec<(crate::task::Priority, i64)>,
}
