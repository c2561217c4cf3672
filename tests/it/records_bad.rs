//! Tasks about records that cannot be done as they are: what becomes of them, and that nobody else suffers.

use mongodb::bson::doc;
use serde_json::{Value, json};

use crate::{
    harness::{Event, in_seconds},
    list_queue::number,
    records_common::{Ended, World, at, at_micros, rev, state, text},
    records_declared::{entries, task, types},
};

fn memory(id: &str, name: &str, value: Value) -> Event {
    let data = json!({ "memoryId": "m1", "type": "fact", "content": "Water boils.", "updatedAt": at(1) });
    Event::new("memory.save.v1", id, data).data(name, value)
}

fn version(id: &str, document: &str) -> Event {
    let data = json!({ "documentId": document, "versionId": format!("v-{id}"), "kind": "major", "content": "Text." });
    Event::new("version.save.v1", id, data).data("createdAt", at(5))
}

fn document(id: &str, key: &str) -> Event {
    let data = json!({ "documentId": key, "userId": "u1", "title": "T", "content": "Text.", "updatedAt": at(2) });
    Event::new("document.save.v1", id, data)
}

#[tokio::test]
async fn a_value_out_of_range_dies_with_the_place_and_the_limit() {
    let mut feed = World::new().await.feed().await;
    for (id, name, value, says) in [
        ("a", "confidence", json!(1.1), "`/data/confidence` must be at most 1 ("),
        ("b", "confidence", json!(-0.01), "`/data/confidence` must be at least 0 ("),
        ("c", "type", json!("opinion"), "`/data/type` must be \"fact\", "),
        ("d", "importance", json!("utmost"), "`/data/importance` must be \"low\", "),
        ("e", "memoryId", json!(""), "`/data/memoryId` must not be empty"),
        ("f", "memoryId", json!("m".repeat(257)), "`/data/memoryId` must have at most 256 characters"),
        ("g", "updatedAt", json!("noon"), "`/data/updatedAt` must be an RFC 3339 date-time"),
    ] {
        let (reason, error) = feed.dies(memory(id, name, value)).await;
        assert_eq!(reason, "schema");
        assert!(error.contains(says) && !error.contains("Water"), "{error}");
    }
    assert_eq!(feed.size("contexts").await, 0);
    feed.one(memory("h", "confidence", json!(1)), "written").await;
    let found = feed.record("contexts", "m1").await;
    assert_eq!((text(&found, "kind"), text(&found, "importance")), ("memory", "medium"));
}

/// It is asked for again for a while: what it needs may be on its way.
#[tokio::test]
async fn a_version_of_an_unknown_document_waits_and_then_dies() {
    let mut feed = World::new().await.feed().await;
    let (reason, error) = feed.dies(version("v1", "nowhere")).await;
    assert_eq!(reason, "missing");
    assert!(error.contains("document"), "{error}");
    let letter = feed.dead("v1").await;
    assert_eq!(number(&letter, "attempts"), 5);
    assert_eq!((feed.size("document_versions").await, feed.size("documents").await), (0, 0));
    assert_eq!(feed.objects(), [""; 0], "no content without a row");
}

#[tokio::test]
async fn what_is_on_its_way_is_waited_for() {
    let world = World::new().await.set("retry.base", "1s").set("retry.max", "2s");
    let mut feed = world.feed().await;
    let touch = Event::new("document.touch.v1", "t1", json!({ "documentId": "d1", "lastAccessedAt": at(9) }));
    let restore = json!({ "documentId": "d1", "versionId": "v-v1", "newVersionId": "v-v2", "restoredBy": "u1", "restoredAt": at(8) });
    feed.send(&[Event::new("version.restore.v1", "r1", restore), version("v1", "d1"), touch]).await;
    // One of them has been tried at least.
    crate::harness::eventually("a task waits for its retry", || async {
        crate::harness::when(feed.worker.metrics().await.sum("tasks_returned_total", &[("reason", "retry")]) > 0.0)
    })
    .await;
    feed.send(&[document("d1-save", "d1")]).await;
    let ended = feed.rest().await;
    assert_eq!(ended, Ended { written: 4, ..Ended::default() });
    let found = feed.record("documents", "d1").await;
    assert_eq!(text(&found, "currentVersionId"), "v-v2");
}

/// The lifecycle has purged it: nothing brings it back.
#[tokio::test]
async fn tasks_about_what_is_purged_expire() {
    let mut feed = World::new().await.feed().await;
    for key in ["documents/d1", "contexts/c1", "sessions/s1", "users/u9"] {
        feed.coll("tombstones").insert_one(doc! { "_id": key }).await.unwrap();
    }
    let data = |name: &str, id: &str| json!({ name: id });
    for event in [
        Event::new("document.restore.v1", "a", data("documentId", "d1")).data("restoredAt", at(9)),
        document("b", "d1"),
        Event::new("document.touch.v1", "c", data("documentId", "d1")).data("lastAccessedAt", at(9)),
        Event::new("document.delete.v1", "d", data("documentId", "d1")).data("deletedAt", at(9)),
        version("e", "d1"),
        Event::new(
            "context.save.v1",
            "f",
            json!({ "contextId": "c1", "type": "t", "content": "x", "updatedAt": at(9) }),
        ),
        Event::new("context.update.v1", "g", json!({ "contextId": "c1", "title": "x", "updatedAt": at(9) })),
        Event::new("session.persist.v1", "h", json!({ "sessionId": "s1", "updatedAt": at(9) })),
        Event::new("session.touch.v1", "i", json!({ "sessionId": "s1", "lastActivityAt": at(9) })),
        Event::new("user.save.v1", "j", json!({ "userId": "u9", "updatedAt": at(9) })),
        Event::new("user.claim.v1", "k", json!({ "sessionId": "s1", "userId": "u1", "claimedAt": at(9) })),
    ] {
        let ended = feed.apply(&[event]).await;
        assert_eq!(ended, Ended { expired: 1, ..Ended::default() }, "{:?}", feed.letters().await);
    }
    for collection in ["documents", "contexts", "sessions", "users", "document_versions", "dead_letters"] {
        assert_eq!(feed.size(collection).await, 0, "{collection}");
    }
    assert_eq!(feed.objects(), [""; 0], "no content of a purged document");
}

/// The lifecycle is about to purge it: the row is fenced.
#[tokio::test]
async fn tasks_about_what_is_being_purged_expire() {
    let mut feed = World::new().await.feed().await;
    feed.one(document("a", "d1"), "written").await;
    feed.coll("documents").update_one(doc! { "_id": "d1" }, doc! { "$set": { "state": "purging" } }).await.unwrap();
    let before = feed.record("documents", "d1").await;
    let save = document("b", "d1").data("updatedAt", at(9)).data("title", "new");
    let touch = Event::new("document.touch.v1", "c", json!({ "documentId": "d1", "lastAccessedAt": at(9) }));
    let restore = Event::new("document.restore.v1", "d", json!({ "documentId": "d1", "restoredAt": at(9) }));
    for event in [save, touch, restore, version("e", "d1")] {
        feed.one(event, "expired").await;
    }
    assert_eq!(feed.record("documents", "d1").await, before);
    assert_eq!(feed.size("document_versions").await, 0);
}

#[tokio::test]
async fn what_comes_from_the_future_dies() {
    let mut feed = World::new().await.feed().await;
    let session = |id: &str, time: String| {
        Event::new("session.persist.v1", id, json!({ "sessionId": "s1", "status": id, "updatedAt": time }))
    };
    for event in [
        session("tomorrow", in_seconds(86_400)),
        session("soon", in_seconds(600)),
        Event::new("session.persist.v1", "event", json!({ "sessionId": "s1" })).with("time", in_seconds(86_400)),
        Event::new(
            "version.save.v1",
            "version",
            json!({ "documentId": "d", "versionId": "v", "kind": "major", "content": "" }),
        )
        .data("createdAt", in_seconds(86_400)),
    ] {
        let (reason, error) = feed.dies(event).await;
        assert_eq!(reason, "schema");
        assert!(error.contains("future"), "{error}");
    }
    assert_eq!(feed.size("sessions").await, 0);
    // Clocks differ a little.
    feed.one(session("fast", in_seconds(120)), "written").await;
}

#[tokio::test]
async fn without_any_order_it_dies_and_says_what_to_send() {
    let mut feed = World::new().await.feed().await;
    for event in [
        Event::new("session.persist.v1", "a", json!({ "sessionId": "s1", "status": "x" })),
        Event::new("document.save.v1", "b", json!({ "documentId": "d1", "userId": "u1" })),
        Event::new("context.delete.v1", "c", json!({ "contextId": "c1" })),
        Event::new(
            "version.save.v1",
            "d",
            json!({ "documentId": "d", "versionId": "v", "kind": "major", "content": "" }),
        ),
    ] {
        let order = match serde_json::from_str::<Value>(&event.json()).unwrap()["type"].as_str().unwrap() {
            "context.delete.v1" => "deletedAt",
            "version.save.v1" => "createdAt",
            _ => "updatedAt",
        };
        let (reason, error) = feed.dies(event).await;
        assert_eq!(reason, "schema");
        assert!(error.contains(order) && error.contains("time"), "{error}");
    }
}

#[tokio::test]
async fn names_that_are_ours_are_refused() {
    let mut feed = World::new().await.feed().await;
    for (id, name) in [("a", "_sync"), ("b", "_id"), ("c", "_x"), ("d", "$set"), ("e", "a.b"), ("f", "")] {
        let (reason, error) = feed.dies(memory(id, name, json!({ "rev": 9 }))).await;
        assert_eq!(reason, "schema", "{name}: {error}");
    }
    // Deeper they are mere data.
    feed.one(memory("ok", "metadata", json!({ "_sync": 1, "$set": 2, "a.b": 3 })), "written").await;
}

/// What the worker itself decides cannot be said by a task.
#[tokio::test]
async fn a_task_cannot_say_what_the_worker_decides() {
    let mut feed = World::new().await.feed().await;
    feed.one(document("a", "d1"), "written").await;
    for (index, (name, value)) in [
        ("state", json!("purging")),
        ("state", json!("deleted")),
        ("holdCount", json!(7)),
        ("currentVersionId", json!("v-none")),
    ]
    .into_iter()
    .enumerate()
    {
        let seconds = 10 + index as i64;
        feed.apply(&[document(&format!("x{index}"), "d1").data("updatedAt", at(seconds)).data(name, value)]).await;
        let found = feed.record("documents", "d1").await;
        assert_eq!(state(&found), "active", "{name}");
        assert!(found.get_str("currentVersionId").ok() != Some("v-none"), "{name}");
        assert!(!found.contains_key("holdCount") || found.get_i64("holdCount").ok() != Some(7), "{name}");
    }
}

/// Three merges that together exceed MongoDB's limit for one document; the others of their batch are written.
#[tokio::test]
async fn a_record_that_outgrows_the_store_dies_alone() {
    let world = World::new().await.set("limits.task_bytes", "8MiB").set("worker.memory", "128MiB");
    let mut feed = world.feed().await;
    let session = |id: &str, key: &str, seconds: i64| {
        Event::new("session.persist.v1", id, json!({ "sessionId": key, "updatedAt": at(seconds) }))
    };
    let large = "x".repeat(6 * 1024 * 1024);
    feed.one(session("a", "s1", 1).data("first", large.clone()), "written").await;
    feed.one(session("b", "s1", 2).data("second", large.clone()), "written").await;
    let before = feed.record("sessions", "s1").await;
    let batch = [session("x", "s2", 3), session("c", "s1", 3).data("third", large.clone()), session("y", "s3", 3)];
    let ended = feed.apply(&batch).await;
    assert_eq!(ended, Ended { written: 2, dead: 1, ..Ended::default() });
    let letter = feed.dead("c").await;
    assert_eq!(text(&letter, "reason"), "rejected", "{}", text(&letter, "error"));
    assert!(text(&letter, "error").contains("16"), "{}", text(&letter, "error"));
    assert_eq!(feed.record("sessions", "s1").await, before);
    // A smaller change is taken all the same, in one batch with one that is too large.
    let ended =
        feed.apply(&[session("e", "s1", 6).data("third", large), session("d", "s1", 5).data("status", "well")]).await;
    assert_eq!(ended, Ended { written: 1, dead: 1, ..Ended::default() });
    assert_eq!(text(&feed.record("sessions", "s1").await, "status"), "well");
}

#[tokio::test]
async fn an_array_that_outgrows_the_store_refuses_what_does_not_fit() {
    let world = World::new().await.set("limits.task_bytes", "8MiB").set("worker.memory", "128MiB");
    let toml = types(world.dir());
    let mut feed = world.feed_with(&toml).await;
    let large = "x".repeat(5 * 1024 * 1024);
    let entry = |id: &str, seq: i64| task("journal.append", id, "k", seq);
    for seq in 1..=3 {
        feed.one(entry(&format!("e-{seq}"), seq).data("text", large.clone()), "written").await;
    }
    let ended = feed.apply(&[entry("e-4", 4).data("text", large.clone())]).await;
    assert_eq!(ended, Ended { dead: 1, ..Ended::default() });
    feed.one(entry("e-5", 5).data("text", "small"), "written").await;
    assert_eq!(entries(&feed.record("journals", "k").await), [1, 2, 3, 5]);
}

/// One bad task among many good ones of the same records.
#[tokio::test]
async fn bad_tasks_die_alone_in_their_batch() {
    let mut feed = World::new().await.feed().await;
    let mut events: Vec<Event> = (0..50)
        .map(|i| {
            let data =
                json!({ "sessionId": format!("s{}", i % 5), "status": format!("{i}"), "updatedAt": at_micros(i) });
            Event::new("session.persist.v1", &format!("ok-{i}"), data)
        })
        .collect();
    events.insert(7, memory("bad-1", "confidence", json!(1.1)));
    events.insert(17, Event::new("session.persist.v1", "bad-2", json!({ "sessionId": "s1", "status": "x" })));
    events.insert(
        27,
        Event::new("session.persist.v1", "bad-3", json!({ "sessionId": "s1" })).with("time", in_seconds(7200)),
    );
    events.insert(37, Event::new("sesion.persist.v1", "bad-4", json!({ "sessionId": "s1" })));
    let ended = feed.apply(&events).await;
    assert_eq!((ended.all(), ended.dead), (54, 4), "{ended:?}");
    for key in 0..5 {
        let found = feed.record("sessions", &format!("s{key}")).await;
        assert_eq!(text(&found, "status"), (45 + key).to_string());
        assert!(rev(&found) <= 10);
    }
    assert_eq!(text(&feed.dead("bad-4").await, "reason"), "unknown_type");
}

/// Parts of a key that run together are still different keys.
#[tokio::test]
async fn keys_that_look_alike_are_two_records() {
    let mut feed = World::new().await.feed().await;
    let contexts = ["a", "c", "a:RELATES_TO:b", "b:RELATES_TO:c"].map(|key| {
        let data = json!({ "contextId": key, "type": "t", "content": key, "updatedAt": at(0) });
        Event::new("context.save.v1", &format!("save-{}", key.replace(':', ".")), data)
    });
    feed.apply(&contexts).await;
    let relate = |id: &str, from: &str, to: &str| {
        let data = json!({ "from": from, "to": to, "relation": "RELATES_TO", "weight": 0.5, "updatedAt": at(1) });
        Event::new("context.relate.v1", id, data)
    };
    feed.one(relate("one", "a:RELATES_TO:b", "c"), "written").await;
    feed.one(relate("two", "a", "b:RELATES_TO:c"), "written").await;
    let links = feed.coll("context_links").count_documents(doc! { "from": { "$exists": true } }).await.unwrap();
    assert_eq!(links, 2);
}

/// Ids are names, not paths: whatever they hold, the content lies inside the store and is found again.
#[tokio::test]
async fn odd_ids_stay_inside_the_store() {
    let mut feed = World::new().await.feed().await;
    let odd = ["../../escape", "/etc/passwd", "..", ".", "a/b", "a\\b", "a%2Fb", "ä ö", "a b?c#d", "con:x", "x\ny"];
    let events: Vec<Event> = odd
        .iter()
        .enumerate()
        .map(|(i, id)| document(&format!("d{i}"), id).data("userId", *id).data("content", format!("Text {i}.")))
        .collect();
    assert_eq!(
        feed.apply(&events).await,
        Ended { written: odd.len() as u64, ..Ended::default() },
        "{:?}",
        feed.letters().await
    );
    let versions: Vec<Event> = odd
        .iter()
        .enumerate()
        .map(|(i, id)| version(&format!("v{i}"), id).data("versionId", *id).data("content", format!("Version {i}.")))
        .collect();
    assert_eq!(
        feed.apply(&versions).await,
        Ended { written: odd.len() as u64, ..Ended::default() },
        "{:?}",
        feed.letters().await
    );
    let objects = feed.objects();
    assert_eq!(objects.len(), 2 * odd.len(), "{objects:?}");
    assert!(objects.iter().all(|key| key.starts_with("documents/") || key.starts_with("versions/")), "{objects:?}");
    let around: Vec<_> = std::fs::read_dir(feed.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(around, ["objects"]);
    for (i, id) in odd.iter().enumerate() {
        for (collection, text) in [("documents", format!("Text {i}.")), ("document_versions", format!("Version {i}."))]
        {
            let found = feed.record(collection, id).await;
            let hash = found.get_document("content").unwrap().get_str("hash").unwrap().to_owned();
            assert_eq!(hash, blake3::hash(text.as_bytes()).to_hex().as_str(), "{collection} {id}");
        }
    }
}

#[tokio::test]
async fn an_order_from_before_1970_dies_and_older_ones_are_orders() {
    let mut feed = World::new().await.feed().await;
    let session = |id: &str, year: &str| {
        let data = json!({ "sessionId": "s1", "status": id, "updatedAt": format!("{year}-06-01T00:00:00Z") });
        Event::new("session.persist.v1", id, data)
    };
    feed.one(session("c", "1975"), "written").await;
    feed.one(session("d", "1978"), "written").await;
    feed.one(session("e", "1971"), "superseded").await;
    let (reason, error) = feed.dies(session("b", "1960")).await;
    assert_eq!(reason, "schema");
    assert!(error.contains("1970"), "{error}");
    assert_eq!(text(&feed.record("sessions", "s1").await, "status"), "d");
    // So far back that no clock holds it: refused, not wrapped.
    let ended = feed.apply(&[session("z", "0001")]).await;
    assert_eq!(ended.written, 0, "{ended:?}");
    assert_eq!(text(&feed.record("sessions", "s1").await, "status"), "d");
}

#[tokio::test]
async fn a_number_too_large_for_an_order_dies() {
    let world = World::new().await;
    let toml = types(world.dir());
    let mut feed = world.feed_with(&toml).await;
    feed.one(task("item.merge", "ok", "k", (1 << 52) - 1).data("a", "largest"), "written").await;
    for (id, seq) in [("a", 1i64 << 52), ("b", i64::MAX)] {
        let (reason, error) = feed.dies(task("item.merge", id, "k", seq).data("a", "more")).await;
        assert_eq!(reason, "schema");
        assert!(error.contains("seq"), "{error}");
    }
    assert_eq!(feed.record("items", "k").await.get_str("a").ok(), Some("largest"));
}
