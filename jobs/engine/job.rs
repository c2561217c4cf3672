use futures::{FutureExt, future::BoxFuture};

use super::{Engine, Settings};
use crate::kit::{Job, JobError, Run, World, chain};

/// Every action that a rule can have, for an operator may give any rule to any job, and what goes with one.
pub const ACTIONS: [&str; 10] = [
    "archive-session",
    "prune",
    "mark",
    "archive",
    "unarchive",
    "soft-delete",
    "purge",
    "anonymize",
    "archive-rows",
    "archive-end",
];

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
        async move {
            Engine { world: &self.world, settings: &self.settings }.run(run).await?;
            if !run.dry_run {
                evidence(&self.world, run).await;
            }
            Ok(())
        }
        .boxed()
    }
}

/// What was destroyed for good is known outside of the database at once, so that it can be destroyed again after a
/// restore. Everything else waits for the hourly copy, as does what fails here.
async fn evidence(world: &World, run: &Run) {
    let gone: u64 = ["purge", "anonymize"].iter().filter_map(|action| run.outcome.by_action.get(*action)).sum();
    if gone == 0 {
        return;
    }
    let anchored = chain::anchor(&run.db, world.audit_key.as_ref(), world.anchors.as_ref(), run.now).await;
    if let Err(error) = anchored {
        tracing::warn!(job = run.job, %error, "the audit log is not copied yet; the next hourly copy has it");
    }
}
