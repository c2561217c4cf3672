//! How new versions get into MongoDB: numbers, rows, and the current one of the document.
//!
//! The number, the row and the document's pointer change in one transaction, and every such transaction writes the
//! document's row: numbers have no gaps and no twins, whoever else saves at the same time. A version that others are
//! stored as a difference to is looked at in the same transaction; who removes one has to write the document's row, too.
//! A version is an access of its document.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, Document, doc};

use super::{
    Records,
    content::{owner, to_row},
    versions::Stored,
};
use crate::{
    content::described,
    metrics::Outcome,
    record::{Clock, SYNC, Sync, access, is_fenced},
    store::{DOCUMENT_VERSIONS, DOCUMENTS, Rows, RowsError},
};

/// The number of the document's newest version.
pub const COUNTER: &str = "versionCounter";
const CURRENT: &str = "currentVersionId";

/// How a transaction of versions ended.
pub enum Committed {
    /// One end for each version, in their order.
    Ends(Vec<Outcome>),
    /// What a version is a difference to has gone, or the document has, or got another owner.
    Again,
}

/// The rows, the counter and the pointer of the document, all or nothing. `sent`: this was tried before.
pub async fn commit(
    records: &Records,
    rows: &mut Rows<'_>,
    document: &str,
    ready: &[Stored<'_>],
    sent: bool,
) -> Result<Committed, RowsError> {
    let Some(mut row) = rows.get(DOCUMENTS, document).await? else { return Ok(Committed::Again) };
    if is_fenced(&row) {
        return Ok(Committed::Ends(vec![Outcome::Expired; ready.len()]));
    }
    if ready.iter().any(|stored| owner(&row).unwrap_or_default() != stored.owner) {
        return Ok(Committed::Again);
    }
    let own = ready.iter().map(|s| s.new.id.as_str());
    let needed: HashSet<&str> = own.chain(ready.iter().filter_map(|s| s.content.base.as_deref())).collect();
    let needed: Vec<&str> = needed.into_iter().collect();
    let found = rows.find(DOCUMENT_VERSIONS, doc! { "_id": { "$in": &needed } }, needed.len() as i64).await?;
    let mut there: HashMap<String, Document> = found.into_iter().filter_map(|d| Some((id(&d)?, d))).collect();
    let counter = number(&row, COUNTER);
    let mut previous = rows.aggregate(DOCUMENT_VERSIONS, last(document)).await?.first().and_then(id);
    let (mut next, mut clock) = (counter, None);
    let (mut ends, mut versions) = (Vec::with_capacity(ready.len()), Vec::with_capacity(ready.len()));
    for stored in ready {
        let new = stored.new;
        if let Some(taken) = there.get(&new.id) {
            let ours = sent && Sync::of(taken).task == new.task;
            ends.push(if ours { Outcome::Written } else { Outcome::Duplicate });
            continue;
        }
        next += 1;
        if !stored.may_stay(records, &there, next) {
            return Ok(Committed::Again);
        }
        let version = version_row(document, stored, next, previous.as_deref());
        // Of versions with one time in one batch, the later one is the newer.
        let at = clock.map_or(new.clock, |clock| new.clock.after(clock));
        clock = Some(at);
        access(&mut row, new.at, at);
        if new.becomes_current() {
            point(&mut row, &new.id, at, &new.task);
        }
        previous = Some(new.id.clone());
        there.insert(new.id.clone(), version.clone());
        versions.push(version);
        ends.push(Outcome::Written);
    }
    if next > counter {
        row.insert(COUNTER, next);
        // First of all: who comes second at the same time fails here, and not at a number that is taken.
        rows.put(DOCUMENTS, row).await?;
    }
    // In one command: a worker that is killed between these two keeps the document locked for a minute.
    rows.insert_all(DOCUMENT_VERSIONS, &versions).await?;
    Ok(Committed::Ends(ends))
}

/// The document's newest version that stays. The last number may be a pruned one's.
fn last(document: &str) -> Vec<Document> {
    vec![
        doc! { "$match": { "documentId": document, "state": { "$ne": "purging" } } },
        doc! { "$sort": { "versionNumber": -1 } },
        doc! { "$limit": 1 },
        doc! { "$project": { "_id": 1 } },
    ]
}

/// The row of a new version. Pure.
fn version_row(document: &str, stored: &Stored<'_>, number: i64, previous: Option<&str>) -> Document {
    let new = stored.new;
    let mut row = doc! { "_id": &new.id };
    row.extend(new.fields.clone());
    row.insert("documentId", document);
    row.insert("versionId", &new.id);
    row.insert("versionNumber", number);
    row.insert("content", to_row(&stored.content));
    if let Some(previous) = previous {
        row.insert("previousVersionId", previous);
    }
    let sync = Sync { rev: 1, order: new.clock.0, task: new.task.clone(), ..Sync::default() };
    row.insert(SYNC, sync.to_document());
    row
}

/// Makes a version the current one of its document, unless a newer one is. Pure.
pub fn point(row: &mut Document, version: &str, clock: Clock, task: &str) {
    let mut sync = Sync::of(row);
    if sync.clock(CURRENT).is_some_and(|at| at >= clock.0) {
        return;
    }
    row.insert(CURRENT, version);
    sync.set_clock(CURRENT, clock);
    if clock.0 >= sync.order {
        sync.order = clock.0;
        task.clone_into(&mut sync.task);
    }
    row.insert(SYNC, sync.to_document());
}

impl Stored<'_> {
    /// Whether it can get this number as it is stored: what it is a difference to has to be there, whole, the same, and
    /// not too many versions before it.
    fn may_stay(&self, records: &Records, there: &HashMap<String, Document>, number: i64) -> bool {
        let Some(base) = &self.content.base else { return true };
        let Some(row) = there.get(base) else { return false };
        let is_same = described(row).is_some_and(|c| c.is_full() && Some(&c.hash) == self.base_hash.as_ref());
        is_same && records.content.may_differ(number - self::number(row, "versionNumber"))
    }
}

fn id(row: &Document) -> Option<String> {
    row.get_str("_id").ok().map(str::to_owned)
}

/// A whole number; 0 when it is not there.
pub fn number(row: &Document, field: &str) -> i64 {
    row.get(field).and_then(Bson::as_i64).unwrap_or(0)
}
