//! `contextd pause QUEUE` and `contextd resume QUEUE`: for all workers at once.

use chrono::{DateTime, Utc};

use super::{
    failure::{Failure, Printed},
    queues::admin,
};
use crate::{config::Config, intake::Link};

#[derive(Debug, Clone, clap::Args)]
pub struct PauseArgs {
    /// The queue
    pub queue: String,
}

/// No worker takes from the queue any more; what is in flight is finished, producers may push on.
///
/// # Errors
/// An unknown queue, or Redis cannot be asked.
pub async fn pause(args: &PauseArgs, config: &Config, link: &Link, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let name = &args.queue;
    let new = admin(config, link, name)?.pause(now).await?;
    let already = if new { "" } else { " already" };
    Ok(Printed::text(format!("{name} is{already} paused; `contextd resume {name}` lets it go on")))
}

/// # Errors
/// An unknown queue, or Redis cannot be asked.
pub async fn resume(args: &PauseArgs, config: &Config, link: &Link) -> Result<Printed, Failure> {
    let name = &args.queue;
    let paused = admin(config, link, name)?.resume().await?;
    Ok(Printed::text(if paused { format!("{name} goes on") } else { format!("{name} was not paused") }))
}
