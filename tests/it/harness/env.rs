//! One test's own world: a namespace in Redis, a database in MongoDB.

use std::{collections::BTreeSet, time::Duration};

use futures::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};

use super::{Event, Launch, Metrics, PATIENCE, Run, Worker, eventually, services, when, within};

pub struct Env {
    pub namespace: String,
    pub database: String,
    pub redis_url: String,
    pub mongodb_uri: String,
    /// Settings of every process of this world, as environment variables.
    pub settings: Vec<(String, String)>,
    redis: MultiplexedConnection,
    mongo: mongodb::Client,
}

impl Env {
    /// On the shared services.
    pub async fn new() -> Self {
        let shared = tokio::task::spawn_blocking(services::shared).await.expect("the services are up");
        Self::on(&shared.redis, &shared.mongodb).await
    }

    /// On servers of the test's own.
    pub async fn on(redis_url: &str, mongodb_uri: &str) -> Self {
        let tag = uuid::Uuid::now_v7().simple().to_string()[18..].to_owned();
        let mongo = mongodb::Client::with_uri_str(mongodb_uri).await.expect("the MongoDB URI is valid");
        Self {
            namespace: format!("it{tag}"),
            database: format!("it_{tag}"),
            redis_url: redis_url.to_owned(),
            mongodb_uri: mongodb_uri.to_owned(),
            settings: Vec::new(),
            redis: connect(redis_url).await,
            mongo,
        }
    }

    /// A setting for every process of this world: `("worker.lease", "2s")`.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((variable(name), value.to_string()));
        self
    }

    /// What a dead worker held is given back after three seconds. A command to Redis may take less than a third of that.
    pub fn short_lease(self) -> Self {
        self.set("worker.lease", "3s").set("redis.timeout", "900ms")
    }

    /// All variables that a process of this world gets.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut all = vec![
            (variable("namespace"), self.namespace.clone()),
            (variable("redis.url"), self.redis_url.clone()),
            (variable("mongodb.uri"), self.mongodb_uri.clone()),
            (variable("mongodb.database"), self.database.clone()),
            (variable("content.url"), format!("{}/objects/{}", env!("CARGO_TARGET_TMPDIR"), self.database)),
            (variable("content.archive_url"), format!("{}/archive/{}", env!("CARGO_TARGET_TMPDIR"), self.database)),
            (variable("audit.url"), format!("{}/audit/{}", env!("CARGO_TARGET_TMPDIR"), self.database)),
            // Each thread loads a grammar of its own: many workers start here.
            (variable("analysis.threads"), "1".into()),
        ];
        all.extend(self.settings.iter().cloned());
        all
    }

    // The worker and the commands.

    /// A worker for these queues ("analysis,typing"), ready to be started.
    pub fn worker(&self, queues: &str) -> Launch {
        Launch::new(self, queues)
    }

    /// A command, ready to be run to its end: `env.command(&["queues", "--json"])`.
    pub fn command(&self, args: &[&str]) -> Run {
        Run::new(args).variables(self.variables())
    }

    // Redis.

    pub fn redis(&self) -> MultiplexedConnection {
        self.redis.clone()
    }

    /// After the test's own Redis was started anew.
    pub async fn reconnect(&mut self) {
        self.redis = connect(&self.redis_url).await;
    }

    /// The key `NAMESPACE:{QUEUE}:PART`.
    pub fn key(&self, queue: &str, part: &str) -> String {
        format!("{}:{{{queue}}}:{part}", self.namespace)
    }

    /// Pushes as a producer does, in the order given.
    pub async fn push(&self, queue: &str, priority: &str, events: &[Event]) {
        let bodies: Vec<Vec<u8>> = events.iter().map(|e| e.json().into_bytes()).collect();
        self.push_bytes(queue, priority, &bodies).await;
    }

    pub async fn push_bytes(&self, queue: &str, priority: &str, bodies: &[Vec<u8>]) {
        let key = self.key(queue, priority);
        for chunk in bodies.chunks(500) {
            let mut pipe = redis::pipe();
            for body in chunk {
                pipe.cmd("LPUSH").arg(&key).arg(body).ignore();
            }
            pipe.query_async::<()>(&mut self.redis()).await.expect("LPUSH");
        }
    }

    pub async fn xadd(&self, queue: &str, events: &[Event]) {
        for chunk in events.chunks(500) {
            let mut pipe = redis::pipe();
            for event in chunk {
                pipe.cmd("XADD").arg(self.key(queue, "events")).arg("*").arg("body").arg(event.json()).ignore();
            }
            pipe.query_async::<()>(&mut self.redis()).await.expect("XADD");
        }
    }

    /// One integer reply: `env.count("LLEN", &key)`.
    pub async fn count(&self, command: &str, key: &str) -> i64 {
        redis::cmd(command)
            .arg(key)
            .query_async(&mut self.redis())
            .await
            .unwrap_or_else(|e| panic!("{command} {key}: {e}"))
    }

    /// All keys of this namespace that match `pattern` ("{typing}:*").
    pub async fn keys(&self, pattern: &str) -> BTreeSet<String> {
        let pattern = format!("{}:{pattern}", self.namespace);
        let mut keys = BTreeSet::new();
        let mut cursor = 0u64;
        loop {
            let (next, page): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(5_000)
                .query_async(&mut self.redis())
                .await
                .expect("SCAN");
            keys.extend(page);
            cursor = next;
            if cursor == 0 {
                return keys;
            }
        }
    }

    /// What of a queue is still in Redis: every key with something in it. A drained queue has none.
    /// Keys that vanish by themselves do not count.
    pub async fn left(&self, queue: &str) -> Vec<String> {
        let mut left = Vec::new();
        let mut redis = self.redis();
        for key in self.keys(&format!("{{{queue}}}:*")).await {
            let ttl: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut redis).await.expect("PTTL");
            if ttl >= 0 {
                continue;
            }
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await.expect("TYPE");
            let size = match kind.as_str() {
                "stream" => self.count("XLEN", &key).await + self.pending(queue).await,
                "none" => 0,
                "list" => self.count("LLEN", &key).await,
                "zset" => self.count("ZCARD", &key).await,
                "hash" => self.count("HLEN", &key).await,
                "set" => self.count("SCARD", &key).await,
                _ => 1,
            };
            if size > 0 {
                left.push(format!("{key} ({kind}): {size}"));
            }
        }
        left
    }

    /// Stream entries that are delivered and not acknowledged.
    pub async fn pending(&self, queue: &str) -> i64 {
        let reply: redis::RedisResult<(i64, redis::Value, redis::Value, redis::Value)> =
            redis::cmd("XPENDING").arg(self.key(queue, "events")).arg("contextd").query_async(&mut self.redis()).await;
        match reply {
            Ok((count, ..)) => count,
            // No stream or no group yet: nothing is pending.
            Err(e) if e.code() == Some("NOGROUP") => 0,
            Err(e) => panic!("XPENDING: {e}"),
        }
    }

    /// Waits until nothing of the queue is left in Redis.
    pub async fn drained(&self, queue: &str) {
        self.drained_within(PATIENCE, queue).await;
    }

    pub async fn drained_within(&self, limit: Duration, queue: &str) {
        let last = std::cell::RefCell::new(Vec::new());
        let what = format!("nothing of {queue} is left in Redis");
        let wait = within(limit, &what, || async {
            let left = self.left(queue).await;
            // Looked at twice: a list that is renamed while the keys are listed can escape one look.
            let done = left.is_empty() && self.left(queue).await.is_empty();
            last.replace(left);
            when(done)
        });
        if tokio::time::timeout(limit.saturating_sub(Duration::from_secs(1)), wait).await.is_err() {
            panic!("{what}: {:?}", last.borrow());
        }
    }

    // MongoDB.

    pub fn db(&self) -> mongodb::Database {
        self.mongo.database(&self.database)
    }

    pub fn coll(&self, name: &str) -> Collection<Document> {
        self.db().collection(name)
    }

    pub async fn all(&self, collection: &str) -> Vec<Document> {
        self.coll(collection).find(doc! {}).await.expect("find").try_collect().await.expect("find")
    }

    pub async fn size(&self, collection: &str) -> u64 {
        self.coll(collection).count_documents(doc! {}).await.expect("count")
    }

    /// Waits until `collection` holds `n` documents.
    pub async fn size_is(&self, collection: &str, n: u64) {
        eventually(&format!("{n} documents in {collection}"), || async {
            when(self.coll(collection).count_documents(doc! {}).await.ok()? == n)
        })
        .await;
    }

    pub async fn one(&self, collection: &str, id: &str) -> Option<Document> {
        self.coll(collection).find_one(doc! { "_id": id }).await.expect("find")
    }

    /// Waits for the document with this `_id`.
    pub async fn arrives(&self, collection: &str, id: &str) -> Document {
        eventually(&format!("{collection} holds {id}"), || self.one(collection, id)).await
    }

    /// Waits for the analysis of the event `id` of source `/it`.
    pub async fn analysis(&self, id: &str) -> Document {
        self.arrives("analyses", &format!("{id}@/it")).await
    }

    /// Waits until the dead letter of this event id is there.
    pub async fn dead(&self, id: &str) -> Document {
        eventually(&format!("a dead letter of {id}"), || async {
            self.coll("dead_letters").find_one(doc! { "eventId": id }).await.expect("find")
        })
        .await
    }

    /// Starts a worker, waits until these queues are empty, and returns its last metrics, the ledger checked.
    pub async fn drain(&self, queues: &str) -> Metrics {
        let worker: Worker = self.worker(queues).ready().await;
        for queue in queues.split(',') {
            self.drained(queue).await;
        }
        let metrics = worker.at_rest().await;
        worker.stop().await;
        metrics
    }
}

impl Drop for Env {
    /// Drops the database and the keys, from a thread of its own: a runtime cannot be entered twice.
    fn drop(&mut self) {
        let (mongodb_uri, database) = (self.mongodb_uri.clone(), self.database.clone());
        let (redis_url, namespace) = (self.redis_url.clone(), self.namespace.clone());
        let cleanup = async move {
            if let Ok(client) = mongodb::Client::with_uri_str(&mongodb_uri).await {
                // Not cleaned up is no failure: a server that the test has stopped is gone with its data.
                drop(client.database(&database).drop().await);
            }
            if let Ok(mut redis) = try_connect(&redis_url).await {
                let script = "local c='0' repeat local r=redis.call('SCAN',c,'MATCH',ARGV[1],'COUNT',1000) c=r[1] \
                              for _,k in ipairs(r[2]) do redis.call('UNLINK',k) end until c=='0'";
                let pattern = format!("{namespace}:*");
                let _: Result<(), _> = redis::cmd("EVAL").arg(script).arg(0).arg(pattern).query_async(&mut redis).await;
            }
        };
        let thread = std::thread::spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                drop(runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), cleanup).await }));
            }
        });
        drop(thread.join());
    }
}

/// `worker.lease` -> `CONTEXTD_WORKER__LEASE`.
pub fn variable(setting: &str) -> String {
    format!("CONTEXTD_{}", setting.to_uppercase().replace('.', "__"))
}

async fn try_connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(Duration::from_secs(60)));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&patient).await
}

async fn connect(url: &str) -> MultiplexedConnection {
    try_connect(url).await.unwrap_or_else(|e| panic!("Redis at {url}: {e}"))
}
