//! Redis and MongoDB going away and coming back: nothing is lost, nothing is counted against the tasks.

use std::time::Duration;

use mongodb::bson::doc;

use crate::{
    harness::{Env, Event, Metrics, MongodServer, RedisServer, analyze, eventually, now, services, typing, when},
    list_queue::number,
};

const N: usize = 3_000;

/// Half of the load now, half later: half lists, half stream.
async fn load(env: &Env, half: usize) {
    let range = half * N / 2..(half + 1) * N / 2;
    let lists: Vec<Event> = range.clone().map(|i| analyze(&format!("a{i}"), &format!("Text {i}."))).collect();
    let stream: Vec<Event> = range.map(|i| typing(&format!("t{i}"), &format!("d{i}"), "s", 1)).collect();
    env.push("analysis", "normal", &lists).await;
    env.xadd("typing", &stream).await;
}

async fn all_is_there(env: &Env) {
    env.size_is("analyses", N as u64).await;
    env.size_is("typing_contexts", N as u64).await;
    env.drained("analysis").await;
    env.drained("typing").await;
    assert_eq!(env.size("dead_letters").await, 0);
}

fn nothing_is_counted(metrics: &Metrics) {
    assert_eq!(metrics.sum("task_retries_total", &[]), 0.0, "an outage is no attempt");
    assert_eq!(metrics.sum("tasks_returned_total", &[("reason", "retry")]), 0.0);
    assert_eq!(metrics.sum("tasks_finished_total", &[("outcome", "dead")]), 0.0);
}

#[tokio::test]
async fn redis_killed_and_restarted_under_load() {
    let Some(mut redis) = RedisServer::start(&["--appendfsync", "always"]).await else { return };
    let mut env = Env::on(&redis.url(), &services::shared().mongodb).await.short_lease();
    load(&env, 0).await;
    let mut worker = env.worker("analysis,typing").ready().await;
    eventually("work is in hand", || async { when(worker.metrics().await.sum("tasks_received_total", &[]) > 0.0) })
        .await;
    for _ in 0..2 {
        redis.kill();
        let reasons = worker.becomes_unready().await;
        assert!(reasons.to_lowercase().contains("redis"), "the reason is given: {reasons}");
        assert_eq!(worker.get("/live").await.unwrap().0, 200, "waiting is progress: it must not be restarted");
        redis.restart();
        redis.answers().await;
        worker.becomes_ready().await;
    }
    env.reconnect().await;
    load(&env, 1).await;
    all_is_there(&env).await;
    nothing_is_counted(&worker.at_rest().await);
    worker.stop().await;
}

#[tokio::test]
async fn mongodb_killed_and_restarted_under_load() {
    let Some(mut mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await.set("mongodb.timeout", "3s");
    load(&env, 0).await;
    let mut worker = env.worker("analysis,typing").ready().await;
    eventually("work is in hand", || async { when(worker.metrics().await.sum("tasks_received_total", &[]) > 0.0) })
        .await;
    mongod.kill();
    load(&env, 1).await;
    let reasons = worker.becomes_unready().await;
    assert!(reasons.to_lowercase().contains("mongodb"), "the reason is given: {reasons}");
    assert_eq!(worker.get("/live").await.unwrap().0, 200, "waiting is progress: it must not be restarted");
    mongod.restart();
    mongod.is_primary().await;
    worker.becomes_ready().await;
    all_is_there(&env).await;
    nothing_is_counted(&worker.at_rest().await);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_can_be_stopped_while_mongodb_is_away_and_loses_nothing() {
    let Some(mut mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri())
        .await
        .set("mongodb.timeout", "2s")
        .set("worker.drain", "2s")
        .set("worker.lease", "10m");
    let mut worker = env.worker("analysis,typing").ready().await;
    mongod.kill();
    load(&env, 0).await;
    worker.becomes_unready().await;
    worker.signal("TERM");
    assert_eq!(worker.exit_within(Duration::from_secs(40)).await, 0);
    assert_eq!(env.count("XLEN", &env.key("typing", "events")).await, N as i64 / 2);

    mongod.restart();
    mongod.is_primary().await;
    load(&env, 1).await;
    // The lease is ten minutes: all was given back, and is there for the taking.
    let worker = env.worker("analysis,typing").ready().await;
    all_is_there(&env).await;
    worker.at_rest().await;
    worker.stop().await;
}

/// Errors of the server that say nothing about the task: one fifth of all writes for a while.
#[tokio::test]
async fn transient_errors_of_mongodb_cost_no_attempts() {
    let Some(mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await.set("retry.attempts", 1);
    let worker = env.worker("analysis,typing").ready().await;
    for failure in [
        // NotWritablePrimary, as at a step-down; InterruptedAtShutdown; a connection that breaks.
        doc! { "errorCode": 10107, "errorLabels": ["RetryableWriteError"] },
        doc! { "errorCode": 11600 },
        doc! { "closeConnection": true },
        // Written and journaled, and yet reported as not safe.
        doc! { "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } },
    ] {
        let mut data = doc! { "failCommands": ["insert", "update", "findAndModify", "commitTransaction", "bulkWrite"] };
        data.extend(failure);
        mongod.fail_command(doc! { "times": 12 }, data).await;
        let done = env.size("analyses").await;
        let more: Vec<Event> = (0..60).map(|i| analyze(&format!("a{}", done + i), &format!("Text {i}."))).collect();
        env.push("analysis", "normal", &more).await;
        env.xadd("typing", &[typing(&format!("t{done}"), "d", "s", done as i64 + 1)]).await;
        env.size_is("analyses", done + 60).await;
        env.drained("analysis").await;
        env.drained("typing").await;
        mongod.fail_command("off", doc! {}).await;
    }
    assert_eq!(number(&env.one("typing_contexts", "d:s").await.unwrap(), "sequence"), 181);
    assert_eq!(env.size("dead_letters").await, 0);
    nothing_is_counted(&worker.at_rest().await);
    worker.stop().await;
}

#[tokio::test]
async fn a_full_redis_is_drained() {
    let Some(redis) = RedisServer::start(&[]).await else { return };
    let env = Env::on(&redis.url(), &services::shared().mongodb).await;
    load(&env, 0).await;
    load(&env, 1).await;
    // Full: every write that takes memory is denied.
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb").query_async::<()>(&mut env.redis()).await.unwrap();
    let denied: redis::RedisResult<()> = redis::cmd("LPUSH").arg("any").arg("x").query_async(&mut env.redis()).await;
    assert!(denied.is_err(), "Redis is not full");
    // Not waited for as ready: a worker may say that Redis is full.
    let worker = env.worker("analysis,typing").start();
    all_is_there(&env).await;
    nothing_is_counted(&worker.at_rest().await);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query_async::<()>(&mut env.redis()).await.unwrap();
    worker.stop().await;
}

#[tokio::test]
async fn a_redis_that_hangs_and_comes_back_loses_nothing() {
    let Some(redis) = RedisServer::start(&[]).await else { return };
    let env = Env::on(&redis.url(), &services::shared().mongodb).await.short_lease();
    load(&env, 0).await;
    let mut worker = env.worker("analysis,typing").ready().await;
    redis.signal("STOP");
    worker.becomes_unready().await;
    redis.signal("CONT");
    worker.becomes_ready().await;
    load(&env, 1).await;
    all_is_there(&env).await;
    nothing_is_counted(&worker.at_rest().await);
    worker.stop().await;
}

#[tokio::test]
async fn a_flushed_script_cache_is_no_trouble() {
    let Some(redis) = RedisServer::start(&[]).await else { return };
    let env = Env::on(&redis.url(), &services::shared().mongodb).await;
    let worker = env.worker("analysis,typing").ready().await;
    load(&env, 0).await;
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut env.redis()).await.unwrap();
    load(&env, 1).await;
    all_is_there(&env).await;
    nothing_is_counted(&worker.at_rest().await);
    worker.stop().await;
}

#[tokio::test]
async fn a_consumer_group_that_was_destroyed_is_made_again() {
    let env = Env::new().await;
    let worker = env.worker("typing").ready().await;
    env.xadd("typing", &[typing("e1", "d1", "s", 1)]).await;
    env.arrives("typing_contexts", "d1:s").await;
    env.drained("typing").await;
    redis::cmd("DEL").arg(env.key("typing", "events")).query_async::<()>(&mut env.redis()).await.unwrap();
    env.xadd("typing", &[typing("e2", "d2", "s", 1)]).await;
    env.arrives("typing_contexts", "d2:s").await;
    env.drained("typing").await;
    worker.stop().await;
}

/// A run of the lifecycle meets a change of the primary: it goes on, or the next run does; every document goes once.
#[tokio::test]
async fn the_primary_steps_down_in_the_middle_of_a_purge() {
    const DOCUMENTS: u64 = 300;
    let Some(mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await.set("jobs.retention.page", 5);
    env.command(&["migrate"]).end().await.code(0);
    let deleted = now() - chrono::TimeDelta::days(31);
    let deleted = mongodb::bson::DateTime::from_millis(deleted.timestamp_millis());
    let row = |n: u64| {
        doc! { "_id": format!("d{n}"), "userId": "u", "ownerType": "user", "state": "deleted", "deletedAt": deleted,
        "_sync": { "rev": 1_i64, "order": 1_i64 } }
    };
    env.coll("documents").insert_many((0..DOCUMENTS).map(row)).await.unwrap();
    let interrupted = async {
        for _ in 0..3 {
            let before = env.size("tombstones").await;
            eventually("the purge has come further", || async {
                let found = env.coll("tombstones").estimated_document_count().await.ok()?;
                when(found > before || found == DOCUMENTS)
            })
            .await;
            mongod.step_down().await;
            mongod.is_primary().await;
        }
    };
    let run = env.command(&["jobs", "run", "retention"]).end();
    tokio::join!(run, interrupted);
    env.command(&["jobs", "run", "retention"]).end().await.code(0);
    assert_eq!(env.size("documents").await, 0);
    let closed = env.coll("tombstones").count_documents(doc! { "state": "closed" }).await.unwrap();
    let entries = env.coll("audit_log").count_documents(doc! { "action": "lifecycle.purge" }).await.unwrap();
    assert_eq!((closed, entries), (DOCUMENTS, DOCUMENTS));
    env.command(&["audit", "verify"]).end().await.code(0);
}
