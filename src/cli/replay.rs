//! `contextd policy replay`: after a restore from a backup, what was destroyed since is destroyed again.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use contextd_jobs::engine::{Engine, Replayed};

use super::{
    erase,
    failure::{Failure, Printed},
};
use crate::{config::Config, lifecycle, store::Store};

#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Only what was destroyed from then on, such as 2026-05-01T00:00:00Z; without it, ever
    #[arg(long, value_name = "TIME")]
    pub since: Option<DateTime<Utc>>,
    /// Say what is there again, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Reads the copies of the audit log and the certificates, and destroys again what is there again. To be run before
/// the workers start on a restored database.
///
/// # Errors
/// The copies cannot be read or do not fit the log, or a store cannot be reached. Items that had to stay are found wrong.
pub async fn replay(args: &ReplayArgs, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let world = lifecycle::world(config).map_err(Failure::Configuration)?;
    let mut run = erase::run(store, now);
    run.dry_run = args.dry_run;
    let settings = &config.jobs.anonymization.settings;
    let done = Engine { world: &world, settings }.replay(&mut run, args.since).await?;
    let mut printed = if args.json { Printed::json(&done)? } else { Printed::text(as_text(&done, args.dry_run)) };
    let left: u64 = done.left.values().sum();
    if left > 0 {
        printed.wrong = Some(format!("{left} of {} items are still there: see why, and run this again", done.again));
    }
    Ok(printed)
}

fn as_text(done: &Replayed, dry: bool) -> String {
    let mut text = format!("{} files outside of the database were read\n", done.files);
    if done.rejoined > 0 {
        let _ = writeln!(text, "{} entries of the audit log were put back", done.rejoined);
    }
    if done.again == 0 {
        text.push_str("nothing that was destroyed is there again\n");
        return text;
    }
    let (head, verb) = if dry { ("are there again", "would go") } else { ("were there again", "went") };
    let _ = writeln!(text, "{} items {head}", done.again);
    for (collection, n) in &done.gone {
        let _ = writeln!(text, "  {collection}: {n} {verb}");
    }
    for (why, n) in &done.left {
        let _ = writeln!(text, "  {n} stay: {why}");
    }
    for item in done.items.iter().take(20) {
        let _ = writeln!(text, "  {item}");
    }
    if done.items.len() > 20 {
        text.push_str("  and more; --json names them\n");
    }
    text
}
