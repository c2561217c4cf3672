//! From checked JSON to raw BSON, without a tree of BSON values in between.
//!
//! Every integer becomes an int64, however small: a field has one type whatever it holds. A number outside int64 becomes
//! a double, as everything with a fraction does. Dates of the event's properties become BSON dates where asked for.

use mongodb::bson::RawDocumentBuf;
use serde_json::{Map, Number, Value};

use super::attribute::parse_time;

const DOUBLE: u8 = 0x01;
const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
const BOOLEAN: u8 = 0x08;
const DATE: u8 = 0x09;
const NULL: u8 = 0x0a;
const INT64: u8 = 0x12;

/// A property name that cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a property name holds a NUL character, which MongoDB cannot store: rename the property")]
    Nul,
    #[error(
        "a property name at the top of the data is empty, begins with `$` or holds a `.`, which MongoDB reads as an \
         operator or a path: rename the property"
    )]
    Reserved,
}

/// Checks the names of a task's data: no NUL anywhere, and at the top, where properties become fields of a document,
/// nothing that MongoDB takes for an operator or a path. Below the top `$` and `.` are mere data; a writer that puts such
/// a value into an aggregation expression wraps it in `$literal`.
pub fn check_names(data: &Map<String, Value>) -> Result<(), NameError> {
    data.iter().try_for_each(|(name, value)| {
        let reserved = name.is_empty() || name.starts_with('$') || name.bytes().any(|b| b == b'.');
        if reserved { Err(NameError::Reserved) } else { check_nul(name).and_then(|()| check_nested(value)) }
    })
}

fn check_nested(value: &Value) -> Result<(), NameError> {
    match value {
        Value::Object(map) => map.iter().try_for_each(|(name, value)| {
            check_nul(name)?;
            check_nested(value)
        }),
        Value::Array(items) => items.iter().try_for_each(check_nested),
        _ => Ok(()),
    }
}

fn check_nul(name: &str) -> Result<(), NameError> {
    // Names are short: a plain loop is faster here than a search made for long text.
    if name.bytes().any(|b| b == 0) { Err(NameError::Nul) } else { Ok(()) }
}

/// Appends the properties of `data` to `doc`, save those named in `skip`; strings at the names in `dates` that are RFC
/// 3339 become dates (whole milliseconds). `doc` must not have any of the fields yet.
///
/// # Errors
/// A name holds a NUL; `doc` is then unchanged. A decoded task's data has none.
pub fn append_object(
    doc: &mut RawDocumentBuf,
    data: &Map<String, Value>,
    skip: &[&str],
    dates: &[&str],
) -> Result<(), NameError> {
    data.iter().try_for_each(|(name, value)| check_nul(name).and_then(|()| check_nested(value)))?;
    let mut out = std::mem::take(doc).into_bytes();
    out.pop();
    for (name, value) in data.iter().filter(|(name, _)| !skip.contains(&name.as_str())) {
        match value.as_str().filter(|_| dates.contains(&name.as_str())).and_then(parse_time) {
            Some(time) => {
                key(&mut out, DATE, name);
                out.extend_from_slice(&time.timestamp_millis().to_le_bytes());
            }
            None => element(&mut out, name, value),
        }
    }
    close(&mut out, 0);
    *doc = RawDocumentBuf::from_bytes(out).expect("the length is right and the end is marked");
    Ok(())
}

/// The whole of `data` as a document of its own.
///
/// # Errors
/// As [`append_object`].
pub fn object(data: &Map<String, Value>) -> Result<RawDocumentBuf, NameError> {
    let mut doc = RawDocumentBuf::new();
    append_object(&mut doc, data, &[], &[])?;
    Ok(doc)
}

fn key(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

fn element(out: &mut Vec<u8>, name: &str, value: &Value) {
    match value {
        Value::Null => key(out, NULL, name),
        Value::Bool(b) => {
            key(out, BOOLEAN, name);
            out.push(u8::from(*b));
        }
        Value::Number(n) => number(out, name, n),
        Value::String(text) => {
            key(out, STRING, name);
            out.extend_from_slice(&length(text.len() + 1));
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        Value::Array(items) => {
            key(out, ARRAY, name);
            let start = open(out);
            for (i, item) in items.iter().enumerate() {
                element(out, &i.to_string(), item);
            }
            close(out, start);
        }
        Value::Object(map) => {
            key(out, DOCUMENT, name);
            let start = open(out);
            for (name, value) in map {
                element(out, name, value);
            }
            close(out, start);
        }
    }
}

fn number(out: &mut Vec<u8>, name: &str, n: &Number) {
    if let Some(integer) = n.as_i64() {
        key(out, INT64, name);
        out.extend_from_slice(&integer.to_le_bytes());
    } else {
        key(out, DOUBLE, name);
        // Every number that is no i64 is a u64 or a float, and has a float.
        out.extend_from_slice(&n.as_f64().unwrap_or(f64::NAN).to_le_bytes());
    }
}

/// Leaves room for a document's length; [`close`] fills it.
fn open(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

fn close(out: &mut Vec<u8>, start: usize) {
    out.push(0);
    let size = length(out.len() - start);
    out[start..start + 4].copy_from_slice(&size);
}

fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).expect("a Redis value has at most 512 MB, and its BSON not four times that").to_le_bytes()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, Document, doc};
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn every_kind_of_value() {
        let data = map(json!({
            "s": "\u{1F600} a\u{0}b", "i": 1, "min": i64::MIN, "max": i64::MAX, "big": u64::MAX, "f": 0.5, "t": true,
            "n": null, "a": [1, "x", [], {"$k": 2.0}], "o": {"a.b": {"": []}}, "e": {}
        }));
        let expected = doc! {
            "s": "\u{1F600} a\u{0}b", "i": 1_i64, "min": i64::MIN, "max": i64::MAX, "big": u64::MAX as f64, "f": 0.5, "t": true,
            "n": null, "a": [1_i64, "x", [], {"$k": 2.0}], "o": {"a.b": {"": []}}, "e": {}
        };
        let mut read = Document::try_from(object(&data).unwrap()).unwrap();
        for (name, value) in expected {
            assert_eq!(read.remove(&name), Some(value), "{name}");
        }
        assert!(read.is_empty());
    }

    #[test]
    fn appends_dates_and_skips() {
        let data = map(json!({"_id": "mine", "a": "2026-01-31T12:00:00.5Z", "b": "2026-01-31T12:00:00Z", "c": "x"}));
        let mut doc = RawDocumentBuf::new();
        doc.append(mongodb::bson::cstr!("_id"), "ours");
        append_object(&mut doc, &data, &["_id"], &["a", "c"]).unwrap();
        doc.append(mongodb::bson::cstr!("z"), 1);
        let noon_and_half = DateTime::from_millis(1_769_860_800_500);
        let expected = doc! {"_id": "ours", "a": noon_and_half, "b": "2026-01-31T12:00:00Z", "c": "x", "z": 1};
        assert_eq!(Document::try_from(doc).unwrap(), expected);
    }

    #[test]
    fn names() {
        assert_eq!(check_names(&map(json!({"a": {"$b": [{"c.d": 1}]}}))), Ok(()));
        for top in ["", "$set", "a.b", "."] {
            assert_eq!(check_names(&map(json!({top: 1}))), Err(NameError::Reserved), "{top:?}");
        }
        for nul in [json!({"a\u{0}": 1}), json!({"a": {"\u{0}": 1}}), json!({"a": [[{"b\u{0}": 1}]]})] {
            assert_eq!(check_names(&map(nul.clone())), Err(NameError::Nul));
            let mut doc = RawDocumentBuf::new();
            assert_eq!(append_object(&mut doc, &map(nul), &[], &[]), Err(NameError::Nul));
            assert_eq!(doc, RawDocumentBuf::new());
        }
    }
}
