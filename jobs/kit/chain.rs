//! The audit log and the hash chain over it; `docs/audit.md` has the exact bytes.
//!
//! Whoever records an entry stores it with its digest, in the transaction of the change where there is one. A linker
//! puts the entries that wait behind each other: each gets the next number, the hash of the one before it and a hash
//! over both and its digest. An entry that is altered, removed, put in or moved no longer fits.

mod anchor;
mod copied;
mod copy;
mod judge;
mod link;
mod verify;

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};

pub use anchor::{Anchored, SEGMENT, Writer, anchor, pending};
pub use copy::line;
pub use link::{link, waiting};
pub use verify::{OVERDUE, Verdict, verify};

use super::to_bson;

pub const AUDIT_LOG: &str = "audit_log";
/// One document, `_id` "head": the number and the hash of the last entry that is linked.
pub const AUDIT_HEAD: &str = "audit_head";

const DIGEST: &str = "digest";
const SEQ: &str = "seq";
const PREV: &str = "prev";
const HASH: &str = "hash";
/// What the chain adds to an entry; everything else is in its digest.
const CHAIN: [&str; 4] = [DIGEST, SEQ, PREV, HASH];

/// Stands for the hash of what is before the first entry.
const START: blake3::Hash = blake3::Hash::from_bytes([0; 32]);

/// The secret that digests and hashes are keyed with; 32 bytes.
pub type Key = [u8; 32];

/// One operation that concerns access to data. Never holds content.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Names the operation: a task's `id@source`, or what a run of the lifecycle did. Recorded once, however often it
    /// is sent.
    pub id: String,
    pub at: DateTime<Utc>,
    /// For instance `document.delete`.
    pub action: String,
    /// The kind of thing, a collection's name, and its id.
    pub entity: (String, String),
    /// Who asked for it, as far as the task says.
    pub actor: Option<String>,
    /// Ids and counts that belong to it.
    pub detail: Document,
}

impl Entry {
    /// As it is stored: with its digest, not linked yet.
    pub fn document(&self, key: Option<&Key>) -> Document {
        let mut entry = doc! {
            "_id": &self.id,
            "at": to_bson(self.at),
            "action": &self.action,
            "entity": { "kind": &self.entity.0, "id": &self.entity.1 },
        };
        if let Some(actor) = &self.actor {
            entry.insert("actor", actor);
        }
        if !self.detail.is_empty() {
            entry.insert("detail", self.detail.clone());
        }
        // What cannot be encoded cannot be stored either: the insert says why.
        if let Ok(raw) = RawDocumentBuf::try_from(&entry)
            && let Some(digest) = digest(&raw, key)
        {
            entry.insert(DIGEST, digest.to_hex().as_str());
        }
        entry
    }
}

/// The hash of the BSON document that is left of an entry without the chain's fields. `None`: it is no valid BSON.
fn digest(entry: &RawDocument, key: Option<&Key>) -> Option<blake3::Hash> {
    let mut rest = RawDocumentBuf::new();
    for field in entry.iter_elements() {
        let field = field.ok()?;
        if !CHAIN.contains(&field.key().as_str()) {
            rest.append(field.key(), field.value().ok()?);
        }
    }
    Some(hash(rest.as_bytes(), key))
}

/// The hash of an entry in its place.
fn link_hash(prev: &blake3::Hash, digest: &blake3::Hash, seq: i64, key: Option<&Key>) -> blake3::Hash {
    let mut bytes = [0; 72];
    bytes[..32].copy_from_slice(prev.as_bytes());
    bytes[32..64].copy_from_slice(digest.as_bytes());
    bytes[64..].copy_from_slice(&seq.to_be_bytes());
    hash(&bytes, key)
}

fn hash(bytes: &[u8], key: Option<&Key>) -> blake3::Hash {
    match key {
        Some(key) => blake3::keyed_hash(key, bytes),
        None => blake3::hash(bytes),
    }
}

/// The field as a hash in hexadecimal, if it is there once and is one.
fn hash_of(entry: &RawDocument, field: &str) -> Option<blake3::Hash> {
    match once(entry, field)? {
        RawBsonRef::String(text) => blake3::Hash::from_hex(text).ok().filter(|h| h.to_hex().as_str() == text),
        _ => None,
    }
}

/// A field that is there exactly once: BSON allows repeated names, and readers disagree on which one counts.
fn once<'a>(entry: &'a RawDocument, field: &str) -> Option<RawBsonRef<'a>> {
    let mut found = None;
    for element in entry.iter_elements() {
        let element = element.ok()?;
        if element.key().as_str() == field && found.replace(element.value().ok()?).is_some() {
            return None;
        }
    }
    found
}

/// The command that gives an entry its digest which has none; for logs from before there were digests.
pub fn adoption(entry: &RawDocument, key: Option<&Key>) -> Option<Document> {
    let id: Bson = once(entry, "_id")?.try_into().ok()?;
    let digest = digest(entry, key)?;
    Some(doc! {
        "q": { "_id": id, DIGEST: { "$exists": false }, SEQ: { "$exists": false } },
        "u": { "$set": { DIGEST: digest.to_hex().as_str() } },
    })
}

/// The digest that the entry carries, if it is the right one.
fn valid_digest(entry: &RawDocument, key: Option<&Key>) -> Option<blake3::Hash> {
    let carried = hash_of(entry, DIGEST)?;
    (digest(entry, key)? == carried).then_some(carried)
}

/// An entry's `_id` as a person would write it.
fn id_of(entry: &RawDocument) -> String {
    match entry.get("_id") {
        Ok(Some(RawBsonRef::String(id))) => id.to_owned(),
        Ok(Some(RawBsonRef::ObjectId(id))) => id.to_hex(),
        Ok(Some(other)) => Bson::try_from(other).map_or_else(|_| "of no kind".to_owned(), |id| id.to_string()),
        _ => "without an id".to_owned(),
    }
}

#[cfg(test)]
mod tests;
