//! What the effects have changed is brought in step in the caches, before their tasks are settled: a redelivery comes
//! here again, so that no crash leaves an older value for longer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mongodb::bson::{Bson, Document, doc};

use super::{Patience, Records, hold, patiently, records::Due};
use crate::{
    cache::{CacheWriter, Written},
    config::WriteMode,
    store::RecordEntry,
};

const PAGE: i64 = 500;

/// Records by a field: (collection, field) and values of the field.
type Changed = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

/// The records of entries that were folded, as they are in MongoDB now.
pub fn written(caches: &CacheWriter, entries: &mut [RecordEntry], tasks: &HashMap<usize, &Due<'_>>) -> Vec<Written> {
    let mut written = Vec::with_capacity(entries.len());
    for entry in entries {
        // An evaluation is in no cached value.
        let is_shown = |task| tasks.get(task).is_some_and(|due| due.declared.write != WriteMode::Evaluation);
        if let Some(document) = entry.document.take()
            && entry.tasks.iter().any(is_shown)
        {
            let mut kinds = caches.kinds_of(entry.collection);
            let last = kinds.pop();
            let kept_strategy = entry.kept_strategy;
            written.extend(kinds.into_iter().map(|kind| Written { kind, document: document.clone(), kept_strategy }));
            written.extend(last.map(|kind| Written { kind, document, kept_strategy }));
        }
    }
    written
}

/// After effects that change several records: those of them that are cached are read again. `None`: the worker stops.
pub async fn after(records: &Records, done: &[&Due<'_>], patience: &Patience<'_>) -> Option<()> {
    let mut changed = Changed::new();
    for due in done {
        match due.declared.write {
            WriteMode::DocumentSave | WriteMode::VersionSave | WriteMode::VersionRestore => {
                add(&mut changed, "documents", "_id", due.text("documentId"));
            }
            WriteMode::VersionDecide => {
                let version = one(records, "document_versions", due.text("versionId"), patience).await?;
                add(&mut changed, "documents", "_id", text(&version, "documentId"));
            }
            WriteMode::UserClaim => {
                add(&mut changed, "sessions", "_id", due.text("sessionId"));
                for collection in ["documents", "interactions", "ai_interactions"] {
                    add(&mut changed, collection, "sessionId", due.text("sessionId"));
                }
            }
            WriteMode::HoldPlace => {
                add(&mut changed, hold::collection(due.text("entityType")), "_id", due.text("entityId"));
            }
            WriteMode::HoldLift => {
                let hold = one(records, "holds", due.text("holdId"), patience).await?;
                add(&mut changed, hold::collection(text(&hold, "entityType")), "_id", text(&hold, "entityId"));
            }
            _ => {}
        }
    }
    for ((collection, field), values) in changed {
        refresh(records, collection, field, values.into_iter().collect(), patience).await?;
    }
    Some(())
}

fn add(changed: &mut Changed, collection: &'static str, field: &'static str, value: &str) {
    changed.entry((collection, field)).or_default().insert(value.to_owned());
}

fn text<'d>(document: &'d Option<Document>, name: &str) -> &'d str {
    document.as_ref().and_then(|d| d.get_str(name).ok()).unwrap_or_default()
}

async fn one(records: &Records, collection: &str, id: &str, patience: &Patience<'_>) -> Option<Option<Document>> {
    let ids = [id];
    let mut found = patiently!(patience, "mongodb", records.store.records_by_id(collection, &ids))?;
    Some(found.remove(id))
}

/// Brings every cached record in step whose `field` has one of these values, page by page. `None`: the worker stops.
pub async fn refresh(
    records: &Records,
    collection: &str,
    field: &str,
    values: Vec<String>,
    patience: &Patience<'_>,
) -> Option<()> {
    let kinds = records.caches.kinds_of(collection);
    if kinds.is_empty() {
        return Some(());
    }
    let mut after: Option<Bson> = None;
    loop {
        let mut filter = doc! { field: { "$in": &values } };
        if let Some(after) = &after {
            filter = doc! { "$and": [filter, { "_id": { "$gt": after } }] };
        }
        let page = patiently!(patience, "mongodb", records.store.page(collection, filter.clone(), PAGE))?;
        let Some(last) = page.last() else { return Some(()) };
        after = last.get("_id").cloned();
        let is_last = page.len() < PAGE as usize;
        let ids: Vec<&str> = page.iter().filter_map(|d| d.get_str("_id").ok()).collect();
        let found = patiently!(patience, "mongodb", records.store.records_by_id(collection, &ids))?;
        let mut written = Vec::with_capacity(found.len() * kinds.len());
        for kind in &kinds {
            written.extend(found.values().map(|d| Written {
                kind: kind.clone(),
                document: d.clone(),
                kept_strategy: false,
            }));
        }
        records.caches.after_write(written).await;
        if is_last {
            return Some(());
        }
    }
}
