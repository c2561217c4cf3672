//! Finds what writers that were cut off, or that raced a purge, left behind; tells which contents are missing.

use futures::{FutureExt, future::BoxFuture};

use crate::{
    engine::sweep,
    kit::{Job, JobError, Run, World},
};

pub use crate::engine::sweep::Settings;

pub const NAME: &str = "orphan-sweep";

struct OrphanSweep {
    settings: Settings,
    world: World,
}

impl Job for OrphanSweep {
    fn name(&self) -> &'static str {
        NAME
    }

    fn actions(&self) -> &'static [&'static str] {
        &sweep::ACTIONS
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>> {
        sweep::run(&self.world, &self.settings, run).boxed()
    }
}

pub fn job(settings: Settings, world: World) -> impl Job {
    OrphanSweep { settings, world }
}
