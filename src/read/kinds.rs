//! What can be read, and from where.

use std::sync::Arc;

use mongodb::bson::Document;

use crate::record::cached::Kinds;

/// One kind of record as a reader asks for it.
#[derive(Debug, Clone)]
pub struct Readable {
    pub name: Arc<str>,
    pub collection: Arc<str>,
    /// The section of `cache.kinds` under which it is cached; `None`: it is read from MongoDB.
    pub cached: Option<Arc<str>>,
    /// Whether it is (`true`) or is not (`false`) a memory: both share a collection with the contexts.
    memory: Option<bool>,
}

/// Every kind that can be read: those of `cache.kinds`, and those that are never cached.
#[derive(Debug)]
pub struct Readables(Vec<Readable>);

/// Kinds that lie in MongoDB only, and their collections.
const UNCACHED: [(&str, &str); 5] = [
    ("version", "document_versions"),
    ("ai_interaction", "ai_interactions"),
    ("typing", "typing_contexts"),
    ("analysis", "analyses"),
    ("hold", "holds"),
];

impl Readables {
    pub fn new(kinds: &Kinds) -> Self {
        let cached = kinds.iter().map(|kind| Readable {
            name: kind.name.clone(),
            collection: kind.collection.clone(),
            cached: Some(kind.name.clone()),
            memory: (&*kind.name == "context").then_some(false),
        });
        let mut all: Vec<Readable> = cached.collect();
        let memories = all.iter().find(|r| &*r.name == "context").map(|contexts| Readable {
            name: "memory".into(),
            memory: Some(true),
            ..contexts.clone()
        });
        all.extend(memories);
        for (name, collection) in UNCACHED {
            all.push(Readable { name: name.into(), collection: collection.into(), cached: None, memory: None });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Self(all)
    }

    pub fn get(&self, name: &str) -> Option<(usize, &Readable)> {
        let i = self.0.binary_search_by(|r| (*r.name).cmp(name)).ok()?;
        Some((i, &self.0[i]))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|r| &*r.name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Readable> {
        self.0.iter()
    }
}

impl Readable {
    /// Whether a record of the collection is of this kind.
    pub(super) fn is(&self, document: &Document) -> bool {
        self.memory.is_none_or(|memory| memory == matches!(document.get_str("kind"), Ok("memory")))
    }
}
