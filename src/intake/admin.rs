//! Queues seen from outside: pushing tasks, how much waits where, pause and resume.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use redis::{Pipeline, Value, from_redis_value};
use serde::Serialize;

use super::{Fault, GROUP, Link, QueueKeys};
use crate::{
    config::QueueKind,
    task::{Priority, made_at},
};

/// Most tasks and bytes of one push; the rest follows in further ones.
const PUSH_TASKS: usize = 500;
const PUSH_BYTES: usize = 1024 * 1024;

/// What waits at one priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    pub depth: u64,
    /// When the task that is next was made, as far as it says so: the producer's clock; of a stream Redis' clock.
    pub oldest: Option<DateTime<Utc>>,
}

/// A queue at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueState {
    pub paused: bool,
    /// In the order of [`Priority::ALL`]. A stream has no priorities: all that waits is at `normal`.
    pub waiting: [Waiting; Priority::ALL.len()],
    /// Retries and tasks whose `notbefore` lies ahead.
    pub delayed: u64,
    /// Held by workers, or given back and about to be taken again.
    pub in_flight: u64,
    /// Why the figures are not whole: keys that hold another Redis type.
    pub error: Option<String>,
}

impl QueueState {
    /// Nothing waits, is delayed or in flight.
    pub fn is_drained(&self) -> bool {
        self.delayed + self.in_flight == 0 && self.waiting.iter().all(|w| w.depth == 0)
    }
}

/// One queue, for producers and operators.
#[derive(Debug, Clone)]
pub struct QueueAdmin {
    link: Link,
    keys: QueueKeys,
    kind: QueueKind,
}

impl QueueAdmin {
    pub fn new(link: Link, namespace: &str, queue: &str, kind: QueueKind) -> Self {
        Self { link, keys: QueueKeys::new(namespace, queue), kind }
    }

    /// Pushes `tasks` in their order; a stream takes no notice of the priority.
    ///
    /// # Errors
    /// The fault, and how many tasks were certainly pushed before it. Of those in the failed call it is unknown.
    pub async fn push(&self, priority: Priority, tasks: &[Bytes]) -> Result<(), (usize, Fault)> {
        let mut done = 0;
        while done < tasks.len() {
            let n = chunk(&tasks[done..]);
            let mut pipe = redis::pipe();
            match self.kind {
                QueueKind::List => {
                    let push = pipe.cmd("LPUSH").arg(self.keys.list(priority));
                    tasks[done..done + n].iter().for_each(|task| _ = push.arg(task.as_ref()));
                }
                QueueKind::Stream => {
                    for task in &tasks[done..done + n] {
                        pipe.cmd("XADD").arg(self.keys.stream()).arg("*").arg("body").arg(task.as_ref());
                    }
                }
            }
            self.link.pipe::<Vec<Value>>("push", &pipe).await.map_err(|fault| (done, fault))?;
            done += n;
        }
        Ok(())
    }

    /// What waits, is delayed and in flight.
    pub async fn state(&self) -> Result<QueueState, Fault> {
        let mut pipe = redis::pipe();
        // A key of another type spoils its own figure only.
        pipe.ignore_errors();
        pipe.cmd("EXISTS").arg(self.keys.paused());
        pipe.cmd("ZCARD").arg(self.keys.delayed());
        pipe.cmd("HVALS").arg(self.keys.metas());
        match self.kind {
            QueueKind::List => {
                for priority in Priority::ALL {
                    pipe.cmd("LLEN").arg(self.keys.list(priority));
                    pipe.cmd("LINDEX").arg(self.keys.list(priority)).arg(-1);
                }
            }
            QueueKind::Stream => {
                pipe.cmd("XLEN").arg(self.keys.stream());
                pipe.cmd("XINFO").arg("GROUPS").arg(self.keys.stream());
            }
        }
        let mut reply = Reply::ask(&self.link, &pipe).await?;
        let mut state = QueueState {
            paused: reply.next::<u64>("paused")? > 0,
            delayed: reply.next("delayed")?,
            in_flight: reply.next::<Vec<String>>("meta")?.iter().map(|meta| tasks_of(meta)).sum(),
            ..QueueState::default()
        };
        match self.kind {
            QueueKind::List => {
                for (waiting, priority) in state.waiting.iter_mut().zip(Priority::ALL) {
                    waiting.depth = reply.next(priority.as_str())?;
                    waiting.oldest = reply.next::<Option<Vec<u8>>>(priority.as_str())?.as_deref().and_then(made_at);
                }
            }
            QueueKind::Stream => self.stream_state(&mut state, &mut reply).await?,
        }
        if !reply.broken.is_empty() {
            let keys: Vec<_> = reply.broken.iter().map(|name| format!("{}:{name}", self.keys.base)).collect();
            let error = format!("{} holds another Redis type: rename the key away", keys.join(", "));
            state.error = Some(error);
        }
        Ok(state)
    }

    async fn stream_state(&self, state: &mut QueueState, reply: &mut Reply) -> Result<(), Fault> {
        let length: u64 = reply.next("events")?;
        // Of a stream that does not exist there are no groups, which is an error of its own kind.
        let group = reply.take().and_then(|value| group_of(&value)).unwrap_or_default();
        state.in_flight += group.pending;
        let waiting = &mut state.waiting[Priority::Normal as usize];
        waiting.depth = length.saturating_sub(group.pending);
        if waiting.depth > 0 {
            let from = if group.last.is_empty() { "-".to_owned() } else { format!("({}", group.last) };
            let mut next = redis::cmd("XRANGE");
            next.arg(self.keys.stream()).arg(from).arg("+").arg("COUNT").arg(1);
            let found: Vec<(String, Value)> = self.link.run("xrange", &next).await?;
            waiting.oldest = found.first().and_then(|(id, _)| stamp(id));
        }
        Ok(())
    }

    /// No worker takes from the queue until [`QueueAdmin::resume`]; answers whether that is new.
    pub async fn pause(&self, now: DateTime<Utc>) -> Result<bool, Fault> {
        let mut set = redis::cmd("SET");
        set.arg(self.keys.paused()).arg(now.to_rfc3339()).arg("NX");
        Ok(self.link.run::<Option<String>>("pause", &set).await?.is_some())
    }

    /// Answers whether the queue was paused.
    pub async fn resume(&self) -> Result<bool, Fault> {
        self.link.run::<bool>("resume", redis::cmd("DEL").arg(self.keys.paused())).await
    }
}

/// The answers to a pipeline, in order.
struct Reply {
    values: std::vec::IntoIter<Value>,
    /// The keys of another type, by the last part of their name.
    broken: Vec<String>,
}

impl Reply {
    async fn ask(link: &Link, pipe: &Pipeline) -> Result<Self, Fault> {
        let values = link.pipe::<Vec<Value>>("state", pipe).await?.into_iter();
        Ok(Self { values, broken: Vec::new() })
    }

    /// The answer as it is; `None` for an error.
    fn take(&mut self) -> Option<Value> {
        self.values.next().filter(|value| !matches!(value, Value::ServerError(_)))
    }

    /// The next answer; that of a key of another type is empty.
    fn next<T: redis::FromRedisValue + Default>(&mut self, key: &str) -> Result<T, Fault> {
        match self.values.next() {
            Some(Value::ServerError(e)) if e.code() == "WRONGTYPE" => {
                if self.broken.last().is_none_or(|last| last != key) {
                    self.broken.push(key.to_owned());
                }
                Ok(T::default())
            }
            Some(Value::ServerError(e)) => Err(Fault::from(redis::RedisError::from(e))),
            Some(value) => from_redis_value(value).map_err(|_| Fault::shape("state")),
            None => Err(Fault::shape("state")),
        }
    }
}

/// How many tasks go into the next push; at least one.
fn chunk(tasks: &[Bytes]) -> usize {
    let mut bytes = 0;
    let fits = tasks.iter().take(PUSH_TASKS).take_while(|task| {
        bytes += task.len();
        bytes <= PUSH_BYTES
    });
    fits.count().max(1)
}

/// The number of tasks in a leased batch, from its description.
fn tasks_of(meta: &str) -> u64 {
    meta.split('|').nth(2).and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[derive(Debug, Default, PartialEq)]
struct Group {
    pending: u64,
    /// The entry that was handed out last; empty for none.
    last: String,
}

/// Ours among the consumer groups of a stream.
fn group_of(groups: &Value) -> Option<Group> {
    groups.as_sequence()?.iter().find_map(|group| {
        let field = |name: &str| {
            let mut fields = group.as_map_iter()?;
            let (_, value) = fields.find(|(key, _)| text(key).as_deref() == Some(name))?;
            Some(value)
        };
        if text(field("name")?).as_deref() != Some(GROUP) {
            return None;
        }
        let pending = from_redis_value(field("pending")?.clone()).ok()?;
        Some(Group { pending, last: text(field("last-delivered-id")?)? })
    })
}

fn text(value: &Value) -> Option<String> {
    from_redis_value(value.clone()).ok()
}

/// The time in a stream entry's id.
fn stamp(id: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(id.split('-').next()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_bounded_and_never_empty() {
        let of = |size: usize, n: usize| vec![Bytes::from(vec![0; size]); n];
        assert_eq!(chunk(&of(1, 2000)), PUSH_TASKS);
        assert_eq!(chunk(&of(PUSH_BYTES / 2, 3)), 2);
        assert_eq!(chunk(&of(2 * PUSH_BYTES, 3)), 1);
    }

    #[test]
    fn reads_ids_and_descriptions() {
        assert_eq!(tasks_of("worker|0|17|rid|0|5|0|17"), 17);
        assert_eq!(tasks_of("?"), 0);
        assert_eq!(stamp("1769860800000-3").unwrap().to_rfc3339(), "2026-01-31T12:00:00+00:00");
        let bulk = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        let flat = |name: &str| {
            let fields = [bulk("name"), bulk(name), bulk("pending"), Value::Int(3)];
            Value::Array([&fields[..], &[bulk("last-delivered-id"), bulk("5-0")]].concat())
        };
        let groups = Value::Array(vec![flat("other"), flat("contextd")]);
        assert_eq!(group_of(&groups), Some(Group { pending: 3, last: "5-0".into() }));
        assert_eq!(group_of(&Value::Array(vec![flat("other")])), None);
    }
}
