//! The life of documents, all at once: saves, versions, decisions, restorations, holds, touches and the claim of their
//! session, duplicated and shuffled, by two workers. `MODEL_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::Document;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    harness::{Event, var},
    list_queue::number,
    records_common::{World, at, date_at, text},
};

const SESSIONS: usize = 4;
const DOCUMENTS: usize = 2;
const VERSIONS: usize = 12;

fn session_of(document: &str) -> &str {
    &document[1..2]
}

fn save(document: &str, n: i64) -> Event {
    let data = json!({
        "documentId": document, "sessionId": format!("s{}", session_of(document)), "title": format!("Title {n}"),
        "content": content(document, n), "updatedAt": at(n)
    });
    Event::new("document.save.v1", &format!("save-{document}-{n}"), data)
}

fn content(document: &str, n: i64) -> String {
    format!("{document} at {n}. {}", "What stays the same in all of them, word for word. ".repeat(30))
}

/// Everything that happens to one document after it was first saved; orders are above those of [`save`].
fn life(document: &str) -> Vec<Event> {
    let mut events: Vec<Event> = (2..6).map(|n| save(document, n)).collect();
    for v in 0..VERSIONS {
        let version = format!("{document}-v{v}");
        let kind = ["major", "minor", "ai"][v % 3];
        let second = 100 + v as i64;
        let data = json!({
            "documentId": document, "versionId": version, "kind": kind, "content": content(document, second), "createdAt": at(second)
        });
        events.push(Event::new("version.save.v1", &format!("save-{version}"), data));
        if kind == "ai" {
            let decision = if v % 2 == 0 { "accepted" } else { "rejected" };
            let data = json!({ "versionId": version, "decision": decision, "decidedAt": at(200 + v as i64) });
            events.push(Event::new("version.decide.v1", &format!("decide-{version}"), data));
        }
        let data = json!({ "documentId": document, "lastAccessedAt": at(second) });
        events.push(Event::new("document.touch.v1", &format!("touch-{version}"), data));
    }
    let back = json!({
        "documentId": document, "versionId": format!("{document}-v1"), "newVersionId": format!("{document}-back"),
        "restoredAt": at(300)
    });
    events.push(Event::new("version.restore.v1", &format!("back-{document}"), back));
    for h in 0..5 {
        let hold = format!("{document}-h{h}");
        let data = json!({ "holdId": hold, "entityType": "document", "entityId": document, "reason": "A case.", "placedAt": at(10) });
        events.push(Event::new("hold.place.v1", &format!("place-{hold}"), data));
        if h < 3 {
            events.push(Event::new(
                "hold.lift.v1",
                &format!("lift-{hold}"),
                json!({ "holdId": hold, "liftedAt": at(20) }),
            ));
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_live_through_everything_at_once() {
    let seed = var("MODEL_SEED").and_then(|v| v.parse::<u64>().ok()).unwrap_or_else(rand::random);
    println!("MODEL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let batch = [1, 7, 40][rng.random_range(0..3)];
    // What is missing waits for what makes it: the tasks come in no order.
    let world = World::new().await.set("queues.records.batch.tasks", batch).set("retry.attempts", 100);
    let feed = world.feed().await;
    let other = feed.world.worker("records").ready().await;
    let documents: Vec<String> = (0..SESSIONS).flat_map(|s| (0..DOCUMENTS).map(move |d| format!("d{s}-{d}"))).collect();
    let sessions = (0..SESSIONS).map(|s| {
        let data = json!({ "sessionId": format!("s{s}"), "updatedAt": at(1) });
        Event::new("session.persist.v1", &format!("session-{s}"), data)
    });
    let first: Vec<Event> = sessions.chain(documents.iter().map(|document| save(document, 1))).collect();
    feed.send(&first).await;
    feed.settled(&[&feed.worker, &other]).await;

    let mut events: Vec<Event> = documents.iter().flat_map(|document| life(document)).collect();
    events.extend((0..SESSIONS).map(|s| {
        let data = json!({ "sessionId": format!("s{s}"), "userId": format!("u{s}"), "claimedAt": at(150) });
        Event::new("user.claim.v1", &format!("claim-{s}"), data)
    }));
    let again: Vec<Event> = events.iter().filter(|_| rng.random_bool(0.3)).cloned().collect();
    events.extend(again);
    for i in (1..events.len()).rev() {
        events.swap(i, rng.random_range(0..=i));
    }
    feed.send(&events).await;
    feed.settled(&[&feed.worker, &other]).await;
    assert_eq!(feed.letters().await, [""; 0], "MODEL_SEED={seed}");
    check(&feed.world, &documents, seed).await;

    // As a reader sees them, byte for byte.
    for version in ["d0-0-v0", "d1-1-v2", "d2-0-v11", "d3-1-v7"] {
        let second = 100 + version[6..].parse::<i64>().unwrap();
        let read = feed.command(&["get", "version", version, "--content"]).end().await.code(0);
        assert_eq!(read.out, content(&version[..4], second), "MODEL_SEED={seed} {version}");
    }
    let read = feed.command(&["get", "document", "d2-1", "--content"]).end().await.code(0);
    assert_eq!(read.out, content("d2-1", 5), "MODEL_SEED={seed}");
}

async fn check(world: &World, documents: &[String], seed: u64) {
    let objects: BTreeSet<String> = world.objects().into_iter().collect();
    let mut rows = BTreeSet::new();
    let mut key_of = |record: &Document, user: &str| {
        let key = text(record.get_document("content").expect("it has a content"), "key").to_owned();
        assert!(objects.contains(&key), "MODEL_SEED={seed}: no object {key}");
        // What a save stored while the session was being claimed stays where it lies; its row names it.
        let session = text(record, "_id").replacen('d', "s", 1);
        let owner = key.split('/').nth(1).unwrap_or_default();
        let is_known = owner == user || session.split('-').next() == Some(owner);
        assert!(is_known, "MODEL_SEED={seed}: {key} is neither the user's nor the session's");
        rows.insert(key);
    };
    let hash = |record: &Document| text(record.get_document("content").expect("it has a content"), "hash").to_owned();
    let mut versions: BTreeMap<String, Vec<Document>> = BTreeMap::new();
    for version in world.all("document_versions").await {
        versions.entry(text(&version, "documentId").to_owned()).or_default().push(version);
    }
    for document in documents {
        let user = format!("u{}", session_of(document));
        let found = world.one("documents", document).await.expect("the document is there");
        key_of(&found, &user);
        assert_eq!(text(&found, "userId"), user, "MODEL_SEED={seed} {document}");
        assert_eq!(text(&found, "title"), "Title 5", "MODEL_SEED={seed} {document}");
        assert_eq!(hash(&found), blake3::hash(content(document, 5).as_bytes()).to_hex().as_str(), "MODEL_SEED={seed}");
        // Touched, saved in versions, and at last restored to an earlier one.
        assert_eq!(found.get("lastAccessedAt"), Some(&date_at(300)), "MODEL_SEED={seed} {document}");
        assert_eq!(number(&found, "holdCount"), 2, "MODEL_SEED={seed} {document}");
        assert_eq!(text(&found, "currentVersionId"), format!("{document}-back"), "MODEL_SEED={seed}");

        let mut versions = versions.remove(document).expect("it has versions");
        versions.sort_by_key(|version| number(version, "versionNumber"));
        assert_eq!(versions.len(), VERSIONS + 1, "MODEL_SEED={seed} {document}");
        let mut before = None;
        for (index, version) in versions.iter().enumerate() {
            let id = text(version, "_id");
            key_of(version, &user);
            assert_eq!(number(version, "versionNumber"), index as i64 + 1, "MODEL_SEED={seed} {id}");
            assert_eq!(version.get_str("previousVersionId").ok(), before, "MODEL_SEED={seed} {id}");
            before = Some(id);
            let v = id.rsplit_once("-v").map_or(1, |(_, v)| v.parse::<i64>().expect("a number"));
            assert_eq!(
                hash(version),
                blake3::hash(content(document, 100 + v).as_bytes()).to_hex().as_str(),
                "MODEL_SEED={seed} {id}"
            );
            let kind = match (id.ends_with("-back"), v % 6) {
                (true, _) | (_, 0 | 2 | 3) => "major",
                (_, 5) => "ai",
                _ => "minor",
            };
            assert_eq!(text(version, "kind"), kind, "MODEL_SEED={seed} {id}");
        }
    }
    assert!(versions.is_empty(), "MODEL_SEED={seed}: versions of nothing: {versions:?}");
    // An object is there before its row: who finds then that the owner has changed writes it again, under the new name.
    println!("{} objects of {} rows", objects.len(), rows.len());
}
