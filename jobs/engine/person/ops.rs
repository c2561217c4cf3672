//! Writes that belong together, as data, so that a transaction which met others is simply sent again.

use std::time::Duration;

use mongodb::bson::{Document, doc};

use crate::{
    engine::take::{Txn, is_conflict},
    kit::{JobError, Run},
};

const TRIES: u32 = 8;

/// One command of a transaction.
#[derive(Debug, Clone)]
pub struct Op {
    call: &'static str,
    collection: String,
    what: What,
    /// So many rows have to be met, or nothing at all is written.
    expect: Option<u64>,
}

#[derive(Debug, Clone)]
enum What {
    Update(Vec<Document>),
    Delete(Vec<Document>),
    Insert(Document),
}

impl Op {
    /// Updates, each `{q, u, multi?, upsert?}`.
    pub fn update(call: &'static str, collection: &str, updates: Vec<Document>) -> Self {
        Self { call, collection: collection.to_owned(), what: What::Update(updates), expect: None }
    }

    /// Deletes all rows that meet the filter.
    pub fn delete(call: &'static str, collection: &str, filter: Document) -> Self {
        let what = What::Delete(vec![doc! { "q": filter, "limit": 0 }]);
        Self { call, collection: collection.to_owned(), what, expect: None }
    }

    pub fn insert(call: &'static str, collection: &str, document: Document) -> Self {
        Self { call, collection: collection.to_owned(), what: What::Insert(document), expect: None }
    }

    pub fn exactly(mut self, rows: usize) -> Self {
        self.expect = Some(rows as u64);
        self
    }
}

/// Makes all of them in one transaction. False: an expectation was not met, and nothing was written.
pub async fn write(run: &Run, ops: &[Op]) -> Result<bool, JobError> {
    let mut tries = 0;
    loop {
        match once(run, ops).await {
            Err(e) if is_conflict(&e) && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(u64::from(tries) * 10)).await;
            }
            ended => return ended,
        }
    }
}

async fn once(run: &Run, ops: &[Op]) -> Result<bool, JobError> {
    let mut txn = Txn::begin(run).await?;
    match within(&mut txn, ops).await {
        Ok(true) => txn.commit().await.map(|()| true),
        Ok(false) => {
            txn.abort().await;
            Ok(false)
        }
        Err(e) => {
            txn.abort().await;
            Err(e)
        }
    }
}

async fn within(txn: &mut Txn<'_>, ops: &[Op]) -> Result<bool, JobError> {
    for op in ops {
        let n = match &op.what {
            What::Update(updates) if updates.is_empty() => 0,
            What::Update(updates) => txn.update(op.call, &op.collection, updates.clone()).await?,
            What::Insert(document) => {
                txn.insert(op.call, &op.collection, vec![document.clone()]).await?;
                1
            }
            What::Delete(deletes) => txn.delete(op.call, &op.collection, deletes.clone()).await?,
        };
        if op.expect.is_some_and(|expect| n != expect) {
            return Ok(false);
        }
    }
    Ok(true)
}
