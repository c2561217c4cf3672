//! Records as people and programs read them.

use chrono::{DateTime, SecondsFormat};
use mongodb::bson::{Bson, Document};
use serde_json::{Map, Value};

/// A record as plain JSON: dates as RFC 3339 in UTC, without contextd's own bookkeeping (names that begin with `_`,
/// `_id` excepted).
pub fn record(document: &Document) -> Map<String, Value> {
    let shown = document.iter().filter(|(name, _)| *name == "_id" || !name.starts_with('_'));
    shown.map(|(name, value)| (name.clone(), self::value(value))).collect()
}

fn value(bson: &Bson) -> Value {
    match bson {
        Bson::Document(document) => document.iter().map(|(name, v)| (name.clone(), value(v))).collect(),
        Bson::Array(items) => items.iter().map(value).collect(),
        Bson::DateTime(at) => match DateTime::from_timestamp_millis(at.timestamp_millis()) {
            Some(at) => at.to_rfc3339_opts(SecondsFormat::Millis, true).into(),
            None => at.timestamp_millis().into(),
        },
        Bson::Int32(n) => (*n).into(),
        Bson::Int64(n) => (*n).into(),
        Bson::Double(n) => (*n).into(),
        // Texts, truth values and null as they are; rarer types as MongoDB's extended JSON.
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime as BsonDate, doc};
    use serde_json::json;

    use super::*;

    #[test]
    fn dates_are_texts_and_bookkeeping_is_not_shown() {
        let at = BsonDate::from_millis(1_769_860_800_123);
        let stored = doc! {
            "_id": "c", "n": 1_i64, "x": 0.5, "at": at, "list": [{ "at": at, "_id": 1 }], "_sync": { "rev": 1_i64 }, "none": null,
        };
        let date = "2026-01-31T12:00:00.123Z";
        let expected =
            json!({ "_id": "c", "n": 1, "x": 0.5, "at": date, "list": [{ "at": date, "_id": 1 }], "none": null });
        assert_eq!(Value::Object(record(&stored)), expected);
    }
}
