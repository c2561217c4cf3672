//! How changes meet a stored record.
//!
//! Each field is a register that the newest clock wins; a replacement is newer than every field below its clock; a
//! deletion makes moot whatever is older. Applying a set of changes in any order, in any grouping and any number of
//! times gives the same record (exceptions: `createdAt` is the first arrival's unless the data has it, and a task older
//! than a deletion that comes after it is dropped, so that nothing it says appears after a restoration).

use mongodb::bson::{Bson, Document, RawDocumentBuf, cstr, doc};

use super::{
    ACCESSED, Action, Change, Clock, Sync, access,
    stored::{DELETED, SYNC, TENANT, is_deleted, is_fenced},
};

/// How one change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Nothing was there before.
    Created,
    Written,
    /// It had its effect already.
    Duplicate,
    /// Something newer makes it moot.
    Superseded,
    /// The record is being purged, or was.
    Expired,
    /// What it changes is not there (yet).
    Missing,
    /// It can never be applied; the text says why.
    Refused(String),
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// The record as it is to be written; `None` if nothing changes.
    pub document: Option<Document>,
    /// The same, encoded; `None` also if it cannot be.
    pub raw: Option<RawDocumentBuf>,
    /// One for each change, in the given order.
    pub ends: Vec<End>,
}

/// MongoDB takes no larger document (16 MiB; a little less, for what surrounds it in a command).
const MAX_DOCUMENT: usize = 16 * 1024 * 1024 - 16 * 1024;

/// Applies `changes` to the record `key`, of which `stored` is there.
pub fn fold(key: &str, stored: Option<&Document>, changes: &[&Change]) -> Folded {
    fold_from(key, || stored.cloned(), changes)
}

/// [`fold`] for a caller that has the stored record in another form: `stored` makes it, mostly once.
pub fn fold_from(key: &str, stored: impl Fn() -> Option<Document>, changes: &[&Change]) -> Folded {
    let folded = fold_all(key, stored(), changes, false);
    match (&folded.document, &folded.raw) {
        (Some(_), Some(raw)) if raw.as_bytes().len() <= MAX_DOCUMENT => folded,
        (Some(_), _) => fold_all(key, stored(), changes, true),
        (None, _) => folded,
    }
}

/// A new record of a change that inserts it, encoded without being built: what [`fold`] makes of it where nothing is
/// stored. `None`: it takes a fold.
pub fn inserted(key: &str, change: &Change) -> Option<RawDocumentBuf> {
    let Action::Insert(fields) = &change.action else { return None };
    if change.required || fields.contains_key("_id") {
        return None;
    }
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("_id"), key);
    let mut out = out.into_bytes();
    out.pop();
    let given = change.create.iter().filter(|(name, _)| !fields.contains_key(*name));
    let create: Document = given.map(|(name, value)| (name.clone(), value.clone())).collect();
    let sync = doc! { SYNC: first_sync(change).to_document() };
    for part in [&create, fields, &sync] {
        let part = RawDocumentBuf::try_from(part).ok()?.into_bytes();
        // Between the length and the end are the elements.
        out.extend_from_slice(&part[4..part.len() - 1]);
    }
    out.push(0);
    let size = i32::try_from(out.len()).ok().filter(|_| out.len() <= MAX_DOCUMENT)?;
    out[..4].copy_from_slice(&size.to_le_bytes());
    RawDocumentBuf::from_bytes(out).ok()
}

/// The record that [`inserted`] has encoded; takes the change's fields.
pub fn into_inserted(key: &str, change: &mut Change) -> Document {
    let sync = first_sync(change).to_document();
    let mut document = match &mut change.action {
        Action::Insert(fields) => std::mem::take(fields),
        _ => Document::new(),
    };
    for (name, value) in std::mem::take(&mut change.create) {
        document.entry(name).or_insert(value);
    }
    document.insert("_id", key);
    document.insert(SYNC, sync);
    document
}

fn first_sync(change: &Change) -> Sync {
    Sync { rev: 1, order: change.clock.0, task: change.task.clone(), ..Sync::default() }
}

/// With `weigh`, a change that makes the record too large is left out.
fn fold_all(key: &str, stored: Option<Document>, changes: &[&Change], weigh: bool) -> Folded {
    let mut record = Record::new(key, stored);
    let mut ends: Vec<End> = vec![End::Missing; changes.len()];
    let mut last: Option<Clock> = None;
    // Oldest first, so that a deletion leaves what was saved before it; but what needs the record goes after what makes it.
    let mut turns: Vec<usize> = (0..changes.len()).collect();
    turns.sort_by_key(|i| (changes[*i].required, changes[*i].clock.order()));
    for i in turns {
        let change = changes[i];
        // Of tasks with one order in one batch, the later one is the newer.
        let clock = last.map_or(change.clock, |last| change.clock.after(last));
        last = Some(clock);
        let before = weigh.then(|| record.clone());
        let end = record.apply(change, clock);
        ends[i] = match before {
            Some(before) if size(&record.document) > MAX_DOCUMENT => {
                record = before;
                End::Refused(format!(
                    "the record would be larger than {MAX_DOCUMENT} bytes, more than MongoDB takes: store less in it"
                ))
            }
            _ => end,
        };
    }
    let document = record.finish();
    let raw = document.as_ref().and_then(|d| RawDocumentBuf::try_from(d).ok());
    Folded { document, raw, ends }
}

fn size(document: &Document) -> usize {
    mongodb::bson::serialize_to_vec(document).map_or(usize::MAX, |bytes| bytes.len())
}

#[derive(Clone)]
struct Record {
    document: Document,
    sync: Sync,
    exists: bool,
    changed: bool,
}

impl Record {
    fn new(key: &str, stored: Option<Document>) -> Self {
        let sync = stored.as_ref().map(Sync::of).unwrap_or_default();
        let exists = stored.is_some();
        let mut document = stored.unwrap_or_else(|| doc! { "_id": key });
        document.remove(SYNC);
        Self { document, sync, exists, changed: false }
    }

    fn finish(mut self) -> Option<Document> {
        if !self.changed {
            return None;
        }
        self.sync.rev += 1;
        self.document.insert(SYNC, self.sync.to_document());
        Some(self.document)
    }

    fn apply(&mut self, change: &Change, clock: Clock) -> End {
        if self.exists && is_fenced(&self.document) {
            return End::Expired;
        }
        if !self.exists && (change.required || matches!(change.action, Action::Restore(_))) {
            return End::Missing;
        }
        if let Some(deleted) = self.sync.deleted
            && clock.0 < deleted
        {
            return End::Superseded;
        }
        let is_new = !self.exists;
        let end = match &change.action {
            Action::Insert(fields) => self.insert(fields, change),
            Action::Replace(fields) => self.replace(fields, change, clock),
            Action::Merge(fields) => self.merge(fields, change, clock),
            Action::Append { array, keep, element } => self.append(array, *keep, element, change, clock),
            Action::Delete(fields) => self.delete(fields, change, clock),
            Action::Restore(fields) => self.restore(fields, clock),
        };
        if end == End::Written {
            self.changed = true;
            self.exists = true;
            if clock.0 >= self.sync.order {
                self.sync.order = clock.0;
                self.sync.task.clone_from(&change.task);
            }
            if is_new {
                return End::Created;
            }
        }
        end
    }

    fn create(&mut self, change: &Change) {
        if !self.exists {
            self.document.extend(change.create.clone());
        }
    }

    fn insert(&mut self, fields: &Document, change: &Change) -> End {
        if self.exists {
            return End::Duplicate;
        }
        self.create(change);
        self.document.extend(fields.clone());
        End::Written
    }

    fn merge(&mut self, fields: &Document, change: &Change, clock: Clock) -> End {
        self.create(change);
        let (newer, same) = self.set_newer(fields, clock);
        ended(newer, same)
    }

    /// Sets the fields that are older than `clock`: whether there were any, and whether some are just as old.
    fn set_newer(&mut self, fields: &Document, clock: Clock) -> (bool, bool) {
        let (mut newer, mut same, mut used) = (false, false, false);
        for (name, value) in fields {
            match self.sync.clock(name) {
                Some(at) if at == clock.0 => same = true,
                Some(at) if at > clock.0 => {}
                _ => {
                    match self.document.get_mut(name) {
                        Some(there) => there.clone_from(value),
                        None => drop(self.document.insert(name, value.clone())),
                    }
                    self.sync.set_clock(name, clock);
                    newer = true;
                    used |= name == ACCESSED;
                }
            }
        }
        if used {
            access::wake(&mut self.document);
        }
        (newer, same)
    }

    /// Fields that were merged later stay; so does what contextd keeps itself.
    fn replace(&mut self, fields: &Document, change: &Change, clock: Clock) -> End {
        match self.sync.base {
            Some(base) if base >= clock.0 => return ended(false, base == clock.0),
            _ => {}
        }
        let newer: Vec<(String, i64)> = self.sync.fields.iter().filter(|(_, at)| *at > clock.0).cloned().collect();
        let is_newer = |name: &String| newer.iter().any(|(n, _)| n == name);
        let old = std::mem::take(&mut self.document);
        let is_kept = |name: &String| {
            is_newer(name)
                || name == "_id"
                || name == "createdAt"
                || (name != "state" && super::stored::RESERVED.contains(&name.as_str()))
        };
        self.document = old.into_iter().filter(|(name, _)| is_kept(name)).collect();
        for (name, value) in change.create.iter().chain(fields) {
            let is_first = name == "createdAt" && self.exists && !fields.contains_key(name);
            let kept = is_newer(name) || is_first || (name == TENANT && self.document.contains_key(TENANT));
            if !kept {
                self.document.insert(name, value.clone());
            }
        }
        self.sync.fields = newer;
        self.sync.base = Some(clock.0);
        // A replacement newer than the deletion makes the record anew.
        self.sync.deleted = None;
        End::Written
    }

    fn append(&mut self, array: &str, keep: usize, element: &Document, change: &Change, clock: Clock) -> End {
        self.create(change);
        let mut elements = match self.document.remove(array) {
            Some(Bson::Array(elements)) => elements,
            Some(other) => {
                self.document.insert(array, other);
                return End::Refused(format!("`{array}` of the record is not an array: nothing can be appended to it"));
            }
            None => Vec::new(),
        };
        let at = |e: &Bson| e.as_document().and_then(|d| d.get_i64("_clock").ok()).unwrap_or(i64::MIN);
        let is_there = elements
            .iter()
            .any(|e| e.as_document().is_some_and(|d| d.get_str("_task").is_ok_and(|t| t == change.task)));
        // What was pushed out by newer elements has had its effect, too.
        let is_too_old = elements.len() >= keep && elements.first().is_some_and(|oldest| at(oldest) > clock.0);
        if !is_there && !is_too_old {
            let mut element = element.clone();
            element.insert("_clock", clock.0);
            element.insert("_task", change.task.as_str());
            let place = elements.partition_point(|e| at(e) <= clock.0);
            elements.insert(place, Bson::Document(element));
            let surplus = elements.len().saturating_sub(keep);
            elements.drain(..surplus);
        }
        self.document.insert(array, elements);
        if is_there { End::Duplicate } else { ended(!is_too_old, false) }
    }

    /// Also of a record that is not there: what comes late about it then finds the deletion.
    fn delete(&mut self, fields: &Document, change: &Change, clock: Clock) -> End {
        match self.sync.clock("state") {
            Some(at) if at >= clock.0 => return ended(false, at == clock.0),
            _ => {}
        }
        self.create(change);
        self.document.extend(fields.clone());
        self.document.insert("state", DELETED);
        self.sync.set_clock("state", clock);
        self.sync.deleted = Some(clock.0);
        End::Written
    }

    /// Also undoes archiving. Who restores a record uses it, as the stamps say: otherwise it would be gone again with the
    /// next run of the lifecycle.
    fn restore(&mut self, fields: &Document, clock: Clock) -> End {
        match self.sync.clock("state") {
            Some(at) if at >= clock.0 => return ended(false, at == clock.0),
            _ => {}
        }
        if is_deleted(&self.document) || access::is_unused(&self.document) {
            access::revive(&mut self.document);
            self.document.remove("deletedAt");
            self.document.remove("deletedBy");
        }
        self.sync.deleted = None;
        self.sync.set_clock("state", clock);
        self.set_newer(fields, clock);
        End::Written
    }
}

fn ended(newer: bool, same: bool) -> End {
    match (newer, same) {
        (true, _) => End::Written,
        (false, true) => End::Duplicate,
        (false, false) => End::Superseded,
    }
}
