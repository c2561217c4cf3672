//! The writes of one batch, and what became of each.

use mongodb::bson::RawDocumentBuf;

/// How a write meets what is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Once: a document with this `_id` means that the effect has been had.
    Insert,
    /// The newest wins: replaces a document whose `field` is lower than `order`.
    Newest { field: &'static str, order: i64 },
}

/// One write to one document.
#[derive(Debug, Clone)]
pub struct Write {
    pub collection: &'static str,
    pub mode: Mode,
    /// The document's `_id`.
    pub id: String,
    /// The whole document, with its `_id`.
    pub document: RawDocumentBuf,
    /// Which task of the batch it is the effect of.
    pub task: usize,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Nothing was there before.
    Created,
    /// Something older was replaced.
    Written,
    /// The same effect was there already.
    Duplicate,
    /// A newer one was there already.
    Superseded,
    /// MongoDB refuses this document for good; the text says why.
    Rejected(String),
}

/// The writes of a batch with their resolutions; whatever is unresolved is sent again.
#[derive(Debug, Default)]
pub struct WriteSet {
    pub writes: Vec<Write>,
    pub resolutions: Vec<Option<Resolution>>,
    /// Whether an earlier attempt's end is unknown: a document found then is most likely our own.
    pub uncertain: bool,
}

impl WriteSet {
    pub fn new(writes: Vec<Write>) -> Self {
        let resolutions = vec![None; writes.len()];
        Self { writes, resolutions, uncertain: false }
    }

    /// Collections with unresolved writes of the mode, each with the positions of its writes.
    pub fn unresolved(&self, is_insert: bool) -> Vec<(&'static str, Vec<usize>)> {
        let mut out: Vec<(&'static str, Vec<usize>)> = Vec::new();
        for (i, write) in self.writes.iter().enumerate() {
            if self.resolutions[i].is_some() || (write.mode == Mode::Insert) != is_insert {
                continue;
            }
            match out.iter_mut().find(|(name, _)| *name == write.collection) {
                Some((_, positions)) => positions.push(i),
                None => out.push((write.collection, vec![i])),
            }
        }
        out
    }

    pub fn resolve(&mut self, position: usize, resolution: Resolution) {
        self.resolutions[position] = Some(resolution);
    }

    /// Whether every write has ended.
    pub fn is_resolved(&self) -> bool {
        self.resolutions.iter().all(Option::is_some)
    }
}
