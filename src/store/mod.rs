//! MongoDB: durable writes with per-document outcome. With `schedule` and the jobs the only code that talks to MongoDB.
//!
//! Every write is majority-acknowledged and journaled. A call whose end is unknown is sent again: every
//! write here can be repeated without a second effect.

mod access;
mod audit;
mod bulk;
mod client;
mod dead;
mod fault;
mod keys;
mod lifecycle;
mod lookup;
mod migrate;
mod read;
mod records;
mod related;
mod search;
mod shadow;
mod tombstones;
mod transact;
mod versions;

pub use access::{ACCESS_STATS, Access, Counted, Counts};
pub use audit::{AuditEntry, AuditFilter, AuditLines};
pub use client::Store;
pub use dead::{DeadFilter, DeadLetter, INLINE_BODY, NewDeadLetter};
pub use fault::StoreFault;
pub use keys::{DATA_KEYS, StoredKey};
pub use migrate::{IndexState, Migration};
pub use records::{RecordEntry, RecordSet};
pub use related::{CONTEXT_LINKS, Direction, Link, MAX_DEPTH, MAX_LINKS, Related};
pub use search::{After, CONTEXTS, Hit, Importance, Kind, MAX_HITS, Page, Search};
pub use shadow::Shadow;
pub(crate) use transact::transact;
pub use transact::{Given, Refusal, Rows, RowsError, TransactError};

/// Collections that tasks are written to; dead letters among them.
pub const ANALYSES: &str = "analyses";
pub const TYPING_CONTEXTS: &str = "typing_contexts";
pub const DEAD_LETTERS: &str = "dead_letters";
/// What the lifecycle purged, `_id` = `COLLECTION/KEY`: late tasks about it end as expired.
pub const TOMBSTONES: &str = "tombstones";
pub const AUDIT_LOG: &str = "audit_log";
pub const HOLDS: &str = "holds";
/// Cached records that are not in step.
pub const KVSHADOW: &str = "kvshadow";
pub const DOCUMENTS: &str = "documents";
pub const SESSIONS: &str = "sessions";
/// Where sessions lie when they are over; each under the id that it had.
pub const SESSION_HISTORY: &str = "session_history";
pub const DOCUMENT_VERSIONS: &str = "document_versions";
