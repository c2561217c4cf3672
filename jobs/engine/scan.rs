//! Pages of rows whose time has come, each read along the index that serves its case.

use std::{future::IntoFuture, time::Duration};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use mongodb::{
    bson::{Bson, Document, doc},
    error::ErrorKind,
    options::{CountOptions, Hint},
};

use crate::{
    kit::{JobError, Run, to_bson},
    policy::{Action, Case, MIN_ID, Rule},
};

/// What is read of a row, besides what its case asks for. Actions that move whole rows read whole rows.
const FIELDS: [&str; 18] = [
    "holdCount",
    "state",
    "tenant",
    "_sync.rev",
    "_sync.order",
    "userId",
    "sessionId",
    "documentId",
    "ownerType",
    "claimedBy",
    "currentVersionId",
    "previousVersionId",
    "versionNumber",
    "content",
    "bodyFile",
    "archivedAt",
    "moveLeft",
    "kind",
];

/// Rows with odd dates are counted up to here.
const ODD: u64 = 1_000;

/// Rows that no rule can ever act on, since their dates are not what they should be.
#[derive(Debug, Default, PartialEq)]
pub struct Odd {
    /// In the future, further than clocks differ.
    pub future: u64,
    /// Missing, or no date.
    pub undated: u64,
}

pub struct Scan<'r> {
    rule: &'r Rule,
    case: &'r Case,
    now: DateTime<Utc>,
    to: DateTime<Utc>,
}

impl<'r> Scan<'r> {
    pub fn new(rule: &'r Rule, case: usize, now: DateTime<Utc>) -> Self {
        Self { rule, case: &rule.cases[case], now, to: rule.scan_to(case, now) }
    }

    /// The next at most `limit` rows behind `after`. Reads exactly the part of the index that it returns, however many
    /// rows stayed before it.
    pub async fn page(
        &self,
        run: &Run,
        after: Option<&(Bson, Bson)>,
        limit: u32,
        also: &[String],
    ) -> Result<Vec<Document>, JobError> {
        let (date, id) = after.cloned().unwrap_or((mongodb::bson::DateTime::MIN.into(), MIN_ID));
        let find = async {
            let rows = run.db.collection::<Document>(&self.rule.on);
            let mut find = rows
                .find(self.bounds())
                .min(self.case.bound(date, id.clone()))
                .max(self.case.bound(to_bson(self.to + chrono::TimeDelta::milliseconds(1)).into(), MIN_ID))
                .hint(Hint::Keys(self.case.hint()))
                .sort(self.case.hint())
                // `min` includes the row at `after`, which is there still if it stayed.
                .limit(i64::from(limit) + 1)
                .batch_size(limit.saturating_add(1));
            if let Some(fields) = self.projection(also) {
                find = find.projection(fields);
            }
            find.await?.try_collect::<Vec<_>>().await
        };
        let mut rows = run.call("scan", find).await.map_err(|e| self.explain(e))?;
        if after.is_some() {
            rows.retain(|row| row.get("_id") != Some(&id));
        }
        rows.truncate(limit as usize);
        Ok(rows)
    }

    /// The row's place in the index.
    pub fn place(&self, row: &Document) -> (Bson, Bson) {
        let of = |name: &str| row.get(name).cloned().unwrap_or(Bson::Null);
        (of(&self.case.date), of("_id"))
    }

    /// Rows of the case with dates that cannot be right.
    pub async fn odd(&self, run: &Run, skew: Duration) -> Result<Odd, JobError> {
        let date = &self.case.date;
        let fixed = || -> Document { self.case.bound(Bson::Null, Bson::Null) };
        let rows = run.db.collection::<Document>(&self.rule.on);
        let ask = |condition: Document| {
            let mut filter = fixed();
            filter.remove("_id");
            filter.insert(date.clone(), condition);
            filter.extend(self.case.present.iter().map(|name| (name.clone(), Bson::from(doc! { "$ne": null }))));
            let options = CountOptions::builder().hint(Hint::Keys(self.case.hint())).limit(ODD).build();
            rows.count_documents(filter).with_options(options)
        };
        let ahead = self.now + chrono::TimeDelta::from_std(skew).unwrap_or_default();
        let future = ask(doc! { "$gt": to_bson(ahead) });
        let future = run.call("count future", future.into_future()).await.map_err(|e| self.explain(e))?;
        let undated = ask(doc! { "$not": { "$type": "date" } });
        let undated = run.call("count undated", undated.into_future()).await?;
        Ok(Odd { future, undated })
    }

    fn bounds(&self) -> Document {
        let mut filter: Document = self.case.equal.iter().cloned().collect();
        filter.extend(self.case.absent.iter().map(|name| (name.clone(), Bson::Null)));
        filter.insert(self.case.date.clone(), doc! { "$lte": to_bson(self.to) });
        filter
    }

    /// `also`: more fields to read.
    fn projection(&self, also: &[String]) -> Option<Document> {
        if matches!(self.rule.action, Action::ArchiveSession | Action::ArchiveRows { .. } | Action::Anonymize { .. }) {
            return None;
        }
        let case = self.case.equal.iter().map(|(name, _)| name).chain(&self.case.present).chain([&self.case.date]);
        let names = case.map(String::as_str).chain(FIELDS);
        Some(names.chain(also.iter().map(String::as_str)).map(|name| (name.to_owned(), Bson::Int32(1))).collect())
    }

    /// A page insists on its index; if that is missing the remedy is known.
    fn explain(&self, error: JobError) -> JobError {
        const BAD_VALUE: i32 = 2;
        match &error {
            JobError::Mongo(e) if matches!(&*e.kind, ErrorKind::Command(c) if c.code == BAD_VALUE) => {
                JobError::Failed(anyhow::anyhow!(
                    "rule `{}`: collection `{}` has no index on ({}); make it with `contextd migrate`",
                    self.rule.name,
                    self.rule.on,
                    self.case.keys().join(", ")
                ))
            }
            _ => error,
        }
    }
}

/// How many rows a rule finds in its indexes, held ones included, and how many there are in all. Counting stops a little
/// over the cap.
pub async fn due_and_total(run: &Run, rule: &Rule) -> Result<(u64, u64), JobError> {
    let rows = run.db.collection::<Document>(&rule.on);
    let total = run.call("count all", async { rows.estimated_document_count().await }).await?;
    let enough = rule.cap.of(total).saturating_add(1);
    let mut due = 0;
    for case in 0..rule.cases.len() {
        let scan = Scan::new(rule, case, run.now);
        let options = CountOptions::builder().hint(Hint::Keys(scan.case.hint())).limit(enough).build();
        let count = async { rows.count_documents(scan.bounds()).with_options(options).await };
        due += run.call("count due", count).await.map_err(|e| scan.explain(e))?;
    }
    Ok((due, total))
}
