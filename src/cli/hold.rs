//! `contextd hold place|lift|list`: legal holds, which keep a user, document or session from being destroyed.
//!
//! The same effect as that of the tasks `hold.place` and `hold.lift`, at once and without a worker. Cached copies of the
//! held record are noted as behind, and the next worker brings them in step.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Map, Value, json};

use super::{
    failure::{Failure, Printed},
    table,
};
use crate::{
    config::Config,
    effect::hold::{self, Held},
    metrics::Outcome,
    record::{Registry, cached::Kinds},
    store::{HOLDS, SESSION_HISTORY, SESSIONS, Shadow, Store},
    task::{Schemas, Task},
};

/// The `source` of holds that are placed and lifted by hand.
const SOURCE: &str = "/contextd/cli";
/// Most holds of one list.
const LISTED: i64 = 10_000;

#[derive(Debug, Subcommand)]
pub enum Hold {
    /// Keeps a user, document or session, and what is theirs, from being destroyed
    Place(PlaceArgs),
    /// Ends a hold
    Lift(LiftArgs),
    /// Lists holds, the oldest first
    List(ListArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Entity {
    User,
    Document,
    Session,
}

impl Entity {
    fn name(self) -> &'static str {
        match self {
            Entity::User => "user",
            Entity::Document => "document",
            Entity::Session => "session",
        }
    }
}

#[derive(Debug, Args)]
pub struct PlaceArgs {
    pub entity: Entity,
    /// Its id
    pub id: String,
    /// Why, such as the number of a legal case
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who places it, for the audit log
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// The hold's own id; a new one by default. The same again is one hold
    #[arg(long = "id", value_name = "HOLD")]
    pub hold: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LiftArgs {
    /// The hold's id
    pub hold: String,
    /// Why it ends
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who lifts it, for the audit log
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those on this one, such as document/d1
    #[arg(long, value_name = "KIND/ID")]
    pub entity: Option<String>,
    /// Lifted ones, too
    #[arg(long)]
    pub all: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Places, lifts or lists holds.
///
/// # Errors
/// There is nothing (any more) that could be held or lifted, or MongoDB cannot be asked.
pub async fn hold(what: &Hold, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    match what {
        Hold::Place(args) => place(args, config, store, now).await,
        Hold::Lift(args) => lift(args, config, store, now).await,
        Hold::List(args) => list(args, store).await,
    }
}

async fn place(args: &PlaceArgs, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let (kind, entity) = (args.entity.name(), args.id.as_str());
    let id = args.hold.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let data = [
        ("holdId", Some(id.as_str())),
        ("entityType", Some(kind)),
        ("entityId", Some(entity)),
        ("reason", Some(&args.reason)),
        ("placedBy", args.by.as_deref()),
    ];
    let word = match apply("hold.place.v1", &data, config, store, now).await? {
        Held::Missing(..) => return Err(Failure::Wrong(format!("there is no {kind} {entity:?}: nothing is held"))),
        Held::Done(Outcome::Expired) => {
            return Err(Failure::Wrong(format!("the {kind} {entity:?} is purged already: nothing can be held")));
        }
        Held::Done(Outcome::Duplicate) => {
            let there = find(store, &id).await?;
            if text(&there, "entityType") != kind || text(&there, "entityId") != entity || !is_active(&there) {
                let text =
                    format!("there was a hold {id:?} before, and it is another one: leave out --id, or choose another");
                return Err(Failure::Wrong(text));
            }
            "is held already"
        }
        Held::Done(_) => "is held",
    };
    note(kind, entity, config, store, now).await?;
    if args.json {
        return Printed::json(&shown(&find(store, &id).await?));
    }
    Ok(Printed::text(format!("the {kind} {entity:?} {word}; the hold is {id}")))
}

async fn lift(args: &LiftArgs, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let id = args.hold.as_str();
    let data = [("holdId", Some(id)), ("reason", args.reason.as_deref()), ("liftedBy", args.by.as_deref())];
    let word = match apply("hold.lift.v1", &data, config, store, now).await? {
        Held::Missing(..) => {
            return Err(Failure::Wrong(format!("there is no hold {id:?}: `contextd hold list` shows all")));
        }
        Held::Done(Outcome::Duplicate) => "was lifted before",
        Held::Done(_) => "is lifted",
    };
    let hold = find(store, id).await?;
    let (kind, entity) = (text(&hold, "entityType"), text(&hold, "entityId"));
    note(kind, entity, config, store, now).await?;
    if args.json {
        return Printed::json(&shown(&hold));
    }
    let left = count(store, kind, entity).await?;
    let rest = match left {
        0 => "no hold is left on it".to_owned(),
        1 => "1 hold is left on it".to_owned(),
        n => format!("{n} holds are left on it"),
    };
    Ok(Printed::text(format!("the hold {id:?} on the {kind} {entity:?} {word}; {rest}")))
}

/// Does what a task of the type `kind` would, with what is given of `data`.
async fn apply(
    kind: &str,
    data: &[(&str, Option<&str>)],
    config: &Config,
    store: &Store,
    now: DateTime<Utc>,
) -> Result<Held, Failure> {
    let registry = Registry::new(config)
        .map_err(|all| Failure::Configuration(all.into_iter().map(|(_, e)| e).collect::<Vec<_>>().join("; ")))?;
    let schemas = Schemas::of_records(&config.records).map_err(|(_, e)| Failure::Configuration(e))?;
    let (Some(declared), Some(schema)) = (registry.get(kind), schemas.get(kind)) else {
        return Err(Failure::Configuration(format!("the record type {kind} is not configured")));
    };
    let given = data.iter().filter_map(|(name, value)| Some(((*name).to_owned(), Value::from((*value)?))));
    let data: Map<String, Value> = given.collect();
    let value = Value::Object(data.clone());
    if !schema.is_valid(&value) {
        return Err(Failure::Usage(schema.explain(&value, "")));
    }
    let task = Task {
        id: uuid::Uuid::now_v7().to_string(),
        source: SOURCE.to_owned(),
        kind: kind.to_owned(),
        time: Some(now),
        expiry: None,
        not_before: None,
        partition_key: None,
        tenant: None,
        max_attempts: None,
        trace: None,
        data,
    };
    hold::at_once(store, declared, &task, now, config.limits.clock_skew).await?.map_err(Failure::Wrong)
}

/// Notes that cached copies of the record are behind.
async fn note(kind: &str, id: &str, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<(), Failure> {
    let collection = hold::collection(kind);
    let row = store.records_by_id(collection, &[id]).await?.remove(id);
    let kinds = Kinds::new(&config.cache).map_err(Failure::Configuration)?;
    let shadow = |row: &Document| -> Vec<Shadow> {
        let of_it = kinds.iter().filter(|kind| &*kind.collection == collection);
        let behind = of_it.filter_map(|kind| {
            Some(Shadow {
                kind: kind.name.to_string(),
                id: kind.key(row)?.to_owned(),
                collection: collection.to_owned(),
                rev: kind.rev(row),
                since: now,
            })
        });
        behind.collect()
    };
    // An archived session is cached nowhere.
    Ok(store.shadow_note(&row.as_ref().map(shadow).unwrap_or_default()).await?)
}

/// How many holds are on a record.
async fn count(store: &Store, kind: &str, id: &str) -> Result<i64, Failure> {
    let places = match hold::collection(kind) {
        SESSIONS => vec![SESSIONS, SESSION_HISTORY],
        other => vec![other],
    };
    for collection in places {
        if let Some(row) = store.records_by_id(collection, &[id]).await?.get(id) {
            return Ok(row.get("holdCount").and_then(Bson::as_i64).unwrap_or(0));
        }
    }
    Ok(0)
}

async fn find(store: &Store, id: &str) -> Result<Document, Failure> {
    let found = store.records_by_id(HOLDS, &[id]).await?.remove(id);
    found.ok_or_else(|| Failure::Internal(format!("the hold {id:?} was written and is not there: try again")))
}

async fn list(args: &ListArgs, store: &Store) -> Result<Printed, Failure> {
    let mut filter = Document::new();
    if let Some(entity) = &args.entity {
        let of = entity.split_once('/').filter(|(kind, id)| Entity::from_str(kind, false).is_ok() && !id.is_empty());
        let Some((kind, id)) = of else {
            let text = format!("--entity {entity:?} is no KIND/ID: write user/ID, document/ID or session/ID");
            return Err(Failure::Usage(text));
        };
        filter.extend(doc! { "entityType": kind, "entityId": id });
    }
    if !args.all {
        filter.insert("state", "active");
    }
    let mut holds = store.records(HOLDS, filter, LISTED + 1).await?;
    let is_cut = holds.len() as i64 > LISTED;
    holds.truncate(LISTED as usize);
    holds.sort_by_key(|hold| hold.get_datetime("placedAt").map_or(i64::MIN, |at| at.timestamp_millis()));
    if args.json {
        return Printed::json(&json!({ "holds": holds.iter().map(shown).collect::<Vec<_>>(), "complete": !is_cut }));
    }
    if holds.is_empty() {
        return Ok(Printed::text("no holds"));
    }
    let mut rows = table::new(&["hold", "on", "since", "by", "reason", "state"]);
    for hold in &holds {
        let on = format!("{}/{}", text(hold, "entityType"), text(hold, "entityId"));
        let state = match date(hold, "liftedAt").filter(|_| !is_active(hold)) {
            Some(at) => format!("lifted {at}"),
            None => text(hold, "state").to_owned(),
        };
        let since = date(hold, "placedAt").unwrap_or_default();
        rows.add_row([
            text(hold, "_id").to_owned(),
            on,
            since,
            text(hold, "placedBy").to_owned(),
            text(hold, "reason").to_owned(),
            state,
        ]);
    }
    let more = if is_cut { format!("\nonly {LISTED} are shown: choose with --entity") } else { String::new() };
    Ok(Printed::text(format!("{rows}{more}")))
}

fn is_active(hold: &Document) -> bool {
    text(hold, "state") == "active"
}

fn text<'d>(hold: &'d Document, name: &str) -> &'d str {
    hold.get_str(name).unwrap_or_default()
}

fn date(hold: &Document, name: &str) -> Option<String> {
    let at = DateTime::from_timestamp_millis(hold.get_datetime(name).ok()?.timestamp_millis())?;
    Some(at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn shown(hold: &Document) -> Value {
    let given = |name: &str| hold.get_str(name).ok();
    json!({
        "id": given("_id"), "entityType": given("entityType"), "entityId": given("entityId"), "state": given("state"),
        "reason": given("reason"), "placedBy": given("placedBy"), "placedAt": date(hold, "placedAt"),
        "liftReason": given("liftReason"), "liftedBy": given("liftedBy"), "liftedAt": date(hold, "liftedAt"),
    })
}
