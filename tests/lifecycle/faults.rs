//! What happens at the store calls of a run: they are counted, one is cut off, or something else gets in between.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use contextd_jobs::{JobError, kit::Faults};

/// Which of so many points are tried: about ten, on either side of calls; all of them with CONTEXTD_TEST_POINTS=all
/// (`make kills`).
#[expect(clippy::disallowed_methods, reason = "a test has no configuration to read it from")]
pub fn is_tried(point: usize, of: usize) -> bool {
    let all = std::env::var("CONTEXTD_TEST_POINTS").is_ok_and(|points| points == "all");
    all || point.is_multiple_of((of / 10).max(1) | 1)
}

/// On which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Before,
    /// It took place, and its answer is lost.
    After,
}

/// Counts the points before and after calls, and from one of them on lets nothing through: as if the process had been
/// killed there. Calls may overlap.
#[derive(Default)]
pub struct Kill {
    at: Option<usize>,
    points: Mutex<Vec<(String, Side)>>,
    dead: AtomicBool,
}

impl Kill {
    pub fn at(point: usize) -> Self {
        Self { at: Some(point), ..Self::default() }
    }

    /// The points that were passed, in their order.
    pub fn points(&self) -> Vec<(String, Side)> {
        self.points.lock().expect("not poisoned").clone()
    }

    /// The calls that were made, in their order.
    pub fn calls(&self) -> Vec<String> {
        self.points().into_iter().filter(|(_, side)| *side == Side::Before).map(|(call, _)| call).collect()
    }

    pub fn happened(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn pass(&self, call: &str, side: Side) -> Result<(), JobError> {
        let mut points = self.points.lock().expect("not poisoned");
        if self.at == Some(points.len()) {
            self.dead.store(true, Ordering::SeqCst);
        }
        points.push((call.to_owned(), side));
        if self.happened() { Err(JobError::Failed(anyhow::anyhow!("killed at {call}"))) } else { Ok(()) }
    }
}

impl Faults for Kill {
    fn before(&self, call: &str) -> Result<(), JobError> {
        self.pass(call, Side::Before)
    }

    fn after(&self, call: &str) -> Result<(), JobError> {
        self.pass(call, Side::After)
    }
}

/// Does something once, at one point.
pub struct Meanwhile {
    at: usize,
    seen: Mutex<usize>,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meanwhile {
    pub fn at(point: usize, act: impl FnOnce() + Send + 'static) -> Self {
        Self { at: point, seen: Mutex::default(), act: Mutex::new(Some(Box::new(act))) }
    }

    fn pass(&self) {
        let here = {
            let mut seen = self.seen.lock().expect("not poisoned");
            *seen += 1;
            *seen - 1 == self.at
        };
        let act = if here { self.act.lock().expect("not poisoned").take() } else { None };
        if let Some(act) = act {
            act();
        }
    }
}

impl Faults for Meanwhile {
    fn before(&self, _: &str) -> Result<(), JobError> {
        self.pass();
        Ok(())
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        self.pass();
        Ok(())
    }
}
