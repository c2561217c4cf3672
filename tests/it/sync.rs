//! The caches in step with MongoDB: at once, or soon; whatever Redis does.

use std::time::{Duration, Instant};

use contextd::cache::{Put, Repaired, Written};
use mongodb::bson::{Document, doc};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Env, MongodServer, RedisServer, eventually, now, services, when, within},
    tiers::{Tiers, session},
};

fn written(documents: &[Document]) -> Vec<Written> {
    documents.iter().map(|d| Written { kind: "session".into(), document: d.clone(), kept_strategy: false }).collect()
}

/// Writes these revisions of sessions to MongoDB, then tells the caches.
async fn write(env: &Env, tiers: &Tiers, ids: std::ops::Range<usize>, rev: i64) -> Duration {
    let documents: Vec<Document> = ids.map(|i| session(&format!("s{i}"), rev)).collect();
    for document in &documents {
        let id = document.get_str("_id").unwrap();
        env.coll("sessions").replace_one(doc! { "_id": id }, document).upsert(true).await.unwrap();
    }
    let started = Instant::now();
    tiers.writer.after_write(written(&documents)).await;
    started.elapsed()
}

async fn all_at(tiers: &Tiers, ids: std::ops::Range<usize>, rev: i64) -> bool {
    for i in ids {
        if tiers.rev("session", &format!("s{i}")).await != Some(rev) {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_seen_at_once_and_an_end_as_well() {
    let env = Env::new().await.set("cache.sync_within", "5s");
    let tiers = Tiers::new(&env).await;
    write(&env, &tiers, 0..50, 1).await;
    write(&env, &tiers, 0..50, 2).await;
    assert!(all_at(&tiers, 0..50, 2).await);
    assert_eq!(env.size("kvshadow").await, 0);
    // A redelivery refreshes what was lost, and leaves what is newer.
    tiers.writer.after_write(written(&[session("s0", 1)])).await;
    assert!(all_at(&tiers, 0..1, 2).await);
    let mut ended = session("s0", 3);
    ended.insert("state", "ended");
    tiers.writer.after_write(written(&[ended])).await;
    assert_eq!(tiers.rev("session", "s0").await, None);
    assert_eq!(tiers.cache.put(&[tiers.entry("session", &session("s0", 3))]).await, [Put::Older]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_chooses_not_to_cache_a_record_marks_it() {
    let env = Env::new().await.set("cache.sync_within", "5s");
    let tiers = Tiers::new(&env).await;
    let mut uncached = session("s0", 3);
    uncached.insert("cacheStrategy", "NONE");
    let there = async || tiers.cache.get(&[("session", "s0")]).await.unwrap().remove(0).is_some();
    let kept = Written { kind: "session".into(), document: uncached.clone(), kept_strategy: true };
    tiers.writer.after_write(vec![kept]).await;
    assert!(!there().await);
    tiers.writer.after_write(written(&[uncached])).await;
    assert!(there().await);
    assert_eq!(tiers.cache.put(&[tiers.entry("session", &session("s0", 2))]).await, [Put::Older]);
    // A value that is to be cached is written whatever was before.
    let kept = Written { kind: "session".into(), document: session("s0", 4), kept_strategy: true };
    tiers.writer.after_write(vec![kept]).await;
    assert_eq!(tiers.rev("session", "s0").await, Some(4));
    assert_eq!(env.size("kvshadow").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_records_are_noted_and_brought_in_step() {
    let env = Env::new().await.set("cache.sync_waiting", "0");
    let tiers = Tiers::new(&env).await;
    write(&env, &tiers, 0..1_200, 1).await;
    write(&env, &tiers, 0..10, 2).await;
    assert_eq!((env.size("kvshadow").await, tiers.rev("session", "s1").await), (1_200, None));
    let row = env.one("kvshadow", "session:s1").await.unwrap();
    assert_eq!((row.get_i64("rev").unwrap(), row.get_str("collection").unwrap()), (2, "sessions"));
    // A record that was removed since, and one of a kind that is no longer declared.
    env.coll("sessions").delete_one(doc! { "_id": "s1199" }).await.unwrap();
    let since = row.get_datetime("since").unwrap();
    env.coll("kvshadow")
        .insert_one(doc! { "_id": "past:x", "collection": "x", "rev": 1_i64, "since": since, "attempts": 0_i64 })
        .await
        .unwrap();
    let (one, two) = tokio::join!(tiers.writer.repair_once(now()), tiers.writer.repair_once(now()));
    assert!(one.unwrap().in_step + two.unwrap().in_step >= 1_201);
    assert_eq!(env.size("kvshadow").await, 0);
    assert!(all_at(&tiers, 0..10, 2).await && all_at(&tiers, 10..1_199, 1).await);
    assert_eq!(tiers.rev("session", "s1199").await, None);
    assert_eq!(tiers.writer.repair_once(now()).await.unwrap(), Repaired::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_made_anew_outlives_the_repair() {
    let env = Env::new().await.set("cache.sync_waiting", "0");
    let tiers = Tiers::new(&env).await;
    write(&env, &tiers, 0..1, 5).await;
    let page = tiers.store.shadow_page(None, 10).await.unwrap();
    write(&env, &tiers, 0..1, 6).await;
    tiers.store.shadow_done(&page).await.unwrap();
    let row = env.one("kvshadow", "session:s0").await.expect("it is behind again");
    assert_eq!(row.get_i64("rev").unwrap(), 6);
    assert_eq!(row.get_datetime("since").unwrap().timestamp_millis(), page[0].since.timestamp_millis());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_gone_writes_go_on_and_all_is_in_step_when_it_is_back() {
    let Some(mut redis) = RedisServer::start(&[]).await else { return };
    let env = Env::on(&redis.url(), &services::shared().mongodb).await.set("cache.repair_every", "100ms");
    let tiers = Tiers::new(&env).await;
    write(&env, &tiers, 0..100, 1).await;
    tiers.writer.repair_once(now()).await.unwrap();
    assert!(all_at(&tiers, 0..100, 1).await);
    let done = CancellationToken::new();
    let repairing = tokio::spawn({
        let (writer, done) = (tiers.writer.clone(), done.clone());
        async move { writer.repair(done).await }
    });
    for hung in [false, true] {
        let rev = if hung { 20 } else { 10 };
        if hung {
            redis.signal("STOP")
        } else {
            redis.kill()
        }
        for step in 0..3 {
            let took = write(&env, &tiers, 0..100, rev + step).await;
            assert!(took < Duration::from_secs(2), "a write waited {took:?} for a cache that is away");
        }
        let started = Instant::now();
        let found = tiers.other_reader().get("session", "s5", Default::default()).await.unwrap().unwrap();
        assert_eq!(found.document.get_str("status").unwrap(), format!("status {}", rev + 2), "MongoDB answers");
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(env.size("kvshadow").await, 100);
        if hung {
            redis.signal("CONT")
        } else {
            redis.restart()
        }
        redis.answers().await;
        // As long as it was away, the old ones may be seen; then no more.
        within(Duration::from_secs(20), "all is in step", || async { when(env.size("kvshadow").await == 0) }).await;
        assert!(all_at(&tiers, 0..100, rev + 2).await);
    }
    done.cancel();
    repairing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_holds_nothing_old() {
    let Some(redis) = RedisServer::start(&[]).await else { return };
    let env = Env::on(&redis.url(), &services::shared().mongodb).await.set("cache.sync_within", "5s");
    let tiers = Tiers::new(&env).await;
    write(&env, &tiers, 0..20, 1).await;
    let limit = |bytes: &'static str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).to_owned();
    limit("1").exec_async(&mut env.redis()).await.unwrap();
    write(&env, &tiers, 0..30, 2).await;
    for i in 0..30 {
        assert_eq!(tiers.rev("session", &format!("s{i}")).await, None, "old values are gone, new ones do not fit");
    }
    assert_eq!(env.size("kvshadow").await, 30);
    assert_eq!(tiers.writer.repair_once(now()).await.unwrap(), Repaired { in_step: 0, left: 30 });
    limit("0").exec_async(&mut env.redis()).await.unwrap();
    assert_eq!(tiers.writer.repair_once(now()).await.unwrap(), Repaired { in_step: 30, left: 0 });
    assert!(all_at(&tiers, 0..30, 2).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_mongodb_cannot_note_waits_in_memory() {
    let Some(mut mongod) = MongodServer::start().await else { return };
    let shared = services::shared();
    let env =
        Env::on(&shared.redis, &mongod.uri()).await.set("cache.sync_waiting", "0").set("mongodb.timeout", "500ms");
    let tiers = Tiers::new(&env).await;
    write(&env, &tiers, 0..5, 1).await;
    tiers.writer.repair_once(now()).await.unwrap();
    let newer: Vec<Document> = (0..5).map(|i| session(&format!("s{i}"), 1)).collect();
    mongod.kill();
    tiers.cache.gone(&[("session".into(), "s1".into(), 0)], 1).await;
    tiers.writer.after_write(written(&newer)).await;
    mongod.restart();
    eventually("what waited is noted, and in step", || async {
        when(tiers.writer.repair_once(now()).await.ok()?.in_step == 5)
    })
    .await;
}
