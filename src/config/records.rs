//! Settings of the records: declarations, caches, contents, encryption, MCP. `config/default.toml` and
//! `config/records.toml` explain each.

use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// One declared record type; its name is the key in [`super::Config::records`].
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub r#type: String,
    #[serde(default = "records")]
    pub queue: String,
    /// The type's JSON Schema; empty: the compiled-in one of this type.
    #[serde(default)]
    pub schema: String,
    pub collection: String,
    /// Fields of the data that make up `_id`, joined by ":". Empty: the task's own `id@source`.
    #[serde(default)]
    pub key: Vec<String>,
    pub write: WriteMode,
    #[serde(default)]
    pub order: String,
    /// The name of the cached kind, a section of `[cache.kinds]`; empty: never cached.
    #[serde(default)]
    pub cache: String,
    /// Values that a new record gets: "state=active".
    #[serde(default)]
    pub create: Vec<String>,
    /// Values that every write sets.
    #[serde(default)]
    pub set: Vec<String>,
    /// Date fields that get the task's time where the data leaves them out.
    #[serde(default)]
    pub stamp: Vec<String>,
    /// Fields that are encrypted before they reach MongoDB or Redis.
    #[serde(default)]
    pub sensitive: Vec<String>,
    /// Whether the record has to be there already.
    #[serde(default)]
    pub required: bool,
    /// Whether many of one key become one write per `records_flush`.
    #[serde(default)]
    pub buffered: bool,
    #[serde(default)]
    pub audit: bool,
    /// With `write = "append"`: the array's field.
    #[serde(default)]
    pub array: String,
    /// With `write = "append"`: how many elements are kept, the newest.
    #[serde(default)]
    pub keep: u32,
    /// With `write = "delete"`: "collection.field=state", records that go with it.
    #[serde(default)]
    pub cascade: Vec<String>,
}

fn records() -> String {
    "records".into()
}

/// How a task of a type meets what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Once; a record that is there stays.
    Insert,
    /// The whole record; the newest wins.
    Replace,
    /// The given fields; of each field the newest wins.
    Merge,
    /// One more element of a bounded array.
    Append,
    /// Soft deletion; older tasks do not bring the record back.
    Delete,
    /// Undoes a soft deletion.
    Restore,
    // What follows changes several records at once, or contents, and is written in code.
    DocumentSave,
    VersionSave,
    VersionDecide,
    VersionRestore,
    UserClaim,
    UserErase,
    Evaluation,
    Relate,
    HoldPlace,
    HoldLift,
}

impl WriteMode {
    /// Whether the effect is one change of one record, wholly described by the declaration.
    pub fn is_plain(self) -> bool {
        matches!(self, Self::Insert | Self::Replace | Self::Merge | Self::Append | Self::Delete | Self::Restore)
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub environment: String,
    pub memory: ByteSize,
    #[serde(with = "humantime_serde")]
    pub memory_ttl: Duration,
    pub compress_over: ByteSize,
    #[serde(with = "humantime_serde")]
    pub sync_within: Duration,
    pub sync_waiting: u32,
    #[serde(with = "humantime_serde")]
    pub repair_every: Duration,
    #[serde(with = "humantime_serde")]
    pub live_user: Duration,
    #[serde(with = "humantime_serde")]
    pub live_anonymous: Duration,
    pub kinds: BTreeMap<String, CacheKind>,
}

/// One kind of cached record.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CacheKind {
    pub collection: String,
    /// The field whose value is the id in the cache key, where it is not `_id`.
    #[serde(default)]
    pub by: String,
    /// Fields that are never cached.
    #[serde(default)]
    pub never: Vec<String>,
    /// The strategy of records that name none.
    pub default: String,
    /// Other defaults by environment.
    #[serde(default)]
    pub environments: BTreeMap<String, String>,
    pub strategies: BTreeMap<String, Strategy>,
}

/// What is cached of a record, and how long.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Strategy {
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Fields that are cached; ["*"]: all.
    pub fields: Vec<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    pub url: String,
    pub archive_url: String,
    pub full_every: u32,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub s3: S3,
}

/// The audit log's chain, and its copy outside of the database.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub url: String,
    pub key: String,
}

impl Audit {
    /// What keys the digests: 32 bytes made of the setting; none when it is empty.
    pub fn secret(&self) -> Option<[u8; 32]> {
        (!self.key.is_empty()).then(|| blake3::derive_key("contextd audit log 1", self.key.as_bytes()))
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("url", &self.url).field("keyed", &!self.key.is_empty()).finish_non_exhaustive()
    }
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub allow_http: bool,
}

// The secret is never printed.
impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3").field("endpoint", &self.endpoint).field("region", &self.region).finish_non_exhaustive()
    }
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// "ID:BASE64 of 32 bytes", one a line; the first is the current one.
    pub keys: String,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption").field("on", &!self.keys.is_empty()).finish_non_exhaustive()
    }
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mcp {
    pub listen: String,
    pub token: String,
    pub hosts: Vec<String>,
}

impl std::fmt::Debug for Mcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mcp").field("listen", &self.listen).finish_non_exhaustive()
    }
}
