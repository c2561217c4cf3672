//! MongoDB in trouble while records are written: they wait, nothing is lost, nothing happens twice.

use std::time::Duration;

use mongodb::bson::doc;
use serde_json::json;

use crate::{
    harness::{Env, Event, MongodServer, services},
    list_queue::number,
    records_common::{World, at, text},
};

fn document(i: i64) -> Event {
    let data = json!({
        "documentId": format!("d{i}"), "sessionId": "s1", "title": "T", "content": format!("Text {i}."), "updatedAt": at(1)
    });
    Event::new("document.save.v1", &format!("document-{i}"), data)
}

fn version(i: i64) -> Event {
    let data = json!({
        "documentId": format!("d{}", i % 4), "versionId": format!("v{i}"), "kind": "major", "content": format!("Version {i}."),
        "createdAt": at(i)
    });
    Event::new("version.save.v1", &format!("version-{i}"), data)
}

fn hold(i: i64) -> Event {
    let data = json!({
        "holdId": format!("h{i}"), "entityType": "document", "entityId": format!("d{}", i % 4), "reason": "A case.", "placedAt": at(1)
    });
    Event::new("hold.place.v1", &format!("hold-{i}"), data)
}

fn session(i: i64) -> Event {
    let data = json!({ "sessionId": format!("s{}", i % 5), "status": format!("{i}"), "updatedAt": at(i) });
    Event::new("session.persist.v1", &format!("session-{i}"), data)
}

fn interaction(i: i64) -> Event {
    let data = json!({ "interactionId": format!("i{i}"), "sessionId": "s1", "response": "Yes.", "timestamp": at(1) });
    Event::new("interaction.persist.v1", &format!("interaction-{i}"), data)
}

fn relation(i: i64) -> Event {
    let data =
        json!({ "from": format!("c{i}"), "to": format!("c{}", i + 1), "relation": "CONTAINS", "updatedAt": at(1) });
    Event::new("context.relate.v1", &format!("relation-{i}"), data)
}

fn context(i: i64) -> Event {
    let data = json!({ "contextId": format!("c{i}"), "type": "t", "content": "x", "updatedAt": at(1) });
    Event::new("context.save.v1", &format!("context-{i}"), data)
}

/// After `rounds` rounds of ten of each: everything is there once.
async fn check(world: &World, rounds: i64) {
    assert_eq!(world.letters().await, [""; 0]);
    let count = rounds * 10;
    for d in 0..4 {
        let found = world.one("documents", &format!("d{d}")).await.unwrap();
        let newest = (0..count).rev().find(|i| i % 4 == d).unwrap();
        assert_eq!(text(&found, "currentVersionId"), format!("v{newest}"));
        assert_eq!(number(&found, "holdCount"), (0..count).filter(|i| i % 4 == d).count() as i64);
        let mut numbers: Vec<i64> = Vec::new();
        for version in world.all("document_versions").await {
            if text(&version, "documentId") == format!("d{d}") {
                numbers.push(number(&version, "versionNumber"));
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
    }
    assert_eq!(world.size("document_versions").await as i64, count);
    assert_eq!(world.size("holds").await as i64, count);
    assert_eq!(world.size("audit_log").await as i64, count);
    assert_eq!(world.size("interactions").await as i64, count);
    let links = world.coll("context_links").count_documents(doc! { "from": { "$exists": true } }).await.unwrap();
    assert_eq!(links as i64, count);
    for s in 0..5 {
        let newest = (0..count).rev().find(|i| i % 5 == s).unwrap();
        assert_eq!(text(&world.one("sessions", &format!("s{s}")).await.unwrap(), "status"), newest.to_string());
    }
}

#[tokio::test]
async fn errors_of_mongodb_that_pass_cost_no_attempt_and_do_nothing_twice() {
    let Some(mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await.set("mongodb.timeout", "2s");
    let mut feed = World::in_env(env).set("retry.attempts", 1).feed().await;
    let first: Vec<Event> = (0..4).map(document).chain((0..61).map(context)).collect();
    assert_eq!(feed.apply(&first).await.dead, 0);
    let failures = [
        // NotWritablePrimary, as at a step-down; InterruptedAtShutdown; a connection that breaks.
        doc! { "errorCode": 10107, "errorLabels": ["RetryableWriteError"] },
        doc! { "errorCode": 11600 },
        doc! { "closeConnection": true },
        // Written and journaled, and yet reported as not safe.
        doc! { "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } },
        // Two transactions that met.
        doc! { "errorCode": 112, "errorLabels": ["TransientTransactionError"] },
        doc! { "errorCode": 251, "errorLabels": ["TransientTransactionError"] },
    ];
    let rounds = failures.len() as i64;
    for (round, failure) in failures.into_iter().enumerate() {
        // Not every command takes every failure: transactions have no write concern before they commit.
        let commands: &[&str] = match failure.contains_key("writeConcernError") {
            true => &["commitTransaction", "insert", "update", "findAndModify", "bulkWrite"],
            false => &["insert", "update", "findAndModify", "commitTransaction", "bulkWrite", "find"],
        };
        let mut data = doc! { "failCommands": commands };
        data.extend(failure.clone());
        mongod.fail_command(doc! { "times": 3 }, data).await;
        let range = || round as i64 * 10..(round as i64 + 1) * 10;
        let events: Vec<Event> =
            range().flat_map(|i| [version(i), hold(i), session(i), interaction(i), relation(i)]).collect();
        let ended = feed.apply(&events).await;
        mongod.fail_command("off", doc! {}).await;
        assert_eq!((ended.dead, ended.expired), (0, 0), "{failure}: {ended:?} {:?}", feed.letters().await);
    }
    check(&feed.world, rounds).await;
    let claim = Event::new("user.claim.v1", "claim", json!({ "sessionId": "s1", "userId": "u1", "claimedAt": at(2) }));
    mongod
        .fail_command(doc! { "times": 3 }, doc! { "failCommands": ["commitTransaction"], "closeConnection": true })
        .await;
    feed.one(claim, "written").await;
    mongod.fail_command("off", doc! {}).await;
    for d in 0..4 {
        assert_eq!(text(&feed.record("documents", &format!("d{d}")).await, "userId"), "u1");
    }
}

/// Killed while records are written, and back after a while.
#[tokio::test]
async fn a_mongodb_that_dies_and_comes_back_has_everything_once() {
    let Some(mut mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await.set("mongodb.timeout", "2s");
    let mut feed = World::in_env(env).set("retry.attempts", 1).set("queues.records.batch.tasks", 10).feed().await;
    let first: Vec<Event> = (0..4).map(document).chain((0..61).map(context)).collect();
    feed.apply(&first).await;
    let events: Vec<Event> =
        (0..60).flat_map(|i| [version(i), hold(i), session(i), interaction(i), relation(i)]).collect();
    for part in events.chunks(100) {
        feed.send(part).await;
        tokio::time::sleep(Duration::from_millis(70)).await;
        mongod.kill();
        feed.worker.becomes_unready().await;
        mongod.restart();
        mongod.is_primary().await;
    }
    feed.rest().await;
    check(&feed.world, 6).await;
}
