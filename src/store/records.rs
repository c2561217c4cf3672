//! Look, fold, write: how changes of records get into MongoDB exactly once.
//!
//! The stored record is read, the changes are folded into it ([`crate::record::fold`]), and the result is written only
//! if the record is still at the revision that was read; otherwise it is looked at again. A write whose end is unknown
//! needs nothing else: folding the same changes into what is there then finds them done.
//!
//! Records that are probably new are inserted without looking, as long as a collection's batches find nothing
//! (see `bulk` for what that saves).
//!
//! What the lifecycle purged left a tombstone, and no record is made that one forbids. A record is looked for before its
//! own tombstone: it goes after that is there. What else a record is about may be purged while it is written; see
//! [`Store::unmake`].

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU32, Ordering},
};

use mongodb::bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};

use super::{
    Store, StoreFault,
    bulk::{Reply, describe, settle_concern},
    fault::is_transient_code,
};
use crate::{
    metrics::ErrorClass,
    record::{self, Action, Change, End},
};

/// So many batches in a row must find none of their records before the next one is inserted blindly.
const LOOKS: u32 = 8;
/// One command is one document of at most 16 MiB and a little more.
const MAX_COMMAND: usize = 15 * 1024 * 1024;
/// Records that change while they are written are looked at again this often; then the caller waits a little.
const ROUNDS: usize = 8;

/// The changes of one record in one batch.
#[derive(Debug)]
pub struct RecordEntry {
    pub collection: &'static str,
    pub key: String,
    pub changes: Vec<Change>,
    /// For the caller: which task each change belongs to.
    pub tasks: Vec<usize>,
    /// How each change ended; empty while that is open.
    pub ends: Vec<End>,
    /// The record as MongoDB has it after the changes, as far as it was looked at or written.
    pub document: Option<Document>,
    /// Whether the changes were written and left the record's own strategy of caching and its state as they were.
    pub kept_strategy: bool,
    /// Whether it may have been written without our knowing: then finding the changes done means that they were written.
    sent: bool,
}

impl RecordEntry {
    pub fn new(collection: &'static str, key: String) -> Self {
        Self {
            collection,
            key,
            changes: vec![],
            tasks: vec![],
            ends: vec![],
            document: None,
            kept_strategy: false,
            sent: false,
        }
    }

    pub fn push(&mut self, task: usize, change: Change) {
        self.tasks.push(task);
        self.changes.push(change);
    }

    fn is_open(&self) -> bool {
        self.ends.is_empty()
    }

    /// The tombstones that keep its record from being made.
    fn forbidden_by(&self) -> impl Iterator<Item = String> {
        self.changes.iter().flat_map(|change| change.forbidden_by(self.collection, &self.key))
    }

    fn is_forbidden(&self, gone: &HashSet<String>) -> bool {
        !gone.is_empty() && self.forbidden_by().any(|id| gone.contains(&id))
    }

    fn is_insert_only(&self) -> bool {
        self.changes.iter().all(|c| matches!(c.action, Action::Insert(_)))
    }

    /// # Errors
    /// What is stored cannot be read.
    fn fold(&self, stored: Option<&RawDocument>) -> Result<record::Folded, StoreFault> {
        let read = stored.map(Document::try_from).transpose();
        let first = Cell::new(
            read.map_err(|e| StoreFault::answer(ErrorClass::Other, format!("a stored record cannot be read: {e}")))?,
        );
        let stored = || first.take().or_else(|| stored.and_then(|raw| Document::try_from(raw).ok()));
        Ok(record::fold_from(&self.key, stored, &self.changes.iter().collect::<Vec<_>>()))
    }

    /// What is written earlier and found done now may have had another strategy before: then nothing is known.
    fn keeps_strategy(&self, stored: &RawDocument, ready: &Ready) -> bool {
        let Some(document) = &ready.document else { return false };
        let is_same = |name| stored.get_str(name).ok() == document.get_str(name).ok();
        let all_written = ready.ends.iter().all(|end| *end == End::Written);
        !self.sent
            && all_written
            && document.contains_key("cacheStrategy")
            && is_same("cacheStrategy")
            && is_same("state")
    }

    /// Ends the entry as folded; what was sent before and is found done, was written.
    fn end(&mut self, ends: Vec<End>, document: Option<Document>) {
        let sent = self.sent;
        let said = |end| if sent && end == End::Duplicate { End::Written } else { end };
        self.ends = ends.into_iter().map(said).collect();
        self.document = document;
    }
}

/// The changes of a batch, one entry for each record; whatever is open is sent again.
#[derive(Debug, Default)]
pub struct RecordSet {
    pub entries: Vec<RecordEntry>,
    by_key: HashMap<(&'static str, String), usize>,
}

impl RecordSet {
    pub fn push(&mut self, collection: &'static str, key: String, task: usize, change: Change) {
        let at = *self.by_key.entry((collection, key.clone())).or_insert_with(|| {
            self.entries.push(RecordEntry::new(collection, key));
            self.entries.len() - 1
        });
        self.entries[at].push(task, change);
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Collections with open entries, each with its entries' positions; of one record at most one.
    fn open(&self) -> Vec<(&'static str, Vec<usize>)> {
        let mut out: Vec<(&'static str, Vec<usize>)> = Vec::new();
        let mut seen: HashSet<(&str, &str)> = HashSet::new();
        for (i, entry) in self.entries.iter().enumerate().filter(|(_, e)| e.is_open()) {
            if !seen.insert((entry.collection, &entry.key)) {
                continue;
            }
            match out.iter_mut().find(|(name, _)| *name == entry.collection) {
                Some((_, positions)) => positions.push(i),
                None => out.push((entry.collection, vec![i])),
            }
        }
        out
    }

    /// Changes of one record that cannot go together are tried one by one.
    fn split(&mut self, position: usize) {
        let entry = &mut self.entries[position];
        let (collection, key) = (entry.collection, entry.key.clone());
        let rest = entry.changes.split_off(1);
        let tasks = entry.tasks.split_off(1);
        for (change, task) in rest.into_iter().zip(tasks) {
            let mut alone = RecordEntry::new(collection, key.clone());
            alone.push(task, change);
            self.entries.push(alone);
        }
    }
}

/// A record that is ready to be sent.
struct Ready {
    entry: usize,
    raw: RawDocumentBuf,
    /// `None`: the entry's only change inserts it as it is.
    document: Option<Document>,
    ends: Vec<End>,
    kept_strategy: bool,
}

impl Ready {
    fn of(entry: usize, folded: record::Folded) -> Result<Self, StoreFault> {
        let raw =
            folded.raw.ok_or_else(|| StoreFault::answer(ErrorClass::Other, "a record cannot be encoded".to_owned()))?;
        Ok(Self { entry, raw, document: folded.document, ends: folded.ends, kept_strategy: false })
    }
}

/// What one command of inserts or replacements did.
struct Sent {
    /// How many documents it matched or made, without the failed ones.
    done: usize,
    /// Failed ones, by position in the command.
    failed: HashMap<usize, Failed>,
}

enum Failed {
    /// Its `_id` is there already.
    Taken,
    Refused(String),
    Transient(String),
}

impl Store {
    /// Sends whatever is open in `set`, and ends it.
    ///
    /// # Errors
    /// After an error some entries are open: wait and call again with the same set.
    pub async fn apply(&self, set: &mut RecordSet) -> Result<(), StoreFault> {
        for round in 0..ROUNDS {
            let open = set.open();
            if open.is_empty() {
                return Ok(());
            }
            let blind = if round == 0 { self.blind(set, &open).await? } else { HashSet::new() };
            for (collection, positions) in open {
                let blind: Vec<usize> = positions.iter().copied().filter(|p| blind.contains(p)).collect();
                self.insert_blindly(collection, set, &blind).await?;
                let rest: Vec<usize> = positions.into_iter().filter(|p| set.entries[*p].is_open()).collect();
                if !rest.is_empty() {
                    self.look_and_write(collection, set, &rest).await?;
                }
            }
        }
        if set.open().is_empty() {
            return Ok(());
        }
        let text = "records changed again and again while they were written".to_owned();
        Err(StoreFault::answer(ErrorClass::Unavailable, text))
    }

    /// Which of the open entries are to be inserted without a look; those that a tombstone forbids end here. One find for
    /// the whole batch.
    async fn blind(
        &self,
        set: &mut RecordSet,
        open: &[(&'static str, Vec<usize>)],
    ) -> Result<HashSet<usize>, StoreFault> {
        let mut blind = HashSet::new();
        for (collection, positions) in open {
            let all = self.looks_of(collection).load(Ordering::Relaxed) == 0;
            blind.extend(positions.iter().copied().filter(|p| all || set.entries[*p].is_insert_only()));
        }
        let gone = self.tombstones(blind.iter().flat_map(|p| set.entries[*p].forbidden_by())).await?;
        let forbidden: Vec<usize> = blind.iter().copied().filter(|p| set.entries[*p].is_forbidden(&gone)).collect();
        // What is there all the same is being purged: it is looked at as usual.
        for p in forbidden {
            blind.remove(&p);
        }
        Ok(blind)
    }

    /// Folds each entry into nothing and inserts it; what is there already stays open.
    async fn insert_blindly(
        &self,
        collection: &'static str,
        set: &mut RecordSet,
        positions: &[usize],
    ) -> Result<(), StoreFault> {
        let mut ready = Vec::new();
        for p in positions {
            let entry = &set.entries[*p];
            if let [change] = &entry.changes[..]
                && let Some(raw) = record::inserted(&entry.key, change)
            {
                ready.push(Ready { entry: *p, raw, document: None, ends: vec![End::Created], kept_strategy: false });
                continue;
            }
            let folded = entry.fold(None)?;
            if folded.document.is_some() && !folded.ends.contains(&End::Missing) {
                ready.push(Ready::of(*p, folded)?);
            }
        }
        self.send_records(collection, set, ready, None).await
    }

    async fn look_and_write(
        &self,
        collection: &'static str,
        set: &mut RecordSet,
        positions: &[usize],
    ) -> Result<(), StoreFault> {
        let looks = self.looks_of(collection);
        let keys: Vec<&str> = positions.iter().map(|p| set.entries[*p].key.as_str()).collect();
        let mut found = self.raw_by_id(collection, &keys).await?;
        if found.is_empty() {
            let _ = looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(1)));
        } else {
            looks.store(LOOKS, Ordering::Relaxed);
        }
        let absent: Vec<usize> =
            positions.iter().copied().filter(|p| !found.contains_key(&set.entries[*p].key)).collect();
        let gone = self.tombstones(absent.iter().flat_map(|p| set.entries[*p].forbidden_by())).await?;
        let (mut inserts, mut updates, mut revs) = (Vec::new(), Vec::new(), Vec::new());
        for p in positions {
            let entry = &mut set.entries[*p];
            let stored = found.remove(&entry.key);
            if stored.is_none() && entry.is_forbidden(&gone) {
                entry.ends = vec![End::Expired; entry.changes.len()];
                continue;
            }
            let folded = entry.fold(stored.as_deref())?;
            match (&folded.document, stored) {
                (None, stored) => entry.end(folded.ends, stored.and_then(|raw| Document::try_from(raw).ok())),
                (Some(_), None) => inserts.push(Ready::of(*p, folded)?),
                (Some(_), Some(stored)) => {
                    revs.push(stored.get_document(record::SYNC).and_then(|sync| sync.get_i64("rev")).ok());
                    let mut ready = Ready::of(*p, folded)?;
                    ready.kept_strategy = entry.keeps_strategy(&stored, &ready);
                    updates.push(ready);
                }
            }
        }
        self.send_records(collection, set, inserts, None).await?;
        self.send_records(collection, set, updates, Some(revs)).await
    }

    /// Inserts, or with `revs` replaces what is at these revisions. What did not match stays open.
    async fn send_records(
        &self,
        collection: &'static str,
        set: &mut RecordSet,
        records: Vec<Ready>,
        revs: Option<Vec<Option<i64>>>,
    ) -> Result<(), StoreFault> {
        let is_update = revs.is_some();
        let mut revs = revs.unwrap_or_default().into_iter();
        let (mut chunk, mut documents, mut bytes) = (Vec::new(), RawArrayBuf::new(), 0);
        for mut ready in records {
            let mut raw = std::mem::take(&mut ready.raw);
            if is_update {
                let key = set.entries[ready.entry].key.as_str();
                // A record of others' making has no revision yet.
                let filter = match revs.next().flatten() {
                    Some(rev) => rawdoc! { "_id": key, "_sync.rev": rev },
                    None => rawdoc! { "_id": key, "_sync.rev": null },
                };
                raw = rawdoc! { "q": filter, "u": raw };
            }
            let size = raw.as_bytes().len() + 16;
            if bytes + size > MAX_COMMAND && !chunk.is_empty() {
                let sent = self.send_chunk(collection, std::mem::take(&mut documents), is_update).await;
                settle(set, std::mem::take(&mut chunk), sent, is_update)?;
                bytes = 0;
            }
            bytes += size;
            documents.push(raw);
            chunk.push(ready);
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let sent = self.send_chunk(collection, documents, is_update).await;
        settle(set, chunk, sent, is_update)
    }

    async fn send_chunk(&self, collection: &str, documents: RawArrayBuf, update: bool) -> Result<Sent, StoreFault> {
        let command = if update {
            rawdoc! { "update": collection, "ordered": false, "updates": documents }
        } else {
            rawdoc! { "insert": collection, "ordered": false, "documents": documents }
        };
        let reply: Reply = self.send(if update { "update" } else { "insert" }, collection, command).await?;
        settle_concern(&reply)?;
        let failed = reply.write_errors.iter().map(|e| {
            let why = if e.is_own_id() {
                Failed::Taken
            } else if is_transient_code(e.code) {
                Failed::Transient(format!("{}: {}", e.code, e.errmsg))
            } else {
                Failed::Refused(describe(e))
            };
            (e.index, why)
        });
        Ok(Sent { done: usize::try_from(reply.n).unwrap_or(0), failed: failed.collect() })
    }

    /// Those of `keys` that are there.
    pub async fn records_by_id(
        &self,
        collection: &str,
        keys: &[&str],
    ) -> Result<HashMap<String, Document>, StoreFault> {
        let keys: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
        let found = self.by_ids(collection, &keys).await?;
        Ok(found.into_iter().filter_map(|d| Some((d.get_str("_id").ok()?.to_owned(), d))).collect())
    }

    /// Those of `keys` that are there, as MongoDB sends them, in one answer where they fit.
    async fn raw_by_id(&self, collection: &str, keys: &[&str]) -> Result<HashMap<String, RawDocumentBuf>, StoreFault> {
        let find = async {
            let records = self.db.collection::<RawDocumentBuf>(collection);
            let mut cursor = records.find(doc! { "_id": { "$in": keys } }).batch_size(10_000).await?;
            let mut found = HashMap::with_capacity(keys.len());
            while cursor.advance().await? {
                let record = cursor.current();
                if let Ok(id) = record.get_str("_id") {
                    found.insert(id.to_owned(), record.to_owned());
                }
            }
            Ok(found)
        };
        self.bounded("find", find).await
    }

    fn looks_of(&self, collection: &str) -> &AtomicU32 {
        self.record_looks.get(collection).unwrap_or(&self.looks)
    }
}

fn settle(
    set: &mut RecordSet,
    chunk: Vec<Ready>,
    sent: Result<Sent, StoreFault>,
    is_update: bool,
) -> Result<(), StoreFault> {
    let sent = match sent {
        Ok(sent) => sent,
        Err(fault) => {
            chunk.iter().for_each(|ready| set.entries[ready.entry].sent = true);
            return Err(fault);
        }
    };
    // Of replacements only the number is known: if one did not match, all are looked at again.
    let all_matched = !is_update || sent.done == chunk.len() - sent.failed.len();
    let mut transient = None;
    for (i, ready) in chunk.into_iter().enumerate() {
        let p = ready.entry;
        match sent.failed.get(&i) {
            None if all_matched => {
                let entry = &mut set.entries[p];
                entry.ends = ready.ends;
                entry.kept_strategy = ready.kept_strategy;
                let change = entry.changes.first_mut();
                let inserted = || change.map(|change| record::into_inserted(&entry.key, change));
                entry.document = ready.document.or_else(inserted);
            }
            None => set.entries[p].sent = true,
            // Somebody else's, or our own from before.
            Some(Failed::Taken) => {}
            Some(Failed::Transient(text)) => {
                set.entries[p].sent = true;
                transient = Some(text.clone());
            }
            Some(Failed::Refused(text)) if set.entries[p].changes.len() == 1 => {
                set.entries[p].ends = vec![End::Refused(text.clone())];
            }
            Some(Failed::Refused(_)) => set.split(p),
        }
    }
    transient.map_or(Ok(()), |text| Err(StoreFault::answer(ErrorClass::Unavailable, text)))
}
