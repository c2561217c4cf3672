//! Purges old dead letters and old run records.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use mongodb::{
    IndexModel,
    bson::{Bson, Document, doc},
    error::{ErrorKind, GridFsErrorKind},
    gridfs::GridFsBucket,
    options::GridFsBucketOptions,
};
use serde::{Deserialize, Serialize};

use crate::kit::{DueIndex, Job, JobError, PageSize, Row, Run, from_bson, in_time};

/// The job's own figures (`[jobs.housekeeping]`).
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Settings {
    #[serde(with = "humantime_serde")]
    pub dead_letters_after: Duration,
    #[serde(with = "humantime_serde")]
    pub job_runs_after: Duration,
    pub page: u32,
    #[serde(with = "humantime_serde")]
    pub page_time: Duration,
}

/// GridFS bucket of the dead letters' bodies that are too large for a document; the row's `bodyFile` is the file's id.
pub const BODIES: &str = "dead_letter_bodies";

const DEAD_LETTERS: DueIndex = DueIndex { collection: "dead_letters", field: "deadAt" };
const JOB_RUNS: DueIndex = DueIndex { collection: "job_runs", field: "finishedAt" };

/// What this job purges, in this order: the rows, the action they are counted under, the field that names a body.
const STAGES: [(DueIndex, &str, Option<&str>); 2] =
    [(DEAD_LETTERS, "purge_dead_letters", Some("bodyFile")), (JOB_RUNS, "purge_job_runs", None)];
const PURGE_BODIES: &str = "purge_dead_letter_bodies";

/// The indexes without which this job does not run.
pub fn indexes() -> Vec<(&'static str, IndexModel)> {
    STAGES.iter().map(|(rows, ..)| (rows.collection, rows.model())).collect()
}

impl Job for Settings {
    fn name(&self) -> &'static str {
        "housekeeping"
    }

    fn actions(&self) -> &'static [&'static str] {
        &["purge_dead_letters", PURGE_BODIES, "purge_job_runs"]
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>> {
        purge_all(self, run).boxed()
    }
}

async fn purge_all(settings: &Settings, run: &mut Run) -> Result<(), JobError> {
    let resume = Cursor::read(run.resume.as_ref());
    for (stage, (rows, action, body)) in STAGES.iter().enumerate().skip(resume.stage) {
        let keep =
            if rows.collection == JOB_RUNS.collection { settings.job_runs_after } else { settings.dead_letters_after };
        let cutoff = before(run.now, keep);
        let after = if stage == resume.stage { resume.after.clone() } else { None };
        let size = PageSize::new(settings.page, settings.page_time);
        Purge { rows: *rows, action, body: *body, stage, cutoff }.run(run, size, after).await?;
    }
    run.outcome.remaining = Some(if run.dry_run { run.outcome.changed } else { 0 });
    Ok(())
}

/// `now - keep`; a term longer than the calendar keeps everything.
fn before(now: DateTime<Utc>, keep: Duration) -> DateTime<Utc> {
    chrono::TimeDelta::from_std(keep)
        .ok()
        .and_then(|keep| now.checked_sub_signed(keep))
        .unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// One stage: rows of one collection older than one cutoff.
struct Purge {
    rows: DueIndex,
    action: &'static str,
    body: Option<&'static str>,
    stage: usize,
    cutoff: DateTime<Utc>,
}

impl Purge {
    async fn run(&self, run: &mut Run, mut size: PageSize, after: Option<(i64, Bson)>) -> Result<(), JobError> {
        let mut after = after;
        let also: &[&str] = self.body.as_slice();
        loop {
            run.page(Some(Cursor { stage: self.stage, after: after.clone() }.write())).await?;
            let started = Instant::now();
            let place = after.as_ref().map(|(date, id)| (mongodb::bson::DateTime::from_millis(*date), id));
            let rows = self.rows.page(&run.db, self.cutoff, place, size.rows(), also).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let place = (last.date.timestamp_millis(), last.id.clone());
            run.outcome.examined += rows.len() as u64;
            if run.dry_run {
                self.count(run, &rows);
            } else {
                self.delete(run, &rows).await?;
            }
            // Behind what was looked at, deleted or not: rows that survive never hold up those behind them.
            after = Some(place);
            size.took(rows.len() as u32, started.elapsed());
        }
    }

    fn count(&self, run: &mut Run, rows: &[Row]) {
        run.outcome.count(self.action, rows.len() as u64);
        for row in rows {
            run.outcome.sample(self.action, plain(&row.id), from_bson(row.date));
            if self.body_of(row).is_some() {
                *run.outcome.by_action.entry(PURGE_BODIES.into()).or_default() += 1;
            }
        }
    }

    /// Bodies first, rows last: cut off in between, the row is still there to be found by the next run.
    async fn delete(&self, run: &mut Run, rows: &[Row]) -> Result<(), JobError> {
        let bucket = run.db.gridfs_bucket(GridFsBucketOptions::builder().bucket_name(BODIES.to_string()).build());
        let mut ids = Vec::with_capacity(rows.len());
        for row in rows {
            let Some((field, file)) = self.body_of(row) else {
                ids.push(row.id.clone());
                continue;
            };
            if !self.fence(run, row, field, file).await? {
                continue;
            }
            delete_body(&bucket, file).await?;
            *run.outcome.by_action.entry(PURGE_BODIES.into()).or_default() += 1;
            ids.push(row.id.clone());
        }
        let deleted = self.rows.delete(&run.db, self.cutoff, &ids).await?;
        run.outcome.count(self.action, deleted);
        Ok(())
    }

    fn body_of<'r>(&self, row: &'r Row) -> Option<(&'static str, &'r Bson)> {
        let field = self.body?;
        row.rest.get(field).filter(|file| **file != Bson::Null).map(|file| (field, file))
    }

    /// Marks the row as going, if it is still due and has still this body: only then is the body touched.
    async fn fence(&self, run: &Run, row: &Row, field: &str, file: &Bson) -> Result<bool, JobError> {
        let mut filter = doc! { "_id": row.id.clone(), field: file.clone() };
        filter.extend(self.rows.predicate(self.cutoff));
        let rows = run.db.collection::<Document>(self.rows.collection);
        let marked = in_time(async { rows.update_one(filter, doc! { "$set": { "state": "purging" } }).await }).await?;
        Ok(marked.matched_count == 1)
    }
}

async fn delete_body(bucket: &GridFsBucket, file: &Bson) -> Result<(), JobError> {
    match in_time(async { bucket.delete(file.clone()).await }).await {
        // Gone already, by a run that was cut off before it deleted the row. Its chunks are deleted all the same.
        Err(JobError::Mongo(e)) if matches!(&*e.kind, ErrorKind::GridFs(GridFsErrorKind::FileNotFound { .. })) => {
            Ok(())
        }
        other => other,
    }
}

/// How far a run has come: the stage, and the last row of it that was looked at.
#[derive(Debug, Clone, Default, PartialEq)]
struct Cursor {
    stage: usize,
    after: Option<(i64, Bson)>,
}

impl Cursor {
    fn write(self) -> Document {
        let mut doc = doc! { "stage": STAGES.get(self.stage).map_or("", |(rows, ..)| rows.collection) };
        if let Some((date, id)) = self.after {
            doc.insert("date", mongodb::bson::DateTime::from_millis(date));
            doc.insert("id", id);
        }
        doc
    }

    /// A cursor that does not fit any more (of another version) means from the start, which is always safe.
    fn read(doc: Option<&Document>) -> Self {
        let stage = |doc: &Document| {
            let name = doc.get_str("stage").ok()?;
            STAGES.iter().position(|(rows, ..)| rows.collection == name)
        };
        let Some((doc, stage)) = doc.and_then(|doc| Some((doc, stage(doc)?))) else { return Self::default() };
        let after = doc.get_datetime("date").ok().zip(doc.get("id"));
        Self { stage, after: after.map(|(date, id)| (date.timestamp_millis(), id.clone())) }
    }
}

/// An id as a person would write it.
fn plain(id: &Bson) -> String {
    match id {
        Bson::String(id) => id.clone(),
        Bson::ObjectId(id) => id.to_hex(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_survives_storage_and_nonsense() {
        for cursor in [
            Cursor::default(),
            Cursor { stage: 1, after: None },
            Cursor { stage: 0, after: Some((1_700_000_000_123, Bson::from("a:b"))) },
        ] {
            assert_eq!(Cursor::read(Some(&cursor.clone().write())), cursor);
        }
        assert_eq!(Cursor::read(Some(&doc! { "stage": "gone", "id": 3 })), Cursor::default());
        assert_eq!(Cursor::read(None), Cursor::default());
    }

    #[test]
    fn a_term_longer_than_time_keeps_everything() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        assert_eq!(before(now, Duration::MAX), DateTime::<Utc>::MIN_UTC);
        assert_eq!(before(now, Duration::from_secs(60)).timestamp(), 1_799_999_940);
    }
}
