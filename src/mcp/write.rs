//! Writes: a tool's arguments become a task on its type's queue, as any producer's would.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::Server;
use crate::{
    cli::{
        compose::{Given, compose},
        queues::admin,
    },
    clock,
    config::WriteMode,
    read::Ask,
    record::{Change, RecordType, Sync},
    store::DeadFilter,
    task::{Decoder, Priority, Task},
};

/// The `source` of tasks that come from tools.
const SOURCE: &str = "/contextd/mcp";
/// How long a call with `wait` waits until the record can be read.
const WAIT: Duration = Duration::from_secs(10);
/// How long an update waits for a record whose first task may still be under way.
const GRACE: Duration = Duration::from_secs(2);
/// How often MongoDB is asked meanwhile.
const ASK: Duration = Duration::from_millis(25);

/// A task that was pushed, and where its effect will show.
struct Pushed {
    id: String,
    queue: String,
    collection: &'static str,
    key: String,
    /// The record shows the task when its newest clock is this one or newer.
    clock: i64,
}

impl Server {
    /// Pushes one task of type `kind`. With `wait` among the arguments the record can be read when this returns, or the
    /// answer says that it cannot yet.
    ///
    /// # Errors
    /// A sentence for whoever called the tool: what is wrong with the arguments, or which service cannot be reached.
    pub(super) async fn write(&self, kind: &str, mut arguments: Map<String, Value>) -> Result<Value, String> {
        let wait = match arguments.remove("wait") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(wait)) => wait,
            Some(_) => return Err("`wait` must be true or false".into()),
        };
        let pushed = self.push(kind, arguments).await?;
        let visible = wait && self.becomes_visible(&pushed).await?;
        let mut answer = json!({
            "taskId": pushed.id,
            "source": SOURCE,
            "queue": pushed.queue,
            "record": { "collection": pushed.collection, "id": pushed.key },
            "visible": visible,
        });
        if wait && !visible {
            let note = format!("not written within {WAIT:?}: it will be as soon as a worker takes it");
            answer["note"] = note.into();
        }
        Ok(answer)
    }

    async fn push(&self, kind: &str, arguments: Map<String, Value>) -> Result<Pushed, String> {
        let now = clock::now();
        let declared = self.registry.get(kind).ok_or_else(|| format!("the record type {kind} is not configured"))?;
        let schema = self.schemas.get(kind).ok_or_else(|| format!("the record type {kind} has no schema"))?;
        let data = Value::Object(arguments);
        if !schema.is_valid(&data) {
            return Err(schema.explain(&data, ""));
        }
        self.check_strategy(declared, &data)?;
        let given = Given { kind: Some(kind), id: None, source: Some(SOURCE), now };
        let event = json!({ "data": data }).to_string();
        let composed = compose(&event, given, || uuid::Uuid::now_v7().to_string())?;
        let queue = self.config.queues.get(&declared.queue);
        let queue = queue.ok_or_else(|| format!("there is no queue `{}`", declared.queue))?;
        let decoder = Decoder::new(&declared.queue, queue, &self.config.limits, self.schemas.clone());
        let task = decoder.map_err(|e| e.to_string())?.decode(&composed.body).map_err(|e| e.error)?;
        // What would be dead at once is refused here, where somebody reads why.
        let (key, clock) = self.meant(declared, &task, now)?;
        let admin = admin(&self.config, &self.link, &declared.queue).map_err(|e| e.to_string())?;
        admin.push(&[(Priority::Normal, composed.body.as_ref())]).await.map_err(|e| e.to_string())?;
        let collection = match (declared.write, task.data.get("entityType").and_then(Value::as_str)) {
            (WriteMode::Evaluation, Some("interaction")) => "interactions",
            _ => declared.collection,
        };
        Ok(Pushed { id: task.id, queue: declared.queue.clone(), collection, key, clock })
    }

    fn meant(&self, declared: &RecordType, task: &Task, now: DateTime<Utc>) -> Result<(String, i64), String> {
        if declared.write == WriteMode::Relate && task.data.get("from") == task.data.get("to") {
            return Err("`from` and `to` are the same: nothing can be related to itself".into());
        }
        let change = Change::of(declared, task, now, self.config.limits.clock_skew);
        let (key, change) = change.map_err(|e| e.to_string())?;
        // What is written once stays as its first task made it, whenever that was.
        Ok((key, if declared.write == WriteMode::Insert { i64::MIN } else { change.clock.0 }))
    }

    fn check_strategy(&self, declared: &RecordType, data: &Value) -> Result<(), String> {
        let kind = declared.cache.as_ref().and_then(|kind| self.config.cache.kinds.get(kind));
        let (Some(kind), Some(chosen)) = (kind, data["cacheStrategy"].as_str()) else { return Ok(()) };
        if kind.strategies.contains_key(chosen) {
            return Ok(());
        }
        let known = kind.strategies.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(format!("`/cacheStrategy` must be one of {known}"))
    }

    /// Waits until the record shows the task, at most [`WAIT`].
    ///
    /// # Errors
    /// The task is dead, or MongoDB cannot be asked.
    async fn becomes_visible(&self, pushed: &Pushed) -> Result<bool, String> {
        let watch = async {
            while !self.is_visible(pushed).await? {
                tokio::time::sleep(ASK).await;
            }
            Ok(())
        };
        tokio::time::timeout(WAIT, watch).await.ok().transpose().map(|seen| seen.is_some())
    }

    async fn is_visible(&self, pushed: &Pushed) -> Result<bool, String> {
        let found = self.store.by_ids(pushed.collection, std::slice::from_ref(&pushed.key)).await;
        // Something newer shows it, too.
        if found.map_err(|e| e.to_string())?.first().is_some_and(|r| Sync::of(r).order >= pushed.clock) {
            return Ok(true);
        }
        let dead = DeadFilter { id: Some(pushed.id.clone()), ..DeadFilter::default() };
        match self.store.dead_list(&dead, 0, 1).await.map_err(|e| e.to_string())?.first() {
            Some(letter) => Err(format!("the task is dead ({}): {}", letter.reason, letter.error)),
            None => Ok(false),
        }
    }

    /// Makes sure that there is a record to update; one whose first task is under way is waited for.
    ///
    /// # Errors
    /// There is none, or it is deleted.
    pub(super) async fn must_be_there(&self, kind: &str, id: &str) -> Result<(), String> {
        let watch = async {
            while self.reader.get(kind, id, Ask::default()).await.map_err(|e| e.to_string())?.is_none() {
                tokio::time::sleep(ASK).await;
            }
            Ok(())
        };
        let missing = |_| Err(format!("there is no {kind} {id:?}: make it first"));
        tokio::time::timeout(GRACE, watch).await.unwrap_or_else(missing)
    }
}
