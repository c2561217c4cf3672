//! `contextd audit verify|export`: the audit log's chain.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use chrono::{DateTime, Utc};
use contextd_jobs::{
    JobError,
    kit::{Vaulted, chain},
};

use super::failure::{Failure, Printed};
use crate::{
    config::Config,
    lifecycle::Anchors,
    store::{AuditFilter, Store},
};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct VerifyArgs {
    /// Leave the copies at `audit.url` aside: what they alone show is not found
    #[arg(long)]
    pub no_anchors: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct ExportArgs {
    /// A new file; without it, standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// From this number on
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    pub from: i64,
    /// Only what concerns this: a collection and an id, for instance documents/d-17
    #[arg(long, value_name = "KIND/ID")]
    pub entity: Option<String>,
}

/// Links what waits, and reads the whole log and its copies.
///
/// # Errors
/// The log or a copy cannot be read. What is wrong with them is printed and makes the exit status 1.
pub async fn verify(args: &VerifyArgs, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    store.ping().await?;
    // A log that cannot be linked is looked at all the same: the look says why.
    match store.link_audit().await {
        Err(error) if error.is_transient() => return Err(error.into()),
        _ => {}
    }
    let anchors = (!args.no_anchors).then(|| Anchors::new(&config.audit.url, &config.content));
    let anchors = anchors.as_ref().map(|anchors| anchors as &dyn Vaulted);
    let verdict = chain::verify(store.database(), config.audit.secret().as_ref(), anchors, now).await?;
    let mut printed = if args.json { Printed::json(&verdict)? } else { Printed::text(as_text(&verdict)) };
    if !verdict.is_sound() {
        printed.wrong = Some(match verdict.faults {
            1 => "the audit log is damaged in one place: keep it as it is and find out who wrote to it".to_owned(),
            n => format!("the audit log is damaged in {n} places: keep it as it is and find out who wrote to it"),
        });
    }
    Ok(printed)
}

fn as_text(verdict: &chain::Verdict) -> String {
    let chain::Verdict { entries, waiting, anchors, anchored, faults, told } = verdict;
    let mut text = String::new();
    for line in told {
        text.push_str(line);
        text.push('\n');
    }
    let more = faults.saturating_sub(told.len() as u64);
    if more > 0 {
        text.push_str(&format!("And {more} more.\n"));
    }
    text.push_str(&format!("{entries} entries are linked, {waiting} wait to be linked.\n"));
    match anchors {
        0 => text.push_str("No copy outside of the database was compared.\n"),
        n => text.push_str(&format!("{n} segments outside of the database reach to entry {anchored}.\n")),
    }
    if *faults == 0 {
        text.push_str("Nothing is wrong.\n");
    }
    text
}

/// Links what waits, and writes the linked entries out as they come.
///
/// # Errors
/// The entity is not of the form KIND/ID, the file exists or cannot be written, MongoDB cannot be read.
pub async fn export(args: &ExportArgs, store: &Store) -> Result<Printed, Failure> {
    let entity = match args.entity.as_deref().map(|entity| entity.split_once('/')) {
        None => None,
        Some(Some((kind, id))) if !kind.is_empty() && !id.is_empty() => Some((kind.to_owned(), id.to_owned())),
        Some(_) => {
            let text = "--entity must be a collection and an id with a slash in between, for instance documents/d-17";
            return Err(Failure::Usage(text.into()));
        }
    };
    store.link_audit().await?;
    let mut lines = store.audit_lines(AuditFilter { from: args.from, entity }).await?;
    let mut out: Box<dyn Write + Send> = match &args.out {
        None => Box::new(BufWriter::new(io::stdout())),
        Some(path) => {
            let file = std::fs::File::create_new(path)
                .map_err(|e| Failure::Usage(format!("{} cannot be made: {e}", path.display())))?;
            Box::new(BufWriter::new(file))
        }
    };
    let mut count = 0_u64;
    while let Some(line) = lines.next().await? {
        match writeln!(out, "{line}") {
            Ok(()) => count += 1,
            Err(e) => return ended(args, &e),
        }
    }
    if let Err(e) = out.flush() {
        return ended(args, &e);
    }
    Ok(match &args.out {
        None => Printed { text: String::new(), wrong: None },
        Some(path) => Printed::text(format!("{count} entries are in {}.", path.display())),
    })
}

/// A reader of standard output that has gone away has what it wanted.
fn ended(args: &ExportArgs, e: &io::Error) -> Result<Printed, Failure> {
    match &args.out {
        None if e.kind() == io::ErrorKind::BrokenPipe => Ok(Printed { text: String::new(), wrong: None }),
        None => Err(Failure::Wrong(format!("standard output cannot be written: {e}"))),
        Some(path) => Err(Failure::Wrong(format!("{} cannot be written: {e}", path.display()))),
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Mongo(e) => crate::store::StoreFault::from(e).into(),
            JobError::Outside(e) if e.passes => Failure::Unavailable(e.message),
            JobError::Outside(e) => Failure::Configuration(e.message),
            other if other.is_transient() => Failure::Unavailable(format!("{other}: try again")),
            other => Failure::Wrong(other.to_string()),
        }
    }
}
