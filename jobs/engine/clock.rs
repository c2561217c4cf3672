//! A run's "now" is only as good as the clocks that it comes from.

use std::time::Duration;

use chrono::TimeDelta;
use mongodb::bson::doc;

use crate::kit::{JobError, Run, from_bson};

/// Ends the run before it begins when the worker's and MongoDB's clock differ by more than `skew`, or when the run's
/// "now" lies further ahead of MongoDB's clock than that: something was set wrong, and nothing is due by a wrong clock.
pub async fn check(run: &Run, skew: Duration) -> Result<(), JobError> {
    let hello = run.call("clock", async { run.db.run_command(doc! { "hello": 1 }).await }).await?;
    let server = hello.get_datetime("localTime").map(|at| from_bson(*at));
    let server = server.map_err(|e| JobError::Failed(anyhow::anyhow!("MongoDB does not tell its time: {e}")))?;
    let skew = TimeDelta::from_std(skew).unwrap_or(TimeDelta::MAX);
    let clocks = run.clocks(server);
    if (clocks.worker - clocks.server).abs() > skew {
        return Err(JobError::Failed(anyhow::anyhow!(
            "the clock of this worker says {} and MongoDB's {}: they differ by more than `policy.skew`, and nothing was \
             changed. Set the clocks right",
            clocks.worker.to_rfc3339(),
            clocks.server.to_rfc3339()
        )));
    }
    if clocks.jumped.abs() > skew {
        return Err(JobError::Failed(anyhow::anyhow!(
            "the clock of this worker has jumped by {} s since it started: nothing was changed. See that the clock is \
             right, and restart the worker",
            clocks.jumped.num_seconds()
        )));
    }
    if run.now - clocks.server > skew {
        return Err(JobError::Failed(anyhow::anyhow!(
            "the run is for {} and MongoDB's clock says {}: nothing was changed. Set the clocks right",
            run.now.to_rfc3339(),
            clocks.server.to_rfc3339()
        )));
    }
    Ok(())
}
