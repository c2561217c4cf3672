//! Reads an event's attributes in one pass over the text, borrowing where it can, without judging them yet: so that what
//! is readable is known whatever turns out to be wrong.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{Deserialize, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// The attributes that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    SpecVersion,
    Id,
    Source,
    Type,
    Time,
    ExpiryTime,
    NotBefore,
    PartitionKey,
    Tenant,
    MaxAttempts,
    TraceParent,
    TraceState,
}

/// As written in an event, at the index of the [`Name`].
const NAMES: [&str; 12] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "expirytime",
    "notbefore",
    "partitionkey",
    "tenant",
    "maxattempts",
    "traceparent",
    "tracestate",
];

impl Name {
    pub fn as_str(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// What stands at an attribute.
#[derive(Debug, Default, PartialEq)]
pub enum Attr<'a> {
    /// Not there, or `null`, which CloudEvents wants read as not there.
    #[default]
    Absent,
    Text(Cow<'a, str>),
    /// An integer, also when written as `2.0`.
    Integer(i64),
    /// Something that no attribute may be; the words name its shape.
    Other(&'static str),
}

impl Attr<'_> {
    pub fn text(&self) -> Option<&str> {
        match self {
            Attr::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn shape(&self) -> &'static str {
        match self {
            Attr::Absent => "missing",
            Attr::Text(_) => "a string",
            Attr::Integer(_) => "a number",
            Attr::Other(shape) => shape,
        }
    }
}

/// An event as it stands, unjudged.
#[derive(Debug, Default)]
pub struct Envelope<'a> {
    attrs: [Attr<'a>; NAMES.len()],
    pub data: Option<Value>,
    /// `data_base64` is there: the producer sends binary data.
    pub binary: bool,
    /// A known attribute that stands there twice.
    pub repeated: Option<&'static str>,
}

impl<'a> Envelope<'a> {
    pub fn get(&self, name: Name) -> &Attr<'a> {
        &self.attrs[name as usize]
    }

    /// The string at `name`; nothing when it is absent or something else.
    pub fn text(&self, name: Name) -> Option<&str> {
        self.get(name).text()
    }
}

/// Fills the [`Envelope`] it holds; what was read before a syntax error stays.
pub struct EnvelopeSeed<'e, 'a>(pub &'e mut Envelope<'a>);

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<(), D::Error> {
        de.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let env = self.0;
        let mut seen = [false; NAMES.len()];
        while let Some(key) = map.next_key()? {
            match key {
                Key::Attr(i) if seen[i] => {
                    env.repeated = Some(NAMES[i]);
                    map.next_value::<Skip>()?;
                }
                Key::Attr(i) => {
                    seen[i] = true;
                    env.attrs[i] = map.next_value()?;
                }
                Key::Data if env.data.is_some() => {
                    env.repeated = Some("data");
                    map.next_value::<Skip>()?;
                }
                Key::Data => env.data = Some(map.next_value()?),
                Key::DataBase64 => {
                    env.binary = true;
                    map.next_value::<Skip>()?;
                }
                Key::Unknown => {
                    map.next_value::<Skip>()?;
                }
            }
        }
        Ok(())
    }
}

enum Key {
    Attr(usize),
    Data,
    DataBase64,
    Unknown,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an attribute's name")
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "data" => Key::Data,
                    "data_base64" => Key::DataBase64,
                    _ => NAMES.iter().position(|name| *name == key).map_or(Key::Unknown, Key::Attr),
                })
            }
        }
        de.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Attr<'de> {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        de.deserialize_any(AttrVisitor)
    }
}

struct AttrVisitor;

impl<'de> Visitor<'de> for AttrVisitor {
    type Value = Attr<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attribute")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Attr<'de>, E> {
        Ok(Attr::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Attr<'de>, E> {
        Ok(Attr::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Attr<'de>, E> {
        Ok(Attr::Integer(n))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Attr<'de>, E> {
        Ok(i64::try_from(n).map_or(Attr::Other("a number that is too large"), Attr::Integer))
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Attr<'de>, E> {
        Ok(integral(n).map_or(Attr::Other("a number that is no integer"), Attr::Integer))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Attr<'de>, E> {
        Ok(Attr::Other("a boolean"))
    }

    fn visit_unit<E: Error>(self) -> Result<Attr<'de>, E> {
        Ok(Attr::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Attr<'de>, A::Error> {
        while seq.next_element::<Skip>()?.is_some() {}
        Ok(Attr::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attr<'de>, A::Error> {
        while map.next_entry::<Skip, Skip>()?.is_some() {}
        Ok(Attr::Other("an object"))
    }
}

/// The integer that `n` is, when it is one within the range of `i64`.
pub fn integral(n: f64) -> Option<i64> {
    // 2^63 is the first float that is too large; -2^63 itself is in range.
    let limit = 9_223_372_036_854_775_808.0;
    (n.fract() == 0.0 && (-limit..limit).contains(&n)).then_some(n as i64)
}

/// Passes over any value and checks it all the same. Unlike serde's `IgnoredAny` it keeps to the recursion limit, so that
/// a nested text is refused alike wherever in the event it stands.
pub struct Skip;

impl<'de> Deserialize<'de> for Skip {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Attr::deserialize(de).map(|_| Skip)
    }
}
