//! Records as they lie in Redis: which fields, how long, in what form; and back. Pure.
//!
//! A value is one line of JSON, the header, and after its line break the payload, the chosen fields as JSON
//! ([`super::json`] says how dates and binary data look), as it is or compressed with zstd:
//!
//! ```text
//! {"f":1,"rev":7,"at":1769860800500,"s":"WITH_CONTEXT","z":0,"c":0,"n":"sessions"}
//! {"_id":"s1","userId":"u1","lastActivityAt":{"$date":"2026-01-31T12:00:00.5Z"}}
//! ```
//!
//! `f` format; `rev` which of two values is the newer one (int64: read it as text where numbers are doubles); `at` when
//! it was taken from MongoDB (ms since 1970); `s` strategy; `z` 1: the payload is compressed; `c` 1: it is the whole
//! record; `n` its collection. A marker has `"gone":true` after the `rev` and no payload: the record is removed, or not
//! to be cached any more, and whoever has an older one must not put it there. For readers it is a miss.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use mongodb::bson::Document;
use serde::Deserialize;

use super::json;
use crate::config;

/// The format that this version writes and reads; another one is a miss.
pub const FORMAT: u8 = 1;
/// How long a marker keeps older values out. Longer than any reader takes to fill; see [`crate::read`].
pub const GONE_TTL: Duration = Duration::from_secs(60);
/// Larger values stay in MongoDB: Redis stands still for everybody while it takes one.
const MAX_VALUE: usize = 4 * 1024 * 1024;
/// No honest payload is larger when unpacked: MongoDB's documents end at 16 MiB, and JSON is not four times that.
const MAX_UNPACKED: u64 = 64 * 1024 * 1024;
/// zstd's fastest level: values are written with every change.
const LEVEL: i32 = 1;
/// Counted by the caller, not stored in the record: how many interactions a session has.
pub const INTERACTION_COUNT: &str = "interactionCount";
/// In every value, whatever the strategy: who it is.
const ALWAYS: [&str; 2] = ["_id", "kind"];

/// Every kind of cached record, by name.
#[derive(Debug)]
pub struct Kinds(BTreeMap<String, Kind>);

/// One kind, with the default that holds in this environment.
#[derive(Debug)]
pub struct Kind {
    pub name: Arc<str>,
    pub collection: Arc<str>,
    /// The field whose value is the id in the cache key; empty: `_id`.
    pub by: String,
    never: Vec<String>,
    default: String,
    strategies: BTreeMap<String, Strategy>,
    compress_over: usize,
}

#[derive(Debug)]
struct Strategy {
    ttl: Duration,
    /// `None`: all.
    fields: Option<Vec<String>>,
}

/// What is to be in Redis for a record as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Put(Cached),
    /// A marker: what lies there is not to be read any more.
    Gone {
        id: String,
        rev: i64,
        why: Absence,
    },
    /// The record has no id in this cache.
    Nothing,
}

/// Why a record is not in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// Its strategy, or its end: sessions are cached while they go on.
    Strategy,
    /// Deleted, or on the way out.
    Removed,
    TooLarge,
    Ambiguous,
}

/// A value for Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// The last part of the key.
    pub id: String,
    pub rev: i64,
    pub bytes: Vec<u8>,
    pub ttl: Duration,
    /// Whether the record named a strategy that this kind does not have.
    pub unknown_strategy: bool,
}

/// The first line of a value.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Header {
    f: u8,
    pub rev: i64,
    #[serde(default)]
    pub gone: bool,
    /// When it was taken from MongoDB, ms since 1970.
    pub at: i64,
    #[serde(default, rename = "s")]
    pub strategy: String,
    #[serde(default)]
    z: u8,
    #[serde(default)]
    c: u8,
    #[serde(default, rename = "n")]
    pub collection: String,
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub header: Header,
    /// Whether nothing of the record was left out.
    pub complete: bool,
    /// `None`: a marker.
    pub document: Option<Document>,
}

/// A value that cannot be used: a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Of an older or newer version of contextd.
    Format,
    Garbage,
}

impl Kinds {
    /// # Errors
    /// A default that is no strategy of its kind, in a full sentence; validated settings have none.
    pub fn new(settings: &config::Cache) -> Result<Self, String> {
        let compress_over = settings.compress_over.as_u64() as usize;
        let kind = |(name, kind): (&String, &config::CacheKind)| {
            let default = kind.environments.get(&settings.environment).unwrap_or(&kind.default);
            if !kind.strategies.contains_key(default) {
                return Err(format!(
                    "`cache.kinds.{name}` has the default {default:?}, which is none of its strategies"
                ));
            }
            let strategy =
                |s: &config::Strategy| Strategy { ttl: s.ttl, fields: (s.fields != ["*"]).then(|| s.fields.clone()) };
            let kind = Kind {
                name: name.as_str().into(),
                collection: kind.collection.as_str().into(),
                by: kind.by.clone(),
                never: kind.never.clone(),
                default: default.clone(),
                strategies: kind.strategies.iter().map(|(name, s)| (name.clone(), strategy(s))).collect(),
                compress_over,
            };
            Ok((name.clone(), kind))
        };
        settings.kinds.iter().map(kind).collect::<Result<_, _>>().map(Self)
    }

    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }
}

impl Kind {
    /// The strategy of a record, and whether it named one that is not there.
    fn strategy(&self, document: &Document) -> (&str, &Strategy, bool) {
        let named = document.get_str("cacheStrategy").ok();
        let found = named.and_then(|name| self.strategies.get_key_value(name));
        let (name, strategy) = match found {
            Some(found) => found,
            // `new` has made sure of the default.
            None => self.strategies.get_key_value(&self.default).expect("the default is one of the strategies"),
        };
        (name, strategy, named.is_some() && found.is_none())
    }

    /// The name of the strategy that holds for the record.
    pub fn strategy_name(&self, document: &Document) -> &str {
        self.strategy(document).0
    }

    /// Whether the record's value shows how many interactions there are; see [`INTERACTION_COUNT`].
    pub fn wants_interactions(&self, document: &Document) -> bool {
        let (_, strategy, _) = self.strategy(document);
        let wanted = match &strategy.fields {
            None => true,
            Some(fields) => fields.iter().any(|f| f == INTERACTION_COUNT),
        };
        &*self.collection == "sessions" && wanted && !strategy.ttl.is_zero() && !is_ended(document)
    }

    /// The last part of the record's key.
    pub fn key<'d>(&self, document: &'d Document) -> Option<&'d str> {
        document.get_str(if self.by.is_empty() { "_id" } else { &self.by }).ok()
    }

    /// What tells newer from older. Under one id by a field lie several records, each with revisions of its own:
    /// there the clock of the newest change decides, and below its microsecond the revision.
    pub fn rev(&self, document: &Document) -> i64 {
        let sync = |name: &str| document.get_document("_sync").and_then(|s| s.get_i64(name)).unwrap_or(0).max(0);
        if self.by.is_empty() { sync("rev") } else { (sync("order") & !0x7ff) | sync("rev").min(0x7ff) }
    }

    /// Whether `name` is left out of everything but whole records from MongoDB.
    pub fn is_never_cached(&self, name: &str) -> bool {
        self.never.iter().any(|never| never == name)
    }

    /// What Redis is to hold for `document`, as MongoDB has it now (with [`INTERACTION_COUNT`], where wanted).
    pub fn plan(&self, document: &Document, now_ms: i64) -> Plan {
        let Some(id) = self.key(document).map(str::to_owned) else { return Plan::Nothing };
        let rev = self.rev(document);
        if is_removed(document) {
            return Plan::Gone { id, rev, why: Absence::Removed };
        }
        let (name, strategy, unknown_strategy) = self.strategy(document);
        if strategy.ttl.is_zero() || (&*self.collection == "sessions" && is_ended(document)) {
            return Plan::Gone { id, rev, why: Absence::Strategy };
        }
        let wanted = |field: &str| {
            let chosen =
                strategy.fields.as_ref().is_none_or(|f| f.iter().any(|f| f == field) || ALWAYS.contains(&field));
            chosen && field != "_sync" && !self.is_never_cached(field)
        };
        // Whether a field that is never cached comes later is not seen here: such a value is never the whole.
        let complete = strategy.fields.is_none() && self.never.is_empty();
        let mut payload = Vec::with_capacity(512);
        if json::write(&mut payload, document, wanted).is_err() {
            return Plan::Gone { id, rev, why: Absence::Ambiguous };
        }
        let packed = (payload.len() > self.compress_over).then(|| pack(&payload)).flatten();
        let z = u8::from(packed.is_some());
        let payload = packed.unwrap_or(payload);
        if payload.len() > MAX_VALUE {
            return Plan::Gone { id, rev, why: Absence::TooLarge };
        }
        let c = u8::from(complete);
        // Names of strategies and collections are plain words: the settings are checked.
        let header = format!(
            r#"{{"f":{FORMAT},"rev":{rev},"at":{now_ms},"s":"{name}","z":{z},"c":{c},"n":"{}"}}"#,
            self.collection
        );
        let mut bytes = Vec::with_capacity(header.len() + 1 + payload.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&payload);
        Plan::Put(Cached { id, rev, bytes, ttl: strategy.ttl, unknown_strategy })
    }
}

/// The marker that keeps values with this `rev` and older ones out.
pub fn gone(rev: i64, now_ms: i64) -> Vec<u8> {
    format!("{{\"f\":{FORMAT},\"rev\":{rev},\"gone\":true,\"at\":{now_ms}}}\n").into_bytes()
}

/// Whether readers see the record as absent.
pub fn is_removed(document: &Document) -> bool {
    super::is_deleted(document) || super::is_fenced(document)
}

fn is_ended(document: &Document) -> bool {
    matches!(document.get_str("state"), Ok("ended"))
}

/// `None` where it does not get smaller.
fn pack(payload: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        // A fresh context would cost more than the compression.
        static PACKER: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    PACKER.with_borrow_mut(|packer| {
        if packer.is_none() {
            *packer = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        packer.as_mut()?.compress(payload).ok().filter(|packed| packed.len() < payload.len())
    })
}

fn unpack(bytes: &[u8]) -> Option<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(bytes).ok()??;
    if size > MAX_UNPACKED { None } else { zstd::bulk::decompress(bytes, size as usize).ok() }
}

/// Reads a value.
///
/// # Errors
/// It is of no use, and why: for the caller a miss.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Stale> {
    #[derive(Deserialize)]
    struct Format {
        f: u8,
    }
    let end = bytes.iter().position(|b| *b == b'\n').ok_or(Stale::Garbage)?;
    let (line, payload) = (&bytes[..end], &bytes[end + 1..]);
    let format: Format = serde_json::from_slice(line).map_err(|_| Stale::Garbage)?;
    if format.f != FORMAT {
        return Err(Stale::Format);
    }
    let header: Header = serde_json::from_slice(line).map_err(|_| Stale::Garbage)?;
    let document = match (header.gone, header.z) {
        (true, _) => None,
        (false, 0) => Some(json::read(payload).ok_or(Stale::Garbage)?),
        (false, _) => Some(unpack(payload).and_then(|json| json::read(&json)).ok_or(Stale::Garbage)?),
    };
    Ok(Parsed { complete: header.c == 1, header, document })
}

#[cfg(test)]
#[path = "cached_tests.rs"]
mod tests;
