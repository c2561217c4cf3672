//! `document.save`: the metadata is merged like any record's; the content goes to the object store first, and the row
//! keeps what describes it as one field.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use mongodb::bson::{Bson, Document};

use super::{
    Patience, Planned, Records,
    content::{AT_ONCE, failed, owner, remove, stored, to_row},
    patiently,
    records::{Due, missing_or_purged},
};
use crate::{
    config::WriteMode,
    content::{Tier, described, key},
    metrics::ErrorClass,
    record::{Action, Change, End},
    store::{DOCUMENTS, RecordEntry},
    task::Reason,
};

/// One change of a batch, or how its task ended before it came to that.
pub type Made<'a> = (&'a Due<'a>, Result<(String, Change), Planned>);

/// Objects that may be without a row when the batch is written, by document.
#[derive(Debug, Default)]
pub struct Loose(HashMap<String, HashSet<(Tier, String)>>);

/// Stores the contents among `made`, and leaves in their place what describes them.
pub async fn store(records: &Records, made: &mut [Made<'_>], patience: &Patience<'_>) -> Loose {
    let mut loose = Loose::default();
    let mut saves: Vec<_> = made
        .iter_mut()
        .filter(|(due, _)| due.declared.write == WriteMode::DocumentSave)
        .filter_map(|(due, made)| match made {
            Ok((id, change)) => {
                let owned = ["userId", "sessionId"].iter().any(|name| !due.text(name).is_empty());
                change.required = !owned;
                // Whose a document is, follows from who saves it; nobody's until a user does, or claims it.
                if let Action::Merge(fields) = &mut change.action {
                    match due.text("userId") {
                        "" => change.create.insert("ownerType", "anon"),
                        _ => fields.insert("ownerType", "user"),
                    };
                }
                let id = id.clone();
                Some((*due, id, made))
            }
            Err(_) => None,
        })
        .collect();
    saves.retain(|(due, _, _)| due.task.data.contains_key("content"));
    if saves.is_empty() {
        return loose;
    }
    let ids: Vec<&str> = saves.iter().map(|(_, id, _)| id.as_str()).collect();
    let Some(rows) = patiently!(patience, "mongodb", records.store.records_by_id(DOCUMENTS, &ids)) else {
        saves.iter_mut().for_each(|(_, _, made)| **made = Err(Planned::Released));
        return loose;
    };
    let anonymous = saves.iter().filter(|(due, ..)| due.text("userId").is_empty());
    let sessions: Vec<&str> = anonymous.map(|(due, ..)| due.text("sessionId")).filter(|id| !id.is_empty()).collect();
    let claimed = match sessions.is_empty() {
        true => Some(HashMap::new()),
        false => patiently!(patience, "mongodb", records.store.claimed(&sessions)),
    };
    let Some(claimed) = claimed else {
        saves.iter_mut().for_each(|(_, _, made)| **made = Err(Planned::Released));
        return loose;
    };
    for chunk in saves.chunks_mut(AT_ONCE) {
        let puts = chunk.iter_mut().map(|(due, id, made)| {
            let place = Place { row: rows.get(id), user: claimed.get(due.text("sessionId")).map(String::as_str) };
            put(records, due, place, made, patience)
        });
        let keys = join_all(puts).await;
        for ((_, id, _), key) in chunk.iter().zip(keys) {
            let before = rows.get(id).and_then(described).map(|content| (content.tier, content.key));
            let made = key.map(|key| (Tier::Hot, key));
            loose.0.entry(id.clone()).or_default().extend(made.into_iter().chain(before));
        }
    }
    loose
}

/// What is known of whose a document is, beside its task.
struct Place<'a> {
    row: Option<&'a Document>,
    /// Who claimed the task's session.
    user: Option<&'a str>,
}

/// Stores one content; answers its key.
async fn put(
    records: &Records,
    due: &Due<'_>,
    place: Place<'_>,
    made: &mut Result<(String, Change), Planned>,
    patience: &Patience<'_>,
) -> Option<String> {
    let Ok((id, change)) = made else { return None };
    let Action::Merge(fields) = &mut change.action else { return None };
    let Some(text) = fields.get_str("content").ok().map(str::to_owned) else {
        *made = Err(Planned::Dead(Reason::Schema, "`content` must be a text".into()));
        return None;
    };
    let given = |name| Some(due.text(name)).filter(|id| !id.is_empty());
    let told = given("userId").or(place.user).or_else(|| given("sessionId"));
    let Some(owner) = place.row.and_then(owner).or(told) else {
        let id = id.clone();
        *made = Err(unknown(records, &id, patience).await);
        return None;
    };
    let key = key::document(owner, id, &change.task);
    let sealing = records.vault.sealing(&due.declared.sensitive, due.task.tenant.as_deref());
    match stored!(patience, records.content.save_full(&key, text.as_bytes(), sealing)) {
        None => *made = Err(Planned::Released),
        Some(Err(fault)) => *made = Err(failed(&fault)),
        Some(Ok(content)) => {
            fields.insert("content", Bson::Document(to_row(&content)));
            return Some(key);
        }
    }
    None
}

/// An update may come before the document: it is tried again. Or long after it, when it is purged.
async fn unknown(records: &Records, id: &str, patience: &Patience<'_>) -> Planned {
    let text = format!(
        "there is no {id:?} in `documents`, and a new document needs `userId` or `sessionId`: send one of them, or the \
         task that makes the document, then requeue this one"
    );
    match missing_or_purged(records, DOCUMENTS, id, patience).await {
        Planned::Missing(..) => Planned::Missing(ErrorClass::Missing, text),
        other => other,
    }
}

/// Removes the objects that the written rows do not describe.
pub async fn tidy(records: &Records, mut loose: Loose, entries: &[RecordEntry], patience: &Patience<'_>) {
    let mut keys = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        // Changes that were tried one by one end in several entries; only the last has the row as it is.
        let is_last = !entries[at + 1..].iter().any(|e| e.collection == DOCUMENTS && e.key == entry.key);
        let of_document = match entry.collection == DOCUMENTS && is_last {
            true => loose.0.remove(&entry.key).unwrap_or_default(),
            false => continue,
        };
        let purged = !entry.ends.is_empty() && entry.ends.iter().all(|end| *end == End::Expired);
        let current = match &entry.document {
            Some(row) => described(row).map(|content| content.key),
            None if purged => None,
            None => continue,
        };
        keys.extend(of_document.into_iter().filter(|(_, key)| Some(key) != current.as_ref()));
    }
    for chunk in keys.chunks(AT_ONCE) {
        join_all(chunk.iter().map(|(tier, key)| remove(records, *tier, key, patience))).await;
    }
}
