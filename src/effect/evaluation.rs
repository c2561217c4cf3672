//! `evaluation.persist`: an assessment onto the session or interaction that it is about. In MongoDB only: cached kinds
//! leave the field out.

use mongodb::bson::Document;
use serde_json::Value;

use crate::{
    record::{Action, Change},
    task::Task,
};

/// Where the evaluated record lies.
pub fn collection(task: &Task) -> &'static str {
    match task.data.get("entityType").and_then(Value::as_str) {
        Some("interaction") => "interactions",
        _ => "sessions",
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
