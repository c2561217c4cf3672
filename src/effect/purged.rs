//! Analyses and typing contexts of what was purged: they are not made any more.
//!
//! Looked at before the work, which spares it, and again after the write: the tombstone is there before the purge removes
//! what belongs to a document, so that either it finds the row or this look finds the tombstone.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Patience, patiently};
use crate::{
    batch::{Resolution, WriteSet},
    record::about,
    store::{ANALYSES, Store, TYPING_CONTEXTS},
    task::Task,
};

/// Which of these tasks, given with their positions, are about something that was purged. `None`: the worker stops
/// before that is known.
pub async fn tasks(store: &Store, tasks: &[(usize, &Task)], patience: &Patience<'_>) -> Option<HashSet<usize>> {
    let named =
        |task: &Task| -> Vec<String> { about(ANALYSES, |name| task.data.get(name).and_then(Value::as_str)).collect() };
    let all: HashSet<String> = tasks.iter().flat_map(|(_, task)| named(task)).collect();
    let gone = patiently!(patience, "mongodb", store.tombstones(all.iter().cloned()))?;
    if gone.is_empty() {
        return Some(HashSet::new());
    }
    let is_gone = |task: &Task| named(task).iter().any(|id| gone.contains(id));
    Some(tasks.iter().filter(|(_, task)| is_gone(task)).map(|(position, _)| *position).collect())
}

/// Which tasks' rows were written about something that was purged meanwhile; they are removed again. `None`: the worker
/// stops before that is known.
pub async fn writes(store: &Store, set: &WriteSet, patience: &Patience<'_>) -> Option<HashSet<usize>> {
    let is_there = |end: &Option<Resolution>| {
        matches!(end, Some(Resolution::Created | Resolution::Written | Resolution::Duplicate))
    };
    let written = set.writes.iter().zip(&set.resolutions);
    let written =
        written.filter(|(write, end)| [ANALYSES, TYPING_CONTEXTS].contains(&write.collection) && is_there(end));
    let named: Vec<(&str, &str, usize, Vec<String>)> = written
        .map(|(write, _)| {
            let ids = about(write.collection, |name| write.document.get_str(name).ok()).collect();
            (write.collection, write.id.as_str(), write.task, ids)
        })
        .collect();
    let all: HashSet<String> = named.iter().flat_map(|(.., ids)| ids).cloned().collect();
    if all.is_empty() {
        return Some(HashSet::new());
    }
    let gone = patiently!(patience, "mongodb", store.tombstones(all.iter().cloned()))?;
    let (mut rows, mut tasks): (HashMap<&str, Vec<&str>>, HashSet<usize>) = Default::default();
    for (collection, id, task, ids) in named {
        if ids.iter().any(|id| gone.contains(id)) {
            rows.entry(collection).or_default().push(id);
            tasks.insert(task);
        }
    }
    for (collection, ids) in rows {
        patiently!(patience, "mongodb", store.remove(collection, &ids))?;
    }
    Some(tasks)
}
