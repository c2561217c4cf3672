//! `contextd get`: one record, and which tier it came from.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document};
use serde_json::{Map, Value, json};

use super::{
    content::content,
    failure::{Failure, Printed},
    table,
};
use crate::{
    cache::RecordCache,
    config::Config,
    intake::Link,
    read::{Ask, Found, ReadError, Reader},
    record::cached::Kinds,
    store::Store,
    vault::Vault,
};

#[derive(Debug, Clone, clap::Args)]
pub struct GetArgs {
    /// What it is: session, interaction, document, version, user, context, memory, ...
    pub kind: String,
    pub id: String,
    /// The whole record, where the cached one is a part
    #[arg(long)]
    pub full: bool,
    /// Also a deleted record, from MongoDB
    #[arg(long)]
    pub deleted: bool,
    /// The text of a document or version, as it is
    #[arg(long)]
    pub content: bool,
    /// What differs from the content of this one
    #[arg(long, value_name = "OTHER", requires = "content")]
    pub diff: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// How long the command waits until its read is counted.
const COUNT_WITHIN: Duration = Duration::from_millis(250);

/// # Errors
/// An unknown kind, a record that is not there, or MongoDB cannot be asked.
pub async fn get(
    args: &GetArgs,
    config: &Config,
    link: Link,
    store: Store,
    now: DateTime<Utc>,
) -> Result<Printed, Failure> {
    if args.content {
        return content(args, config, store).await;
    }
    let kinds = Arc::new(Kinds::new(&config.cache).map_err(Failure::Configuration)?);
    let vault = Arc::new(Vault::new(&config.encryption, store.clone())?);
    let cache = RecordCache::new(link, &config.namespace);
    let reader = Reader::new(cache, store.clone(), kinds, vault, &config.cache);
    let ask = Ask { full: args.full, deleted: args.deleted };
    let found = reader.get(&args.kind, &args.id, ask).await;
    // A read that only Redis could answer does not wait for MongoDB.
    let _ = tokio::time::timeout(COUNT_WITHIN, reader.access().flush(&store, now)).await;
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => return Err(Failure::Wrong(absent(args))),
        Err(ReadError::UnknownKind(_)) => return Err(Failure::Usage(unknown(&args.kind, &reader))),
        Err(error) => return Err(error.into()),
    };
    if args.json {
        return Printed::json(&json!({
            "kind": args.kind,
            "id": args.id,
            "tier": found.tier.as_str(),
            "ageMs": found.age.as_millis() as u64,
            "complete": found.complete,
            "strategy": found.strategy,
            "record": object(&found.document),
        }));
    }
    eprintln!("{}", origin(&found));
    Ok(Printed::text(render(&found.document)))
}

fn absent(args: &GetArgs) -> String {
    let hint = if args.deleted { "" } else { ", or it is deleted (--deleted shows it)" };
    format!("there is no {} {:?}{hint}", args.kind, args.id)
}

fn unknown(kind: &str, reader: &Reader) -> String {
    let names: Vec<&str> = reader.kinds().names().collect();
    let near = names.iter().find(|name| strsim::damerau_levenshtein(name, kind) <= 2);
    let hint = near.map_or_else(|| format!("there are {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
    format!("there is no kind {kind:?} of record: {hint}")
}

/// Where it came from, in a line.
fn origin(found: &Found) -> String {
    let age = match found.age {
        age if age < Duration::from_secs(10) => format!("{} ms", age.as_millis()),
        age => format!("{} s", age.as_secs()),
    };
    let strategy = found.strategy.as_ref().map_or("not cached".to_owned(), |s| format!("strategy {s}"));
    let part = if found.complete { "" } else { "; a part of the record (--full shows it whole)" };
    format!("from {}, {age} old, {strategy}{part}", found.tier)
}

fn render(document: &Document) -> String {
    let mut table = table::new(&["field", "value"]);
    for (name, value) in document {
        let shown = match json_of(value) {
            Value::String(text) => text,
            value @ (Value::Object(_) | Value::Array(_)) => serde_json::to_string_pretty(&value).unwrap_or_default(),
            value => value.to_string(),
        };
        // Control characters of data must not reach the terminal.
        let clean: String = shown.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
        table.add_row([name.clone(), clean]);
    }
    table.to_string()
}

/// Dates as RFC 3339; everything else as MongoDB's extended JSON has it.
fn json_of(value: &Bson) -> Value {
    match value {
        Bson::DateTime(date) => match date.try_to_rfc3339_string() {
            Ok(date) => Value::String(date),
            Err(_) => json!({ "$date": { "$numberLong": date.timestamp_millis().to_string() } }),
        },
        Bson::Document(document) => object(document),
        Bson::Array(items) => Value::Array(items.iter().map(json_of).collect()),
        Bson::Int32(n) => json!(n),
        Bson::Int64(n) => json!(n),
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    }
}

fn object(document: &Document) -> Value {
    Value::Object(document.iter().map(|(name, value)| (name.clone(), json_of(value))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, doc};

    use super::*;
    use crate::metrics::Tier;

    #[test]
    fn a_record_is_shown_readably() {
        let at = DateTime::from_millis(1_769_860_800_000);
        let document =
            doc! { "_id": "s1", "n": 7_i64, "at": at, "context": {"a": [1_i64, "x\u{1b}[31m"]}, "none": null };
        let text = render(&document);
        for part in ["s1", "│ n ", "2026-01-31T12:00:00Z", "\"a\": [", "null"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert_eq!(object(&document)["at"], "2026-01-31T12:00:00Z");
    }

    #[test]
    fn the_tier_is_told() {
        let found = |complete, strategy: Option<&str>, ms| Found {
            tier: Tier::Redis,
            age: Duration::from_millis(ms),
            complete,
            strategy: strategy.map(Into::into),
            document: Arc::default(),
        };
        assert_eq!(
            origin(&found(false, Some("CRITICAL_ONLY"), 12)),
            "from redis, 12 ms old, strategy CRITICAL_ONLY; a part of the record (--full shows it whole)"
        );
        assert_eq!(origin(&found(true, None, 61_000)), "from redis, 61 s old, not cached");
    }
}
