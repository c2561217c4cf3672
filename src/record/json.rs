//! Records as JSON text and back: MongoDB's relaxed extended JSON, written without a tree in between.
//!
//! Numbers, texts, truth values, null, lists and objects are plain JSON. A date is `{"$date":"2026-01-31T12:00:00.5Z"}`
//! (outside of the years 1970 to 9999 `{"$date":{"$numberLong":"-1"}}`), binary data, sealed fields among it,
//! `{"$binary":{"base64":"...","subType":"00"}}`; rarer types as in MongoDB's specification of extended JSON. Whole
//! numbers read back as int64, whatever width they had: the one type in which records hold them.

use std::fmt;

use mongodb::bson::{Binary, Bson, DateTime, Document};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// 10000-01-01T00:00:00Z, from which on the short form of a date ends.
const YEAR_10000_MS: i64 = 253_402_300_800_000;

/// A record that has no unambiguous JSON: an object in it has a name that begins with `$`, as the JSON of dates has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record holds an object with a name that begins with `$`, which its JSON cannot tell from a date")]
pub struct Ambiguous;

/// Appends the JSON of the fields for which `wanted` holds.
///
/// # Errors
/// See [`Ambiguous`]; what was appended until then is for the caller to drop.
pub fn write(out: &mut Vec<u8>, document: &Document, wanted: impl Fn(&str) -> bool) -> Result<(), Ambiguous> {
    out.push(b'{');
    let mut first = true;
    for (name, value) in document.iter().filter(|(name, _)| wanted(name)) {
        if name.starts_with('$') {
            return Err(Ambiguous);
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        text(out, name);
        out.push(b':');
        element(out, value)?;
    }
    out.push(b'}');
    Ok(())
}

fn element(out: &mut Vec<u8>, value: &Bson) -> Result<(), Ambiguous> {
    match value {
        Bson::String(s) => text(out, s),
        Bson::Int32(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Bson::Int64(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Bson::Boolean(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Bson::Null => out.extend_from_slice(b"null"),
        Bson::DateTime(date) => write_date(out, *date),
        Bson::Document(d) => write(out, d, |_| true)?,
        Bson::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                element(out, item)?;
            }
            out.push(b']');
        }
        Bson::Double(n) if !n.is_finite() => {
            let name = if n.is_nan() { "NaN" } else { ["Infinity", "-Infinity"][usize::from(*n < 0.0)] };
            out.extend_from_slice(format!(r#"{{"$numberDouble":"{name}"}}"#).as_bytes());
        }
        Bson::Binary(Binary { subtype, bytes }) => {
            out.extend_from_slice(br#"{"$binary":{"base64":""#);
            base64(out, bytes);
            out.extend_from_slice(format!(r#"","subType":"{:02x}"}}}}"#, u8::from(*subtype)).as_bytes());
        }
        // Writing to memory does not fail.
        Bson::Double(n) => drop(serde_json::to_writer(out, n)),
        rare => drop(serde_json::to_writer(out, rare)),
    }
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) {
    drop(serde_json::to_writer(out, text));
}

/// Three bytes make four characters; what is missing at the end is filled with `=`.
fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(group.get(i).copied().unwrap_or(0)));
        let digit = |i: usize| if i <= group.len() { DIGITS[(bits >> (18 - 6 * i)) as usize & 63] } else { b'=' };
        out.extend((0..4).map(digit));
    }
}

fn write_date(out: &mut Vec<u8>, date: DateTime) {
    let ms = date.timestamp_millis();
    let short = (0..YEAR_10000_MS).contains(&ms).then(|| date.try_to_rfc3339_string().ok()).flatten();
    let json = match short {
        Some(short) => format!(r#"{{"$date":"{short}"}}"#),
        None => format!(r#"{{"$date":{{"$numberLong":"{ms}"}}}}"#),
    };
    out.extend_from_slice(json.as_bytes());
}

/// Reads what [`write`] has written; the order of the fields is kept.
pub fn read(json: &[u8]) -> Option<Document> {
    match serde_json::from_slice::<Element>(json).ok()?.0 {
        Bson::Document(document) => Some(document),
        _ => None,
    }
}

struct Element(Bson);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Elements).map(Element)
    }
}

struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("extended JSON")
    }
    fn visit_unit<E>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Bson, E> {
        Ok(Bson::Int64(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Bson, E> {
        Ok(i64::try_from(value).map_or(Bson::Double(value as f64), Bson::Int64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Bson, E> {
        Ok(Bson::Double(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Bson, E> {
        Ok(Bson::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Bson, A::Error> {
        let mut all = Vec::new();
        while let Some(Element(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Bson::Array(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Bson, A::Error> {
        let mut document = Document::new();
        while let Some(name) = fields.next_key::<String>()? {
            if document.is_empty() && name.starts_with('$') {
                return typed(name, fields);
            }
            document.insert(name, fields.next_value::<Element>()?.0);
        }
        Ok(Bson::Document(document))
    }
}

/// A value that JSON has no type for.
fn typed<'de, A: MapAccess<'de>>(name: String, mut fields: A) -> Result<Bson, A::Error> {
    let mut map = Map::new();
    map.insert(name, fields.next_value()?);
    while let Some((name, value)) = fields.next_entry::<String, Value>()? {
        map.insert(name, value);
    }
    serde_json::from_value(Value::Object(map)).map_err(de::Error::custom)
}

#[cfg(test)]
pub(super) mod tests {
    use mongodb::bson::{doc, oid::ObjectId, spec::BinarySubtype};
    use proptest::prelude::*;

    use super::*;

    /// Every type that a record holds.
    pub fn values() -> impl Strategy<Value = Bson> {
        let leaf = prop_oneof![
            Just(Bson::Null),
            any::<bool>().prop_map(Bson::Boolean),
            any::<i64>().prop_map(Bson::Int64),
            any::<f64>().prop_map(Bson::Double),
            any::<String>().prop_map(Bson::String),
            // A date's text has no more than four digits of the year; all others take the long form.
            any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
            (0..YEAR_10000_MS).prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
            prop::collection::vec(any::<u8>(), 0..40)
                .prop_map(|bytes| Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            let names = "[a-zäß.$]?[a-z$. \"\\\\]{0,6}".prop_filter("not a name of a type", |n| !n.starts_with('$'));
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Bson::Array),
                prop::collection::vec((names, inner), 0..6)
                    .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
            ]
        })
    }

    fn there_and_back(document: &Document) -> Document {
        let mut json = Vec::new();
        write(&mut json, document, |_| true).unwrap();
        read(&json).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&json)))
    }

    proptest! {
        #[test]
        fn whatever_a_record_holds_comes_back(value in values()) {
            let back = there_and_back(&doc! { "v": value.clone() });
            // NaN is not equal to itself: compared as it is shown.
            prop_assert_eq!(format!("{:?}", back.get("v")), format!("{:?}", Some(&value)));
        }
    }

    #[test]
    fn the_form_is_what_other_languages_expect() {
        let mut json = Vec::new();
        let sealed = Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 255] };
        let document = doc! {
            "_id": "s1", "n": 5_i64, "f": 1.0, "at": DateTime::from_millis(1_769_860_800_500), "old": DateTime::from_millis(-1),
            "email": sealed, "o": ObjectId::from_bytes([7; 12]), "i": 7_i32, "inf": f64::INFINITY,
        };
        write(&mut json, &document, |name| name != "_id").unwrap();
        let expected = concat!(
            r#"{"n":5,"f":1.0,"at":{"$date":"2026-01-31T12:00:00.5Z"},"old":{"$date":{"$numberLong":"-1"}},"#,
            r#""email":{"$binary":{"base64":"AQL/","subType":"00"}},"o":{"$oid":"070707070707070707070707"},"#,
            r#""i":7,"inf":{"$numberDouble":"Infinity"}}"#
        );
        assert_eq!(String::from_utf8_lossy(&json), expected);
        let back = read(&json).unwrap();
        assert_eq!(back.get("o"), document.get("o"));
        assert_eq!(back.get("i"), Some(&Bson::Int64(7)));
    }

    #[test]
    fn what_looks_like_a_date_and_is_data_is_refused() {
        for nested in [doc! {"a": {"$date": "x"}}, doc! {"a": [{"b": 1, "$c": 1}]}] {
            assert_eq!(write(&mut Vec::new(), &nested, |_| true), Err(Ambiguous));
        }
        assert_eq!(read(b"[1]"), None);
        assert_eq!(read(br#"{"a":"#), None);
    }
}
