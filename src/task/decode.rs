//! From the bytes in Redis to a [`Task`], or to the reason why not. On the hot path: one pass over the text, and what
//! only an error needs is computed only then.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::de::{Deserialize, DeserializeSeed};
use serde_json::{Deserializer, Map, Value, de::StrRead};

use super::{
    Reason, Rejected, Schemas, Task,
    attribute::{ID_MAX, NAME_MAX, check_id, check_source, parse_time, trace_context, truncated},
    bson::check_names,
    envelope::{Attr, Envelope, EnvelopeSeed, Name, Skip},
};
use crate::config::{Bare, Limits, Queue, TaskFormat};

/// A queue whose tasks cannot be decoded as configured.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    #[error("queue {0:?} has format \"bare\" but no `bare.type`: name the type of its tasks")]
    NoType(String),
    #[error("queue {0:?}: `bare.type` {1:?} is not a known task type: use one of {2}")]
    UnknownType(String, String, String),
    #[error("queue {0:?}: `bare.id` {1:?} is not a JSON pointer: write one such as \"/jobId\", or leave it empty")]
    Pointer(String, String),
    #[error(
        "queue {0:?} cannot hold bare payloads, its name would be part of their `source`: use letters, digits and `-`"
    )]
    Name(String),
}

/// Decodes the tasks of one queue.
#[derive(Debug, Clone)]
pub struct Decoder {
    max_bytes: usize,
    schemas: Arc<Schemas>,
    /// Set for bare payloads: where their id is, their `source`.
    bare: Option<(Bare, String)>,
}

impl Decoder {
    /// For the queue `name`.
    ///
    /// # Errors
    /// The queue's `bare` settings do not go together; a matter of configuration.
    pub fn new(name: &str, queue: &Queue, limits: &Limits, schemas: Arc<Schemas>) -> Result<Self, DecoderError> {
        let bare = match (queue.format, &queue.bare) {
            (TaskFormat::CloudEvents, _) => None,
            (TaskFormat::Bare, None) => return Err(DecoderError::NoType(name.to_owned())),
            (TaskFormat::Bare, Some(bare)) => {
                if schemas.get(&bare.r#type).is_none() {
                    let known = schemas.types().collect::<Vec<_>>().join(", ");
                    return Err(DecoderError::UnknownType(name.to_owned(), bare.r#type.clone(), known));
                }
                if !(bare.id.is_empty() || bare.id.starts_with('/')) {
                    return Err(DecoderError::Pointer(name.to_owned(), bare.id.clone()));
                }
                let source = format!("/queues/{name}");
                check_source(&source).map_err(|_| DecoderError::Name(name.to_owned()))?;
                Some((bare.clone(), source))
            }
        };
        let max_bytes = usize::try_from(limits.task_bytes.as_u64()).unwrap_or(usize::MAX);
        Ok(Self { max_bytes, schemas, bare })
    }

    /// What the types are checked against.
    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// The task in `bytes`, checked against the rules for attributes and the schema of its type.
    ///
    /// # Errors
    /// The reason why it is dead, with what could be read of it. The error text holds names only, no content.
    pub fn decode(&self, bytes: &[u8]) -> Result<Task, Rejected> {
        if bytes.len() > self.max_bytes {
            let (is, most) = (bytes.len(), self.max_bytes);
            let error =
                format!("the task has {is} bytes, at most {most} are allowed: send less, or raise `limits.task_bytes`");
            return Err(rejected(Reason::TooLarge, error));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let at = e.valid_up_to();
            rejected(Reason::NotJson, format!("not UTF-8 at byte {at}: send JSON text encoded as UTF-8"))
        })?;
        match &self.bare {
            None => self.decode_event(text),
            Some((bare, source)) => self.decode_bare(text, bare, source),
        }
    }

    fn decode_event(&self, text: &str) -> Result<Task, Rejected> {
        let shape = shape(text);
        if shape != "an object" {
            parse_all(text, |de| Skip::deserialize(de)).map_err(|e| rejected(Reason::NotJson, e))?;
            let error = format!("the task is {shape}: send one CloudEvents 1.0 event, a JSON object");
            return Err(rejected(Reason::BadEnvelope, error));
        }
        let mut env = Envelope::default();
        if let Err(error) = parse_all(text, |de| EnvelopeSeed(&mut env).deserialize(de)) {
            return Err(readable(&env, Reason::NotJson, error));
        }
        match self.check_event(&mut env) {
            Ok(task) => Ok(task),
            Err((reason, error)) => Err(readable(&env, reason, error)),
        }
    }

    fn check_event(&self, env: &mut Envelope<'_>) -> Result<Task, Fault> {
        if let Some(name) = env.repeated {
            return Err(bad(format!("attribute `{name}` stands there twice: send it once")));
        }
        let data = env.data.take();
        match required(env, Name::SpecVersion, "send \"1.0\"")? {
            "1.0" => {}
            _ => return Err(bad("attribute `specversion` is not \"1.0\": send CloudEvents 1.0")),
        }
        let id = required(env, Name::Id, "send one that is unique for its `source`, such as a UUIDv7")?;
        check_id(id).map_err(|e| attribute(Name::Id, e))?;
        let source = required(env, Name::Source, "send a URI reference that names the producer, such as `/editor`")?;
        check_source(source).map_err(|e| attribute(Name::Source, e))?;
        let kind = required(env, Name::Type, "send the task's type, such as `typing.context.v1`")?;
        if kind.is_empty() {
            return Err(attribute(Name::Type, "is empty: send the task's type, such as `typing.context.v1`"));
        }
        let trace = trace_context(env.text(Name::TraceParent), env.text(Name::TraceState));
        let mut task = Task {
            id: id.to_owned(),
            source: source.to_owned(),
            kind: kind.to_owned(),
            time: time(env, Name::Time)?,
            expiry: time(env, Name::ExpiryTime)?,
            not_before: time(env, Name::NotBefore)?,
            partition_key: optional_text(env, Name::PartitionKey)?,
            tenant: optional_text(env, Name::Tenant)?,
            max_attempts: max_attempts(env)?,
            trace,
            data: Map::new(),
        };
        task.data = match data {
            Some(object @ Value::Object(_)) => self.check_data(kind, object, "/data")?,
            None | Some(Value::Null) if env.binary => {
                return Err(bad("`data` is missing and `data_base64` is not taken: send `data`, a JSON object"));
            }
            None | Some(Value::Null) => return Err(bad("`data` is missing: send a JSON object")),
            Some(_) => return Err(bad("`data` is not a JSON object: send one")),
        };
        Ok(task)
    }

    fn decode_bare(&self, text: &str, bare: &Bare, source: &str) -> Result<Task, Rejected> {
        let mut id = None;
        self.check_bare(text, bare, source, &mut id).map_err(|(reason, error)| Rejected {
            reason,
            error,
            id,
            source: Some(source.to_owned()),
            kind: Some(bare.r#type.clone()),
        })
    }

    /// `id` is set as soon as it is known, whatever comes after.
    fn check_bare(&self, text: &str, bare: &Bare, source: &str, id: &mut Option<String>) -> Result<Task, Fault> {
        let data = parse_all(text, |de| Value::deserialize(de)).map_err(|e| (Reason::NotJson, e))?;
        if !data.is_object() {
            return Err(bad(format!("the task is {}: this queue takes JSON objects", shape(text))));
        }
        let found = bare_id(&data, text, &bare.id).map_err(bad)?;
        *id = Some(found.clone());
        Ok(Task {
            id: found,
            source: source.to_owned(),
            kind: bare.r#type.clone(),
            time: None,
            expiry: None,
            not_before: None,
            partition_key: None,
            tenant: None,
            max_attempts: None,
            trace: None,
            data: self.check_data(&bare.r#type, data, "")?,
        })
    }

    /// `prefix` is the JSON pointer to `data` in the task.
    fn check_data(&self, kind: &str, data: Value, prefix: &str) -> Result<Map<String, Value>, Fault> {
        let Some(schema) = self.schemas.get(kind) else {
            let hint = match self.schemas.nearest(kind) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", self.schemas.types().collect::<Vec<_>>().join(", ")),
            };
            let error = format!("no effect is known for the type {:?}: {hint}", truncated(kind, ID_MAX));
            return Err((Reason::UnknownType, error));
        };
        if !schema.is_valid(&data) {
            return Err((Reason::Schema, format!("the data does not fit `{kind}`: {}", schema.explain(&data, prefix))));
        }
        let Value::Object(mut data) = data else {
            return Err(bad("`data` is not a JSON object: send one"));
        };
        check_names(&data).map_err(|e| (Reason::Schema, e.to_string()))?;
        schema.settle_integers(&mut data);
        Ok(data)
    }
}

type Fault = (Reason, String);

fn bad(error: impl Into<String>) -> Fault {
    (Reason::BadEnvelope, error.into())
}

fn attribute(name: Name, error: &str) -> Fault {
    bad(format!("attribute `{}` {error}", name.as_str()))
}

fn rejected(reason: Reason, error: String) -> Rejected {
    Rejected { reason, error, id: None, source: None, kind: None }
}

fn readable(env: &Envelope<'_>, reason: Reason, error: String) -> Rejected {
    let text = |name, max| env.text(name).map(|t| truncated(t, max));
    let (id, source, kind) = (text(Name::Id, ID_MAX), text(Name::Source, NAME_MAX), text(Name::Type, NAME_MAX));
    Rejected { reason, error, id, source, kind }
}

fn required<'e>(env: &'e Envelope<'_>, name: Name, hint: &str) -> Result<&'e str, Fault> {
    match env.get(name) {
        Attr::Text(text) => Ok(text),
        Attr::Absent => Err(attribute(name, &format!("is missing: {hint}"))),
        other => Err(attribute(name, &format!("is {}, not a string: {hint}", other.shape()))),
    }
}

/// An empty string is as good as none.
fn optional_text(env: &Envelope<'_>, name: Name) -> Result<Option<String>, Fault> {
    match env.get(name) {
        Attr::Text(text) => Ok((!text.is_empty()).then(|| text.clone().into_owned())),
        Attr::Absent => Ok(None),
        other => Err(attribute(name, &format!("is {}: send a string, or leave it out", other.shape()))),
    }
}

fn time(env: &Envelope<'_>, name: Name) -> Result<Option<DateTime<Utc>>, Fault> {
    let wrong = || attribute(name, "is not an RFC 3339 date-time: send one such as 2026-01-31T12:00:00Z");
    match env.get(name) {
        Attr::Text(text) => parse_time(text).map(Some).ok_or_else(wrong),
        Attr::Absent => Ok(None),
        _ => Err(wrong()),
    }
}

/// CloudEvents integers have 32 bits.
fn max_attempts(env: &Envelope<'_>) -> Result<Option<u32>, Fault> {
    match env.get(Name::MaxAttempts) {
        Attr::Absent => Ok(None),
        Attr::Integer(n @ 1..=0x7fff_ffff) => Ok(u32::try_from(*n).ok()),
        _ => Err(attribute(Name::MaxAttempts, "is not an integer from 1 to 2147483647: send one, or leave it out")),
    }
}

/// A bare payload's id: what `pointer` shows, or without one the hash of the whole text (64 hex digits). Two elements of
/// the same text are then one task.
fn bare_id(data: &Value, text: &str, pointer: &str) -> Result<String, String> {
    if pointer.is_empty() {
        return Ok(blake3::hash(text.as_bytes()).to_hex().to_string());
    }
    let id = match data.pointer(pointer) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(n)) if n.is_i64() || n.is_u64() => n.to_string(),
        Some(_) => return Err(format!("the id at `{pointer}` is neither a string nor an integer: send one of them")),
        None => return Err(format!("there is no id at `{pointer}`: send a string or an integer there")),
    };
    check_id(&id).map_err(|e| format!("the id at `{pointer}` {e}"))?;
    Ok(id)
}

/// What kind of JSON value begins in `text`; it need not be valid.
fn shape(text: &str) -> &'static str {
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Parses the whole of `text`; the error says where it stops being JSON.
fn parse_all<'a, T>(
    text: &'a str,
    parse: impl FnOnce(&mut Deserializer<StrRead<'a>>) -> serde_json::Result<T>,
) -> Result<T, String> {
    let mut de = Deserializer::from_str(text);
    parse(&mut de).and_then(|value| de.end().map(|()| value)).map_err(|e| not_json(text, &e))
}

fn not_json(text: &str, error: &serde_json::Error) -> String {
    if text.is_empty() {
        return "the task is empty: send a JSON object".to_owned();
    }
    if text.starts_with('\u{feff}') {
        return "not JSON at byte 0 (a byte order mark): send plain UTF-8 without one".to_owned();
    }
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let offset = lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or_default();
    if what == "recursion limit exceeded" {
        return format!("nested too deep at byte {offset}: send at most 127 levels");
    }
    format!("not JSON at byte {offset} ({what}): send one JSON object")
}
