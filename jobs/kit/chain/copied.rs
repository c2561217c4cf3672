//! Reading the copies of the chain, beside the log.

use std::{collections::VecDeque, vec};

use mongodb::bson::RawDocument;
use serde::Deserialize;

use super::{
    HASH, Key, SEQ, START,
    anchor::{name, names},
    id_of, link_hash,
};
use crate::kit::{JobError, Vaulted};

/// A segment as it is read; of the entries what the chain says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Read {
    pub from: i64,
    pub to: i64,
    pub hash: String,
    pub prev_anchor_hash: String,
    pub entries: VecDeque<Copied>,
}

/// One entry of a segment.
#[derive(Debug, Deserialize)]
pub(super) struct Copied {
    seq: Long,
    digest: String,
    prev: String,
    hash: String,
}

#[derive(Debug, Deserialize)]
struct Long {
    #[serde(rename = "$numberLong")]
    number: String,
}

impl Copied {
    fn seq(&self) -> Option<i64> {
        self.seq.number.parse().ok()
    }
}

impl Read {
    pub(super) fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// What is wrong with it by itself, behind an entry of number `seq` and `hash`.
    fn fault(&self, seq: i64, hash: &str, key: Option<&Key>) -> Option<&'static str> {
        let (mut seq, mut before) = (seq, blake3::Hash::from_hex(hash).ok()?);
        for entry in &self.entries {
            let hashes = [&entry.prev, &entry.digest, &entry.hash].map(blake3::Hash::from_hex);
            let [Ok(prev), Ok(digest), Ok(hash)] = hashes else { return Some("has an entry without its hashes") };
            seq += 1;
            if entry.seq() != Some(seq) || prev != before || link_hash(&prev, &digest, seq, key) != hash {
                return Some("has entries that do not follow each other");
            }
            before = hash;
        }
        if self.entries.is_empty() || seq != self.to || before.to_hex().as_str() != self.hash {
            return Some("does not end as it says");
        }
        None
    }
}

/// The segments one after the other, one of them in memory.
pub(super) struct Anchors<'a> {
    vaulted: &'a dyn Vaulted,
    key: Option<&'a Key>,
    names: vec::IntoIter<String>,
    current: String,
    entries: VecDeque<Copied>,
    count: u64,
    to: i64,
    hash: String,
    file: String,
}

impl<'a> Anchors<'a> {
    pub(super) async fn open(vaulted: &'a dyn Vaulted, key: Option<&'a Key>) -> Result<Self, JobError> {
        Ok(Self {
            vaulted,
            key,
            names: names(vaulted).await?.into_iter(),
            current: String::new(),
            entries: VecDeque::new(),
            count: 0,
            to: 0,
            hash: START.to_hex().to_string(),
            file: String::new(),
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Number of the last entry that a segment holds.
    pub(super) fn reach(&self) -> i64 {
        self.to
    }

    /// Whether the next entry of the log is what the segments hold under its number.
    pub(super) async fn compare(&mut self, entry: &RawDocument) -> Result<Vec<String>, JobError> {
        let mut wrong = Vec::new();
        let Ok(seq) = entry.get_i64(SEQ) else { return Ok(wrong) };
        loop {
            match self.entries.front().and_then(Copied::seq) {
                None => match self.load().await? {
                    Some(faults) => wrong.extend(faults),
                    None => return Ok(wrong),
                },
                // Missing in the log, which tells it by itself.
                Some(copied) if copied < seq => drop(self.entries.pop_front()),
                Some(copied) if copied > seq => return Ok(wrong),
                Some(_) => break,
            }
        }
        let copied = self.entries.pop_front();
        if copied.is_some_and(|copied| entry.get_str(HASH).ok() != Some(&copied.hash)) {
            let (id, file) = (id_of(entry), &self.current);
            wrong.push(format!("Entry {seq} ({id:?}) is not the one that {file} holds: the log was written anew."));
        }
        Ok(wrong)
    }

    /// To be called behind the last entry of the log: what the segments hold beyond it.
    pub(super) async fn rest(&mut self) -> Result<Vec<String>, JobError> {
        let mut wrong = Vec::new();
        loop {
            if let (Some(first), Some(last)) = (self.entries.front(), self.entries.back()) {
                let (from, to, file) = (first.seq().unwrap_or(0), last.seq().unwrap_or(0), &self.current);
                wrong.push(format!("The log ends too early: {file} holds the entries {from} to {to}."));
                self.entries.clear();
            }
            match self.load().await? {
                Some(faults) => wrong.extend(faults),
                None => return Ok(wrong),
            }
        }
    }

    /// The next segment and what is wrong with it; one that cannot be used has no entries.
    async fn load(&mut self) -> Result<Option<Vec<String>>, JobError> {
        let Some(file) = self.names.next() else { return Ok(None) };
        let bytes = self.vaulted.get(&file).await?;
        self.count += 1;
        let mut wrong = Vec::new();
        let hash = blake3::hash(&bytes).to_hex().to_string();
        match Read::parse(&bytes) {
            Err(e) => wrong.push(format!("{file} was altered: it cannot be read: {e}.")),
            Ok(read) => {
                let follows = read.from == self.to + 1;
                if !follows {
                    let (from, to) = (self.to + 1, read.from - 1);
                    wrong.push(format!("A segment before {file} is missing: it held the entries {from} to {to}."));
                } else if read.prev_anchor_hash != self.file {
                    wrong.push(format!("{file} does not follow the segment before it: one of the two was altered."));
                }
                if file != name(read.from) {
                    wrong.push(format!("{file} holds the entries of another segment."));
                }
                let before = match read.entries.front() {
                    Some(first) if !follows => first.prev.clone(),
                    _ => self.hash.clone(),
                };
                if let Some(fault) = read.fault(read.from - 1, &before, self.key) {
                    wrong.push(format!("{file} was altered: it {fault}."));
                }
                (self.to, self.hash, self.entries) = (read.to, read.hash, read.entries);
            }
        }
        (self.current, self.file) = (file, hash);
        Ok(Some(wrong))
    }
}
