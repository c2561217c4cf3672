//! Stream entries as Redis answers them.

use redis::Value;

use super::link::Fault;

/// An entry: its id and its field `body`, if it has one.
pub(super) type Entry = (String, Option<Vec<u8>>);

pub(super) fn size(entry: &Entry) -> usize {
    entry.1.as_ref().map_or(0, Vec::len)
}

/// Entries of a reply; `deleted` are still pending but gone from the stream.
#[derive(Default)]
pub(super) struct Entries {
    pub present: Vec<Entry>,
    pub deleted: Vec<String>,
}

/// Entry ids in their order: milliseconds, then sequence.
pub(super) fn order(id: &str) -> (u64, u64) {
    let (ms, seq) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), seq.parse().unwrap_or(0))
}

/// XREADGROUP answers nil, or one stream with its entries (as an array, or a map under RESP3).
pub(super) fn entries_of_read(reply: Value) -> Result<Entries, Fault> {
    match reply {
        Value::Nil => Ok(Entries::default()),
        Value::Map(mut streams) if streams.len() == 1 => entries(streams.remove(0).1),
        Value::Array(mut streams) if streams.len() == 1 => match streams.remove(0) {
            Value::Array(mut pair) if pair.len() == 2 => entries(pair.remove(1)),
            _ => Err(Fault::shape("XREADGROUP")),
        },
        _ => Err(Fault::shape("XREADGROUP")),
    }
}

pub(super) fn entries(reply: Value) -> Result<Entries, Fault> {
    let bad = || Fault::shape("stream entries");
    let Value::Array(items) = reply else { return Err(bad()) };
    let mut out = Entries::default();
    out.present.reserve(items.len());
    for item in items {
        let Value::Array(pair) = item else { continue }; // nil: deleted, and no longer pending
        let mut pair = pair.into_iter();
        let (Some(Value::BulkString(id)), Some(fields)) = (pair.next(), pair.next()) else { return Err(bad()) };
        let id = String::from_utf8(id).map_err(|_| bad())?;
        match fields {
            Value::Nil => out.deleted.push(id),
            Value::Array(fields) => {
                let mut body = None;
                let mut fields = fields.into_iter();
                while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
                    if let (Value::BulkString(name), Value::BulkString(value)) = (name, value)
                        && name == b"body"
                    {
                        body = Some(value);
                    }
                }
                out.present.push((id, body));
            }
            _ => return Err(bad()),
        }
    }
    Ok(out)
}
