//! Copies of the chain outside of the database: segments of entries, each naming the file before it by its hash.

use chrono::{DateTime, SecondsFormat, Utc};
use futures::TryStreamExt;
use mongodb::{
    Database,
    bson::{RawDocumentBuf, doc},
};
use serde::Serialize;

use super::{
    AUDIT_LOG, HASH, Key, SEQ, START,
    copied::Read,
    copy::Canonical,
    hash_of,
    judge::Judge,
    link::{link, unlinked},
};
use crate::kit::{JobError, Vaulted, in_time, strict};

/// Entries of one segment: some 3 MB of text.
pub const SEGMENT: i64 = 5_000;
/// Writers that meet look again this often.
const TRIES: usize = 5;

/// What [`anchor`] wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Anchored {
    pub segments: u64,
    pub entries: u64,
}

/// The file of the segment that begins with entry `from`.
pub(super) fn name(from: i64) -> String {
    format!("anchor-{from:012}.json")
}

pub(super) async fn names(vaulted: &dyn Vaulted) -> Result<Vec<String>, JobError> {
    let mut names = vaulted.list().await?;
    names.retain(|name| name.starts_with("anchor-") && name.ends_with(".json"));
    names.sort_unstable();
    Ok(names)
}

/// Links what waits and copies what no segment has yet. Safe from several processes at once: a segment is made once.
///
/// # Errors
/// A failure in between: call again. The log does not go on where the last segment ends: nothing is copied.
pub async fn anchor(
    db: &Database,
    key: Option<&Key>,
    vaulted: &dyn Vaulted,
    now: DateTime<Utc>,
) -> Result<Anchored, JobError> {
    let mut done = Anchored::default();
    let mut writer = Writer::open(db, key, vaulted).await?;
    loop {
        match writer.segment(now).await? {
            0 => return Ok(done),
            entries => {
                done.segments += 1;
                done.entries += entries;
            }
        }
    }
}

/// How many entries no segment has yet, linked or not.
pub async fn pending(db: &Database, vaulted: &dyn Vaulted) -> Result<u64, JobError> {
    let (db, to) = (strict(db), end(vaulted).await?.to);
    let log = db.collection::<RawDocumentBuf>(AUDIT_LOG);
    let linked = in_time(log.count_documents(doc! { SEQ: { "$gt": to } }).into_future()).await?;
    Ok(linked + in_time(log.count_documents(unlinked()).into_future()).await?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment<'a> {
    from: i64,
    to: i64,
    /// Of the entry `to`.
    hash: String,
    /// BLAKE3 of the bytes of the segment before; empty in the first.
    prev_anchor_hash: &'a str,
    at: String,
    entries: Vec<Canonical<'a>>,
}

/// Writes segments one after the other.
pub struct Writer<'a> {
    db: Database,
    key: Option<&'a Key>,
    vaulted: &'a dyn Vaulted,
    end: End,
}

/// The end of the last segment.
struct End {
    to: i64,
    hash: blake3::Hash,
    /// Of the file's bytes; empty before the first.
    file: String,
}

impl<'a> Writer<'a> {
    /// Links what waits, and looks where the last segment ends.
    pub async fn open(db: &Database, key: Option<&'a Key>, vaulted: &'a dyn Vaulted) -> Result<Self, JobError> {
        link(db, key).await?;
        Ok(Self { db: strict(db), key, vaulted, end: end(vaulted).await? })
    }

    /// Writes the next segment and answers how many entries it has; 0: there is nothing left to copy.
    pub async fn segment(&mut self, now: DateTime<Utc>) -> Result<u64, JobError> {
        for _ in 0..TRIES {
            let entries = self.entries().await?;
            let Some(hash) = entries.last().and_then(|entry| hash_of(entry, HASH)) else { return Ok(0) };
            let from = self.end.to + 1;
            let to = self.end.to + entries.len() as i64;
            let segment = Segment {
                from,
                to,
                hash: hash.to_hex().to_string(),
                prev_anchor_hash: &self.end.file,
                at: now.to_rfc3339_opts(SecondsFormat::Millis, true),
                entries: entries.iter().map(|entry| Canonical(entry)).collect(),
            };
            let bytes = serde_json::to_vec(&segment).map_err(|e| JobError::Failed(e.into()))?;
            let file = blake3::hash(&bytes).to_hex().to_string();
            if self.vaulted.create(&name(from), bytes).await? {
                self.end = End { to, hash, file };
                return Ok(entries.len() as u64);
            }
            // Somebody else was here: on from where they came to.
            self.end = end(self.vaulted).await?;
        }
        Err(JobError::Unconfirmed(format!("writing a segment of the audit log met others {TRIES} times")))
    }

    /// What comes after the last segment; it has to follow it.
    async fn entries(&self) -> Result<Vec<RawDocumentBuf>, JobError> {
        let log = self.db.collection::<RawDocumentBuf>(AUDIT_LOG);
        let find = log.find(doc! { SEQ: { "$gte": self.end.to } }).sort(doc! { SEQ: 1 }).limit(SEGMENT + 1);
        let mut entries: Vec<RawDocumentBuf> = in_time(async { find.await?.try_collect().await }).await?;
        if self.end.to > 0 {
            let last = entries.first().filter(|entry| entry.get_i64(SEQ).ok() == Some(self.end.to));
            if last.and_then(|entry| hash_of(entry, HASH)) != Some(self.end.hash) {
                return Err(differs(&format!("entry {} is not the one that the last segment ends with.", self.end.to)));
            }
            entries.remove(0);
        }
        entries.truncate(SEGMENT as usize);
        let mut judge = Judge::after(self.end.to, self.end.hash, self.key);
        match entries.iter().flat_map(|entry| judge.next(entry)).next() {
            Some(fault) => Err(differs(&fault)),
            None => Ok(entries),
        }
    }
}

fn differs(how: &str) -> JobError {
    JobError::Failed(anyhow::anyhow!("the audit log is not copied any more: {how} Run `contextd audit verify`."))
}

async fn end(vaulted: &dyn Vaulted) -> Result<End, JobError> {
    let Some(last) = names(vaulted).await?.pop() else { return Ok(End { to: 0, hash: START, file: String::new() }) };
    let bytes = vaulted.get(&last).await?;
    let read = Read::parse(&bytes).map_err(|e| differs(&format!("{last} cannot be read: {e}.")))?;
    let hash = blake3::Hash::from_hex(&read.hash).map_err(|_| differs(&format!("{last} has no valid hash.")))?;
    Ok(End { to: read.to, hash, file: blake3::hash(&bytes).to_hex().to_string() })
}
