//! Reading through the tiers: memory, Redis, MongoDB. Through the library, as other programs in Rust read.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use contextd::{
    cache::{CacheWriter, Entry, Put, RecordCache},
    config::{self, Config},
    intake::Link,
    metrics::Tier,
    read::{Ask, ReadError, Reader},
    record::cached::{Kinds, Plan, parse},
    store::Store,
    vault::Vault,
};
use futures::future::join_all;
use mongodb::bson::{Bson, DateTime, Document, doc};

use crate::harness::{Env, RedisServer, eventually, ports, redis_server::redis_cli, services, when};

/// The tiers of one test's world.
pub struct Tiers {
    pub config: Config,
    pub kinds: Arc<Kinds>,
    pub cache: RecordCache,
    pub store: Store,
    pub vault: Arc<Vault>,
    pub writer: CacheWriter,
    pub reader: Reader,
}

impl Tiers {
    pub async fn new(env: &Env) -> Self {
        let config = config::load(None, env.variables().into_iter()).expect("valid settings");
        let kinds = Arc::new(Kinds::new(&config.cache).expect("valid kinds"));
        let link = Link::new(&config.redis).expect("a usable address");
        let cache = RecordCache::new(link, &config.namespace);
        let store = Store::new(&config.mongodb).await.expect("a usable URI");
        let writer = CacheWriter::new(cache.clone(), store.clone(), kinds.clone(), &config.cache);
        let vault = Arc::new(Vault::new(&config.encryption, store.clone()).expect("usable keys"));
        let reader = Reader::new(cache.clone(), store.clone(), kinds.clone(), vault.clone(), &config.cache);
        Self { config, kinds, cache, store, vault, writer, reader }
    }

    /// Another process's reader: the same Redis and MongoDB, a memory of its own.
    pub fn other_reader(&self) -> Reader {
        let (cache, store, kinds) = (self.cache.clone(), self.store.clone(), self.kinds.clone());
        Reader::new(cache, store, kinds, self.vault.clone(), &self.config.cache)
    }

    /// What Redis is to hold for `document`.
    pub fn entry(&self, kind: &str, document: &Document) -> Entry {
        let kind = self.kinds.get(kind).unwrap();
        let Plan::Put(c) = kind.plan(document, 1) else { panic!("not cached") };
        Entry {
            kind: kind.name.clone(),
            id: c.id,
            rev: c.rev,
            bytes: c.bytes,
            ttl: c.ttl,
            is_marker: false,
            is_new: false,
        }
    }

    pub async fn raw(&self, kind: &str, id: &str) -> Option<Vec<u8>> {
        self.cache.get(&[(kind, id)]).await.expect("Redis answers").pop().flatten()
    }

    /// The revision in Redis, unless there is none or a marker.
    pub async fn rev(&self, kind: &str, id: &str) -> Option<i64> {
        let parsed = parse(&self.raw(kind, id).await?).expect("readable");
        parsed.document.map(|_| parsed.header.rev)
    }
}

pub fn session(id: &str, rev: i64) -> Document {
    doc! {
        "_id": id, "userId": "u1", "status": format!("status {rev}"), "state": "active", "context": {"n": rev}, "metadata": {"m": 1_i64},
        "lastActivityAt": DateTime::from_millis(1_769_860_800_000), "_sync": {"rev": rev, "order": rev, "task": "t@/it"},
    }
}

const PLAIN: Ask = Ask { full: false, deleted: false };
const FULL: Ask = Ask { full: true, deleted: false };

/// Finds of this collection that MongoDB has seen, by its profiler.
async fn finds(env: &Env, collection: &str) -> u64 {
    let ns = format!("{}.{collection}", env.database);
    env.coll("system.profile").count_documents(doc! { "op": "query", "ns": ns }).await.expect("count")
}

async fn profile(env: &Env) {
    env.db().run_command(doc! { "profile": 2 }).await.expect("profile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_readers_make_one_read() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    env.coll("sessions").insert_one(session("s1", 1)).await.unwrap();
    profile(&env).await;
    let read = |id: &'static str| {
        let reader = tiers.reader.clone();
        tokio::spawn(async move { reader.get("session", id, PLAIN).await })
    };
    let all = join_all((0..1_000).map(|_| read("s1"))).await;
    for found in all {
        let found = found.unwrap().unwrap().expect("it is there");
        assert_eq!(found.document.get_str("status").unwrap(), "status 1");
    }
    assert_eq!(finds(&env, "sessions").await, 1, "one read for all");
    // What is not there is asked for once, too.
    let all = join_all((0..1_000).map(|_| read("s2"))).await;
    assert!(all.into_iter().all(|found| found.unwrap().unwrap().is_none()));
    assert_eq!(finds(&env, "sessions").await, 2);
    // Readers of another process find it in Redis.
    let found = tiers.other_reader().get("session", "s1", PLAIN).await.unwrap().unwrap();
    assert_eq!((found.tier, found.complete, found.strategy.as_deref()), (Tier::Redis, false, Some("CRITICAL_ONLY")));
    assert!(found.document.get("context").is_none() && found.document.get("_sync").is_none());
    let found = tiers.reader.get("session", "s1", PLAIN).await.unwrap().unwrap();
    assert_eq!(found.tier, Tier::Memory);
    assert_eq!(finds(&env, "sessions").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_gives_up_strands_nobody() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    env.coll("sessions").insert_one(session("s1", 1)).await.unwrap();
    profile(&env).await;
    let mut first = Box::pin(tiers.reader.get("session", "s1", PLAIN));
    assert!(futures::poll!(&mut first).is_pending(), "it has asked");
    let mut second = Box::pin(tiers.reader.get("session", "s1", PLAIN));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert!(second.await.unwrap().is_some());
    assert_eq!(finds(&env, "sessions").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_reaches_all_who_wait_and_is_not_remembered() {
    let env = Env::new().await;
    let alive = Tiers::new(&env).await;
    let mut config = alive.config.clone();
    config.mongodb.uri = format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", ports::free());
    config.mongodb.timeout = Duration::from_millis(300);
    let store = Store::new(&config.mongodb).await.unwrap();
    let reader = Reader::new(alive.cache.clone(), store, alive.kinds.clone(), alive.vault.clone(), &config.cache);
    let all = join_all((0..50).map(|_| reader.get("session", "s1", PLAIN))).await;
    assert!(all.iter().all(|found| matches!(found, Err(ReadError::Store(_)))));
    // As soon as the record can be had, it is.
    alive.cache.put(&[alive.entry("session", &session("s1", 1))]).await;
    assert!(reader.get("session", "s1", PLAIN).await.unwrap().is_some());
    assert!(matches!(reader.get("sesion", "s1", PLAIN).await, Err(ReadError::UnknownKind(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_record_is_had_by_asking_for_it() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    let mut stored = session("s1", 1);
    stored.insert("evaluation", doc! { "score": 1.0 });
    env.coll("sessions").insert_one(&stored).await.unwrap();
    tiers.reader.get("session", "s1", PLAIN).await.unwrap();
    let full = tiers.reader.get("session", "s1", FULL).await.unwrap().unwrap();
    assert_eq!((full.tier, full.complete), (Tier::MongoDb, true));
    stored.remove("_sync");
    assert_eq!(*full.document, stored);
    // What is only for those who ask stays with them.
    let part = tiers.reader.get("session", "s1", PLAIN).await.unwrap().unwrap();
    assert!(part.document.get("evaluation").is_none());

    let memory = doc! { "_id": "m1", "kind": "memory", "content": "x", "_sync": {"rev": 1_i64} };
    env.coll("contexts").insert_one(&memory).await.unwrap();
    for _ in 0..2 {
        let reader = tiers.other_reader();
        let found = reader.get("memory", "m1", FULL).await.unwrap().unwrap();
        assert!(found.complete);
        assert!(reader.get("context", "m1", PLAIN).await.unwrap().is_none(), "a memory is no context");
    }
    assert_eq!(tiers.other_reader().get("memory", "m1", FULL).await.unwrap().unwrap().tier, Tier::Redis);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_interactions_of_a_session_are_counted() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    let mut stored = session("s1", 1);
    stored.insert("cacheStrategy", "WITH_CONTEXT");
    env.coll("sessions").insert_one(&stored).await.unwrap();
    let interactions = (0..3).map(|i| doc! { "_id": format!("i{i}"), "sessionId": "s1" });
    env.coll("interactions").insert_many(interactions).await.unwrap();
    for reader in [&tiers.reader, &tiers.other_reader()] {
        let found = reader.get("session", "s1", PLAIN).await.unwrap().unwrap();
        assert_eq!(found.document.get("interactionCount"), Some(&Bson::Int64(3)), "{}", found.tier);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_are_absent_unless_asked_for() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    for (id, state) in [("d1", "deleted"), ("d2", "purging"), ("d3", "archived")] {
        let document = doc! { "_id": id, "state": state, "_sync": {"rev": 4_i64} };
        env.coll("documents").insert_one(document).await.unwrap();
        let found = tiers.reader.get("document", id, PLAIN).await.unwrap();
        assert_eq!(found.is_some(), state == "archived", "{state}");
        let found = tiers.reader.get("document", id, Ask { deleted: true, full: false }).await.unwrap().unwrap();
        assert_eq!((found.tier, found.document.get_str("state").unwrap()), (Tier::MongoDb, state));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_another_format_is_a_miss_and_is_replaced() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    env.coll("sessions").insert_one(session("s1", 3)).await.unwrap();
    let key = format!("{}:cache:session:s1", env.namespace);
    let values: [&[u8]; 4] =
        [b"{\"f\":0,\"rev\":3,\"v\":2}\n<xml/>", b"plain old value", b"{\"f\":1,\"rev\":3}\n{}", b"\xff\x00"];
    for old in values {
        redis::cmd("SET").arg(&key).arg(old).exec_async(&mut env.redis()).await.unwrap();
        let found = tiers.other_reader().get("session", "s1", PLAIN).await.unwrap().unwrap();
        assert_eq!(found.tier, Tier::MongoDb, "{}", String::from_utf8_lossy(old));
        let found = tiers.other_reader().get("session", "s1", PLAIN).await.unwrap().unwrap();
        assert_eq!(found.tier, Tier::Redis, "it was replaced");
    }
    // Not even another type of key is in the way.
    redis::cmd("DEL").arg(&key).exec_async(&mut env.redis()).await.unwrap();
    redis::cmd("LPUSH").arg(&key).arg("x").exec_async(&mut env.redis()).await.unwrap();
    assert!(tiers.other_reader().get("session", "s1", PLAIN).await.unwrap().is_some());
    assert_eq!(tiers.rev("session", "s1").await, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_fields_are_open_to_readers_and_sealed_in_every_tier() {
    let env = Env::new().await.set("encryption.keys", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let tiers = Tiers::new(&env).await;
    let sealed = tiers.vault.seal_field(None, "users", "u1", "email", &"ada@example.org".into()).await.unwrap();
    let user = doc! { "_id": "u1", "email": sealed, "passwordHash": "x", "_sync": {"rev": 1_i64} };
    env.coll("users").insert_one(&user).await.unwrap();
    for tier in [Tier::MongoDb, Tier::Memory] {
        let found = tiers.reader.get("user", "u1", PLAIN).await.unwrap().unwrap();
        assert_eq!((found.tier, found.complete, found.document.get("passwordHash")), (tier, false, None));
        assert_eq!(found.document.get_str("email").unwrap(), "ada@example.org");
    }
    let raw = tiers.raw("user", "u1").await.unwrap();
    assert!(!String::from_utf8_lossy(&raw).contains("ada@"));
    let found = tiers.other_reader().get("user", "u1", PLAIN).await.unwrap().unwrap();
    assert_eq!((found.tier, found.document.get_str("email").unwrap()), (Tier::Redis, "ada@example.org"));
    // Without the key nothing is served, and the reason is told.
    let error = env.command(&["get", "user", "u1"]).set("encryption.keys", "").end().await;
    assert_ne!(error.code, 0);
    error.says(&["key"]).readable();
}

/// Eight writers put the revisions of a few records in an order of their own, with markers among them, while a reader
/// looks: what lies there never gets older, and in the end it is the newest.
async fn race(tiers: &Tiers, writers: u64, revs: i64) {
    let ids = ["a", "b", "c"];
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watching = ids.map(|id| {
        let (cache, done) = (tiers.cache.clone(), done.clone());
        tokio::spawn(async move {
            let mut seen = BTreeSet::new();
            while seen.is_empty() || !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(bytes) = cache.get(&[("session", id)]).await.unwrap().pop().flatten() {
                    let rev = parse(&bytes).expect("readable").header.rev;
                    assert!(seen.last().is_none_or(|last| *last <= rev), "{rev} after {seen:?}");
                    seen.insert(rev);
                }
            }
            seen.len()
        })
    });
    let writing = (0..writers).map(|_| {
        let entries: Vec<Entry> = ids
            .iter()
            .flat_map(|id| (1..=revs).map(|rev| (*id, rev)))
            .map(|(id, rev)| {
                // Revisions of 19 digits: Lua's numbers end before them.
                let rev = 9_007_199_254_740_993 * 1_000 + rev;
                let new = Entry { is_new: rev % 7 == 0, ..tiers.entry("session", &session(id, rev)) };
                if rev % 5 == 0 { Entry::gone(new.kind.clone(), new.id.clone(), rev, 1) } else { new }
            })
            .collect();
        let cache = tiers.cache.clone();
        tokio::spawn(async move {
            let mut entries = entries;
            while !entries.is_empty() {
                let at = rand::random_range(0..entries.len());
                let mut batch = vec![entries.swap_remove(at)];
                if !entries.is_empty() && rand::random_bool(0.5) {
                    batch.push(entries.swap_remove(rand::random_range(0..entries.len())));
                }
                tokio::time::sleep(Duration::from_micros(rand::random_range(0..2_000))).await;
                assert!(cache.put(&batch).await.iter().all(|put| matches!(put, Put::Stored | Put::Older)));
            }
        })
    });
    for writer in join_all(writing).await {
        writer.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for seen in join_all(watching).await {
        assert!(seen.unwrap() >= 1);
    }
    for id in ids {
        assert_eq!(tiers.rev("session", id).await, Some(9_007_199_254_740_993 * 1_000 + revs));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_older_value_never_replaces_a_newer_one() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    race(&tiers, 8, 61).await;
    // A fill by a reader that had read before the deletion comes too late; what is newer does not.
    let old = tiers.entry("document", &doc! { "_id": "d1", "_sync": {"rev": 5_i64} });
    let new = tiers.entry("document", &doc! { "_id": "d1", "_sync": {"rev": 6_i64} });
    assert_eq!(tiers.cache.put(std::slice::from_ref(&old)).await, [Put::Stored]);
    assert_eq!(tiers.cache.gone(&[("document".into(), "d1".into(), 5)], 1).await, [Put::Stored]);
    let late = [old.clone(), Entry { is_new: true, ..old }];
    assert_eq!(tiers.cache.put(&late).await, [Put::Older, Put::Older]);
    assert_eq!(tiers.rev("document", "d1").await, None);
    assert_eq!(tiers.cache.put(&[new]).await, [Put::Stored]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_redis_cluster_as_well() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let bus = ports::free().to_string();
        let args = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
        let Some(node) = RedisServer::start(&args).await else { return };
        nodes.push(node);
    }
    let addresses: Vec<String> = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
    let list: Vec<&str> = addresses.iter().map(String::as_str).collect();
    redis_cli(&[&["--cluster", "create"], list.as_slice(), &["--cluster-yes"]].concat());
    eventually("all nodes agree on the slots", || async {
        let agrees = |port: u16| redis_cli(&["-p", &port.to_string(), "CLUSTER", "INFO"]).contains("cluster_state:ok");
        when(nodes.iter().all(|n| agrees(n.port)))
    })
    .await;
    let mut env = Env::on(&nodes[0].url(), &services::shared().mongodb).await;
    env.redis_url = format!("redis+cluster://{}", addresses.join(","));
    let tiers = Tiers::new(&env).await;
    race(&tiers, 4, 21).await;
    let many: Vec<Entry> = (0..200).map(|i| tiers.entry("session", &session(&format!("s{i}"), 1))).collect();
    for is_new in [true, false] {
        let many: Vec<Entry> = many.iter().map(|e| Entry { is_new, ..e.clone() }).collect();
        assert!(tiers.cache.put(&many).await.iter().all(|put| *put == Put::Stored));
    }
    assert_eq!(tiers.rev("session", "s199").await, Some(1));
    env.redis_url = nodes[0].url();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_shows_a_record_and_where_it_came_from() {
    let env = Env::new().await;
    env.coll("sessions").insert_one(session("s1", 1)).await.unwrap();
    let shown = env.command(&["get", "session", "s1"]).end().await.code(0).says(&["from mongodb", "CRITICAL_ONLY"]);
    assert!(shown.out.contains("status 1") && shown.out.contains("2026-01-31T12:00:00Z"), "{}", shown.out);
    let shown = env.command(&["get", "session", "s1", "--json"]).end().await.code(0);
    let json = shown.json();
    assert_eq!(
        (&json["tier"], &json["complete"], &json["strategy"]),
        (&"redis".into(), &false.into(), &"CRITICAL_ONLY".into())
    );
    assert_eq!(json["record"]["lastActivityAt"], "2026-01-31T12:00:00Z");
    assert!(json["ageMs"].as_u64().is_some() && json["record"].get("context").is_none());
    let whole = env.command(&["get", "session", "s1", "--full", "--json"]).end().await.code(0).json();
    assert_eq!((&whole["tier"], &whole["record"]["context"]["n"]), (&"mongodb".into(), &1.into()));
    env.command(&["get", "session", "s2"])
        .end()
        .await
        .code(1)
        .says(&["there is no session \"s2\"", "--deleted"])
        .readable();
    env.command(&["get", "sesion", "s1"]).end().await.code(64).says(&["did you mean `session`?"]).readable();
    // Without Redis it comes from MongoDB.
    let dead = format!("redis://127.0.0.1:{}/0", ports::free());
    env.command(&["get", "session", "s1"]).set("redis.url", dead).end().await.code(0).says(&["from mongodb"]);
}
