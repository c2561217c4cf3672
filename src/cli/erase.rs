//! `contextd erase user|certificate`: everything of a user, at once.

use std::{
    fmt::Write,
    io::{BufRead, IsTerminal},
};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use contextd_jobs::{
    Run,
    engine::{Certificate, Engine, Erased, Request},
};
use mongodb::bson::{Bson, Document};
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Printed};
use crate::{config::Config, lifecycle, store::Store};

/// The name under which runs by hand stand in the evidence.
const JOB: &str = "erase";

#[derive(Debug, Subcommand)]
pub enum Erase {
    /// Deletes the user's documents with all that belongs to them, and makes everything else of the user nobody's
    User(UserArgs),
    /// Shows a certificate again
    Certificate(CertificateArgs),
}

#[derive(Debug, Args)]
pub struct UserArgs {
    /// The user's id
    pub id: String,
    /// Why, such as the number of the request; stands in the certificate
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who asks for it, for the certificate and the audit log
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CertificateArgs {
    /// The user's id, or the certificate's
    pub id: String,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Erases a user, or shows what was erased.
///
/// # Errors
/// The user is held or unknown, was not confirmed, or a store cannot be reached.
pub async fn erase(what: &Erase, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    match what {
        Erase::User(args) => user(args, config, store, now).await,
        Erase::Certificate(args) => {
            let run = run(store, now);
            let found = Certificate::find(&run, &args.id).await?;
            match found.last() {
                None => Err(Failure::Wrong(format!("there is no certificate of {:?}", args.id))),
                Some(last) if args.json => Printed::json(&last.json()),
                Some(last) => Ok(Printed::text(as_text(last))),
            }
        }
    }
}

async fn user(args: &UserArgs, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    if !args.yes {
        confirm(&args.id)?;
    }
    let world = lifecycle::world(config).map_err(Failure::Configuration)?;
    let request = Request {
        user: args.id.clone(),
        by: args.by.clone().unwrap_or_else(|| "contextd erase".to_owned()),
        reason: args.reason.clone(),
        at: now,
    };
    let settings = &config.jobs.anonymization.settings;
    let erased = Engine { world: &world, settings }.erase(&run(store, now), &request).await?;
    match erased {
        Erased::Done(certificate) if args.json => Printed::json(&certificate.json()),
        Erased::Done(certificate) => Ok(Printed::text(as_text(&certificate))),
        Erased::Held(by) => Err(Failure::Wrong(format!(
            "the user {:?} is not erased, and nothing was changed: a legal hold is on {}. `contextd hold list` shows the \
             holds",
            args.id,
            by.join(", ")
        ))),
        Erased::Begun(why) => Err(Failure::NotFinished(format!(
            "the erasure of {:?} has begun and cannot end now ({}): run it again; the job `anonymization` goes on with it, too",
            args.id,
            why.as_str()
        ))),
        Erased::Unknown => Err(Failure::Wrong(format!("nothing is there of a user {:?}", args.id))),
    }
}

/// A run of its own, by hand.
pub fn run(store: &Store, now: DateTime<Utc>) -> Run {
    let mut run = Run::new(store.database(), JOB, now, now, CancellationToken::new(), None);
    run.dry_run = false;
    run
}

fn confirm(id: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("an erasure cannot be taken back: say `--yes`".into()));
    }
    eprint!("Everything of the user {id:?} will be destroyed, and cannot be brought back. Type the id to go on: ");
    let mut typed = String::new();
    let read = std::io::stdin().lock().read_line(&mut typed);
    match read {
        Ok(_) if typed.trim() == id => Ok(()),
        _ => Err(Failure::Wrong("it was not confirmed: nothing was changed".into())),
    }
}

/// A certificate for people.
pub fn as_text(certificate: &Certificate) -> String {
    let json = certificate.json();
    let text = |name: &str| json[name].as_str().unwrap_or("-").to_owned();
    let mut out = format!("Certificate of erasure {}\n\n", certificate.id());
    let lines = [
        ("user", text("user")),
        ("asked by", text("requestedBy")),
        ("asked at", text("requestedAt")),
        ("reason", text("reason")),
        ("rule", text("rule")),
        ("policy", text("policy")),
        ("begun", text("startedAt")),
        ("finished", text("finishedAt")),
        ("audit log", format!("entry {} {}", json["audit"]["seq"], json["audit"]["hash"].as_str().unwrap_or("-"))),
    ];
    for (name, value) in lines {
        let _ = writeln!(out, "  {name:<10} {value}");
    }
    out.push_str("\nWhat was changed\n");
    let changed = certificate.0.get_document("changed").cloned().unwrap_or_default();
    for (store, counts) in &changed {
        let counts = counts.as_document().into_iter().flatten().map(|(how, n)| format!("{n} {}", words(how)));
        let _ = writeln!(out, "  {:<20} {}", words(store), counts.collect::<Vec<_>>().join(", "));
    }
    out.push_str("\nWhat remains, and until when\n");
    let remains = certificate.0.get_array("remains").cloned().unwrap_or_default();
    for part in remains.iter().filter_map(Bson::as_document) {
        let _ = writeln!(out, "  {} ({})\n    {}", field(part, "what"), until(part), field(part, "note"));
    }
    out
}

fn field<'d>(part: &'d Document, name: &str) -> &'d str {
    part.get_str(name).unwrap_or_default()
}

fn until(part: &Document) -> String {
    match part.get_datetime("until") {
        Ok(at) => {
            let at = DateTime::<Utc>::from_timestamp_millis(at.timestamp_millis()).unwrap_or_default();
            format!("until {}", at.format("%Y-%m-%d"))
        }
        Err(_) => "without an end of its own".to_owned(),
    }
}

/// `namesRemoved` as words.
fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '_' => out.push(' '),
            c if c.is_uppercase() => out.extend([' ', c.to_ascii_lowercase()]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime as BsonDate, doc};

    use super::*;

    #[test]
    fn a_certificate_is_told_in_words() {
        let at = BsonDate::from_millis(1_780_000_000_000);
        let part = doc! { "what": "backups of MongoDB", "until": at, "note": "Daily." };
        let certificate = Certificate(doc! {
            "_id": "u/1", "user": "u", "requestedBy": "desk", "requestedAt": at, "reason": Bson::Null, "finishedAt": at,
            "changed": { "document_versions": { "deleted": 3_i64, "namesRemoved": 1_i64 } }, "remains": [part],
            "audit": { "seq": 7_i64, "hash": "abc" },
        });
        let text = as_text(&certificate);
        assert!(text.contains("document versions    3 deleted, 1 names removed"), "{text}");
        assert!(text.contains("backups of MongoDB (until 2026-05-28)"), "{text}");
        assert!(text.contains("audit log  entry 7 abc") && text.contains("asked by   desk"), "{text}");
    }
}
