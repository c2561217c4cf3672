//! Declared record types, resolved from the configuration and checked against their schemas.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use mongodb::bson::{Bson, Document};
use serde_json::{Map, Value};
use toml::Table;

use super::sensitive;
use crate::{
    config::{CacheKind, Config, Queue, RECORDS, Record, WriteMode},
    effect::{analyze, typing},
    task::Schemas,
};

/// Collections that contextd writes by itself: no record type may name them.
const OWN: [&str; 13] = [
    "analyses",
    "typing_contexts",
    "dead_letters",
    "job_runs",
    "job_schedules",
    "schema_migrations",
    "kvshadow",
    "audit_log",
    "audit_head",
    "tombstones",
    "data_keys",
    "access_stats",
    "session_history",
];
/// Types with an effect of their own.
const OWN_TYPES: [&str; 2] = [analyze::TYPE, typing::TYPE];
/// An array of more elements would make every append slow.
const MAX_KEEP: u32 = 10_000;

/// One declared type of task and the records that it writes.
#[derive(Debug, Clone)]
pub struct RecordType {
    /// The task's `type`.
    pub kind: String,
    pub queue: String,
    pub collection: &'static str,
    pub key: Vec<String>,
    pub write: WriteMode,
    pub order: Option<String>,
    /// Whether the order field holds date-times, so that the task's time can stand in for it.
    pub order_is_date: bool,
    pub create: Document,
    /// The schema's defaults of top-level properties, for a record that is made.
    pub defaults: Map<String, Value>,
    pub set: Document,
    pub stamp: Vec<String>,
    /// Date-times among the data's fields, by the schema.
    pub dates: Vec<String>,
    pub sensitive: Vec<String>,
    /// The cached kind.
    pub cache: Option<String>,
    pub required: bool,
    pub buffered: bool,
    pub audit: bool,
    pub array: String,
    pub keep: usize,
    pub cascade: Vec<Cascade>,
}

/// Records that go with a deleted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cascade {
    pub collection: &'static str,
    /// Their field that holds the deleted record's key.
    pub field: String,
    /// The state that they get.
    pub state: String,
}

/// All declared types.
#[derive(Debug, Default)]
pub struct Registry {
    by_kind: BTreeMap<String, Arc<RecordType>>,
}

impl Registry {
    /// Resolves the declarations.
    ///
    /// # Errors
    /// Every problem, as the path of a setting and a sentence about it.
    pub fn new(config: &Config) -> Result<Self, Vec<(String, String)>> {
        let mut problems = twice(&config.records);
        if !problems.is_empty() {
            return Err(problems);
        }
        let schemas = match Schemas::of_records(&config.records) {
            Ok(schemas) => schemas,
            Err(e) => return Err(vec![e]),
        };
        let mut by_kind: BTreeMap<String, (&String, RecordType)> = BTreeMap::new();
        for (name, record) in &config.records {
            let mut check = Check { at: format!("records.{name}"), problems: &mut problems };
            let own = OWN_TYPES.contains(&record.r#type.as_str());
            check.must("type", !own, "not be a type that has an effect of its own");
            if let Some(resolved) = resolve(record, &schemas, &config.queues, &config.cache.kinds, &mut check) {
                by_kind.insert(resolved.kind.clone(), (name, resolved));
            }
        }
        sensitive::seal_alike(&mut by_kind, &mut problems);
        let by_kind = by_kind.into_iter().map(|(kind, (_, resolved))| (kind, Arc::new(resolved))).collect();
        if problems.is_empty() { Ok(Self { by_kind }) } else { Err(problems) }
    }

    pub fn get(&self, kind: &str) -> Option<&Arc<RecordType>> {
        self.by_kind.get(kind)
    }

    pub fn types(&self) -> impl Iterator<Item = &Arc<RecordType>> {
        self.by_kind.values()
    }

    /// Every collection that record types write to, sorted, once.
    pub fn collections(&self) -> Vec<&'static str> {
        let mut all: Vec<&'static str> = self.types().map(|t| t.collection).collect();
        all.extend(self.types().flat_map(|t| t.cascade.iter().map(|c| c.collection)));
        // Archived sessions are evaluated there.
        all.extend(self.types().any(|t| t.write == WriteMode::Evaluation).then_some("session_history"));
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Types that two entries declare. The operator's entry is to blame, not the one that ships.
fn twice(records: &BTreeMap<String, Record>) -> Vec<(String, String)> {
    let shipped: Table = toml::from_str(RECORDS).unwrap_or_default();
    let ships = |name: &str, kind: &str| shipped["records"].get(name).is_some_and(|r| r["type"].as_str() == Some(kind));
    let repeated = records.iter().filter(|(name, record)| {
        let kind = &record.r#type;
        let mut others = records.iter().filter(|(other, r)| other != name && r.r#type == *kind);
        others.any(|(other, _)| ships(other, kind) || other < *name) && !ships(name, kind)
    });
    let said = repeated.map(|(name, record)| {
        let path = format!("records.{name}.type");
        let text = format!(
            "`{path}` must be a type of its own: another entry declares {:?} already; to change that one, use its name",
            record.r#type
        );
        (path, text)
    });
    said.collect()
}

pub(super) struct Check<'a> {
    pub at: String,
    pub problems: &'a mut Vec<(String, String)>,
}

impl Check<'_> {
    pub fn must(&mut self, key: &str, holds: bool, must: &str) {
        if !holds {
            let path = format!("{}.{key}", self.at);
            self.problems.push((path.clone(), format!("`{path}` must {must}")));
        }
    }
}

fn resolve(
    record: &Record,
    schemas: &Schemas,
    queues: &BTreeMap<String, Queue>,
    kinds: &BTreeMap<String, CacheKind>,
    check: &mut Check<'_>,
) -> Option<RecordType> {
    let write = record.write;
    let Some(schema) = schemas.get(&record.r#type) else {
        check.must("schema", false, "name the JSON Schema of this type: none is compiled in for it");
        return None;
    };
    let schema = schema.document();
    let is_own = OWN.contains(&record.collection.as_str());
    check.must("collection", is_collection(&record.collection), "be a collection's name: letters, digits and _");
    check.must("collection", !is_own, "not be a collection that contextd writes by itself");
    let shipped = Schemas::builtin_types().any(|t| t == record.r#type) && record.queue == "records";
    let known = queues.contains_key(&record.queue) || shipped;
    check.must("queue", known, "be a queue of `[queues]`");
    let declared = |name: &String| schema["required"].as_array().is_some_and(|r| r.iter().any(|v| v == name.as_str()));
    for name in &record.key {
        let must = format!("name required properties of the schema; {name:?} is none");
        check.must("key", declared(name) || !write.is_plain(), &must);
    }
    let keyless = write == WriteMode::Insert;
    check.must("key", !record.key.is_empty() || keyless, "name the data's fields that make up the record's key");
    let order = (!record.order.is_empty()).then(|| record.order.clone());
    let order_schema = order.as_ref().map(|name| &schema["properties"][name]);
    let order_is_date = order_schema.is_some_and(is_date);
    check.must(
        "order",
        order_schema.is_none_or(|s| is_date(s) || s["type"] == "integer"),
        "name a property that the schema declares as an integer or as a date-time",
    );
    let is_append = write == WriteMode::Append;
    check.must("array", is_append != record.array.is_empty(), "be given with `write = \"append\"`, and only with it");
    check.must("array", !record.array.starts_with(['_', '$']), "be a field's name that does not begin with _ or $");
    check.must(
        "keep",
        if is_append { (1..=MAX_KEEP).contains(&record.keep) } else { record.keep == 0 },
        "be from 1 to 10000 with `write = \"append\"`, and be left out otherwise",
    );
    let title = schema["title"].as_str();
    let same = title.is_none_or(|title| title == record.r#type);
    check.must("schema", same, "be the schema of this type: its `title` is another one");
    for name in &record.stamp {
        let property = &schema["properties"][name];
        check.must(
            "stamp",
            property.is_null() || is_date(property),
            "name fields that the schema declares as date-times",
        );
    }
    let mergeable = write == WriteMode::Merge;
    check.must("buffered", mergeable || !record.buffered, "be left out unless `write = \"merge\"`");
    check.must(
        "required",
        !matches!(write, WriteMode::Insert | WriteMode::Replace) || !record.required,
        "be left out with `write = \"insert\"` and `write = \"replace\"`, which make the record",
    );
    if !record.cache.is_empty() {
        let kind = kinds.get(&record.cache);
        check.must("cache", kind.is_some(), "be a section of `[cache.kinds]`");
        let same = kind.is_none_or(|k| k.collection == record.collection);
        check.must("cache", same, "be a kind of the same collection");
    }
    let sealing =
        write.is_plain() || matches!(write, WriteMode::Evaluation | WriteMode::DocumentSave | WriteMode::VersionSave);
    check.must("sensitive", sealing || record.sensitive.is_empty(), "be left out with this `write`: it seals nothing");
    let (create, set) = (pairs("create", &record.create, check), pairs("set", &record.set, check));
    check.must(
        "cascade",
        record.cascade.is_empty() || write == WriteMode::Delete,
        "be left out unless `write = \"delete\"`",
    );
    let cascade = record.cascade.iter().filter_map(|text| {
        let cascade = parse_cascade(text);
        check.must("cascade", cascade.is_some(), "hold entries such as \"documents.userId=deleted\"");
        cascade
    });
    let cascade = cascade.collect();
    let dates = schema["properties"].as_object().into_iter().flatten().filter(|(_, s)| is_date(s));
    let properties = schema["properties"].as_object().into_iter().flatten();
    let defaults = properties.filter_map(|(name, s)| Some((name.clone(), s.get("default")?.clone()))).collect();
    let dates = dates.map(|(name, _)| name.clone()).collect();
    Some(RecordType {
        kind: record.r#type.clone(),
        queue: record.queue.clone(),
        collection: intern(&record.collection),
        key: record.key.clone(),
        write,
        order,
        order_is_date,
        create,
        defaults,
        set,
        stamp: record.stamp.clone(),
        dates,
        sensitive: record.sensitive.iter().map(|name| sensitive::name_in_record(write, name)).collect(),
        cache: (!record.cache.is_empty()).then(|| record.cache.clone()),
        required: record.required,
        buffered: record.buffered,
        audit: record.audit,
        array: record.array.clone(),
        keep: record.keep as usize,
        cascade,
    })
}

fn is_date(schema: &Value) -> bool {
    schema["format"] == "date-time"
}

fn is_collection(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with("system")
}

fn pairs(key: &str, texts: &[String], check: &mut Check<'_>) -> Document {
    let mut out = Document::new();
    for text in texts {
        match text.split_once('=').filter(|(name, _)| !name.is_empty() && !name.starts_with(['_', '$'])) {
            Some((name, value)) => {
                out.insert(name, Bson::String(value.to_owned()));
            }
            None => check.must(key, false, "hold entries such as \"state=active\""),
        }
    }
    out
}

fn parse_cascade(text: &str) -> Option<Cascade> {
    let (path, state) = text.split_once('=')?;
    let (collection, field) = path.split_once('.')?;
    let fine = is_collection(collection) && !field.is_empty() && !field.starts_with(['_', '$']) && !state.is_empty();
    fine.then(|| Cascade { collection: intern(collection), field: field.to_owned(), state: state.to_owned() })
}

/// Collections are named by the configuration, and known as long as the process lives.
fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    match names.iter().find(|known| **known == name) {
        Some(known) => known,
        None => {
            let known: &'static str = Box::leak(name.to_owned().into_boxed_str());
            names.push(known);
            known
        }
    }
}
