//! From a task to the change that it makes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::{Bson, DateTime as BsonDate, Document, RawDocumentBuf};
use serde_json::Value;

use super::{
    Clock, ClockError, RecordType, access,
    stored::{RESERVED, TENANT},
};
use crate::{
    config::WriteMode,
    task::{Task, attribute::parse_time, bson::append_object},
};

/// What one task does to one record.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub clock: Clock,
    /// When it counts as made, for date fields.
    pub at: DateTime<Utc>,
    /// The task, `id@source`.
    pub task: String,
    pub action: Action,
    /// What a new record gets beside the change.
    pub create: Document,
    /// Whether the record has to be there already.
    pub required: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Insert(Document),
    Replace(Document),
    Merge(Document),
    Append {
        array: String,
        keep: usize,
        element: Document,
    },
    /// With fields that are set beside the state.
    Delete(Document),
    /// With date fields that it stamps.
    Restore(Document),
}

/// Why a task says nothing that can be applied; a sentence for its producer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the data has no `{0}`: it is part of the record's key")]
    NoKey(String),
    #[error("`{0}` is part of the record's key and must be a text or a whole number")]
    Key(String),
    #[error("nothing says how new this is: send `{0}` in the data, or `time` in the event")]
    NoOrder(String),
    #[error("`{0}`, which says how new this is, {1}: send a date-time or a whole number from 0 to 2^52")]
    Order(String, ClockError),
    #[error(
        "`{0}` lies further in the future than clocks may differ (`limits.clock_skew`): it would make every later task \
         look old; correct the producer's clock"
    )]
    Future(String),
    #[error("the data has `{0}`, which contextd keeps itself: leave it out, or use another name")]
    Reserved(String),
    #[error("{0}")]
    Name(#[from] crate::task::bson::NameError),
}

impl Change {
    /// The record's key and what `task` changes. `now` and `skew` only bound how far an order may lie in the future.
    pub fn of(
        declared: &RecordType,
        task: &Task,
        now: DateTime<Utc>,
        skew: Duration,
    ) -> Result<(String, Self), ChangeError> {
        let identity = identity(task);
        let key = key(declared, task, &identity)?;
        let (clock, at, stamp_order) = clock(declared, task, now, skew, &identity)?;
        let (mut fields, mut fields_of_key) = fields(declared, task)?;
        if stamp_order {
            fields.insert(declared.order.clone().unwrap_or_default(), date(at));
        }
        for name in declared.stamp.iter().filter(|name| !task.data.contains_key(*name)) {
            fields.insert(name, date(at));
        }
        fields.extend(declared.set.clone());
        let action = match declared.write {
            WriteMode::Insert => Action::Insert(fields),
            WriteMode::Replace => Action::Replace(fields),
            WriteMode::Append => Action::Append { array: declared.array.clone(), keep: declared.keep, element: fields },
            WriteMode::Delete => {
                let mut set = Document::new();
                set.insert("deletedAt", date(at));
                Action::Delete(set)
            }
            WriteMode::Restore => {
                let stamped = declared.stamp.iter().filter_map(|name| Some((name.clone(), fields.get(name)?.clone())));
                Action::Restore(stamped.collect())
            }
            _ => Action::Merge(fields),
        };
        let mut create = defaults(declared, task)?;
        create.extend(declared.create.clone());
        create.insert("createdAt", date(at));
        if let Some(tenant) = &task.tenant {
            create.insert(TENANT, tenant);
        }
        for name in &declared.key {
            if let Some(value) = fields_of_key.remove(name) {
                create.insert(name, value);
            }
        }
        Ok((key, Self { clock, at, task: identity, action, create, required: declared.required }))
    }
}

/// A task's identity, as it is kept in records and audit entries.
fn identity(task: &Task) -> String {
    format!("{}@{}", task.id, task.source)
}

/// The record's `_id`.
fn key(declared: &RecordType, task: &Task, identity: &str) -> Result<String, ChangeError> {
    if declared.key.is_empty() {
        return Ok(identity.to_owned());
    }
    let single = declared.key.len() == 1;
    let mut key = String::new();
    for name in &declared.key {
        if !key.is_empty() {
            key.push(':');
        }
        match task.data.get(name) {
            Some(Value::String(text)) if !text.is_empty() && single => key.push_str(text),
            // With ":" in a part, two keys of several parts could be one.
            Some(Value::String(text)) if !text.is_empty() => {
                key.push_str(&text.replace('%', "%25").replace(':', "%3A"));
            }
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => key.push_str(&n.to_string()),
            None => return Err(ChangeError::NoKey(name.clone())),
            Some(_) => return Err(ChangeError::Key(name.clone())),
        }
    }
    Ok(key)
}

/// The task's clock, the time it stands for, and whether that time is to be written to the order field.
fn clock(
    declared: &RecordType,
    task: &Task,
    now: DateTime<Utc>,
    skew: Duration,
    identity: &str,
) -> Result<(Clock, DateTime<Utc>, bool), ChangeError> {
    let given = declared.order.as_ref().and_then(|name| Some((name.as_str(), task.data.get(name)?)));
    let limit = now + TimeDelta::from_std(skew).unwrap_or(TimeDelta::MAX);
    let timed = |name: &str, time: DateTime<Utc>| {
        if time > limit {
            return Err(ChangeError::Future(name.to_owned()));
        }
        Clock::of_time(time, identity).map_err(|e| ChangeError::Order(name.to_owned(), e))
    };
    match given {
        Some((name, Value::Number(n))) => {
            let order = n.as_i64().ok_or(ClockError::TooHigh).and_then(|order| Clock::new(order, identity));
            let clock = order.map_err(|e| ChangeError::Order(name.to_owned(), e))?;
            Ok((clock, task.time.unwrap_or(now), false))
        }
        Some((name, Value::String(text))) if parse_time(text).is_some() => {
            let time = parse_time(text).unwrap_or(now);
            Ok((timed(name, time)?, time, false))
        }
        _ => match task.time {
            Some(time) => Ok((timed("time", time)?, time, declared.order_is_date)),
            // What is written once needs no order.
            None if declared.write == WriteMode::Insert => {
                let clock = Clock::of_time(now, identity).map_err(|e| ChangeError::Order("time".into(), e))?;
                Ok((clock, now, declared.order_is_date))
            }
            None => Err(ChangeError::NoOrder(declared.order.clone().unwrap_or_else(|| "time".into()))),
        },
    }
}

/// The fields of the data; those of the key, which never change, apart.
fn fields(declared: &RecordType, task: &Task) -> Result<(Document, Document), ChangeError> {
    let is_document = declared.collection == "documents";
    for name in task.data.keys() {
        let lifecycle = is_document && access::OWN.contains(&name.as_str());
        let own = name.starts_with('_') || lifecycle || RESERVED.contains(&name.as_str());
        if own && declared.order.as_ref() != Some(name) {
            return Err(ChangeError::Reserved(name.clone()));
        }
    }
    let dates: Vec<&str> = declared.dates.iter().map(String::as_str).collect();
    let mut raw = RawDocumentBuf::new();
    append_object(&mut raw, &task.data, &[], &dates)?;
    let (mut fields, mut of_key) = (Document::new(), Document::new());
    // Just written above: every element can be read.
    for (name, value) in raw.iter().filter_map(Result::ok) {
        let Ok(value) = Bson::try_from(value) else { continue };
        let is_key = declared.key.iter().any(|key| key == name.as_str());
        if is_key {
            of_key.insert(name.as_str(), value)
        } else {
            fields.insert(name.as_str(), value)
        };
    }
    Ok((fields, of_key))
}

/// The schema's defaults of what the data leaves out, for a record that is made.
fn defaults(declared: &RecordType, task: &Task) -> Result<Document, ChangeError> {
    let mut raw = RawDocumentBuf::new();
    if matches!(declared.write, WriteMode::Insert | WriteMode::Replace | WriteMode::Merge) && !declared.required {
        let left_out = declared.defaults.iter().filter(|(name, _)| !task.data.contains_key(*name));
        let left_out = left_out.map(|(name, value)| (name.clone(), value.clone())).collect();
        append_object(&mut raw, &left_out, &[], &[])?;
    }
    Ok(Document::try_from(raw).unwrap_or_default())
}

fn date(at: DateTime<Utc>) -> Bson {
    Bson::DateTime(BsonDate::from_millis(at.timestamp_millis()))
}
