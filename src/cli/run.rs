//! `contextd run`: the worker, its signals and its logs.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Failure, Printed};
use crate::{
    config::Config,
    metrics::{Metrics, register_redis_commands},
    pipeline::{self, RunOptions, Signals},
    telemetry,
};

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Work on these queues only.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    queues: Vec<String>,
    /// Leave scheduled jobs to other workers.
    #[arg(long)]
    no_scheduler: bool,
    /// Do not bring indexes and schema up to date at the start.
    #[arg(long)]
    no_migrate: bool,
    /// Exit when all queues are empty, nothing is in flight and nothing is due.
    #[arg(long)]
    until_drained: bool,
}

pub async fn run(args: RunArgs, config: Config) -> Result<Printed, Failure> {
    let telemetry = telemetry::init(&config.log, &config.otlp).map_err(|e| Failure::Configuration(e.to_string()))?;
    let metrics = Metrics::install().map_err(|e| Failure::Internal(e.to_string()))?;
    register_redis_commands(crate::intake::COMMANDS);
    let signals = Signals::default();
    watch(signals.clone()).map_err(|e| Failure::Internal(format!("signals cannot be watched: {e}")))?;
    let options = RunOptions {
        queues: args.queues,
        no_scheduler: args.no_scheduler,
        no_migrate: args.no_migrate,
        until_drained: args.until_drained,
        links: telemetry.exports(),
    };
    let result = pipeline::run(config, options, metrics, signals).await;
    telemetry.shutdown(Duration::from_secs(2)).await;
    result?;
    Ok(Printed { text: String::new(), wrong: None })
}

/// The first SIGTERM or SIGINT drains, the second gives back at once.
pub(super) fn watch(signals: Signals) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for token in [signals.stop, signals.abort] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}
