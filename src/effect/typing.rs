//! `typing.context.v1`: the latest context per session and document. Pure.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use mongodb::bson::{DateTime as BsonDate, RawDocumentBuf, cstr};
use serde_json::Value;

use super::Planned;
use crate::{
    batch::{Mode, Write},
    store::TYPING_CONTEXTS,
    task::{Reason, Task, bson::append_object},
};

pub const TYPE: &str = "typing.context.v1";

/// The field that orders contexts of one key.
const ORDER: &str = "sequence";

/// Which context a task is about.
fn key(task: &Task) -> Option<(&str, &str, i64)> {
    let text = |name: &str| task.data.get(name).and_then(Value::as_str);
    Some((text("documentId")?, text("sessionId")?, task.data.get(ORDER).and_then(Value::as_i64)?))
}

/// Plans a batch: of each key only the highest sequence is written. `tasks` are (position, task).
pub fn plan<'a>(tasks: &[(usize, &'a Task)], now: DateTime<Utc>) -> Vec<(usize, Planned)> {
    let mut newest: HashMap<(&'a str, &'a str), (i64, usize, &'a Task)> = HashMap::with_capacity(tasks.len());
    let mut planned = Vec::with_capacity(tasks.len());
    for (position, task) in tasks {
        let Some((document, session, sequence)) = key(task) else {
            let text = "sessionId, documentId or sequence is missing".to_string();
            planned.push((*position, Planned::Dead(Reason::Schema, text)));
            continue;
        };
        match newest.get_mut(&(document, session)) {
            None => {
                newest.insert((document, session), (sequence, *position, task));
            }
            Some(best) if sequence > best.0 => {
                planned.push((best.1, Planned::Superseded));
                *best = (sequence, *position, task);
            }
            Some(best) => {
                let same = sequence == best.0 && task.id == best.2.id && task.source == best.2.source;
                planned.push((*position, if same { Planned::Duplicate } else { Planned::Superseded }));
            }
        }
    }
    for ((document, session), (sequence, position, task)) in newest {
        let plan = match document_of(document, session, task, now) {
            Ok((id, document)) => Planned::Write(Write {
                collection: TYPING_CONTEXTS,
                mode: Mode::Newest { field: ORDER, order: sequence },
                id,
                document,
                task: position,
            }),
            Err(text) => Planned::Dead(Reason::Schema, text),
        };
        planned.push((position, plan));
    }
    planned
}

fn document_of(
    document: &str,
    session: &str,
    task: &Task,
    now: DateTime<Utc>,
) -> Result<(String, RawDocumentBuf), String> {
    let id = format!("{document}:{session}");
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("_id"), id.as_str());
    append_object(&mut out, &task.data, &["_id", "updatedAt", "tenant"], &["clientTime"]).map_err(|e| e.to_string())?;
    if let Some(tenant) = &task.tenant {
        out.append(cstr!("tenant"), tenant.as_str());
    }
    out.append(cstr!("updatedAt"), BsonDate::from_millis(now.timestamp_millis()));
    Ok((id, out))
}

/// One context as it is kept in Redis.
#[derive(Debug)]
pub struct Latest {
    pub document: String,
    pub session: String,
    pub sequence: i64,
    /// JSON whose first member is `sequence`.
    pub json: String,
    /// Whether MongoDB had no context of this key before; known once it is written.
    pub is_first: bool,
}

/// The Redis form of a context.
pub fn latest(task: &Task, now: DateTime<Utc>) -> Option<Latest> {
    let (document, session, sequence) = key(task)?;
    let updated = now.to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut json = format!("{{\"{ORDER}\":{sequence},\"updatedAt\":\"{updated}\"").into_bytes();
    for (name, value) in task.data.iter().filter(|(name, _)| *name != ORDER) {
        json.push(b',');
        serde_json::to_writer(&mut json, name).ok()?;
        json.push(b':');
        serde_json::to_writer(&mut json, value).ok()?;
    }
    json.push(b'}');
    let json = String::from_utf8(json).ok()?;
    Some(Latest { document: document.into(), session: session.into(), sequence, json, is_first: false })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(id: &str, document: &str, sequence: i64) -> Task {
        let data = json!({"documentId": document, "sessionId": "s", "sequence": sequence, "recentText": "é\"x"});
        Task {
            id: id.into(),
            source: "/t".into(),
            kind: TYPE.into(),
            time: None,
            expiry: None,
            not_before: None,
            partition_key: None,
            tenant: None,
            max_attempts: None,
            trace: None,
            data: data.as_object().cloned().unwrap_or_default(),
        }
    }

    #[test]
    fn only_the_highest_sequence_of_a_key_is_written() {
        let tasks = [task("a", "d", 5), task("b", "d", 7), task("c", "d", 6), task("b", "d", 7), task("e", "x", 1)];
        let refs: Vec<_> = tasks.iter().enumerate().collect();
        let mut planned = plan(&refs, DateTime::UNIX_EPOCH);
        planned.sort_by_key(|(position, _)| *position);
        let kinds: Vec<&str> = planned
            .iter()
            .map(|(_, p)| match p {
                Planned::Write(_) => "write",
                Planned::Superseded => "superseded",
                Planned::Duplicate => "duplicate",
                _ => "other",
            })
            .collect();
        assert_eq!(kinds, ["superseded", "write", "superseded", "duplicate", "write"]);
        let Planned::Write(write) = &planned[1].1 else { panic!("a write") };
        assert_eq!((write.id.as_str(), write.document.get_i64("sequence").ok()), ("d:s", Some(7)));
    }

    #[test]
    fn the_redis_form_is_json_with_the_sequence_first() {
        let latest = latest(&task("a", "d", 9), DateTime::UNIX_EPOCH).unwrap();
        assert!(latest.json.starts_with("{\"sequence\":9,"), "{}", latest.json);
        let back: Value = serde_json::from_str(&latest.json).unwrap();
        assert_eq!((back["sequence"].as_i64(), back["recentText"].as_str()), (Some(9), Some("é\"x")));
    }
}
