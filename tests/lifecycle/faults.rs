//! What happens at the store calls of a run: they are counted, one is cut off, or something else gets in between.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use contextd_jobs::{JobError, kit::Faults};

/// On which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Before,
    /// It took place, and its answer is lost.
    After,
}

/// Counts calls, and from one point on lets none through: as if the process had been killed there.
#[derive(Default)]
pub struct Kill {
    at: Option<(usize, Side)>,
    calls: Mutex<Vec<String>>,
    dead: AtomicBool,
}

impl Kill {
    pub fn at(call: usize, side: Side) -> Self {
        Self { at: Some((call, side)), ..Self::default() }
    }

    /// The calls that were made, in their order.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("not poisoned").clone()
    }

    pub fn happened(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn die(&self, call: &str) -> Result<(), JobError> {
        self.dead.store(true, Ordering::SeqCst);
        Err(JobError::Failed(anyhow::anyhow!("killed at {call}")))
    }
}

impl Faults for Kill {
    fn before(&self, call: &str) -> Result<(), JobError> {
        let number = {
            let mut calls = self.calls.lock().expect("not poisoned");
            calls.push(call.to_owned());
            calls.len() - 1
        };
        if self.happened() || self.at == Some((number, Side::Before)) { self.die(call) } else { Ok(()) }
    }

    fn after(&self, call: &str) -> Result<(), JobError> {
        let number = self.calls.lock().expect("not poisoned").len() - 1;
        if self.happened() || self.at == Some((number, Side::After)) { self.die(call) } else { Ok(()) }
    }
}

/// Does something once, at one point.
pub struct Meanwhile {
    at: (usize, Side),
    seen: Mutex<Vec<String>>,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meanwhile {
    pub fn at(call: usize, side: Side, act: impl FnOnce() + Send + 'static) -> Self {
        Self { at: (call, side), seen: Mutex::default(), act: Mutex::new(Some(Box::new(act))) }
    }

    fn maybe(&self, number: usize, side: Side) {
        if self.at == (number, side)
            && let Some(act) = self.act.lock().expect("not poisoned").take()
        {
            act();
        }
    }
}

impl Faults for Meanwhile {
    fn before(&self, call: &str) -> Result<(), JobError> {
        let number = {
            let mut seen = self.seen.lock().expect("not poisoned");
            seen.push(call.to_owned());
            seen.len() - 1
        };
        self.maybe(number, Side::Before);
        Ok(())
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        let number = self.seen.lock().expect("not poisoned").len() - 1;
        self.maybe(number, Side::After);
        Ok(())
    }
}
