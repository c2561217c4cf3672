//! From what the user gave to the tasks to push. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::{RawValue, to_raw_value};

/// The attributes by which a line is told from mere data.
const ATTRIBUTES: [&str; 16] = [
    "specversion",
    "id",
    "source",
    "type",
    "data",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "expirytime",
    "notbefore",
    "partitionkey",
    "tenant",
    "maxattempts",
    "traceparent",
    "tracestate",
];

/// What the flags say of every task.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    pub kind: Option<&'a str>,
    pub id: Option<&'a str>,
    pub source: Option<&'a str>,
    /// The `time` of events that have none.
    pub now: DateTime<Utc>,
}

/// An event, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Its `type`, if that is a string.
    pub kind: Option<String>,
    pub id: Option<String>,
    pub body: Bytes,
}

/// Makes an event of `text`: of its data, of an event without some attributes, or of a whole event, which stays as it is
/// byte for byte. `new_id` is asked for one when there is none.
///
/// # Errors
/// Not a JSON object, or a flag that contradicts it.
pub fn compose(text: &str, given: Given<'_>, new_id: impl FnOnce() -> String) -> Result<Composed, String> {
    let text = text.trim();
    let mut event: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => "not a JSON object: give one".to_owned(),
        _ => format!("not JSON ({e}): give a JSON object"),
    })?;
    let whole = ["specversion", "id", "source", "type", "data"].iter().all(|name| event.contains_key(*name));
    let some = event.contains_key("data") && event.keys().all(|name| ATTRIBUTES.contains(&name.as_str()));
    if !whole && !some && !event.contains_key("specversion") {
        let data: &RawValue = serde_json::from_str(text).map_err(|e| format!("not JSON ({e})"))?;
        event = BTreeMap::from([("data".to_owned(), data)]);
    }
    for (name, flag) in [("type", given.kind), ("id", given.id), ("source", given.source)] {
        if let (Some(own), Some(flag)) = (text_at(&event, name), flag)
            && own != flag
        {
            return Err(format!("the event has a `{name}` of its own, {own:?}: leave out --{name}"));
        }
    }
    if whole {
        let (kind, id) = (text_at(&event, "type"), text_at(&event, "id"));
        return Ok(Composed { kind, id, body: Bytes::copy_from_slice(text.as_bytes()) });
    }
    let id = given.id.map_or_else(|| text_at(&event, "id").unwrap_or_else(new_id), str::to_owned);
    let time = given.now.to_rfc3339_opts(SecondsFormat::Millis, true);
    let filled = [
        ("specversion", Some("1.0")),
        ("id", Some(id.as_str())),
        ("source", Some(given.source.unwrap_or(SOURCE))),
        ("type", given.kind),
        ("time", Some(time.as_str())),
    ];
    let filled: Vec<(&str, Box<RawValue>)> = filled
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|_| !event.contains_key(name))?)))
        .map(|(name, value)| Ok((name, to_raw_value(value)?)))
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|e| e.to_string())?;
    event.extend(filled.iter().map(|(name, value)| ((*name).to_owned(), value.as_ref())));
    let body = serde_json::to_vec(&event).map_err(|e| e.to_string())?;
    Ok(Composed { kind: text_at(&event, "type"), id: text_at(&event, "id"), body: Bytes::from(body) })
}

/// The `source` of tasks pushed by hand.
const SOURCE: &str = "/contextd/cli";

fn text_at(event: &BTreeMap<String, &RawValue>, name: &str) -> Option<String> {
    serde_json::from_str(event.get(name)?.get()).ok()
}

/// The queue that tasks of a type go to when none is named.
pub fn default_queue(kind: &str) -> &'static str {
    match kind.split('.').next() {
        Some("typing") => "typing",
        Some("document") if kind.starts_with("document.analyze.") => "analysis",
        _ => "records",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::task::attribute::parse_time;

    fn given<'a>() -> Given<'a> {
        let now = parse_time("2026-01-31T12:00:00Z").unwrap();
        Given { kind: Some("typing.context.v1"), id: None, source: None, now }
    }

    fn composed(text: &str, given: Given<'_>) -> Value {
        serde_json::from_slice(&compose(text, given, || "new".into()).unwrap().body).unwrap()
    }

    #[test]
    fn data_gets_an_envelope() {
        let event = composed(" {\"sequence\": 1, \"n\": 123456789012345678901234567890}\n", given());
        assert_eq!(event["time"], "2026-01-31T12:00:00.000Z");
        assert_eq!((&event["id"], &event["source"]), (&json!("new"), &json!("/contextd/cli")));
        assert_eq!((&event["type"], &event["specversion"]), (&json!("typing.context.v1"), &json!("1.0")));
        let composed = compose("{\"n\":1.10}", given(), || "new".into()).unwrap();
        assert!(
            std::str::from_utf8(&composed.body).unwrap().contains("{\"n\":1.10}"),
            "the data stays as it was written"
        );
        let given = Given { id: Some("i"), source: Some("/s"), ..given() };
        assert_eq!(compose("{}", given, || "new".into()).unwrap().id.as_deref(), Some("i"));
    }

    #[test]
    fn an_event_is_completed_or_left_alone() {
        let part = composed(r#"{"type":"a","data":{"x":1},"tenant":"t"}"#, Given { kind: None, ..given() });
        assert_eq!((&part["type"], &part["data"], &part["tenant"]), (&json!("a"), &json!({"x":1}), &json!("t")));
        let whole = r#"{"data":{}, "id":"1","source":"/s", "type":"a","specversion":"1.0","odd":1.0e2}"#;
        assert_eq!(compose(whole, Given { kind: None, ..given() }, || "new".into()).unwrap().body, whole);
        let data = composed(r#"{"data":{"x":1},"content":"c"}"#, given());
        assert_eq!(data["data"]["content"], "c", "a property `data` among others is data");
    }

    #[test]
    fn what_does_not_go_together() {
        for (text, word) in
            [("[1]", "object"), ("{", "not JSON"), ("", "not JSON"), (r#"{"type":"x","data":{}}"#, "--type")]
        {
            let error = compose(text, given(), String::new).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn queues_by_type() {
        assert_eq!(default_queue("document.analyze.v1"), "analysis");
        assert_eq!(default_queue("typing.context.v1"), "typing");
        assert_eq!(default_queue("document.saved.v1"), "records");
        assert_eq!(default_queue("session.started.v1"), "records");
    }
}
