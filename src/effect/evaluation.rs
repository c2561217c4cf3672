//! `evaluation.persist`: an assessment onto the session or interaction that it is about. In MongoDB only: cached kinds
//! leave the field out. A session that was archived meanwhile gets it in `session_history`.

use std::collections::HashMap;

use mongodb::bson::Document;
use serde_json::Value;

use super::{Patience, Records, patiently, records::Due};
use crate::{
    config::WriteMode,
    record::{Action, Change, End},
    store::{RecordEntry, RecordSet, SESSION_HISTORY, SESSIONS},
    task::Task,
};

/// Where the evaluated record lies.
pub fn collection(task: &Task) -> &'static str {
    match task.data.get("entityType").and_then(Value::as_str) {
        Some("interaction") => "interactions",
        _ => SESSIONS,
    }
}

/// From the task's data to the fields of the evaluated record.
pub fn adapt(change: &mut Change) {
    if let Action::Merge(fields) = &mut change.action {
        let mut taken = Document::new();
        if let Some(data) = fields.remove("evaluationData") {
            taken.insert("evaluation", data);
        }
        if let Some(at) = fields.remove("evaluatedAt") {
            taken.insert("evaluatedAt", at);
        }
        *fields = taken;
    }
    change.required = true;
}

/// Writes evaluations of sessions that are not in `sessions` any more to where those lie now. `None`: the worker stops.
pub async fn of_archived(
    records: &Records,
    entries: &mut [RecordEntry],
    tasks: &HashMap<usize, &Due<'_>>,
    patience: &Patience<'_>,
) -> Option<()> {
    let is_evaluation =
        |task| tasks.get(task).is_some_and(|due: &&Due<'_>| due.declared.write == WriteMode::Evaluation);
    let (mut set, mut places) = (RecordSet::default(), Vec::new());
    for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.collection == SESSIONS) {
        for (n, end) in entry.ends.iter().enumerate() {
            if matches!(end, End::Missing | End::Expired) && is_evaluation(&entry.tasks[n]) {
                set.push(SESSION_HISTORY, entry.key.clone(), places.len(), entry.changes[n].clone());
                places.push((at, n));
            }
        }
    }
    if set.is_empty() {
        return Some(());
    }
    patiently!(patience, "mongodb", records.store.apply(&mut set))?;
    let unknown: Vec<&str> =
        set.entries.iter().filter(|e| e.ends.contains(&End::Missing)).map(|e| e.key.as_str()).collect();
    // Being moved just now: in neither place as it should be, so it is tried again.
    let moving = match unknown.is_empty() {
        true => HashMap::new(),
        false => patiently!(patience, "mongodb", records.store.records_by_id(SESSIONS, &unknown))?,
    };
    for archived in &set.entries {
        for (place, end) in archived.tasks.iter().zip(&archived.ends) {
            let (at, n) = places[*place];
            if *end != End::Missing || moving.contains_key(&archived.key) {
                entries[at].ends[n] = end.clone();
            }
        }
    }
    Some(())
}
