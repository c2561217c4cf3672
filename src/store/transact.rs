//! Several records changed at once or not at all.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::{
    ClientSession,
    bson::{Document, doc},
    error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure},
    options::{ReadConcern, TransactionOptions},
};

use super::{AUDIT_LOG, AuditEntry, Store, StoreFault};
use crate::record::{self, SYNC};

/// A transaction that meets others is tried again this often; then the caller waits longer.
const TRIES: u32 = 40;
/// A unique value that is taken this often in a row is taken for good.
const TAKEN: u32 = 3;

/// Why a transaction was given up.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    /// Whether it was committed may be unknown: what it does must be repeatable.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// It cannot be done; the text says why. Nothing was kept.
    #[error("{0}")]
    Refused(String),
    /// It met others again and again, for instance a transaction that a killed worker left open: MongoDB ends that after
    /// `transactionLifetimeLimitSeconds`. Nothing was kept.
    #[error("a transaction met others {TRIES} times: {0}")]
    Met(String),
}

/// A transaction without an effect that is no fault of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// For good; the text says why.
    Up(String),
    /// Others are at the same records: later.
    Way,
}

/// Tells a refusal, which is final, from a fault, which is worth another try.
pub trait Refusal<T> {
    /// `Ok(Err(given))`: it has no effect, and MongoDB is well.
    fn refusal(self) -> Result<Result<T, Given>, StoreFault>;
}

impl<T> Refusal<T> for Result<T, TransactError> {
    fn refusal(self) -> Result<Result<T, Given>, StoreFault> {
        match self {
            Ok(value) => Ok(Ok(value)),
            Err(TransactError::Refused(text)) => Ok(Err(Given::Up(text))),
            Err(TransactError::Met(text)) => {
                tracing::info!(text, "a transaction gives way");
                Ok(Err(Given::Way))
            }
            Err(TransactError::Store(fault)) => Err(fault),
        }
    }
}

/// Runs a block in a transaction (snapshot reads, majority write, journaled), again as long as it meets others:
/// `transact!(store, rows, async { rows.get(...).await?; Ok(value) })` is a `Result<T, TransactError>`.
///
/// A macro and no function: a closure that borrows and is awaited cannot be sent between threads yet.
macro_rules! transact {
    ($store:expr, $rows:ident, $work:expr) => {{
        let mut transaction = $store.transaction();
        loop {
            let mut $rows = match transaction.begin().await {
                Ok(rows) => rows,
                Err(fault) => break Err($crate::store::TransactError::from(fault)),
            };
            let done = tokio::time::timeout($store.time_limit(), $work).await;
            match transaction.end($rows, done.unwrap_or_else(|_| Err($crate::store::RowsError::timeout()))).await {
                Ok(Some(value)) => break Ok(value),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        }
    }};
}
pub(crate) use transact;

/// The attempts of one transaction; see [`transact`].
pub struct Transaction<'a> {
    store: &'a Store,
    attempt: u32,
    taken: u32,
}

/// The records inside of a transaction. A row that was read is written only at the revision that was read.
pub struct Rows<'a> {
    store: &'a Store,
    session: ClientSession,
}

#[derive(Debug)]
enum Stop {
    Driver(Error),
    /// A row has another revision by now.
    Moved,
    TimedOut,
    Refused(String),
}

/// An operation of a transaction that cannot go on; pass it up with `?`.
#[derive(Debug)]
pub struct RowsError(Stop);

impl From<Error> for RowsError {
    fn from(e: Error) -> Self {
        Self(Stop::Driver(e))
    }
}

impl RowsError {
    /// Gives the transaction up for good: nothing of it is kept.
    pub fn refuse(text: impl Into<String>) -> Self {
        Self(Stop::Refused(text.into()))
    }

    pub(crate) fn timeout() -> Self {
        Self(Stop::TimedOut)
    }
}

impl Rows<'_> {
    /// One record.
    pub async fn get(&mut self, collection: &str, key: &str) -> Result<Option<Document>, RowsError> {
        let records = self.store.db.collection::<Document>(collection);
        Ok(records.find_one(doc! { "_id": key }).session(&mut self.session).await?)
    }

    /// All records that match, at most `limit`.
    pub async fn find(&mut self, collection: &str, filter: Document, limit: i64) -> Result<Vec<Document>, RowsError> {
        let records = self.store.db.collection::<Document>(collection);
        let mut cursor = records.find(filter).limit(limit).session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    /// An aggregation's documents.
    pub async fn aggregate(&mut self, collection: &str, pipeline: Vec<Document>) -> Result<Vec<Document>, RowsError> {
        let records = self.store.db.collection::<Document>(collection);
        let mut cursor = records.aggregate(pipeline).session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    /// A new record, with revision 1 unless it has one.
    pub async fn insert(&mut self, collection: &str, mut document: Document) -> Result<(), RowsError> {
        if record::rev(&document).is_none() {
            document.insert(SYNC, doc! { "rev": 1_i64 });
        }
        let records = self.store.db.collection::<Document>(collection);
        records.insert_one(document).session(&mut self.session).await?;
        Ok(())
    }

    /// New records that have their revisions already, in one command.
    pub async fn insert_all(&mut self, collection: &str, documents: &[Document]) -> Result<(), RowsError> {
        if !documents.is_empty() {
            let records = self.store.db.collection::<Document>(collection);
            records.insert_many(documents).session(&mut self.session).await?;
        }
        Ok(())
    }

    /// Writes a record that was read here before and changed since; its revision is raised.
    pub async fn put(&mut self, collection: &str, mut document: Document) -> Result<(), RowsError> {
        let seen = record::rev(&document);
        let mut sync = document.get_document(SYNC).cloned().unwrap_or_default();
        sync.insert("rev", seen.unwrap_or(0) + 1);
        document.insert(SYNC, sync);
        self.replace(collection, seen, &document).await
    }

    /// Applies changes to one record that need not be read first; answers the record and how they ended.
    pub async fn fold(
        &mut self,
        collection: &str,
        key: &str,
        changes: &[&record::Change],
    ) -> Result<(Option<Document>, Vec<record::End>), RowsError> {
        let stored = self.get(collection, key).await?;
        let folded = record::fold(key, stored.as_ref(), changes);
        let Some(document) = folded.document else { return Ok((stored, folded.ends)) };
        match &stored {
            None => {
                let records = self.store.db.collection::<Document>(collection);
                records.insert_one(&document).session(&mut self.session).await?;
            }
            Some(stored) => self.replace(collection, record::rev(stored), &document).await?,
        }
        Ok((Some(document), folded.ends))
    }

    /// Records an operation together with what it does.
    pub async fn audit(&mut self, entry: &AuditEntry) -> Result<(), RowsError> {
        let log = self.store.db.collection::<Document>(AUDIT_LOG);
        log.insert_one(self.store.audited(entry)).session(&mut self.session).await?;
        Ok(())
    }

    /// Changes all rows that match; answers how many. The update has to raise `_sync.rev`.
    pub async fn update_many(
        &mut self,
        collection: &str,
        filter: Document,
        update: Document,
    ) -> Result<u64, RowsError> {
        let records = self.store.db.collection::<Document>(collection);
        Ok(records.update_many(filter, update).session(&mut self.session).await?.modified_count)
    }

    async fn replace(&mut self, collection: &str, seen: Option<i64>, document: &Document) -> Result<(), RowsError> {
        let records = self.store.db.collection::<Document>(collection);
        let filter = doc! { "_id": document.get("_id").cloned(), "_sync.rev": seen };
        let result = records.replace_one(filter, document).session(&mut self.session).await?;
        if result.matched_count == 1 { Ok(()) } else { Err(RowsError(Stop::Moved)) }
    }
}

impl Store {
    pub(crate) fn transaction(&self) -> Transaction<'_> {
        Transaction { store: self, attempt: 0, taken: 0 }
    }

    /// How long one step may take before its end counts as unknown.
    pub(crate) fn time_limit(&self) -> Duration {
        self.timeout
    }
}

impl<'a> Transaction<'a> {
    pub(crate) async fn begin(&mut self) -> Result<Rows<'a>, StoreFault> {
        if self.attempt > 0 {
            // Others go on meanwhile: the longer it fails, the longer the pause, up to 50 ms.
            let pause = rand::random_range(0..=(2_u64 << self.attempt.min(5)).min(50));
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.attempt += 1;
        let store = self.store;
        let start = async {
            let mut session = store.db.client().start_session().await?;
            let options = TransactionOptions::builder()
                .read_concern(ReadConcern::snapshot())
                .write_concern(store.db.write_concern().cloned())
                .build();
            session.start_transaction().with_options(options).await?;
            Ok(session)
        };
        Ok(Rows { store, session: store.bounded("a new transaction", start).await? })
    }

    /// Commits what was done; `None`: it met others, once more.
    pub(crate) async fn end<T>(
        &mut self,
        mut rows: Rows<'a>,
        done: Result<T, RowsError>,
    ) -> Result<Option<T>, TransactError> {
        let done = match done {
            Ok(done) => self.commit(&mut rows).await.map(|()| done),
            Err(RowsError(stop)) => {
                // Not waited for longer than needed: the server ends it by itself, too.
                let _ = self.store.bounded("abort", rows.session.abort_transaction().into_future()).await;
                Err(stop)
            }
        };
        let met = match done {
            Ok(done) => return Ok(Some(done)),
            Err(Stop::Refused(text)) => return Err(TransactError::Refused(text)),
            Err(Stop::TimedOut) => return Err(StoreFault::timeout("a transaction", self.store.timeout).into()),
            Err(Stop::Moved) => "a record changed meanwhile".to_owned(),
            // Somebody else made the same record meanwhile: it is found next time. Or a value is taken for good.
            Err(Stop::Driver(e)) if is_taken(&e) => {
                self.taken += 1;
                if self.taken >= TAKEN {
                    let text = "another record has the same value of a unique index".to_owned();
                    return Err(TransactError::Refused(text));
                }
                e.to_string()
            }
            Err(Stop::Driver(e)) if e.contains_label(TRANSIENT_TRANSACTION_ERROR) => e.to_string(),
            Err(Stop::Driver(e)) => return Err(StoreFault::from(e).into()),
        };
        if self.attempt < TRIES {
            return Ok(None);
        }
        Err(TransactError::Met(met))
    }

    async fn commit(&self, rows: &mut Rows<'a>) -> Result<(), Stop> {
        let commit = async {
            loop {
                match rows.session.commit_transaction().await {
                    Err(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    ended => return ended,
                }
            }
        };
        match tokio::time::timeout(self.store.timeout, commit).await {
            Ok(ended) => ended.map_err(Stop::Driver),
            Err(_) => Err(Stop::TimedOut),
        }
    }
}

fn is_taken(e: &Error) -> bool {
    match e.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(w)) => w.code == 11000,
        ErrorKind::InsertMany(failed) => failed.write_errors.iter().flatten().any(|w| w.code == 11000),
        _ => false,
    }
}
