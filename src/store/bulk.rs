//! Batches of writes with an outcome for each document.
//!
//! The commands are sent as they are: the driver's own bulk calls either need a newer server or hide
//! which document failed. Inserts are several times faster than guarded updates, so a "newest wins"
//! document that this process has not seen before is inserted, and only replaced when it turns out to be there.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
    time::Instant,
};

use mongodb::bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use serde::Deserialize;

use super::{Store, StoreFault, fault::is_transient_code};
use crate::{
    batch::{Mode, Resolution, WriteSet},
    metrics::{ErrorClass, WriteOutcome},
};

/// MongoDB takes no larger document.
const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// One command is one document of at most 16 MiB and a little more.
const MAX_COMMAND: usize = 15 * 1024 * 1024;

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    n: i64,
    #[serde(default, rename = "writeErrors")]
    write_errors: Vec<WriteError>,
    #[serde(rename = "writeConcernError")]
    write_concern_error: Option<ConcernError>,
}

#[derive(Debug, Deserialize)]
struct WriteError {
    index: usize,
    code: i32,
    #[serde(default)]
    errmsg: String,
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
    fn is_own_id(&self) -> bool {
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
            let (known, new): (Vec<usize>, Vec<usize>) =
                positions.iter().partition(|p| self.known.get(&self.key(collection, &set.writes[**p].id)).is_some());
            for chunk in chunks(set, &new) {
                self.insert(collection, set, &chunk, true).await?;
            }
            // What was there already is replaced if it is older.
            let there: Vec<usize> = new.into_iter().filter(|p| set.resolutions[*p].is_none()).chain(known).collect();
            for chunk in chunks(set, &there) {
                self.replace_older(collection, set, &chunk).await?;
            }
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
            documents.push(set.writes[*p].document.clone());
        }
        let command = rawdoc! { "insert": collection, "ordered": false, "documents": documents };
        let reply = self.send("insert", collection, command).await?;
        let mut failed = vec![false; positions.len()];
        let mut retry = None;
        for error in &reply.write_errors {
            let Some(p) = positions.get(error.index).copied() else { continue };
            failed[error.index] = true;
            if error.is_own_id() {
                if !newest {
                    let ours = set.uncertain;
                    set.resolve(p, if ours { Resolution::Written } else { Resolution::Duplicate });
                }
                self.known.insert(self.key(collection, &set.writes[p].id), ());
            } else if is_transient_code(error.code) {
                retry = Some((error.code, error.errmsg.clone()));
            } else {
                set.resolve(p, Resolution::Rejected(describe(error)));
            }
        }
        settle_concern(&reply)?;
        for (p, failed) in positions.iter().zip(failed) {
            if !failed {
                if newest {
                    self.known.insert(self.key(collection, &set.writes[*p].id), ());
                }
                set.resolve(*p, Resolution::Written);
            }
        }
        retry.map_or(Ok(()), |(code, text)| Err(StoreFault::answer(ErrorClass::Unavailable, format!("{code}: {text}"))))
    }

    /// Replaces documents that are older, and finds out about those that are not.
    async fn replace_older(
        &self,
        collection: &str,
        set: &mut WriteSet,
        positions: &[usize],
    ) -> Result<(), StoreFault> {
        let mut updates = RawArrayBuf::new();
        for p in positions {
            let write = &set.writes[*p];
            let Mode::Newest { field, order } = write.mode else { continue };
            let mut filter = RawDocumentBuf::new();
            filter.append(mongodb::bson::cstr!("_id"), write.id.as_str());
            let field = mongodb::bson::raw::CString::try_from(field)
                .map_err(|e| StoreFault::answer(ErrorClass::Rejected, e.to_string()))?;
            filter.append(&field, rawdoc! { "$lt": order });
            updates.push(rawdoc! { "q": filter, "u": write.document.clone(), "upsert": false });
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
        if reply.n == open.len() as i64 {
            for p in open {
                set.resolve(p, Resolution::Written);
            }
        } else {
            self.compare(collection, set, &open).await?;
        }
        retry.map_or(Ok(()), |(code, text)| Err(StoreFault::answer(ErrorClass::Unavailable, format!("{code}: {text}"))))
    }

    /// Resolves each write by what is in MongoDB now: our own order, a newer one, or nothing at all.
    async fn compare(&self, collection: &str, set: &mut WriteSet, positions: &[usize]) -> Result<(), StoreFault> {
        let Some(Mode::Newest { field, .. }) = positions.first().map(|p| set.writes[*p].mode) else { return Ok(()) };
        let ids: Vec<&str> = positions.iter().map(|p| set.writes[*p].id.as_str()).collect();
        let find = async {
            let mut cursor = self
                .db
                .collection::<Document>(collection)
                .find(doc! { "_id": { "$in": ids } })
                .projection(doc! { field: 1 })
                .batch_size(10_000)
                .await?;
            let mut found = HashMap::new();
            while cursor.advance().await? {
                let document = cursor.deserialize_current()?;
                if let Ok(id) = document.get_str("_id") {
                    let order = document.get_i64(field).or_else(|_| document.get_i32(field).map(i64::from)).ok();
                    found.insert(id.to_string(), order);
                }
            }
            Ok(found)
        };
        let found: HashMap<String, Option<i64>> = self.bounded("find", find).await?;
        let mut vanished = 0;
        for p in positions {
            let write = &set.writes[*p];
            let Mode::Newest { order, .. } = write.mode else { continue };
            let resolution = match found.get(&write.id) {
                // Equal: this write's own effect, now or by an earlier delivery of the same task.
                Some(Some(there)) if *there == order => Resolution::Written,
                Some(Some(there)) if *there > order => Resolution::Superseded,
                Some(None) => Resolution::Rejected(format!("the document there has no integer `{field}`")),
                // Deleted in between (or older again after a purge): the next round inserts it.
                _ => {
                    self.known.remove(&self.key(collection, &write.id));
                    vanished += 1;
                    continue;
                }
            };
            set.resolve(*p, resolution);
        }
        if vanished > 0 {
            let text = format!("{vanished} documents changed while they were written");
            return Err(StoreFault::answer(ErrorClass::Unavailable, text));
        }
        Ok(())
    }

    async fn send(&self, what: &str, collection: &str, mut command: RawDocumentBuf) -> Result<Reply, StoreFault> {
        let wait = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
        command.append(
            mongodb::bson::cstr!("writeConcern"),
            rawdoc! { "w": "majority", "j": true, "wtimeout": wait },
        );
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

    fn key(&self, collection: &str, id: &str) -> u64 {
        HASHER.hash_one((collection, id))
    }
}

/// A write concern that was not met leaves the end of the whole command unknown.
fn settle_concern(reply: &Reply) -> Result<(), StoreFault> {
    reply.write_concern_error.as_ref().map_or(Ok(()), |e| {
        Err(StoreFault::answer(ErrorClass::Timeout, format!("not acknowledged by a majority: {}: {}", e.code, e.errmsg)))
    })
}

fn describe(error: &WriteError) -> String {
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
