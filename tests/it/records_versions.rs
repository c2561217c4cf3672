//! Versions of documents: numbers without races, one chain, the right current one, decided and restored.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document, doc};
use serde_json::json;

use crate::{
    harness::{Event, Worker},
    list_queue::number,
    records_common::{Ended, Feed, World, at, at_micros, text},
};

fn document(id: &str, key: &str) -> Event {
    let data = json!({ "documentId": key, "userId": "u1", "title": "T", "content": "Start.", "updatedAt": at(0) });
    Event::new("document.save.v1", id, data)
}

/// The version `v-ID` of the document `d1`.
fn version(id: &str, kind: &str, seconds: i64, content: &str) -> Event {
    let data = json!({
        "documentId": "d1", "versionId": format!("v-{id}"), "kind": kind, "content": content, "createdBy": "u1",
        "changeDescription": format!("change {id}"), "createdAt": at(seconds)
    });
    Event::new("version.save.v1", id, data)
}

fn decide(id: &str, version: &str, decision: &str, seconds: i64) -> Event {
    let data = json!({ "versionId": version, "decision": decision, "decidedBy": "u1", "decidedAt": at(seconds) });
    Event::new("version.decide.v1", id, data)
}

fn restore(id: &str, version: &str, new: &str, seconds: i64) -> Event {
    let data = json!({
        "documentId": "d1", "versionId": version, "newVersionId": new, "restoredBy": "u1", "restoredAt": at(seconds)
    });
    Event::new("version.restore.v1", id, data)
}

async fn with_document() -> Feed {
    let mut feed = World::new().await.feed().await;
    feed.one(document("save", "d1"), "written").await;
    feed
}

async fn current(feed: &Feed) -> String {
    text(&feed.record("documents", "d1").await, "currentVersionId").to_owned()
}

fn previous(version: &Document) -> Option<&str> {
    version.get("previousVersionId").and_then(Bson::as_str)
}

/// All versions of a document by number; fails unless the numbers go from 1 without a gap and each version's predecessor
/// is the one with the number before.
async fn chain(feed: &Feed, document: &str) -> BTreeMap<i64, Document> {
    let versions = feed.all("document_versions").await;
    let versions: Vec<Document> = versions.into_iter().filter(|v| text(v, "documentId") == document).collect();
    let count = versions.len() as i64;
    let by_number: BTreeMap<i64, Document> = versions.into_iter().map(|v| (number(&v, "versionNumber"), v)).collect();
    assert_eq!(by_number.keys().copied().collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>(), "{document}");
    for (n, version) in &by_number {
        let before = by_number.get(&(n - 1)).map(|before| text(before, "_id"));
        assert_eq!(previous(version), before, "{document}: the predecessor of number {n}");
    }
    by_number
}

fn hash(content: &str) -> String {
    blake3::hash(content.as_bytes()).to_hex().to_string()
}

fn content_hash(record: &Document) -> &str {
    text(record.get_document("content").unwrap_or_else(|e| panic!("{e}: {record}")), "hash")
}

#[tokio::test]
async fn a_version_that_is_being_pruned_has_no_successor_and_is_no_base() {
    let mut feed = with_document().await;
    let long = "A sentence that is said again and again. ".repeat(50);
    feed.one(version("a", "major", 1, "One."), "written").await;
    feed.one(version("b", "ai", 2, &long), "written").await;
    feed.one(decide("no", "v-b", "rejected", 3), "written").await;
    let versions = feed.coll("document_versions");
    let fence = doc! { "$set": { "state": "purging" }, "$unset": { "content": "" }, "$inc": { "_sync.rev": 1_i64 } };
    versions.update_one(doc! { "_id": "v-b" }, fence).await.unwrap();
    feed.one(version("c", "major", 4, &format!("{long} And more.")), "written").await;
    let next = feed.record("document_versions", "v-c").await;
    assert_eq!((number(&next, "versionNumber"), previous(&next)), (3, Some("v-a")));
    assert!(!next.get_document("content").unwrap().get_str("base").is_ok_and(|base| base == "v-b"), "{next}");
    // And once it is gone.
    versions.delete_one(doc! { "_id": "v-b" }).await.unwrap();
    versions.delete_one(doc! { "_id": "v-c" }).await.unwrap();
    feed.one(version("d", "major", 5, "Four."), "written").await;
    let next = feed.record("document_versions", "v-d").await;
    assert_eq!((number(&next, "versionNumber"), previous(&next)), (4, Some("v-a")));
}

#[tokio::test]
async fn versions_are_numbered_and_chained() {
    let mut feed = with_document().await;
    feed.one(version("a", "major", 1, "One."), "written").await;
    feed.one(version("b", "minor", 2, "One. Two."), "written").await;
    feed.one(version("c", "major", 3, "One. Two. Three."), "written").await;
    let versions = chain(&feed, "d1").await;
    assert_eq!(versions.values().map(|v| text(v, "_id")).collect::<Vec<_>>(), ["v-a", "v-b", "v-c"]);
    let third = &versions[&3];
    assert_eq!(
        (text(third, "kind"), text(third, "createdBy"), text(third, "changeDescription")),
        ("major", "u1", "change c")
    );
    assert!(matches!(third.get("createdAt"), Some(Bson::DateTime(_))), "{third}");
    assert_eq!(content_hash(third), hash("One. Two. Three."));
    let content = third.get_document("content").unwrap();
    assert_eq!(number(content, "size"), 16);
    // The ids, and what tells two contents under one id apart.
    let key = text(content, "key");
    assert!(key.starts_with("versions/u1/d1/v-c."), "{key}");
    assert!(feed.objects().iter().any(|object| object == key), "{:?}", feed.objects());
    assert_eq!(current(&feed).await, "v-c");

    // Redelivered, and another task for a version that is there: no number is spent.
    feed.one(version("b", "minor", 2, "One. Two."), "duplicate").await;
    let other = Event::new(
        "version.save.v1",
        "other",
        serde_json::from_str::<serde_json::Value>(&version("b", "major", 9, "Else.").json()).unwrap()["data"].clone(),
    );
    let ended = feed.apply(&[other]).await;
    assert_eq!((ended.all(), ended.written, ended.dead), (1, 0, 0), "{ended:?}");
    assert_eq!(chain(&feed, "d1").await, versions);
    assert_eq!(current(&feed).await, "v-c");
}

#[tokio::test]
async fn a_suggestion_is_current_only_when_it_is_accepted() {
    let mut feed = with_document().await;
    feed.one(version("a", "major", 1, "One."), "written").await;
    feed.one(version("b", "ai", 2, "One, better."), "written").await;
    feed.one(version("c", "ai", 3, "One, worse."), "written").await;
    assert_eq!(current(&feed).await, "v-a");
    feed.one(decide("no", "v-c", "rejected", 4), "written").await;
    let rejected = feed.record("document_versions", "v-c").await;
    assert_eq!((text(&rejected, "kind"), text(&rejected, "decision")), ("ai", "rejected"));
    assert_eq!(current(&feed).await, "v-a");
    feed.one(decide("yes", "v-b", "accepted", 5), "written").await;
    let accepted = feed.record("document_versions", "v-b").await;
    assert_eq!((text(&accepted, "kind"), text(&accepted, "decision")), ("major", "accepted"));
    assert_eq!((number(&accepted, "versionNumber"), text(&accepted, "decidedBy")), (2, "u1"));
    assert_eq!(current(&feed).await, "v-b");
    feed.one(decide("yes", "v-b", "accepted", 5), "duplicate").await;
    // An older decision, late.
    feed.one(decide("late", "v-b", "rejected", 4), "superseded").await;
    let accepted = feed.record("document_versions", "v-b").await;
    assert_eq!((text(&accepted, "kind"), text(&accepted, "decision")), ("major", "accepted"));
    assert_eq!(feed.size("audit_log").await, 2);

    let (reason, _) = feed.dies(decide("unknown", "v-nowhere", "accepted", 6)).await;
    assert_eq!(reason, "missing");
}

#[tokio::test]
async fn an_earlier_version_comes_back_as_a_new_one() {
    let mut feed = with_document().await;
    let (first, second) = ("The first text. ".repeat(200), "The second text. ".repeat(200));
    feed.one(version("a", "major", 1, &first), "written").await;
    feed.one(version("b", "major", 2, &second), "written").await;
    feed.one(restore("back", "v-a", "v-c", 3), "written").await;
    let versions = chain(&feed, "d1").await;
    let restored = &versions[&3];
    assert_eq!(
        (text(restored, "_id"), text(restored, "kind"), content_hash(restored)),
        ("v-c", "major", hash(&first).as_str())
    );
    assert_eq!(current(&feed).await, "v-c");
    assert_eq!(content_hash(&versions[&1]), hash(&first));
    feed.one(restore("back", "v-a", "v-c", 3), "duplicate").await;
    assert_eq!(chain(&feed, "d1").await, versions);
    let (reason, _) = feed.dies(restore("nothing", "v-none", "v-x", 4)).await;
    assert_eq!(reason, "missing");
    // Of another document.
    feed.one(document("save-2", "d2"), "written").await;
    let foreign = restore("foreign", "v-a", "v-y", 5).data("documentId", "d2");
    let ended = feed.apply(&[foreign]).await;
    assert_eq!(ended, Ended { dead: 1, ..Ended::default() });
    assert_eq!(feed.size("document_versions").await, 3);
}

/// An older version that comes late gets the next number, and does not become the current one.
#[tokio::test]
async fn a_late_version_is_not_the_current_one() {
    let mut feed = with_document().await;
    feed.one(version("new", "major", 9, "New."), "written").await;
    feed.one(version("old", "major", 1, "Old."), "written").await;
    assert_eq!(current(&feed).await, "v-new");
    chain(&feed, "d1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_versions_at_once_get_two_hundred_numbers() {
    // Small batches: more of them write at once.
    let world = World::new().await.set("queues.records.batch.tasks", 20).set("queues.records.concurrency", 4);
    let mut feed = world.feed().await;
    feed.apply(&[document("save", "d1"), document("save-2", "d2")]).await;
    let others: Vec<Worker> =
        vec![feed.world.worker("records").ready().await, feed.world.worker("records").ready().await];
    let events: Vec<Event> = (0..200i64)
        .map(|i| {
            let document = if i % 10 == 9 { "d2" } else { "d1" };
            let data = json!({
                "documentId": document, "versionId": format!("v-{i}"), "kind": "major", "createdBy": "u1",
                "content": format!("Text number {i}. {}", "More of the same. ".repeat(40)), "createdAt": at_micros(1_000_000 + i)
            });
            Event::new("version.save.v1", &format!("save-v{i}"), data)
        })
        .collect();
    // Each is delivered twice, the second time in another order.
    let again: Vec<Event> = events.iter().rev().cloned().collect();
    feed.send(&events).await;
    feed.send(&again).await;
    feed.world.drained("records").await;
    let mut all = Ended::of(&feed.worker.at_rest().await);
    let mut busy = 1;
    for worker in &others {
        let ended = Ended::of(&worker.at_rest().await);
        busy += usize::from(ended.written > 0);
        all = Ended {
            written: all.written + ended.written,
            duplicate: all.duplicate + ended.duplicate,
            superseded: all.superseded + ended.superseded,
            expired: all.expired + ended.expired,
            dead: all.dead + ended.dead,
        };
    }
    assert_eq!(all, Ended { written: 202, duplicate: 200, ..Ended::default() }, "{:?}", feed.letters().await);
    println!("{busy} of 3 workers wrote");
    for (document, count, newest) in [("d1", 180, "v-198"), ("d2", 20, "v-199")] {
        let versions = chain(&feed, document).await;
        assert_eq!(versions.len(), count, "{document}");
        let found = feed.record("documents", document).await;
        assert_eq!(text(&found, "currentVersionId"), newest, "{document}");
        for version in versions.values() {
            let i: i64 = text(version, "_id")[2..].parse().unwrap();
            let wanted = format!("Text number {i}. {}", "More of the same. ".repeat(40));
            assert_eq!(content_hash(version), hash(&wanted));
        }
    }
    // Every object has its row, every row its object.
    let rows: BTreeSet<String> = feed
        .all("document_versions")
        .await
        .iter()
        .map(|v| text(v.get_document("content").unwrap(), "key").to_owned())
        .collect();
    let objects: BTreeSet<String> = feed.objects().into_iter().filter(|key| key.starts_with("versions/")).collect();
    assert_eq!(rows, objects);
}

/// Saves, decisions and restorations of one document by two workers at once: one chain, one current version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_about_one_document_at_once() {
    let world = World::new().await.set("queues.records.batch.tasks", 10).set("retry.attempts", 20);
    let mut feed = world.feed().await;
    feed.one(document("save", "d1"), "written").await;
    let other = feed.world.worker("records").ready().await;
    let mut events = Vec::new();
    for i in 0..60i64 {
        let kind = ["major", "minor", "ai"][i as usize % 3];
        events.push(version(&format!("{i}"), kind, i, &format!("Text {i}.")));
        if kind == "ai" {
            let decision = if i % 2 == 0 { "accepted" } else { "rejected" };
            events.push(decide(&format!("decide-{i}"), &format!("v-{i}"), decision, 1000 + i));
        }
        if i % 7 == 0 {
            events.push(restore(&format!("restore-{i}"), &format!("v-{i}"), &format!("v-r{i}"), 2000 + i));
        }
        let touch = Event::new(
            "document.touch.v1",
            &format!("touch-{i}"),
            json!({ "documentId": "d1", "lastAccessedAt": at(i) }),
        );
        events.push(touch);
        let title = json!({ "documentId": "d1", "userId": "u1", "title": format!("Title {i}"), "updatedAt": at(i) });
        events.push(Event::new("document.save.v1", &format!("title-{i}"), title));
    }
    feed.send(&events).await;
    feed.settled(&[&feed.worker, &other]).await;
    assert_eq!(feed.size("dead_letters").await, 0, "{:?}", feed.letters().await);
    let versions = chain(&feed, "d1").await;
    assert_eq!(versions.len(), 60 + 9);
    for i in (2..60).step_by(3) {
        let version = feed.record("document_versions", &format!("v-{i}")).await;
        let wanted = if i % 2 == 0 { ("accepted", "major") } else { ("rejected", "ai") };
        assert_eq!((text(&version, "decision"), text(&version, "kind")), wanted, "v-{i}");
    }
    let found = feed.record("documents", "d1").await;
    assert_eq!(text(&found, "title"), "Title 59");
    assert_eq!(text(&found, "currentVersionId"), "v-r56");
    // Going back to a version is an access, too.
    assert_eq!(found.get("lastAccessedAt"), Some(&crate::records_common::date_at(2056)));
    other.stop().await;
    feed.rest().await;
    // The deletion closes all of it.
    feed.one(Event::new("document.delete.v1", "end", json!({ "documentId": "d1", "deletedAt": at(3000) })), "written")
        .await;
    feed.apply(&[version("late", "major", 2500, "Late.")]).await;
    assert_eq!(crate::records_common::state(&feed.record("documents", "d1").await), "deleted");
}
