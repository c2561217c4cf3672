//! `contextd migrate`.

use serde_json::json;

use super::failure::{Failure, Printed};
use crate::{clock, config::Config, store::Store};

#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// Only say which steps have been taken; exit status 1 when some are missing.
    #[arg(long)]
    status: bool,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub async fn migrate(args: &MigrateArgs, config: &Config, store: &Store) -> Result<Printed, Failure> {
    store.ping().await?;
    let taken = if args.status { Vec::new() } else { store.migrate(clock::now()).await? };
    let indexes = config.policy.needed_indexes();
    if !args.status {
        store.index(&indexes).await?;
    }
    let status = store.migration_status().await?;
    let missing = store.missing_indexes(&indexes).await?;
    if args.json {
        let missing: Vec<_> = missing.iter().map(|i| json!({ "collection": i.collection, "keys": i.keys })).collect();
        return Printed::json(&json!({ "taken": taken, "migrations": status, "missingIndexes": missing }));
    }
    let mut text = String::new();
    for step in &status {
        let state = match step.applied_at {
            Some(at) => at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            None => "missing".into(),
        };
        text.push_str(&format!("{:<24} {state}\n", step.id));
    }
    for index in &missing {
        text.push_str(&format!("{:<24} missing: an index on {}\n", index.collection, index.keys.join(", ")));
    }
    let mut printed = Printed::text(text);
    if !missing.is_empty() || status.iter().any(|s| s.applied_at.is_none()) {
        printed.wrong = Some("the schema is not up to date: run `contextd migrate`".into());
    }
    Ok(printed)
}
