//! Entries as text, outside of the database.

use mongodb::bson::{Bson, RawArray, RawBsonRef, RawDocument};
use serde::{Serialize, Serializer, ser::SerializeMap};

/// An entry as one line of canonical extended JSON in the stored order of its fields: its digest can be computed from
/// this, too.
pub fn line(entry: &RawDocument) -> serde_json::Result<String> {
    serde_json::to_string(&Canonical(entry))
}

pub(super) struct Canonical<'a>(pub &'a RawDocument);

impl Serialize for Canonical<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for field in self.0.iter_elements() {
            let field = field.map_err(serde::ser::Error::custom)?;
            map.serialize_entry(field.key().as_str(), &Value(field.value().map_err(serde::ser::Error::custom)?))?;
        }
        map.end()
    }
}

struct List<'a>(&'a RawArray);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let items: Result<Vec<_>, _> = self.0.into_iter().map(|item| item.map(Value)).collect();
        items.map_err(serde::ser::Error::custom)?.serialize(to)
    }
}

struct Value<'a>(RawBsonRef<'a>);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let typed = match self.0 {
            RawBsonRef::Document(document) => return Canonical(document).serialize(to),
            RawBsonRef::Array(items) => return List(items).serialize(to),
            RawBsonRef::Int32(n) => of_type("$numberInt", n.to_string()),
            RawBsonRef::Int64(n) => of_type("$numberLong", n.to_string()),
            RawBsonRef::Double(n) => of_type("$numberDouble", double(n)),
            RawBsonRef::DateTime(at) => {
                serde_json::json!({ "$date": of_type("$numberLong", at.timestamp_millis().to_string()) })
            }
            // As the driver writes them; no entry of ours holds bytes, which it writes as a list of numbers.
            other => return Bson::try_from(other).map_err(serde::ser::Error::custom)?.serialize(to),
        };
        typed.serialize(to)
    }
}

fn of_type(name: &str, text: String) -> serde_json::Value {
    serde_json::json!({ name: text })
}

fn double(n: f64) -> String {
    if n.is_nan() {
        "NaN".into()
    } else if n.is_infinite() {
        if n > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        format!("{n:?}")
    }
}
