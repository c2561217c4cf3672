//! `contextd demo`: the main job on the sample input, with an account of what landed where.

mod account;
mod aged;
mod drive;
mod findings;
mod next;
mod page;
mod progress;
mod render;
pub mod samples;
mod show;

use std::{path::Path, time::Duration};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use super::{
    failure::{Failure, Printed},
    run,
};
use crate::{
    clock,
    config::{self, Config},
    intake::Link,
    metrics::Metrics,
    pipeline::{self, RunOptions, Signals},
    store::Store,
    telemetry,
};

#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Push nothing: show what the newest analysis of this document says
    #[arg(long, value_name = "DOCUMENT")]
    show: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Pushes the samples, works on them in this process, and tells what became of them. `file` is the settings
/// file that was named, for the commands that are suggested.
///
/// # Errors
/// A service cannot be reached, a queue that is needed is not there or is paused, or it does not finish.
pub async fn demo(args: &DemoArgs, config: Config, file: Option<&Path>) -> Result<Printed, Failure> {
    let started = clock::now();
    let (own, run) = (settings(&config, started)?, run_id(started));
    let telemetry = telemetry::init(&own.log, &own.otlp).map_err(|e| Failure::Configuration(e.to_string()))?;
    let metrics = Metrics::install().map_err(|e| Failure::Internal(e.to_string()))?;
    let link = Link::new(&own.redis).map_err(Failure::Configuration)?;
    let store = Store::new(&own.mongodb).await.map_err(Failure::Configuration)?;
    if let Some(document) = &args.show {
        return show::show(document, args.json, &store).await;
    }
    // Nothing is pushed that could not be worked on.
    link.ping().await.map_err(|fault| unreachable(fault.into()))?;
    store.ping().await.map_err(|fault| unreachable(fault.into()))?;

    let samples = samples::load(&run, started).map_err(|e| Failure::Internal(e.to_string()))?;
    let driver = drive::Driver::new(&samples, &own, &link, metrics.clone(), started).await?;
    driver.push(&samples, false).await?;
    let signals = Signals::default();
    run::watch(signals.clone()).map_err(|e| Failure::Internal(format!("signals cannot be watched: {e}")))?;
    let options = RunOptions {
        queues: driver.queues(),
        no_scheduler: true,
        // What waits for its `notbefore` is waited for, too: the driver decides when it is done.
        until_drained: false,
        no_migrate: false,
        links: telemetry.exports(),
    };
    let mut worker = tokio::spawn(pipeline::run(own, options, metrics.clone(), signals.clone()));
    let driven = tokio::select! {
        driven = driver.drive(&samples) => driven,
        ended = &mut worker => {
            ended.map_err(|e| Failure::Internal(format!("the worker panicked: {e}")))??;
            return Err(Failure::NotFinished("stopped before all samples were done; what is left waits in the queues".into()));
        }
    };
    signals.stop.cancel();
    let ended = worker.await.map_err(|e| Failure::Internal(format!("the worker panicked: {e}")))?;
    telemetry.shutdown(Duration::from_secs(2)).await;
    let driven = driven?;
    ended?;

    let ledgers = metrics.ledgers();
    let aged = aged::age(&config, metrics).await?;
    let mut account = account::Account::gather(run, &samples, driven, ledgers, &store, started).await?;
    account.problems.extend(aged.problems.iter().cloned());
    account.lifecycle = Some(aged);
    let mut printed = if args.json {
        Printed::json(&account)?
    } else {
        let mut page = page::Page::new();
        render::account(&mut page, &account);
        next::steps(&mut page, &config, file, link.address());
        Printed::text(page.finish())
    };
    printed.wrong = match account.problems.len() {
        0 => None,
        n => Some(format!("the demo did not go as expected in {n} point(s): {}", account.problems.join("; "))),
    };
    Ok(printed)
}

/// Part of every id; the ids of later runs sort after it.
fn run_id(started: DateTime<Utc>) -> String {
    format!("demo-{:x}", started.timestamp_millis())
}

/// The settings, with those changed that would disturb the account.
fn settings(config: &Config, started: DateTime<Utc>) -> Result<Config, Failure> {
    let defaults = config::load(None, std::iter::empty()).map_err(|e| Failure::Internal(e.to_string()))?;
    let mut own = config.clone();
    // A worker that is up already keeps the default port.
    if own.http.listen == defaults.http.listen {
        own.http.listen = "127.0.0.1:0".into();
    }
    if own.log.filter == defaults.log.filter {
        own.log.filter = "warn".into();
    }
    // The dictionary is part of what results are kept under: with a word of its own each run does the work
    // again, instead of finding all of it done by the run before.
    own.analysis.dictionary.push(format!("contextd{:x}", started.timestamp_millis()));
    Ok(own)
}

fn unreachable(failure: Failure) -> Failure {
    match failure {
        Failure::Unavailable(text) => {
            Failure::Unavailable(format!("{text}. From a checkout, `make demo` starts private services by itself"))
        }
        other => other,
    }
}

/// To the millisecond, as MongoDB keeps dates.
fn to_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::milliseconds(1)).unwrap_or(at)
}
