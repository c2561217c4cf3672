//! A real worker beside the runs of a test: tasks given to it, and what became of each.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mongodb::bson::{Document, doc};
use redis::Commands;
use serde_json::{Value, json};

use crate::place::Place;

pub struct Worker {
    child: Child,
    port: u16,
    redis: redis::Client,
    namespace: String,
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    mongo: mongodb::Database,
    sent: u64,
}

const OUTCOMES: [&str; 5] = ["written", "duplicate", "superseded", "expired", "dead"];

impl Worker {
    /// For queue `records`. To be used and dropped outside of async code.
    pub fn start(place: &Place) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let log = File::create(place.file.with_extension("log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_contextd"))
            .env_clear()
            .envs(place.variables.clone())
            .env("CONTEXTD_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env("CONTEXTD_RETRY__BASE", "20ms")
            .env("CONTEXTD_LIMITS__RECORDS_FLUSH", "20ms")
            .arg("--config")
            .arg(&place.file)
            .args(["run", "--queues", "records", "--no-scheduler"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("shared"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let redis = redis::Client::open(place.config.redis.url.as_str()).expect("a URL");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let uri = &place.config.mongodb.uri;
        let mongo = runtime.block_on(mongodb::Client::with_uri_str(uri)).expect("MongoDB answers");
        let mongo = mongo.database(place.db.name());
        let worker = Self {
            mongo,
            child,
            port,
            redis,
            namespace: place.namespace.clone(),
            runtime,
            http: reqwest::Client::new(),
            sent: 0,
        };
        let start = Instant::now();
        while worker.get("/ready").is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "the worker is not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        worker
    }

    fn get(&self, path: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        self.runtime.block_on(async {
            let answer = self.http.get(url).timeout(Duration::from_secs(5)).send().await.ok()?;
            if answer.status().is_success() { answer.text().await.ok() } else { None }
        })
    }

    /// Tasks that ended, by outcome.
    fn finished(&self) -> [u64; 5] {
        let text = self.get("/metrics").unwrap_or_default();
        OUTCOMES.map(|outcome| {
            let of = |line: &&str| {
                line.starts_with("contextd_tasks_finished_total{")
                    && line.contains("queue=\"records\"")
                    && line.contains(&format!("outcome=\"{outcome}\""))
            };
            let value = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
            text.lines().filter(of).map(value).sum::<f64>() as u64
        })
    }

    /// Gives it one task and waits until it has ended; "waits" when it has not after `patience`.
    pub fn task(&mut self, kind: &str, data: &Value, patience: Duration) -> String {
        let before = self.finished();
        self.sent += 1;
        let event = json!({
            "specversion": "1.0", "id": format!("race-{}", self.sent), "source": "/race", "type": kind,
            "time": contextd::clock::now().to_rfc3339(), "data": data,
        });
        let mut redis = self.redis.get_connection().expect("Redis answers");
        let key = format!("{}:{{records}}:high", self.namespace);
        let _: i64 = redis.lpush(key, event.to_string()).expect("LPUSH");
        self.ended(&before, patience)
    }

    fn ended(&self, before: &[u64; 5], patience: Duration) -> String {
        let start = Instant::now();
        loop {
            let now = self.finished();
            if let Some(at) = (0..5).find(|at| now[*at] > before[*at]) {
                return OUTCOMES[at].into();
            }
            if start.elapsed() > patience {
                return "waits".into();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As it is at this moment.
    pub fn look(&self, collection: &str, id: &str) -> Option<Document> {
        let rows = self.mongo.collection::<Document>(collection);
        self.runtime.block_on(async { rows.find_one(doc! { "_id": id }).await }).expect("found")
    }

    /// What became of a task that waited: all but it had ended in `before`.
    pub fn counts(&self) -> [u64; 5] {
        self.finished()
    }

    pub fn later(&self, before: &[u64; 5]) -> String {
        self.ended(before, Duration::from_secs(30))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
