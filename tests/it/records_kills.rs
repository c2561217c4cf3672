//! `kill -9` in the middle of mixed record tasks: everything right, once.

use std::{collections::BTreeMap, time::Duration};

use mongodb::bson::doc;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    harness::{Env, Event, Metrics, MongodServer, Worker, services, var},
    list_queue::number,
    records_common::{QUEUE, World, at, at_micros, date_at, state, text},
    records_declared::{entries, task, types},
};

const SESSIONS: i64 = 40;
const DOCUMENTS: i64 = 10;
const CONTEXTS: i64 = 30;

/// A few thousand tasks of all sorts, each about records that several of them meet on.
fn tasks(size: i64) -> Vec<Event> {
    let mut events = Vec::new();
    for i in 0..size * 8 {
        let mut data = json!({ "sessionId": format!("s{}", i % SESSIONS), "updatedAt": at_micros(i * 1000) });
        data[if i / SESSIONS % 2 == 0 { "status" } else { "documentId" }] = format!("at-{i}").into();
        events.push(Event::new("session.persist.v1", &format!("session-{i}"), data));
    }
    for i in 0..size * 6 {
        let data = json!({ "interactionId": format!("i{i}"), "sessionId": format!("s{}", i % SESSIONS), "response": "Yes.", "timestamp": at(1) });
        events.push(Event::new("interaction.persist.v1", &format!("interaction-{i}"), data));
        if i % 6 == 0 {
            let data = json!({ "entityType": "interaction", "entityId": format!("i{i}"), "evaluationData": { "score": i }, "evaluatedAt": at(2) });
            events.push(Event::new("evaluation.persist.v1", &format!("evaluation-{i}"), data));
        }
    }
    for i in 0..size * 3 {
        let key = format!("c{}", i % CONTEXTS);
        let data = json!({ "contextId": key, "type": "note", "content": format!("at {i}"), "updatedAt": at(i) });
        events.push(Event::new("context.save.v1", &format!("context-{i}"), data));
    }
    for i in 0..CONTEXTS / 3 {
        let data = json!({ "contextId": format!("c{i}"), "deletedAt": at(3000), "actor": "u1" });
        events.push(Event::new("context.delete.v1", &format!("delete-{i}"), data));
    }
    for i in 0..size * 4 {
        let data = json!({ "documentId": format!("d{}", i % DOCUMENTS), "lastAccessedAt": at(i) });
        events.push(Event::new("document.touch.v1", &format!("touch-{i}"), data));
    }
    for i in 0..size * 2 {
        let data = json!({
            "documentId": format!("d{}", i % DOCUMENTS), "versionId": format!("v{i}"), "kind": "major", "createdAt": at(i),
            "content": format!("Version {i}. {}", "The same text again. ".repeat(20))
        });
        events.push(Event::new("version.save.v1", &format!("version-{i}"), data));
    }
    for i in 0..size {
        let entity = format!("d{}", i % DOCUMENTS);
        let data = json!({ "holdId": format!("h{i}"), "entityType": "document", "entityId": entity, "reason": "A case.", "placedAt": at(1) });
        events.push(Event::new("hold.place.v1", &format!("place-{i}"), data));
        if i % 2 == 0 {
            events.push(Event::new(
                "hold.lift.v1",
                &format!("lift-{i}"),
                json!({ "holdId": format!("h{i}"), "liftedAt": at(2) }),
            ));
        }
    }
    events.extend((0..size * 2).map(|i| task("journal.append", &format!("entry-{i}"), &format!("j{}", i % 5), i)));
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_kills_of_workers_with_records_in_hand() {
    let given = |name: &str| var(name).and_then(|v| v.parse::<u64>().ok());
    let seed = given("KILL_SEED").unwrap_or_else(rand::random);
    println!("KILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await;
    // A transaction of a killed worker holds its records for a minute, if MongoDB is not told otherwise.
    mongod.set_parameter(doc! { "transactionLifetimeLimitSeconds": 3 }).await;
    let world = World::in_env(env)
        .short_lease()
        .set("worker.poll_max", "20ms")
        .set("queues.records.batch.tasks", 50)
        .set("retry.crashes", 100)
        // What is missing waits for what makes it: the tasks come in no order.
        .set("retry.attempts", 100);
    let toml = types(world.dir());
    let start = || world.worker(QUEUE).config(&toml).start();
    let mut workers: Vec<Worker> = vec![start(), start()];
    let documents: Vec<Event> = (0..DOCUMENTS)
        .map(|i| {
            let data = json!({ "documentId": format!("d{i}"), "userId": "u1", "title": "T", "content": "Text.", "updatedAt": at(0) });
            Event::new("document.save.v1", &format!("document-{i}"), data)
        })
        .collect();
    world.send(&documents).await;
    world.drained(QUEUE).await;

    let size = 100;
    let mut all = tasks(size);
    for i in (1..all.len()).rev() {
        all.swap(i, rng.random_range(0..=i));
    }
    let (count, kills) = (all.len(), given("KILLS").unwrap_or(6) as usize);
    let mut hits = 0;
    for part in all.chunks(count / kills.max(1) + 1) {
        world.send(part).await;
        if kills == 0 {
            continue;
        }
        let victim = rng.random_range(0..workers.len());
        workers[victim].becomes_ready().await;
        let in_hand = async { while workers[victim].metrics().await.sum("tasks_in_flight", &[]) == 0.0 {} };
        // The other worker may have taken everything.
        drop(tokio::time::timeout(Duration::from_secs(2), in_hand).await);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
        let reading = workers[victim].get("/metrics").await.map(|(_, text)| Metrics::parse(&text));
        workers[victim].kill();
        hits += usize::from(reading.is_some_and(|m| m.sum("tasks_in_flight", &[]) > 0.0));
        workers[victim] = start();
    }
    println!("{count} tasks; {hits} of {kills} kills hit a worker with tasks in hand");
    assert!(hits > 0 || kills == 0, "this proves nothing");
    world.drained(QUEUE).await;
    for mut worker in workers {
        worker.becomes_ready().await;
        worker.at_rest().await;
        worker.stop().await;
    }
    assert_eq!(world.size("dead_letters").await, 0, "KILL_SEED={seed} {:?}", world.letters().await);
    check(&world, size, seed).await;
}

async fn check(world: &World, size: i64, seed: u64) {
    let newest =
        |count: i64, groups: i64, group: i64| (0..count).rev().find(|i| i % groups == group).expect("a group has one");
    assert_eq!(world.size("sessions").await as i64, SESSIONS, "KILL_SEED={seed}");
    for s in 0..SESSIONS {
        let found = world.one("sessions", &format!("s{s}")).await.unwrap();
        for (field, half) in [("status", 0), ("documentId", 1)] {
            let i = (0..size * 8).rev().find(|i| i % SESSIONS == s && i / SESSIONS % 2 == half).unwrap();
            assert_eq!(text(&found, field), format!("at-{i}"), "KILL_SEED={seed} s{s}");
        }
    }
    assert_eq!(world.size("interactions").await as i64, size * 6, "KILL_SEED={seed}");
    for i in (0..size * 6).step_by(6) {
        let found = world.one("interactions", &format!("i{i}")).await.unwrap();
        assert_eq!(number(found.get_document("evaluation").unwrap(), "score"), i, "KILL_SEED={seed}");
    }
    for c in 0..CONTEXTS {
        let found = world.one("contexts", &format!("c{c}")).await.unwrap();
        assert_eq!(state(&found), if c < CONTEXTS / 3 { "deleted" } else { "active" }, "KILL_SEED={seed} c{c}");
        if c >= CONTEXTS / 3 {
            assert_eq!(text(&found, "content"), format!("at {}", newest(size * 3, CONTEXTS, c)), "KILL_SEED={seed}");
        }
    }
    let mut numbers: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for version in world.all("document_versions").await {
        numbers.entry(text(&version, "documentId").to_owned()).or_default().push(number(&version, "versionNumber"));
        let key = text(version.get_document("content").unwrap(), "key").to_owned();
        assert!(world.objects().contains(&key), "KILL_SEED={seed}: no object {key}");
    }
    for d in 0..DOCUMENTS {
        let key = format!("d{d}");
        let found = world.one("documents", &key).await.unwrap();
        assert_eq!(
            found.get("lastAccessedAt"),
            Some(&date_at(newest(size * 4, DOCUMENTS, d))),
            "KILL_SEED={seed} {key}"
        );
        assert_eq!(
            text(&found, "currentVersionId"),
            format!("v{}", newest(size * 2, DOCUMENTS, d)),
            "KILL_SEED={seed}"
        );
        let open = (0..size).filter(|i| i % DOCUMENTS == d && i % 2 != 0).count() as i64;
        assert_eq!(found.get_i64("holdCount").unwrap_or_default(), open, "KILL_SEED={seed} {key}");
        let of_document = numbers.get_mut(&key).unwrap();
        of_document.sort_unstable();
        assert_eq!(*of_document, (1..=size * 2 / DOCUMENTS).collect::<Vec<_>>(), "KILL_SEED={seed} {key}");
    }
    let audited = world.coll("audit_log").count_documents(doc! {}).await.unwrap() as i64;
    assert_eq!(audited, CONTEXTS / 3 + size + size / 2, "KILL_SEED={seed}");
    for j in 0..5 {
        let wanted: Vec<i64> = (0..size * 2).filter(|i| i % 5 == j).collect();
        let found = world.one("journals", &format!("j{j}")).await.unwrap();
        assert_eq!(entries(&found), wanted[wanted.len() - 5..], "KILL_SEED={seed}");
    }
}
