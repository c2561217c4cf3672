//! Links what waits in the audit log, and copies what is new in its chain to a place outside of the database.

use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};

use crate::kit::{Job, JobError, Run, World, chain};

pub const NAME: &str = "audit-anchor";

/// Entries of the log that were copied; in a dry run, that would be.
const COPY: &str = "copy_entries";

/// There is nothing to set but when it runs.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct Settings {}

pub fn job(_settings: Settings, world: World) -> impl Job {
    Anchor { world }
}

struct Anchor {
    world: World,
}

impl Job for Anchor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn actions(&self) -> &'static [&'static str] {
        &[COPY]
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>> {
        self.copy(run).boxed()
    }
}

impl Anchor {
    async fn copy(&self, run: &mut Run) -> Result<(), JobError> {
        let anchors = &*self.world.anchors;
        // Nothing is kept of how far it came: the segments say it.
        run.page(None).await?;
        if run.dry_run {
            let waiting = chain::pending(&run.db, anchors).await?;
            run.outcome.examined += waiting;
            run.outcome.count(COPY, waiting);
            run.outcome.remaining = Some(waiting);
            return Ok(());
        }
        let mut writer = chain::Writer::open(&run.db, self.world.audit_key.as_ref(), anchors).await?;
        loop {
            let entries = writer.segment(run.now).await?;
            run.outcome.examined += entries;
            run.outcome.count(COPY, entries);
            if entries == 0 {
                run.outcome.remaining = Some(0);
                return Ok(());
            }
            run.page(None).await?;
        }
    }
}
