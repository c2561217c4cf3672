//! Rows that are purged by themselves: deleted under the whole predicate, with their evidence in the same transaction.

use mongodb::{
    bson::{Bson, Document, doc},
    error::{ErrorKind, GridFsErrorKind},
    gridfs::GridFsBucket,
    options::GridFsBucketOptions,
};

use super::{
    Acted, Engine,
    judge::Due,
    mark::forget,
    take::{Take, Taken, take},
};
use crate::{
    kit::{JobError, Run},
    policy::Rule,
};

/// GridFS bucket of the dead letters' bodies that are too large for a document; the row's `bodyFile` is the file's id.
pub const BODIES: &str = "dead_letter_bodies";
const BODY: &str = "bodyFile";

pub async fn purge(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Acted, JobError> {
    forget(engine, run, rule, &due).await?;
    let (large, plain): (Vec<Due>, Vec<Due>) = due.into_iter().partition(|item| body_of(item).is_some());
    // Records that tasks make leave a tombstone, so that a late task does not make them again.
    let (records, others): (Vec<Due>, Vec<Due>) = plain.into_iter().partition(|item| item.row.contains_key("_sync"));
    let mut acted = Acted::default();
    for (rows, tombstone) in [(records, Some("closed")), (others, None)] {
        if rows.is_empty() {
            continue;
        }
        let how = Take { set: None, unset: &[], tombstone, audit: true, also: Document::new() };
        let taken = take(engine, run, rule, rows, &how).await?;
        acted.done += taken.rows.len() as u64;
        acted.left.extend(taken.left);
    }
    if !large.is_empty() {
        let taken = with_bodies(engine, run, rule, large).await?;
        acted.done += taken.rows.len() as u64;
        acted.left.extend(taken.left);
    }
    Ok(acted)
}

/// Fence, bodies, rows: cut off in between, the row is still there to be found by the next run.
async fn with_bodies(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Taken, JobError> {
    let bucket = run.db.gridfs_bucket(GridFsBucketOptions::builder().bucket_name(BODIES.to_owned()).build());
    let mut fenced = Vec::with_capacity(due.len());
    for item in due {
        // The mark keeps the row from being requeued; it stays due.
        let mut filter = doc! { "_id": item.id.clone() };
        filter.extend(rule.cases.get(item.case).map(|case| case.predicate(item.cutoff)).unwrap_or_default());
        filter.remove("state");
        let rows = run.db.collection::<Document>(&rule.on);
        let set = doc! { "$set": { "bodyState": "purging" } };
        if run.call("fence body", async { rows.update_one(filter, set).await }).await?.matched_count == 1 {
            delete_body(run, &bucket, body_of(&item).unwrap_or(&Bson::Null)).await?;
            fenced.push(item);
        }
    }
    let how = Take { set: None, unset: &[], tombstone: None, audit: true, also: Document::new() };
    take(engine, run, rule, fenced, &how).await
}

fn body_of(item: &Due) -> Option<&Bson> {
    item.row.get(BODY).filter(|file| **file != Bson::Null)
}

async fn delete_body(run: &Run, bucket: &GridFsBucket, file: &Bson) -> Result<(), JobError> {
    match run.call("delete body", async { bucket.delete(file.clone()).await }).await {
        // Gone already, by a run that was cut off before it deleted the row. Its chunks are deleted all the same.
        Err(JobError::Mongo(e)) if matches!(&*e.kind, ErrorKind::GridFs(GridFsErrorKind::FileNotFound { .. })) => {
            Ok(())
        }
        other => other,
    }
}
