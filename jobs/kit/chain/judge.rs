//! Whether linked entries follow each other: the arithmetic of the check, without the stores.

use mongodb::bson::{RawBsonRef, RawDocument};

use super::{HASH, Key, PREV, SEQ, START, hash_of, id_of, link_hash, once, valid_digest};

/// The last entry that was looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge<'a> {
    key: Option<&'a Key>,
    seq: i64,
    /// Unknown where an entry's own hash cannot be read.
    hash: Option<blake3::Hash>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(key: Option<&'a Key>) -> Self {
        Self::after(0, START, key)
    }

    /// Behind the entry of number `seq`, which has `hash`.
    pub(super) fn after(seq: i64, hash: blake3::Hash, key: Option<&'a Key>) -> Self {
        Self { key, seq, hash: Some(hash) }
    }

    /// Number and hash of the last entry.
    pub(super) fn at(&self) -> (i64, Option<blake3::Hash>) {
        (self.seq, self.hash)
    }

    /// Looks at the next entry in the order of the numbers: what is wrong between the last one and this, and with this.
    /// One sentence per entry; what follows from it is not told again.
    pub(super) fn next(&mut self, entry: &RawDocument) -> Vec<String> {
        let id = id_of(entry);
        let Some(RawBsonRef::Int64(seq)) = once(entry, SEQ) else {
            return vec![format!("The entry {id:?} is not one of the log's: its `seq` is not a number of the chain.")];
        };
        if seq <= self.seq {
            return vec![format!("The entry {id:?} was put in: its number {seq} belongs to another entry or to none.")];
        }
        let mut wrong = Vec::new();
        let gap = seq != self.seq + 1;
        if gap {
            wrong.push(missing(self.seq + 1, seq - 1));
        }
        let (prev, hash) = (hash_of(entry, PREV), hash_of(entry, HASH));
        let before = if gap { None } else { self.hash };
        if let Some(text) = self.fault(entry, seq, before, prev, hash) {
            wrong.push(format!("Entry {seq} ({id:?}) {text}."));
        }
        (self.seq, self.hash) = (seq, hash);
        wrong
    }

    fn fault(
        &self,
        entry: &RawDocument,
        seq: i64,
        before: Option<blake3::Hash>,
        prev: Option<blake3::Hash>,
        hash: Option<blake3::Hash>,
    ) -> Option<&'static str> {
        let Some(digest) = valid_digest(entry, self.key) else {
            return Some("was altered: its digest is not that of its fields");
        };
        let (Some(prev), Some(hash)) = (prev, hash) else {
            return Some("was altered: `prev` or `hash` is gone or is no hash");
        };
        if before.is_some_and(|before| before != prev) {
            return Some("does not follow the entry before it: one of the two was moved, put in or replaced");
        }
        if link_hash(&prev, &digest, seq, self.key) != hash {
            return Some("is not in its place: its hash is not that of its digest, its number and the entry before it");
        }
        None
    }
}

/// Numbers without an entry.
pub(super) fn missing(from: i64, to: i64) -> String {
    if from == to {
        format!("Entry {from} is missing: it was removed from the log.")
    } else {
        format!("The entries {from} to {to} are missing: they were removed from the log.")
    }
}
