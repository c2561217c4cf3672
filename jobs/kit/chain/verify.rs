//! The check of the whole log.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{TryStream, TryStreamExt};
use mongodb::{
    Database,
    bson::{RawDocumentBuf, doc},
};
use serde::Serialize;

use super::{
    AUDIT_HEAD, AUDIT_LOG, Key, SEQ,
    copied::Anchors,
    id_of,
    judge::{Judge, missing},
    link::{link, place},
    valid_digest,
};
use crate::kit::{JobError, Vaulted, from_bson, in_time, strict};

/// An entry that is not linked this long after its time was not left by a linker that is late.
pub const OVERDUE: Duration = Duration::from_secs(5 * 60);
/// Faults told one by one; the rest is counted.
const TOLD: usize = 100;

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Linked entries.
    pub entries: u64,
    /// Entries that wait for the linker, and are well.
    pub waiting: u64,
    /// Segments outside of the database, and up to which number they reach.
    pub anchors: u64,
    pub anchored: i64,
    /// How many faults there are.
    pub faults: u64,
    /// The first of them, in the order of the chain, each a full sentence.
    pub told: Vec<String>,
}

impl Verdict {
    pub fn is_sound(&self) -> bool {
        self.faults == 0
    }

    fn tell(&mut self, text: impl Into<String>) {
        self.faults += 1;
        if self.told.len() < TOLD {
            self.told.push(text.into());
        }
    }
}

/// Reads the whole log once, in constant memory, beside the worker; the copies outside of the database, too, when they
/// are given.
///
/// # Errors
/// The log or a copy cannot be read: nothing is known.
pub async fn verify(
    db: &Database,
    key: Option<&Key>,
    anchors: Option<&dyn Vaulted>,
    now: DateTime<Utc>,
) -> Result<Verdict, JobError> {
    let db = strict(db);
    let mut verdict = Verdict::default();
    let head = head(&db).await?;
    let mut anchors = match anchors {
        Some(vaulted) => Some(Anchors::open(vaulted, key).await?),
        None => None,
    };
    let log = db.collection::<RawDocumentBuf>(AUDIT_LOG);
    let linked = log.find(doc! { SEQ: { "$exists": true } }).sort(doc! { SEQ: 1 }).allow_disk_use(true);
    let mut cursor = in_time(linked.into_future()).await?;
    let mut judge = Judge::new(key);
    let mut head_met = false;
    while let Some(entry) = next(&mut cursor).await? {
        verdict.entries += 1;
        for fault in judge.next(&entry) {
            verdict.tell(fault);
        }
        let (seq, hash) = judge.at();
        if let (Head::At(at, expected), Some(hash)) = (&head, hash)
            && *at == seq
        {
            head_met = true;
            if *expected != hash {
                verdict.tell(format!("The head of the log does not fit entry {seq}: one of the two was altered."));
            }
        }
        if let Some(anchors) = &mut anchors {
            for fault in anchors.compare(&entry).await? {
                verdict.tell(fault);
            }
        }
    }
    end(&db, &mut verdict, &head, head_met, judge.at().0).await?;
    if let Some(anchors) = &mut anchors {
        for fault in anchors.rest().await? {
            verdict.tell(fault);
        }
        (verdict.anchors, verdict.anchored) = (anchors.count(), anchors.reach());
    }
    unlinked(&db, &mut verdict, key, now).await?;
    Ok(verdict)
}

/// What the head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    None,
    Damaged,
    At(i64, blake3::Hash),
}

async fn head(db: &Database) -> Result<Head, JobError> {
    let heads = db.collection::<RawDocumentBuf>(AUDIT_HEAD);
    let head = in_time(heads.find_one(doc! { "_id": "head" }).into_future()).await?;
    Ok(match head {
        None => Head::None,
        Some(head) => place(&head).map_or(Head::Damaged, |(seq, hash)| Head::At(seq, hash)),
    })
}

/// The end of the log against the head as it was before and as it is now: a linker may have gone on meanwhile.
async fn end(db: &Database, verdict: &mut Verdict, before: &Head, met: bool, last: i64) -> Result<(), JobError> {
    match (before, head(db).await?) {
        (Head::Damaged, _) | (_, Head::Damaged) => verdict.tell("The head of the log was altered: it is not readable."),
        (Head::None, Head::None) if last == 0 => {}
        (_, Head::None) => verdict.tell("The head of the log was removed."),
        (Head::At(seq, _), _) if last < *seq => verdict.tell(missing(last + 1, *seq)),
        (_, Head::At(seq, _)) if last > seq => {
            verdict.tell(format!("The log goes on behind its head: what follows number {seq} was put in."));
        }
        (Head::At(seq, _), _) if !met => {
            // A missing or unreadable entry there is told already.
            tracing::debug!(seq, "no entry to compare the head with");
        }
        _ => {}
    }
    Ok(())
}

/// What is not linked: it waits with a valid digest, and not for long.
async fn unlinked(db: &Database, verdict: &mut Verdict, key: Option<&Key>, now: DateTime<Utc>) -> Result<(), JobError> {
    let log = db.collection::<RawDocumentBuf>(AUDIT_LOG);
    let mut cursor = in_time(log.find(doc! { SEQ: { "$exists": false } }).into_future()).await?;
    let mut overdue = None;
    while let Some(entry) = next(&mut cursor).await? {
        let id = id_of(&entry);
        if valid_digest(&entry, key).is_none() {
            verdict.tell(format!("The entry {id:?} was altered or put in: it has no valid digest, and no number."));
            continue;
        }
        verdict.waiting += 1;
        let age = entry.get_datetime("at").map(|at| now - from_bson(at));
        if age.is_ok_and(|age| age.to_std().is_ok_and(|age| age > OVERDUE)) {
            overdue.get_or_insert(id);
        }
    }
    // An entry's time is its task's, which may be old when it is recorded: overdue is what cannot be linked.
    if let Some(id) = overdue
        && let Err(e) = link(db, key).await
    {
        verdict.tell(format!("The entry {id:?}, and maybe more, waits to be linked for too long: {e}."));
    }
    Ok(())
}

async fn next<S>(cursor: &mut S) -> Result<Option<RawDocumentBuf>, JobError>
where
    S: TryStream<Ok = RawDocumentBuf, Error = mongodb::error::Error> + Unpin,
{
    in_time(cursor.try_next()).await
}
