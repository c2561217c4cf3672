//! The command line: what was asked, who does it, how it ends.

mod advise;
mod audit;
mod check;
pub(crate) mod compose;
mod content;
mod dead;
pub mod demo;
mod enqueue;
mod erase;
pub mod failure;
mod get;
mod hold;
pub mod jobs;
mod keys;
mod mcp;
mod migrate;
mod pause;
mod plan;
mod policy;
pub(crate) mod queues;
mod replay;
mod run;
pub(crate) mod search;
mod table;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    clock,
    config::{self, Config},
    intake::Link,
    store::Store,
    vault::Vault,
};
use failure::{Failure, Printed};
use policy::PolicyCommand;

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
    /// Pushes one task, or one per line of a .jsonl file.
    Enqueue(enqueue::EnqueueArgs),
    /// Shows what the queues hold.
    Queues(queues::QueuesArgs),
    /// Shows one record, from the fastest tier that has it.
    Get(get::GetArgs),
    /// Stops the whole fleet from taking tasks of a queue.
    Pause(pause::PauseArgs),
    /// Lets the fleet take tasks of a queue again.
    Resume(pause::PauseArgs),
    /// The dead letters: tasks that could not be done.
    #[command(subcommand)]
    Dead(Dead),
    /// Does the main job on the sample input and tells what landed where.
    Demo(demo::DemoArgs),
    /// The scheduled jobs.
    #[command(subcommand)]
    Jobs(Jobs),
    /// Finds contexts and memories by text and by what they are.
    Search(search::SearchArgs),
    /// Shows what a context, memory or document is related to.
    Related(search::RelatedArgs),
    /// Says which cache strategy each kind of record should have, and why.
    Advise(advise::AdviseArgs),
    /// Serves language models by MCP: sessions, interactions, evaluations and memories as tools.
    Mcp(mcp::McpArgs),
    /// The audit log: who did what to whose data.
    #[command(subcommand)]
    Audit(Audit),
    /// The keys of encrypted fields.
    #[command(subcommand)]
    Keys(Keys),
    /// Contents of documents and versions, in their tiers.
    #[command(subcommand)]
    Content(Content),
    /// Legal holds: what they are on is not destroyed.
    #[command(subcommand)]
    Hold(hold::Hold),
    /// Erases a user everywhere, and certifies it.
    #[command(subcommand)]
    Erase(erase::Erase),
    /// The lifecycle policy: which rows meet which end, and when.
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Checks the whole log and its copies; exit status 1 when an entry was altered, removed, put in or moved.
    Verify(audit::VerifyArgs),
    /// Writes its entries as lines of JSON, in the order of their numbers.
    Export(audit::ExportArgs),
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Lists the keys of `encryption.keys` and the data keys that they wrap.
    List {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Wraps every data key with the current key, the first of `encryption.keys`.
    Rotate(keys::RotateArgs),
}

#[derive(Debug, Subcommand)]
enum Content {
    /// Brings the contents of an archived document and of its versions back from the archive tier.
    Unarchive(content::UnarchiveArgs),
}

#[derive(Debug, Subcommand)]
enum Jobs {
    /// Lists them: schedule, time zone, last and next run.
    List {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Runs one now.
    Run(jobs::RunArgs),
}

#[derive(Debug, Subcommand)]
enum Dead {
    /// Lists them, the newest first.
    List(dead::DeadListArgs),
    /// Shows them with their bodies.
    Show(dead::DeadArgs),
    /// Pushes their original bytes to their queues again.
    Requeue(dead::DeadArgs),
    /// Deletes them.
    Purge(dead::DeadArgs),
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
    clock::jumped();
    // One TLS provider for both drivers; a second installation would only mean that it is there already.
    crate::install_tls();
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
        Command::Migrate(args) => migrate::migrate(&args, &config, &store(&config).await?).await,
        Command::Enqueue(args) => {
            let input = enqueue::read(&args.data).await?;
            let new_id = || uuid::Uuid::now_v7().to_string();
            enqueue::enqueue(&args, &input, &config, &link(&config)?, clock::now(), new_id).await
        }
        Command::Queues(args) => queues::queues(&args, &config, &link(&config)?, clock::now()).await,
        Command::Get(args) => get::get(&args, &config, link(&config)?, store(&config).await?, clock::now()).await,
        Command::Pause(args) => pause::pause(&args, &config, &link(&config)?).await,
        Command::Resume(args) => pause::resume(&args, &config, &link(&config)?).await,
        Command::Demo(args) => demo::demo(&args, config, cli.config.as_deref()).await,
        Command::Jobs(Jobs::List { json }) => jobs::list(&config, &store(&config).await?, json).await,
        Command::Jobs(Jobs::Run(args)) => {
            jobs::run(&args, &config, &store(&config).await?, stopped_by_signals()?).await
        }
        Command::Audit(Audit::Verify(args)) => {
            audit::verify(&args, &config, &store(&config).await?, clock::now()).await
        }
        Command::Audit(Audit::Export(args)) => audit::export(&args, &store(&config).await?).await,
        Command::Policy(PolicyCommand::Plan(args)) => {
            let stop = stopped_by_signals()?;
            plan::plan(&args, &config, &store(&config).await?, stop).await
        }
        Command::Policy(PolicyCommand::Apply(args)) => {
            let stop = stopped_by_signals()?;
            plan::apply(&args, &config, &store(&config).await?, stop).await
        }
        Command::Policy(PolicyCommand::Explain(args)) => plan::explain(&args, &config, &store(&config).await?).await,
        Command::Keys(keys) => {
            let vault = Vault::new(&config.encryption, store(&config).await?)?;
            match keys {
                Keys::List { json } => keys::list(&vault, json).await,
                Keys::Rotate(args) => keys::rotate(&args, &vault, clock::now()).await,
            }
        }
        Command::Content(Content::Unarchive(args)) => {
            content::unarchive(&args, &config, &store(&config).await?, clock::now()).await
        }
        Command::Search(args) => {
            let (store, vault) = store_and_vault(&config).await?;
            search::search(&args, &store, &vault).await
        }
        Command::Related(args) => {
            let (store, vault) = store_and_vault(&config).await?;
            search::related(&args, &store, &vault).await
        }
        Command::Advise(args) => advise::advise(&args, &config, &store(&config).await?, clock::now()).await,
        Command::Erase(what) => erase::erase(&what, &config, &store(&config).await?, clock::now()).await,
        Command::Hold(what) => hold::hold(&what, &config, &store(&config).await?, clock::now()).await,
        Command::Policy(PolicyCommand::Replay(args)) => {
            replay::replay(&args, &config, &store(&config).await?, clock::now()).await
        }
        Command::Policy(PolicyCommand::Show { json }) => policy::show(&config.policy, json),
        Command::Mcp(args) => mcp::serve(&args, config).await,
        Command::Dead(dead) => {
            let store = store(&config).await?;
            match dead {
                Dead::List(args) => dead::list(&args, &store, clock::now()).await,
                Dead::Show(args) => dead::show(&args, &store).await,
                Dead::Requeue(args) => dead::requeue(&args, &config, &store, &link(&config)?, clock::now()).await,
                Dead::Purge(args) => dead::purge(&args, &store, clock::now()).await,
            }
        }
    }
}

/// Cancelled by the first signal.
fn stopped_by_signals() -> Result<tokio_util::sync::CancellationToken, Failure> {
    let signals = crate::pipeline::Signals::default();
    run::watch(signals.clone()).map_err(|e| Failure::Internal(format!("signals cannot be watched: {e}")))?;
    Ok(signals.stop)
}

fn link(config: &Config) -> Result<Link, Failure> {
    Link::new(&config.redis).map_err(Failure::Configuration)
}

async fn store(config: &Config) -> Result<Store, Failure> {
    let store = Store::new(&config.mongodb).await.map_err(Failure::Configuration)?;
    Ok(store.with_audit_key(config.audit.secret()))
}

async fn store_and_vault(config: &Config) -> Result<(Store, Vault), Failure> {
    let store = store(config).await?;
    let vault = Vault::new(&config.encryption, store.clone())?;
    Ok((store, vault))
}
