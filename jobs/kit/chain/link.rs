//! Puts the entries that wait behind the last one.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::{
    ClientSession, Database,
    bson::{Bson, Document, RawDocument, RawDocumentBuf, doc},
    error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure},
    options::{ReadConcern, TransactionOptions},
};

use super::{AUDIT_HEAD, AUDIT_LOG, DIGEST, HASH, Key, PREV, SEQ, START, hash_of, link_hash, once, valid_digest};
use crate::kit::{JobError, durable, in_time, strict};

/// Entries of one transaction: some 0.1 s of work on two cores, so that those who meet wait shortly.
const BATCH: usize = 500;
/// Linkers that meet try again this often, with pauses up to [`PAUSE`]: some 20 s, then the caller decides.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(100);

/// Entries without a place in the chain.
pub(super) fn unlinked() -> Document {
    // As the partial index has it: MongoDB builds none on `$exists: false`.
    doc! { SEQ: null }
}

/// Whether there is anything to link: one look into an index.
pub async fn waiting(db: &Database) -> Result<bool, JobError> {
    let log = strict(db).collection::<RawDocumentBuf>(AUDIT_LOG);
    let one = in_time(async { log.find_one(unlinked()).projection(doc! { "_id": 1 }).await }).await?;
    Ok(one.is_some())
}

/// Links every entry that waits, those of one batch ordered by time and id, and answers how many it linked. Any number
/// of processes may do it at once, and each may be killed anywhere. Entries without a valid digest are never linked.
///
/// # Errors
/// A failure in between: call again.
pub async fn link(db: &Database, key: Option<&Key>) -> Result<u64, JobError> {
    let db = strict(db);
    let (mut linked, mut met) = (0, 0);
    loop {
        let batch = in_time(batch(&db, key)).await?;
        if batch.is_empty() {
            return Ok(linked);
        }
        match attempt(&db, &batch, key).await {
            Ok(true) => {
                linked += batch.len() as u64;
                met = 0;
                continue;
            }
            Ok(false) => {}
            Err(JobError::Mongo(e)) if others_were_there(&e) => {}
            Err(e) => return Err(e),
        }
        met += 1;
        if met == TRIES {
            return Err(JobError::Unconfirmed(format!("linking the audit log met others {TRIES} times")));
        }
        // Of those who meet, one always gets through.
        tokio::time::sleep(PAUSE.min(Duration::from_millis(2 * u64::from(met)))).await;
    }
}

/// The next entries with their digests.
async fn batch(db: &Database, key: Option<&Key>) -> mongodb::error::Result<Vec<Waiting>> {
    let log = db.collection::<RawDocumentBuf>(AUDIT_LOG);
    let mut cursor = log.find(unlinked()).sort(doc! { "at": 1, "_id": 1 }).batch_size(BATCH as u32).await?;
    let mut batch = Vec::with_capacity(BATCH);
    let mut strange = 0_u64;
    while batch.len() < BATCH
        && let Some(entry) = cursor.try_next().await?
    {
        match (once(&entry, "_id"), valid_digest(&entry, key)) {
            (Some(id), Some(digest)) if matches!(entry.get(SEQ), Ok(None)) => {
                batch.push(Waiting { id: id.try_into()?, digest });
            }
            _ => strange += 1,
        }
    }
    if strange > 0 {
        tracing::debug!(strange, "entries of the audit log without a valid digest are not linked");
    }
    Ok(batch)
}

struct Waiting {
    id: Bson,
    digest: blake3::Hash,
}

/// `false`: somebody else was at these entries.
async fn attempt(db: &Database, batch: &[Waiting], key: Option<&Key>) -> Result<bool, JobError> {
    let options = TransactionOptions::builder().read_concern(ReadConcern::snapshot()).write_concern(durable()).build();
    let mut session = in_time(db.client().start_session().into_future()).await?;
    session.start_transaction().with_options(options).await?;
    match write(db, &mut session, batch, key).await {
        Ok(true) => in_time(commit(&mut session)).await.map(|()| true),
        other => {
            // The server ends it by itself, too.
            let _ = in_time(session.abort_transaction().into_future()).await;
            other
        }
    }
}

async fn write(
    db: &Database,
    session: &mut ClientSession,
    batch: &[Waiting],
    key: Option<&Key>,
) -> Result<bool, JobError> {
    let heads = db.collection::<RawDocumentBuf>(AUDIT_HEAD);
    let head = in_time(heads.find_one(doc! { "_id": "head" }).session(&mut *session).into_future()).await?;
    let (mut seq, mut prev) = match &head {
        None => (0, START),
        Some(head) => place(head).ok_or_else(|| damaged("is not readable"))?,
    };
    let before = (seq, prev);
    let mut updates = Vec::with_capacity(batch.len());
    for entry in batch {
        seq += 1;
        let hash = link_hash(&prev, &entry.digest, seq, key);
        updates.push(doc! {
            "q": { "_id": entry.id.clone(), SEQ: { "$exists": false }, DIGEST: entry.digest.to_hex().as_str() },
            "u": { "$set": { SEQ: seq, PREV: prev.to_hex().as_str(), HASH: hash.to_hex().as_str() } },
        });
        prev = hash;
    }
    // The head first: whoever comes second meets here, before the work.
    let after = doc! { SEQ: seq, HASH: prev.to_hex().as_str() };
    if head.is_some() {
        let filter = doc! { "_id": "head", SEQ: before.0, HASH: before.1.to_hex().as_str() };
        let update = heads.update_one(filter, doc! { "$set": after }).session(&mut *session);
        if in_time(update.into_future()).await?.matched_count != 1 {
            return Ok(false);
        }
    } else {
        let mut first = doc! { "_id": "head" };
        first.extend(after);
        let heads = db.collection::<Document>(AUDIT_HEAD);
        in_time(heads.insert_one(first).session(&mut *session).into_future()).await?;
    }
    let command = doc! { "update": AUDIT_LOG, "updates": updates };
    let reply = in_time(db.run_command(command).session(&mut *session).into_future()).await?;
    if reply.contains_key("writeErrors") {
        return Err(damaged("is behind the entries"));
    }
    Ok(reply.get_i32("nModified").is_ok_and(|n| usize::try_from(n) == Ok(batch.len())))
}

/// Number and hash of the last linked entry.
pub(super) fn place(head: &RawDocument) -> Option<(i64, blake3::Hash)> {
    Some((head.get_i64(SEQ).ok().filter(|seq| *seq > 0)?, hash_of(head, HASH)?))
}

fn damaged(how: &str) -> JobError {
    let text = "nothing is linked any more until it is repaired: run `contextd audit verify`";
    JobError::Failed(anyhow::anyhow!("the head of the audit log {how}; {text}"))
}

/// Until its end is known; the time limit around it ends the waiting. What was committed after all is seen by the next
/// look: those entries wait no longer.
async fn commit(session: &mut ClientSession) -> mongodb::error::Result<()> {
    loop {
        match session.commit_transaction().await {
            Err(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ended => return ended,
        }
    }
}

/// A conflict, or the head or a number made by somebody else meanwhile.
fn others_were_there(e: &Error) -> bool {
    e.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || matches!(&*e.kind, ErrorKind::Write(WriteFailure::WriteError(w)) if w.code == 11_000)
        || matches!(&*e.kind, ErrorKind::Command(c) if [112, 11_000].contains(&c.code))
}
