use futures::{FutureExt, future::BoxFuture};

use super::{Engine, Settings};
use crate::kit::{Job, JobError, Run, World};

/// Every action that a rule can have: an operator may give any rule to any job.
pub const ACTIONS: [&str; 8] =
    ["archive-session", "prune", "mark", "archive", "soft-delete", "purge", "anonymize", "archive-rows"];

/// A job that runs the policy's rules of its name.
pub struct RulesJob {
    pub name: &'static str,
    pub settings: Settings,
    pub world: World,
}

impl Job for RulesJob {
    fn name(&self) -> &'static str {
        self.name
    }

    fn actions(&self) -> &'static [&'static str] {
        &ACTIONS
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>> {
        async move { Engine { world: &self.world, settings: &self.settings }.run(run).await }.boxed()
    }
}
