//! What a task is: one CloudEvents event, decoded and checked. Pure: no I/O, no clock.

pub mod attribute;
pub mod bson;
mod decode;
mod envelope;
mod explain;
mod made;
mod schema;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::{
    decode::{Decoder, DecoderError},
    made::made_at,
    schema::{Schema, SchemaError, Schemas},
};

/// The four priorities of a list queue, highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Critical,
    High,
    Normal,
    Low,
}

impl Priority {
    pub const ALL: [Priority; 4] = [Priority::Critical, Priority::High, Priority::Normal, Priority::Low];

    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        }
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|priority| priority.as_str() == name);
        known.ok_or_else(|| format!("{name:?} is no priority: use critical, high, normal or low"))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a task is dead; the `reason` of its dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not UTF-8, not JSON, or nested too deep.
    NotJson,
    /// JSON, but not a CloudEvents 1.0 event with well-formed attributes (or a stream entry without `body`).
    BadEnvelope,
    /// No effect is known for its type, or its queue does not take this type.
    UnknownType,
    /// `data` does not match the type's JSON Schema.
    Schema,
    /// Larger than `limits.task_bytes`.
    TooLarge,
    /// The text to analyse is larger than `analysis.text_bytes`.
    TextTooLarge,
    /// MongoDB refuses the document for good.
    Rejected,
    /// What it refers to was not there in `retry.attempts` attempts.
    Missing,
    /// The effect failed `retry.attempts` times.
    Failed,
    /// The workers that held it died `retry.crashes` times.
    Crashed,
}

impl Reason {
    pub const ALL: [Reason; 10] = [
        Reason::NotJson,
        Reason::BadEnvelope,
        Reason::UnknownType,
        Reason::Schema,
        Reason::TooLarge,
        Reason::TextTooLarge,
        Reason::Rejected,
        Reason::Missing,
        Reason::Failed,
        Reason::Crashed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NotJson => "not_json",
            Reason::BadEnvelope => "bad_envelope",
            Reason::UnknownType => "unknown_type",
            Reason::Schema => "schema",
            Reason::TooLarge => "too_large",
            Reason::TextTooLarge => "text_too_large",
            Reason::Rejected => "rejected",
            Reason::Missing => "missing",
            Reason::Failed => "failed",
            Reason::Crashed => "crashed",
        }
    }
}

impl FromStr for Reason {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == name);
        let all = || Self::ALL.map(Self::as_str).join(", ");
        known.ok_or_else(|| format!("{name:?} is no reason: use one of {}", all()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// W3C trace context of the producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    pub parent: String,
    pub state: Option<String>,
}

/// One decoded and checked task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: String,
    pub source: String,
    /// CloudEvents `type`.
    pub kind: String,
    pub time: Option<DateTime<Utc>>,
    pub expiry: Option<DateTime<Utc>>,
    pub not_before: Option<DateTime<Utc>>,
    pub partition_key: Option<String>,
    pub tenant: Option<String>,
    pub max_attempts: Option<u32>,
    pub trace: Option<TraceContext>,
    /// Checked against the schema of `kind`.
    pub data: serde_json::Map<String, serde_json::Value>,
}

/// A task that cannot be decoded or is not acceptable: dead at once, alone, with the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    pub reason: Reason,
    /// One sentence that says what is wrong and what to do; never the task's content beyond names.
    pub error: String,
    /// What could be read of the envelope all the same.
    pub id: Option<String>,
    pub source: Option<String>,
    pub kind: Option<String>,
}
