use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use mongodb::{
    Database, IndexModel,
    bson::{self, Bson, Document, doc},
    error::ErrorKind,
    options::Hint,
};

use super::{JobError, TIME_LIMIT, in_time, to_bson};

/// How many rows the next page takes: it follows the time that the last one took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageSize {
    rows: u32,
    max: u32,
    target: Duration,
}

impl PageSize {
    const START: u32 = 100;

    /// Pages of at most `max` rows (at least one) that should take `target`.
    pub fn new(max: u32, target: Duration) -> Self {
        let max = max.max(1);
        Self { rows: max.min(Self::START), max, target }
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// A page of `rows` took `elapsed`. The size at most doubles and at most halves at a time. A short last page says
    /// nothing about what a full one costs, unless it was too slow already.
    pub fn took(&mut self, rows: u32, elapsed: Duration) {
        if rows < self.rows && elapsed < self.target {
            return;
        }
        let fits = f64::from(rows) * self.target.as_secs_f64() / elapsed.as_secs_f64().max(1e-6);
        let (least, most) = ((self.rows / 2).max(1), self.rows.saturating_mul(2).min(self.max));
        self.rows = (fits as u32).clamp(least, most.max(least));
    }

    /// A page ran out of time.
    pub fn timed_out(&mut self) {
        self.rows = (self.rows / 2).max(1);
    }
}

/// Rows of a collection that become due by a date, in the order of the index that serves them: `(field, _id)`.
#[derive(Debug, Clone, Copy)]
pub struct DueIndex {
    pub collection: &'static str,
    pub field: &'static str,
}

/// A row's place in its [`DueIndex`], and what else was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub date: bson::DateTime,
    pub id: Bson,
    pub rest: Document,
}

impl DueIndex {
    pub fn keys(&self) -> Document {
        doc! { self.field: 1, "_id": 1 }
    }

    pub fn model(&self) -> IndexModel {
        IndexModel::builder().keys(self.keys()).build()
    }

    /// What makes a row due. Every write repeats it.
    pub fn predicate(&self, cutoff: DateTime<Utc>) -> Document {
        doc! { self.field: { "$lt": to_bson(cutoff) } }
    }

    /// The next at most `limit` due rows behind `after`, with the fields of `also`. Reads exactly the part of the index
    /// that it returns, however many rows survived before it.
    pub async fn page(
        &self,
        db: &Database,
        cutoff: DateTime<Utc>,
        after: Option<(bson::DateTime, &Bson)>,
        limit: u32,
        also: &[&str],
    ) -> Result<Vec<Row>, JobError> {
        let (date, id) = after.unwrap_or((bson::DateTime::MIN, &Bson::MinKey));
        let mut fields = self.keys();
        fields.extend(also.iter().map(|f| (f.to_string(), Bson::Int32(1))));
        let find = async {
            db.collection::<Document>(self.collection)
                .find(self.predicate(cutoff))
                .min(doc! { self.field: date, "_id": id.clone() })
                .max(doc! { self.field: to_bson(cutoff), "_id": Bson::MinKey })
                .hint(Hint::Keys(self.keys()))
                .sort(self.keys())
                .projection(fields)
                // `min` includes the row at `after`, which is there still if it survived.
                .limit(i64::from(limit) + 1)
                .batch_size(limit.saturating_add(1))
                .max_time(TIME_LIMIT)
                .await?
                .try_collect::<Vec<_>>()
                .await
        };
        let found = in_time(find).await.map_err(|e| self.explain(e))?;
        let rows = found.into_iter().filter_map(|mut row| {
            let date = row.remove(self.field)?.as_datetime().copied()?;
            Some(Row { date, id: row.remove("_id")?, rest: row })
        });
        Ok(rows.filter(|r| after.is_none_or(|(_, id)| r.id != *id)).take(limit as usize).collect())
    }

    /// Deletes these rows, each only if it is still due, and says how many it deleted. Safe to repeat.
    pub async fn delete(&self, db: &Database, cutoff: DateTime<Utc>, ids: &[Bson]) -> Result<u64, JobError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let deletes = ids.iter().map(|id| {
            let mut q = doc! { "_id": id.clone() };
            q.extend(self.predicate(cutoff));
            Bson::Document(doc! { "q": q, "limit": 1 })
        });
        let command = doc! {
            "delete": self.collection,
            "deletes": deletes.collect::<Vec<_>>(),
            "ordered": false,
            "writeConcern": { "w": "majority", "j": true },
        };
        let reply = in_time(async { db.run_command(command).await }).await?;
        for part in ["writeErrors", "writeConcernError"] {
            if let Some(error) = reply.get(part) {
                return Err(JobError::Unconfirmed(format!("delete in `{}`: {error}", self.collection)));
            }
        }
        Ok(reply.get("n").and_then(|n| n.as_i64().or(n.as_i32().map(i64::from))).unwrap_or(0).unsigned_abs())
    }

    /// A page insists on its index; if that is missing the remedy is known.
    fn explain(&self, error: JobError) -> JobError {
        const BAD_VALUE: i32 = 2;
        match &error {
            JobError::Mongo(e) if matches!(&*e.kind, ErrorKind::Command(c) if c.code == BAD_VALUE) => {
                JobError::Failed(anyhow::anyhow!(
                    "collection `{}` has no index on ({}, _id); make it with `contextd migrate` ({e})",
                    self.collection,
                    self.field
                ))
            }
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_follows_the_time_and_stays_in_bounds() {
        let ms = Duration::from_millis;
        let mut size = PageSize::new(1000, ms(200));
        assert_eq!(size.rows(), 100);
        size.took(100, ms(10));
        assert_eq!(size.rows(), 200, "at most doubles");
        size.took(200, ms(400));
        assert_eq!(size.rows(), 100, "twice too slow: half");
        size.took(100, ms(10_000));
        assert_eq!(size.rows(), 50, "at most halves");
        size.took(7, ms(1));
        assert_eq!(size.rows(), 50, "a short page says nothing");
        size.took(7, ms(900));
        assert_eq!(size.rows(), 25, "unless it was slow");
        for _ in 0..20 {
            size.took(size.rows(), ms(0));
        }
        assert_eq!(size.rows(), 1000);
        for _ in 0..20 {
            size.timed_out();
        }
        assert_eq!(size.rows(), 1);
        size.took(1, ms(50_000));
        assert_eq!(size.rows(), 1);
        assert_eq!(PageSize::new(0, ms(1)).rows(), 1, "a page has at least one row");
    }
}
