//! The command line: what was asked, who does it, how it ends.

mod check;
pub mod demo;
pub mod failure;
mod migrate;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    config::{self, Config},
    intake::Link,
    store::Store,
};
use failure::{Failure, Printed};

/// The background worker of a context store: takes tasks from Redis, analyses text, writes durable records to MongoDB.
#[derive(Debug, Parser)]
#[command(name = "contextd", version)]
struct Cli {
    /// Settings that differ from the defaults (TOML). The environment (CONTEXTD_...) goes before it.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the worker until SIGTERM or SIGINT.
    Run(run::RunArgs),
    /// Validates configuration and connections, and says what is wrong.
    Check,
    /// Brings indexes and schema up to date.
    Migrate(migrate::MigrateArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    // One TLS provider for both drivers; a second installation would only mean that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("contextd: the async runtime does not start: {e}");
            return ExitCode::from(70);
        }
    };
    let result = runtime.block_on(dispatch(cli));
    // Threads that are still blocked (standard input, a name look-up) do not hold the exit up.
    runtime.shutdown_background();
    finish(result)
}

fn finish(result: Result<Printed, Failure>) -> ExitCode {
    match result {
        Ok(printed) => {
            print_all(&printed.text);
            match printed.wrong {
                None => ExitCode::SUCCESS,
                Some(wrong) => {
                    eprintln!("contextd: {wrong}");
                    ExitCode::from(1)
                }
            }
        }
        Err(failure) => {
            eprintln!("contextd: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Prints to stdout; a reader that has gone away is no error.
fn print_all(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

async fn dispatch(cli: Cli) -> Result<Printed, Failure> {
    let config = config::load(cli.config.as_deref(), config::environment())
        .map_err(|e| Failure::Configuration(e.to_string()))?;
    match cli.command {
        Command::Run(args) => run::run(args, config).await,
        Command::Check => check::check(&config).await,
        Command::Migrate(args) => migrate::migrate(&args, &store(&config).await?).await,
    }
}

fn link(config: &Config) -> Result<Link, Failure> {
    Link::new(&config.redis).map_err(Failure::Configuration)
}

async fn store(config: &Config) -> Result<Store, Failure> {
    Store::new(&config.mongodb).await.map_err(Failure::Configuration)
}
