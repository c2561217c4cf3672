//! The audit log: who did what to whose data. How its entries are chained is `contextd_jobs::kit::chain`'s business.

use contextd_jobs::{JobError, kit::chain};
use futures::TryStreamExt;
use mongodb::{
    Cursor,
    bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc},
};

pub use contextd_jobs::kit::chain::Entry as AuditEntry;

use super::{
    AUDIT_LOG, Store, StoreFault,
    bulk::{Reply, settle_concern},
};
use crate::metrics::ErrorClass;

/// Entries that one command gives their digests.
const ADOPTED: usize = 1_000;

/// Which entries [`Store::audit_lines`] reads.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// From this number on.
    pub from: i64,
    /// Only those about this thing: its kind and its id.
    pub entity: Option<(String, String)>,
}

/// Entries as lines of JSON, one after the other.
pub struct AuditLines(Cursor<RawDocumentBuf>);

impl AuditLines {
    /// The next line, without its line break.
    pub async fn next(&mut self) -> Result<Option<String>, StoreFault> {
        let Some(entry) = self.0.try_next().await? else { return Ok(None) };
        let line = chain::line(&entry);
        line.map(Some).map_err(|e| StoreFault::answer(ErrorClass::Other, format!("an audit entry is no BSON: {e}")))
    }
}

impl Store {
    /// Digests are keyed from here on; see `audit.key`.
    pub fn with_audit_key(mut self, key: Option<chain::Key>) -> Self {
        self.audit_key = key;
        self
    }

    pub(super) fn audited(&self, entry: &AuditEntry) -> Document {
        entry.document(self.audit_key.as_ref())
    }

    /// Records operations; those that are recorded already stay as they are.
    ///
    /// # Errors
    /// Which are recorded is unknown: call again.
    pub async fn audit(&self, entries: &[AuditEntry]) -> Result<(), StoreFault> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut documents = RawArrayBuf::new();
        for entry in entries {
            let raw = RawDocumentBuf::try_from(&self.audited(entry))
                .map_err(|e| StoreFault::answer(ErrorClass::Other, format!("an audit entry cannot be encoded: {e}")))?;
            documents.push(raw);
        }
        let command = rawdoc! { "insert": AUDIT_LOG, "ordered": false, "documents": documents };
        let reply: Reply = self.send("insert", AUDIT_LOG, command).await?;
        settle_concern(&reply)?;
        match reply.write_errors.iter().find(|e| !e.is_own_id()) {
            Some(e) => Err(StoreFault::answer(ErrorClass::Unavailable, format!("{}: {}", e.code, e.errmsg))),
            None => Ok(()),
        }
    }

    /// Links the entries that wait, if there are any, and answers how many it linked.
    ///
    /// # Errors
    /// A failure in between: call again.
    pub async fn link_audit(&self) -> Result<u64, JobError> {
        if chain::waiting(&self.db).await? { chain::link(&self.db, self.audit_key.as_ref()).await } else { Ok(0) }
    }

    /// The linked entries in the order of the chain.
    pub async fn audit_lines(&self, filter: AuditFilter) -> Result<AuditLines, StoreFault> {
        let mut query = doc! { "seq": { "$gte": filter.from.max(1) } };
        if let Some((kind, id)) = filter.entity {
            query.extend(doc! { "entity.kind": kind, "entity.id": id });
        }
        let log = self.db.collection::<RawDocumentBuf>(AUDIT_LOG);
        let find = log.find(query).sort(doc! { "seq": 1 }).allow_disk_use(true);
        Ok(AuditLines(self.bounded("find", find.into_future()).await?))
    }

    /// Gives the entries of a log that was never linked their digests. Where a chain has begun, none is given: an
    /// entry without one is none of ours.
    pub(super) async fn adopt_audit(&self) -> Result<(), StoreFault> {
        let head = self.db.collection::<Document>(chain::AUDIT_HEAD);
        if self.bounded("find", head.find_one(doc! {}).into_future()).await?.is_some() {
            return Ok(());
        }
        let log = self.db.collection::<RawDocumentBuf>(AUDIT_LOG);
        let find = log.find(doc! { "digest": { "$exists": false }, "seq": { "$exists": false } });
        let mut entries = self.bounded("find", find.into_future()).await?;
        loop {
            let mut updates = Vec::new();
            while updates.len() < ADOPTED
                && let Some(entry) = entries.try_next().await?
            {
                updates.extend(chain::adoption(&entry, self.audit_key.as_ref()));
            }
            if updates.is_empty() {
                return Ok(());
            }
            let command =
                doc! { "update": AUDIT_LOG, "updates": updates, "writeConcern": { "w": "majority", "j": true } };
            self.bounded("update", self.db.run_command(command).into_future()).await?;
        }
    }
}
