//! Batches of writes with an outcome for each document.
//!
//! The commands are sent as they are: the driver's own bulk calls either need a newer server or hide
//! which document failed.
//!
//! "Newest wins" is the expensive case. Measured with 500 documents of 500 bytes, CPU of mongod 6.0 per
//! document: inserting new ones 10 us, but 35 us as soon as *one* of the batch is there already; a guarded
//! replacement 40 us; looking 500 keys up 3 to 5 us. So a batch is inserted as it is until a document turns
//! out to be there; from then on batches look first and insert what is absent, until several in a row
//! found nothing.

use std::{collections::HashMap, sync::atomic::Ordering, time::Instant};

use mongodb::bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use serde::Deserialize;

use super::{Store, StoreFault, fault::is_transient_code};
use crate::{
    batch::{Mode, Resolution, WriteSet},
    metrics::{ErrorClass, WriteOutcome},
};

/// So many batches in a row must find none of their documents before the next one is inserted blindly.
const LOOKS: u32 = 8;
/// MongoDB takes no larger document.
const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// One command is one document of at most 16 MiB and a little more.
const MAX_COMMAND: usize = 15 * 1024 * 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Reply {
    /// Documents inserted or matched.
    #[serde(default)]
    pub(super) n: i64,
    #[serde(default, rename = "nModified")]
    modified: i64,
    #[serde(default)]
    upserted: Vec<Document>,
    #[serde(default, rename = "writeErrors")]
    pub(super) write_errors: Vec<WriteError>,
    #[serde(rename = "writeConcernError")]
    write_concern_error: Option<ConcernError>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WriteError {
    pub(super) index: usize,
    pub(super) code: i32,
    #[serde(default)]
    pub(super) errmsg: String,
    #[serde(rename = "keyPattern")]
    key_pattern: Option<Document>,
}

#[derive(Debug, Deserialize)]
struct ConcernError {
    code: i32,
    #[serde(default)]
    errmsg: String,
}

impl WriteError {
    /// The document's own id is taken, as opposed to another unique index.
    pub(super) fn is_own_id(&self) -> bool {
        self.code == 11000 && self.key_pattern.as_ref().is_some_and(|k| k.len() == 1 && k.contains_key("_id"))
    }
}

impl Store {
    /// Sends whatever is unresolved in `set`, and resolves it.
    ///
    /// # Errors
    /// After an error some writes are unresolved: wait and call again with the same set.
    pub async fn write(&self, set: &mut WriteSet) -> Result<(), StoreFault> {
        for position in 0..set.writes.len() {
            let size = set.writes[position].document.as_bytes().len();
            if size > MAX_DOCUMENT && set.resolutions[position].is_none() {
                let text = format!("the document has {size} bytes; MongoDB takes at most {MAX_DOCUMENT}");
                set.resolve(position, Resolution::Rejected(text));
            }
        }
        let result = self.write_all(set).await;
        if result.is_err() {
            set.uncertain = true;
        }
        result
    }

    async fn write_all(&self, set: &mut WriteSet) -> Result<(), StoreFault> {
        for (collection, positions) in set.unresolved(true) {
            for chunk in chunks(set, &positions) {
                self.insert(collection, set, &chunk, false).await?;
            }
        }
        for (collection, positions) in set.unresolved(false) {
            if self.looks.load(Ordering::Relaxed) == 0 {
                for chunk in chunks(set, &positions) {
                    self.insert(collection, set, &chunk, true).await?;
                }
            }
            let there: Vec<usize> = positions.iter().copied().filter(|p| set.resolutions[*p].is_none()).collect();
            if !there.is_empty() {
                self.look(collection, set, &there).await?;
            }
            // What was there already is replaced if it is older.
            for chunk in chunks(set, &positions) {
                self.replace_older(collection, set, &chunk).await?;
            }
        }
        Ok(())
    }

    /// Looks first: what is newer there ends at once, what is absent is inserted.
    async fn look(&self, collection: &str, set: &mut WriteSet, positions: &[usize]) -> Result<(), StoreFault> {
        let found = self.orders(collection, set, positions).await?;
        let mut absent = Vec::new();
        for p in positions {
            match found.get(&set.writes[*p].id) {
                None => absent.push(*p),
                Some(there) => {
                    match against(set, *p, *there) {
                        // Sent before, with an unknown end: this is it.
                        Some(Resolution::Duplicate) if set.uncertain => set.resolve(*p, Resolution::Written),
                        Some(resolution) => set.resolve(*p, resolution),
                        None => {}
                    }
                }
            }
        }
        if found.is_empty() {
            self.looks.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.looks.store(LOOKS, Ordering::Relaxed);
        }
        for chunk in chunks(set, &absent) {
            self.insert(collection, set, &chunk, true).await?;
        }
        Ok(())
    }

    /// Inserts. With `newest`, documents that are there already stay unresolved.
    async fn insert(
        &self,
        collection: &str,
        set: &mut WriteSet,
        positions: &[usize],
        newest: bool,
    ) -> Result<(), StoreFault> {
        let mut documents = RawArrayBuf::new();
        for p in positions {
            documents.push(&*set.writes[*p].document);
        }
        let command = rawdoc! { "insert": collection, "ordered": false, "documents": documents };
        let reply = self.send("insert", collection, command).await?;
        let mut failed = vec![false; positions.len()];
        let mut retry = None;
        for error in &reply.write_errors {
            let Some(p) = positions.get(error.index).copied() else { continue };
            failed[error.index] = true;
            if error.is_own_id() {
                if newest {
                    self.looks.store(LOOKS, Ordering::Relaxed);
                } else {
                    let ours = set.uncertain;
                    set.resolve(p, if ours { Resolution::Written } else { Resolution::Duplicate });
                }
            } else if is_transient_code(error.code) {
                retry = Some((error.code, error.errmsg.clone()));
            } else {
                set.resolve(p, Resolution::Rejected(describe(error)));
            }
        }
        settle_concern(&reply)?;
        for (p, failed) in positions.iter().zip(failed) {
            if !failed {
                set.resolve(*p, Resolution::Created);
            }
        }
        retry.map_or(Ok(()), |(code, text)| Err(StoreFault::answer(ErrorClass::Unavailable, format!("{code}: {text}"))))
    }

    /// Replaces documents that are older, and finds out about those that are not.
    async fn replace_older(&self, collection: &str, set: &mut WriteSet, positions: &[usize]) -> Result<(), StoreFault> {
        let mut updates = RawArrayBuf::new();
        for p in positions {
            let write = &set.writes[*p];
            let Mode::Newest { field, order } = write.mode else { continue };
            let stored = rawdoc! { "$ifNull": [format!("${field}"), i64::MIN] };
            let guarded = rawdoc! {
                "$cond": [{ "$lt": [stored, order] }, { "$literal": write.document.clone() }, "$$ROOT"],
            };
            let replace = rawdoc! { "$replaceWith": guarded };
            updates.push(rawdoc! { "q": { "_id": write.id.as_str() }, "u": [replace], "upsert": true });
        }
        let command = rawdoc! { "update": collection, "ordered": false, "updates": updates };
        let reply = self.send("update", collection, command).await?;
        let mut refused = vec![false; positions.len()];
        let mut retry = None;
        for error in &reply.write_errors {
            let Some(p) = positions.get(error.index).copied() else { continue };
            refused[error.index] = true;
            if is_transient_code(error.code) {
                retry = Some((error.code, error.errmsg.clone()));
            } else {
                set.resolve(p, Resolution::Rejected(describe(error)));
            }
        }
        settle_concern(&reply)?;
        let open: Vec<usize> = positions.iter().zip(&refused).filter(|(_, r)| !**r).map(|(p, _)| *p).collect();
        if reply.modified + reply.upserted.len() as i64 == open.len() as i64 {
            for p in open {
                set.resolve(p, Resolution::Written);
            }
        } else {
            self.compare(collection, set, &open).await?;
        }
        retry.map_or(Ok(()), |(code, text)| Err(StoreFault::answer(ErrorClass::Unavailable, format!("{code}: {text}"))))
    }

    /// Resolves each write by what is in MongoDB now: our own order, a newer one, or an older one again.
    async fn compare(&self, collection: &str, set: &mut WriteSet, positions: &[usize]) -> Result<(), StoreFault> {
        let found = self.orders(collection, set, positions).await?;
        let mut changed = 0;
        for p in positions {
            match found.get(&set.writes[*p].id).and_then(|there| against(set, *p, *there)) {
                // It was older when it was looked up: what is there now is this write's own effect.
                Some(Resolution::Duplicate) => set.resolve(*p, Resolution::Written),
                Some(resolution) => set.resolve(*p, resolution),
                None => changed += 1,
            }
        }
        if changed > 0 {
            let text = format!("{changed} documents changed while they were written");
            return Err(StoreFault::answer(ErrorClass::Unavailable, text));
        }
        Ok(())
    }

    /// The stored order of each document that is there; `None` when it has none.
    async fn orders(
        &self,
        collection: &str,
        set: &WriteSet,
        positions: &[usize],
    ) -> Result<HashMap<String, Option<i64>>, StoreFault> {
        let Some(Mode::Newest { field, .. }) = positions.first().map(|p| set.writes[*p].mode) else {
            return Ok(HashMap::new());
        };
        let ids: Vec<&str> = positions.iter().map(|p| set.writes[*p].id.as_str()).collect();
        let find = async {
            let documents = self.db.collection::<RawDocumentBuf>(collection);
            let find = documents.find(doc! { "_id": { "$in": ids } }).projection(doc! { field: 1 });
            let mut cursor = find.batch_size(10_000).await?;
            let mut found = HashMap::new();
            while cursor.advance().await? {
                let document = cursor.current();
                if let Ok(id) = document.get_str("_id") {
                    let order = document.get_i64(field).or_else(|_| document.get_i32(field).map(i64::from)).ok();
                    found.insert(id.to_string(), order);
                }
            }
            Ok(found)
        };
        self.bounded("find", find).await
    }

    pub(super) async fn send(
        &self,
        what: &str,
        collection: &str,
        mut command: RawDocumentBuf,
    ) -> Result<Reply, StoreFault> {
        let wait = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
        command.append(mongodb::bson::cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true, "wtimeout": wait });
        let started = Instant::now();
        let result = self.bounded(what, self.db.run_raw_command(command).into_future()).await;
        let reply = result.and_then(|reply| {
            mongodb::bson::deserialize_from_document::<Reply>(reply)
                .map_err(|e| StoreFault::answer(ErrorClass::Other, format!("unexpected reply to {what}: {e}")))
        });
        let outcome = match &reply {
            Ok(r) if r.write_errors.is_empty() => WriteOutcome::Ok,
            Ok(r) if r.write_errors.iter().all(WriteError::is_own_id) => WriteOutcome::Duplicate,
            _ => WriteOutcome::Error,
        };
        self.metrics.write(collection, outcome, started.elapsed());
        if let Err(fault) = &reply {
            self.metrics.errors(fault.class).increment(1);
        }
        reply
    }
}

/// What a stored order means for a write; `None`: it is older, the write goes on.
fn against(set: &WriteSet, position: usize, there: Option<i64>) -> Option<Resolution> {
    let Mode::Newest { field, order } = set.writes[position].mode else { return None };
    match there {
        Some(there) if there == order => Some(Resolution::Duplicate),
        Some(there) if there > order => Some(Resolution::Superseded),
        Some(_) => None,
        None => Some(Resolution::Rejected(format!("the document there has no integer `{field}`"))),
    }
}

/// A write concern that was not met leaves the end of the whole command unknown.
pub(super) fn settle_concern(reply: &Reply) -> Result<(), StoreFault> {
    reply.write_concern_error.as_ref().map_or(Ok(()), |e| {
        Err(StoreFault::answer(
            ErrorClass::Timeout,
            format!("not acknowledged by a majority: {}: {}", e.code, e.errmsg),
        ))
    })
}

pub(super) fn describe(error: &WriteError) -> String {
    match &error.key_pattern {
        Some(keys) if error.code == 11000 => {
            let fields: Vec<&String> = keys.keys().collect();
            format!("another document has the same value of the unique index on {fields:?}")
        }
        _ => format!("MongoDB refuses it: {}: {}", error.code, error.errmsg),
    }
}

/// Positions in groups that fit one command each.
fn chunks(set: &WriteSet, positions: &[usize]) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for p in positions.iter().copied().filter(|p| set.resolutions[*p].is_none()) {
        let size = set.writes[p].document.as_bytes().len() + 100;
        match out.last_mut() {
            Some(last) if bytes + size <= MAX_COMMAND => last.push(p),
            _ => {
                out.push(vec![p]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    out
}
