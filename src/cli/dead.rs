//! `contextd dead list|show|requeue|purge`: what to do with tasks that were given up.

use std::{collections::BTreeMap, io::IsTerminal};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{
    failure::{Failure, Printed},
    queues::{admin, age},
    table,
};
use crate::{
    config::Config,
    intake::Link,
    store::{DeadFilter, DeadLetter, Store},
    task::{Priority, Reason},
};

/// Letters with their bodies in memory at once.
const PAGE: i64 = 16;
/// Letters deleted in one call.
const PURGE_PAGE: i64 = 1_000;
/// Most letters that `show` prints.
const SHOWN: i64 = 20;
/// Longest body in the output for people, in characters.
const BODY_SHOWN: usize = 4_000;

/// Which dead letters; all when nothing is given.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DeadArgs {
    /// Only those of this queue
    #[arg(long)]
    pub queue: Option<String>,
    /// Only those that died for this reason
    #[arg(long)]
    pub reason: Option<Reason>,
    /// Only the one with this id, or those of the event with this id
    #[arg(long)]
    pub id: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct DeadListArgs {
    #[command(flatten)]
    pub which: DeadArgs,
    /// How many to list, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// How many of the newest to leave out
    #[arg(long, default_value_t = 0)]
    pub skip: u64,
}

impl DeadArgs {
    /// A queue that is not configured any more is no error: its dead letters may still be there.
    fn filter(&self) -> DeadFilter {
        let reason = self.reason.map(|reason| reason.as_str().to_owned());
        DeadFilter { queue: self.queue.clone(), reason, id: self.id.clone(), until: None }
    }

    /// As [`DeadArgs::filter`], without what dies from `now` on: nobody has seen that yet.
    fn filter_until(&self, now: DateTime<Utc>) -> DeadFilter {
        let until = Some(now).filter(|_| self.id.is_none());
        DeadFilter { until, ..self.filter() }
    }
}

/// One page, the newest first.
///
/// # Errors
/// MongoDB cannot be asked.
pub async fn list(args: &DeadListArgs, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let filter = args.which.filter();
    let total = store.dead_count(&filter).await?;
    let letters = store.dead_list(&filter, args.skip, i64::from(args.limit)).await?;
    if args.which.json {
        return Printed::json(&json!({ "total": total, "skip": args.skip, "deadLetters": letters }));
    }
    if total == 0 {
        return Ok(Printed::text("no dead letters"));
    }
    let mut text = render(&letters, now);
    let shown = args.skip + letters.len() as u64;
    if args.skip > 0 || shown < total {
        text.push_str(&format!("\n{} of {total}", letters.len()));
    }
    if shown < total {
        text.push_str(&format!("; --skip {shown} shows the next ones"));
    }
    Ok(Printed::text(text))
}

fn render(letters: &[DeadLetter], now: DateTime<Utc>) -> String {
    let mut table = table::new(&["id", "event", "type", "queue", "reason", "died", "error"]);
    for letter in letters {
        let event = letter.event_id.clone().unwrap_or_else(|| "-".to_owned());
        let kind = letter.r#type.clone().unwrap_or_else(|| "-".to_owned());
        let queue = format!("{} {}", letter.queue, letter.priority);
        let died = format!("{} ago", age(letter.dead_at, now));
        let (reason, error) = (letter.reason.clone(), printable(&letter.error, 300));
        table.add_row([letter.id.clone(), printable(&event, 64), printable(&kind, 64), queue, reason, died, error]);
    }
    table.to_string()
}

/// The letters whole, with their original bytes.
///
/// # Errors
/// There is none, or MongoDB cannot be asked.
pub async fn show(args: &DeadArgs, store: &Store) -> Result<Printed, Failure> {
    if args.id.is_none() && args.queue.is_none() && args.reason.is_none() {
        return Err(Failure::Usage(
            "which one? give --id, or --queue or --reason; `contextd dead list` lists them".into(),
        ));
    }
    let letters = store.dead_page(&args.filter(), None, SHOWN).await?;
    if letters.is_empty() {
        return Err(Failure::Wrong("no dead letter matches; `contextd dead list` lists them".into()));
    }
    if args.json {
        let whole = letters.iter().map(with_body).collect::<Result<Vec<_>, _>>()?;
        return Printed::json(&json!({ "deadLetters": whole }));
    }
    Ok(Printed::text(letters.iter().map(describe).collect::<Vec<_>>().join("\n\n")))
}

fn with_body(letter: &DeadLetter) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(letter).map_err(|e| Failure::Internal(format!("JSON output: {e}")))?;
    value["body"] = String::from_utf8_lossy(&letter.body).into();
    if std::str::from_utf8(&letter.body).is_err() {
        // What is not text is there as it was all the same.
        value["bodyHex"] = letter.body.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    Ok(value)
}

fn describe(letter: &DeadLetter) -> String {
    let or_none = |text: &Option<String>| text.as_deref().map_or("(not known)".to_owned(), |t| printable(t, 300));
    let lines = [
        ("id", letter.id.clone()),
        ("event", or_none(&letter.event_id)),
        ("source", or_none(&letter.source)),
        ("type", or_none(&letter.r#type)),
        ("queue", format!("{}, {}", letter.queue, letter.priority)),
        ("reason", letter.reason.clone()),
        ("error", printable(&letter.error, 2_000)),
        ("died", letter.dead_at.to_rfc3339_opts(SecondsFormat::Secs, true)),
        ("attempts", format!("{}, crashes {}", letter.attempts, letter.crashes)),
        ("body", format!("{} bytes", letter.bytes)),
    ];
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect();
    text.push_str(&printable(&String::from_utf8_lossy(&letter.body), BODY_SHOWN));
    text
}

/// Without control characters, which would act on the terminal; cut to `most` characters.
fn printable(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// Pushes the original bytes back to their queue and priority, then deletes the letters. What died after `now` is left.
///
/// # Errors
/// Redis or MongoDB cannot be reached; what was requeued before is, and running it again does the rest.
pub async fn requeue(
    args: &DeadArgs,
    config: &Config,
    store: &Store,
    link: &Link,
    now: DateTime<Utc>,
) -> Result<Printed, Failure> {
    let filter = args.filter_until(now);
    let mut left = found(args, store.dead_count(&filter).await?)?;
    let (mut requeued, mut kept, mut after) = (0, Vec::new(), None);
    while left > 0 {
        let page = store.dead_page(&filter, after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        left = left.saturating_sub(page.len() as u64);
        let mut by_queue: BTreeMap<String, Vec<DeadLetter>> = BTreeMap::new();
        for letter in page {
            match obstacle(&letter, config) {
                Some(why) => kept.push(format!("{}: {why}", letter.id)),
                None => by_queue.entry(letter.queue.clone()).or_default().push(letter),
            }
        }
        for (queue, letters) in by_queue {
            let tasks: Vec<(Priority, &[u8])> = letters.iter().map(|l| (l.priority, l.body.as_slice())).collect();
            // First pushed, then deleted: between the two a task is there twice, and has its effect once.
            admin(config, link, &queue)?.push(&tasks).await?;
            let ids: Vec<String> = letters.into_iter().map(|letter| letter.id).collect();
            requeued += ids.len();
            store.dead_delete_all(&ids).await?;
        }
    }
    let mut printed = if args.json {
        Printed::json(&json!({ "requeued": requeued, "kept": kept.len() }))?
    } else {
        Printed::text(format!("requeued {}", letters(requeued as u64)))
    };
    printed.wrong = match kept.as_slice() {
        [] => None,
        [only] => Some(format!("not requeued: {only}")),
        [first, rest @ ..] => Some(format!("not requeued: {first}; and {} more", rest.len())),
    };
    Ok(printed)
}

/// Why a letter cannot go back.
fn obstacle(letter: &DeadLetter, config: &Config) -> Option<String> {
    if !config.queues.contains_key(&letter.queue) {
        return Some(format!("its queue {:?} is not configured: configure it, or purge the letter", letter.queue));
    }
    if letter.body.is_empty() || letter.body.len() as u64 != letter.bytes {
        return Some("its original bytes are not all there: purge it".to_owned());
    }
    None
}

/// Deletes the letters for good, save what died after `now`. On a terminal it asks before it deletes all there are.
///
/// # Errors
/// MongoDB cannot be reached; running it again does the rest.
pub async fn purge(args: &DeadArgs, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let filter = args.filter_until(now);
    let count = found(args, store.dead_count(&filter).await?)?;
    let everything = args.id.is_none() && args.queue.is_none() && args.reason.is_none();
    if everything && count > 0 && std::io::stdin().is_terminal() && !confirmed(count).await? {
        return Err(Failure::Wrong("nothing was purged".into()));
    }
    let mut purged = 0;
    loop {
        let page = store.dead_list(&filter, 0, PURGE_PAGE).await?;
        if page.is_empty() {
            break;
        }
        let ids: Vec<String> = page.into_iter().map(|letter| letter.id).collect();
        purged += store.dead_delete_all(&ids).await?;
    }
    if args.json {
        return Printed::json(&json!({ "purged": purged }));
    }
    Ok(Printed::text(format!("purged {}", letters(purged))))
}

async fn confirmed(count: u64) -> Result<bool, Failure> {
    eprint!("Delete {} for good? [y/N] ", letters(count));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = answer.await.map_err(|e| Failure::Internal(e.to_string()))?.unwrap_or_default();
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// A letter asked for by its id must be there; of the others there may be none.
fn found(args: &DeadArgs, count: u64) -> Result<u64, Failure> {
    match &args.id {
        Some(id) if count == 0 => {
            Err(Failure::Wrong(format!("no dead letter matches {id:?}; `contextd dead list` lists them")))
        }
        _ => Ok(count),
    }
}

fn letters(count: u64) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") }
}
