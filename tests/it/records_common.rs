//! What the tests of the records share: a world with an object store of its own, a worker that is fed step by step, and
//! events with an order.

use std::{
    ops::{Deref, Sub},
    path::Path,
    sync::OnceLock,
};

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use mongodb::bson::{Bson, Document};
use serde_json::Value;

use crate::harness::{Env, Event, Metrics, Worker, eventually, now, services, when};

pub const QUEUE: &str = "records";

/// An [`Env`] whose contents lie in a directory of its own.
pub struct World {
    env: Env,
    dir: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::in_env(Env::new().await)
    }

    /// In a world on servers of the test's own.
    pub fn in_env(env: Env) -> Self {
        let dir = services::scratch();
        let env = env
            .set("content.url", dir.path().join("objects").display())
            // What is missing is asked for five times; tests do not wait minutes for that.
            .set("retry.base", "40ms")
            .set("retry.max", "200ms")
            .set("limits.records_flush", "200ms");
        Self { env, dir }
    }

    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.env = self.env.set(name, value);
        self
    }

    /// What a dead worker held is given back after three seconds.
    pub fn short_lease(mut self) -> Self {
        self.env = self.env.short_lease();
        self
    }

    /// A directory for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The keys of all objects in the store.
    pub fn objects(&self) -> Vec<String> {
        let root = self.dir.path().join("objects");
        let mut found = Vec::new();
        walk(&root, &root, &mut found);
        found.sort();
        found
    }

    /// Waits until the queue is empty and these workers have nothing in hand.
    pub async fn settled(&self, workers: &[&Worker]) {
        // Twice: a key that a worker renames while the keys are listed can escape one look.
        for _ in 0..2 {
            self.drained(QUEUE).await;
            for worker in workers {
                worker.at_rest().await;
            }
        }
    }

    /// Pushes to the records' queue.
    pub async fn send(&self, events: &[Event]) {
        self.env.push(QUEUE, "normal", events).await;
    }

    /// What died, in short: event id, reason, error.
    pub async fn letters(&self) -> Vec<String> {
        let line = |d: &Document| format!("{} {}: {}", text(d, "eventId"), text(d, "reason"), text(d, "error"));
        self.all("dead_letters").await.iter().map(line).collect()
    }

    /// With one worker on the records' queue.
    pub async fn feed(self) -> Feed {
        let worker = self.env.worker(QUEUE).ready().await;
        Feed { world: self, worker, before: Ended::default() }
    }

    /// As [`World::feed`], with a settings file.
    pub async fn feed_with(self, toml: &str) -> Feed {
        let worker = self.env.worker(QUEUE).config(toml).ready().await;
        Feed { world: self, worker, before: Ended::default() }
    }
}

impl Deref for World {
    type Target = Env;

    fn deref(&self) -> &Env {
        &self.env
    }
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(root, &path, found);
        } else if let Ok(key) = path.strip_prefix(root) {
            found.push(key.display().to_string());
        }
    }
}

/// How tasks ended, by their number.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub written: u64,
    pub duplicate: u64,
    pub superseded: u64,
    pub expired: u64,
    pub dead: u64,
}

impl Ended {
    pub fn of(metrics: &Metrics) -> Self {
        let count = |outcome: &str| metrics.finished(QUEUE, outcome) as u64;
        Self {
            written: count("written"),
            duplicate: count("duplicate"),
            superseded: count("superseded"),
            expired: count("expired"),
            dead: count("dead"),
        }
    }

    pub fn all(&self) -> u64 {
        self.written + self.duplicate + self.superseded + self.expired + self.dead
    }
}

impl Sub for Ended {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            written: self.written - before.written,
            duplicate: self.duplicate - before.duplicate,
            superseded: self.superseded - before.superseded,
            expired: self.expired - before.expired,
            dead: self.dead - before.dead,
        }
    }
}

/// A worker that is given tasks step by step.
pub struct Feed {
    pub world: World,
    pub worker: Worker,
    before: Ended,
}

impl Deref for Feed {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Feed {
    /// Pushes these, waits until all are done, and says how they ended.
    pub async fn apply(&mut self, events: &[Event]) -> Ended {
        self.world.send(events).await;
        let count = self.before.all() + events.len() as u64;
        eventually("every task has ended", || async { when(Ended::of(&self.worker.metrics().await).all() >= count) })
            .await;
        self.rest().await
    }

    /// Waits until everything is done; how the tasks since the last time ended.
    pub async fn rest(&mut self) -> Ended {
        self.world.settled(&[&self.worker]).await;
        let now = Ended::of(&self.worker.at_rest().await);
        let ended = now - self.before;
        self.before = now;
        ended
    }

    /// One task, applied alone; fails unless it ended as `outcome`.
    #[track_caller]
    pub fn one(&mut self, event: Event, outcome: &'static str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let ended = self.apply(std::slice::from_ref(&event)).await;
            let mut wanted = Ended::default();
            match outcome {
                "written" => wanted.written = 1,
                "duplicate" => wanted.duplicate = 1,
                "superseded" => wanted.superseded = 1,
                "expired" => wanted.expired = 1,
                _ => wanted.dead = 1,
            }
            assert_eq!(ended, wanted, "{caller}: it should end as {outcome}: {}", event.json());
        }
    }

    /// One task that dies alone; its dead letter's reason and error are returned.
    #[track_caller]
    pub fn dies(&mut self, event: Event) -> impl Future<Output = (String, String)> {
        let caller = std::panic::Location::caller();
        async move {
            let ended = self.apply(std::slice::from_ref(&event)).await;
            assert_eq!(ended, Ended { dead: 1, ..Ended::default() }, "{caller}: it should be dead: {}", event.json());
            let id: Value = serde_json::from_str(&event.json()).expect("an event is JSON");
            let letter = self.dead(id["id"].as_str().expect("an event has an id")).await;
            let text = |name: &str| letter.get_str(name).expect("a dead letter has it").to_owned();
            (text("reason"), text("error"))
        }
    }

    /// The record with this `_id`, which is there.
    pub async fn record(&self, collection: &str, id: &str) -> Document {
        self.one_of(collection, id).await.unwrap_or_else(|| panic!("{collection} has no {id}"))
    }

    pub async fn one_of(&self, collection: &str, id: &str) -> Option<Document> {
        self.world.env.one(collection, id).await
    }
}

/// An hour before the run: events of the tests lie behind it.
fn start() -> DateTime<Utc> {
    static START: OnceLock<DateTime<Utc>> = OnceLock::new();
    *START.get_or_init(|| {
        let hour_ago = now() - Duration::hours(1);
        DateTime::from_timestamp(hour_ago.timestamp(), 0).unwrap_or(hour_ago)
    })
}

/// `seconds` after an hour ago, as an event says it.
pub fn at(seconds: i64) -> String {
    at_micros(seconds * 1_000_000)
}

pub fn at_micros(micros: i64) -> String {
    (start() + Duration::microseconds(micros)).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The same instant as MongoDB keeps it.
pub fn date_at(seconds: i64) -> Bson {
    Bson::DateTime(mongodb::bson::DateTime::from_millis(start().timestamp_millis() + seconds * 1000))
}

/// A string field, or what is there instead.
pub fn text<'d>(record: &'d Document, name: &str) -> &'d str {
    record.get_str(name).unwrap_or_else(|_| panic!("`{name}` is no string in {record}"))
}

/// `state`, empty when there is none.
pub fn state(record: &Document) -> &str {
    record.get_str("state").unwrap_or_default()
}

/// How often the record has been written.
pub fn rev(record: &Document) -> i64 {
    record.get_document("_sync").and_then(|sync| sync.get_i64("rev")).unwrap_or_else(|e| panic!("{e}: {record}"))
}
