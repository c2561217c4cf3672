//! `contextd pause QUEUE` and `contextd resume QUEUE`: for all workers at once.

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
pub async fn pause(args: &PauseArgs, config: &Config, link: &Link) -> Result<Printed, Failure> {
    let name = &args.queue;
    admin(config, link, name)?.pause(true).await?;
    Ok(Printed::text(format!("{name} is paused; `contextd resume {name}` lets it go on")))
}

/// # Errors
/// An unknown queue, or Redis cannot be asked.
pub async fn resume(args: &PauseArgs, config: &Config, link: &Link) -> Result<Printed, Failure> {
    let name = &args.queue;
    admin(config, link, name)?.pause(false).await?;
    Ok(Printed::text(format!("{name} goes on")))
}
