//! Relations of contexts and documents, and touches.

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::{
    harness::Event,
    records_common::{Ended, Feed, World, at, at_micros, date_at, rev, text},
};

fn context(key: &str) -> Event {
    let data = json!({ "contextId": key, "type": "note", "content": key, "updatedAt": at(0) });
    Event::new("context.save.v1", &format!("save-{key}"), data)
}

fn relate(id: &str, from: &str, relation: &str, to: &str, seconds: i64) -> Event {
    let data = json!({ "from": from, "to": to, "relation": relation, "weight": 0.5, "updatedAt": at(seconds) });
    Event::new("context.relate.v1", id, data)
}

async fn with_contexts(count: usize) -> Feed {
    let mut feed = World::new().await.feed().await;
    let contexts: Vec<Event> = (0..count).map(|i| context(&format!("c{i}"))).collect();
    feed.apply(&contexts).await;
    feed
}

/// How many relations there are.
async fn links(feed: &Feed) -> u64 {
    feed.coll("context_links").count_documents(doc! { "from": { "$exists": true } }).await.unwrap()
}

/// Everything that can be reached from `start` over `relation`, as a reader would ask for it.
async fn reach(feed: &Feed, start: &str, relation: &str) -> Vec<String> {
    let pipeline = [
        doc! { "$match": { "_id": start } },
        doc! { "$graphLookup": {
            "from": "context_links", "startWith": "$_id", "connectFromField": "to", "connectToField": "from", "as": "links",
            "restrictSearchWithMatch": { "relation": relation },
        } },
    ];
    let found: Vec<Document> = feed.coll("contexts").aggregate(pipeline).await.unwrap().try_collect().await.unwrap();
    let links = found[0].get_array("links").unwrap();
    let mut ids: Vec<String> = links.iter().map(|link| text(link.as_document().unwrap(), "to").to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn relations_are_kept_once_and_read_back_as_a_graph() {
    let mut feed = with_contexts(4).await;
    feed.one(relate("a", "c0", "CONTAINS", "c1", 1), "written").await;
    feed.one(relate("b", "c1", "CONTAINS", "c2", 1), "written").await;
    feed.one(relate("c", "c1", "INFLUENCES", "c3", 1), "written").await;
    assert_eq!(reach(&feed, "c0", "CONTAINS").await, ["c1", "c2"]);
    assert_eq!(reach(&feed, "c1", "INFLUENCES").await, ["c3"]);
    feed.one(relate("a", "c0", "CONTAINS", "c1", 1), "duplicate").await;
    feed.one(relate("d", "c0", "CONTAINS", "c1", 5).data("weight", 0.9), "written").await;
    feed.one(relate("e", "c0", "CONTAINS", "c1", 4).data("weight", 0.1), "superseded").await;
    assert_eq!(links(&feed).await, 3);
    let link = feed.coll("context_links").find_one(doc! { "from": "c0", "to": "c1" }).await.unwrap().unwrap();
    assert_eq!((link.get_f64("weight").ok(), link.get("updatedAt")), (Some(0.9), Some(&date_at(5))));
    assert_eq!(text(&link, "relation"), "CONTAINS");
}

#[tokio::test]
async fn circles_are_refused_where_they_make_no_sense() {
    let mut feed = with_contexts(4).await;
    for relation in ["CONTAINS", "FOLLOWS", "DERIVED_FROM"] {
        feed.one(relate(&format!("{relation}-1"), "c0", relation, "c1", 1), "written").await;
        feed.one(relate(&format!("{relation}-2"), "c1", relation, "c2", 2), "written").await;
        feed.one(relate(&format!("{relation}-3"), "c2", relation, "c3", 3), "written").await;
        let (reason, error) = feed.dies(relate(&format!("{relation}-4"), "c3", relation, "c0", 4)).await;
        assert!(error.contains(relation) || error.contains("circle") || error.contains("cycle"), "{reason}: {error}");
        feed.dies(relate(&format!("{relation}-5"), "c1", relation, "c0", 5)).await;
        feed.one(relate(&format!("{relation}-6"), "c0", relation, "c3", 6), "written").await;
    }
    for relation in ["RELATES_TO", "INFLUENCES"] {
        feed.one(relate(&format!("{relation}-1"), "c0", relation, "c1", 1), "written").await;
        feed.one(relate(&format!("{relation}-2"), "c1", relation, "c0", 2), "written").await;
    }
    for relation in ["RELATES_TO", "CONTAINS"] {
        let (reason, error) = feed.dies(relate(&format!("self-{relation}"), "c0", relation, "c0", 9)).await;
        assert!(error.contains("from") || error.contains("itself"), "{reason}: {error}");
    }
    assert_eq!(links(&feed).await, 3 * 4 + 2 * 2);
}

/// The last links of many circles, both ways at once by two workers: one of each pair is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circles_are_refused_when_they_close_from_both_sides_at_once() {
    let world = World::new().await.set("queues.records.batch.tasks", 2).set("queues.records.concurrency", 4);
    let mut feed = world.feed().await;
    let contexts: Vec<Event> = (0..80).map(|i| context(&format!("c{i}"))).collect();
    feed.apply(&contexts).await;
    let other = feed.world.worker("records").ready().await;
    let events: Vec<Event> = (0..40)
        .flat_map(|i| {
            let (a, b) = (format!("c{}", 2 * i), format!("c{}", 2 * i + 1));
            [relate(&format!("x{i}"), &a, "CONTAINS", &b, 1), relate(&format!("y{i}"), &b, "CONTAINS", &a, 1)]
        })
        .collect();
    feed.send(&events).await;
    feed.settled(&[&feed.worker, &other]).await;
    assert_eq!((links(&feed).await, feed.size("dead_letters").await), (40, 40));
}

#[tokio::test]
async fn documents_are_linked_across() {
    let mut feed = World::new().await.feed().await;
    for key in ["d1", "d2"] {
        let data = json!({ "documentId": key, "userId": "u1", "title": key, "updatedAt": at(0) });
        feed.one(Event::new("document.save.v1", &format!("save-{key}"), data), "written").await;
    }
    let link = |id: &str, from: &str, to: &str| {
        let data = json!({ "from": from, "to": to, "relation": "DERIVED_FROM", "updatedAt": at(1) });
        Event::new("document.link.v1", id, data)
    };
    feed.one(link("a", "d1", "d2"), "written").await;
    feed.dies(link("b", "d2", "d1")).await;
    assert_eq!(links(&feed).await, 1);
}

/// However many touches: at most one write per interval.
#[tokio::test]
async fn many_touches_become_few_writes() {
    let mut feed = World::new().await.set("limits.records_flush", "1s").feed().await;
    let save = json!({ "documentId": "d1", "userId": "u1", "title": "Hot", "updatedAt": at(0) });
    feed.one(Event::new("document.save.v1", "save", save), "written").await;
    let session = json!({ "sessionId": "s1", "updatedAt": at(0) });
    feed.one(Event::new("session.persist.v1", "session", session), "written").await;
    let start = std::time::Instant::now();
    let touches: Vec<Event> = (0..2_000i64)
        .map(|i| {
            // Shuffled a little: the newest is not the last.
            let (kind, key, field, name) = match i % 2 {
                0 => ("document.touch.v1", "d1", "lastAccessedAt", "documentId"),
                _ => ("session.touch.v1", "s1", "lastActivityAt", "sessionId"),
            };
            let data = json!({ name: key, field: at_micros(1_000_000 + (i ^ 7) * 1_000) });
            Event::new(kind, &format!("t-{i}"), data)
        })
        .collect();
    for part in touches.chunks(200) {
        feed.send(part).await;
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    }
    let ended = feed.rest().await;
    assert_eq!((ended.all(), ended.dead, ended.expired), (2_000, 0, 0), "{ended:?}");
    let intervals = start.elapsed().as_secs() as i64 + 1;
    for (collection, id, field, newest) in
        [("documents", "d1", "lastAccessedAt", 1_999i64), ("sessions", "s1", "lastActivityAt", 1_998)]
    {
        let found = feed.record(collection, id).await;
        let writes = rev(&found) - 1;
        println!("{collection}: {writes} writes in {intervals} intervals");
        assert!((1..=intervals + 1).contains(&writes), "{collection}: {writes} writes in {intervals} intervals");
        let date_at_millis = match date_at(1) {
            mongodb::bson::Bson::DateTime(date) => date.timestamp_millis() + newest,
            other => panic!("{other}"),
        };
        assert_eq!(found.get_datetime(field).unwrap().timestamp_millis(), date_at_millis, "{collection}");
    }
    // A touch never comes before its turn, and never for nothing.
    let before = feed.record("documents", "d1").await;
    let old = Event::new("document.touch.v1", "old", json!({ "documentId": "d1", "lastAccessedAt": at(0) }));
    let ended = feed.apply(&[old]).await;
    assert_eq!(ended, Ended { superseded: 1, ..Ended::default() });
    assert_eq!(feed.record("documents", "d1").await, before);
}

/// A worker that stops does not sit on touches: they are written, or given back for the next one.
#[tokio::test]
async fn touches_survive_the_end_of_their_worker() {
    let world = World::new().await.short_lease().set("limits.records_flush", "5s");
    let mut feed = world.feed().await;
    let save = json!({ "documentId": "d1", "userId": "u1", "title": "Hot", "updatedAt": at(0) });
    feed.one(Event::new("document.save.v1", "save", save), "written").await;
    for (round, end) in ["TERM", "KILL"].into_iter().enumerate() {
        let touches: Vec<Event> = (0..50)
            .map(|i| {
                let seconds = 100 * (round as i64 + 1) + i;
                Event::new(
                    "document.touch.v1",
                    &format!("t-{end}-{i}"),
                    json!({ "documentId": "d1", "lastAccessedAt": at(seconds) }),
                )
            })
            .collect();
        feed.send(&touches).await;
        crate::harness::eventually("the worker has taken them", || async {
            crate::harness::when(feed.count("LLEN", &feed.key("records", "normal")).await == 0)
        })
        .await;
        feed.worker.signal(end);
        if end == "TERM" {
            assert_eq!(feed.worker.exit().await, 0);
        } else {
            feed.worker.kill();
        }
        feed.worker = feed.world.worker("records").ready().await;
        feed.world.drained("records").await;
        let found = feed.record("documents", "d1").await;
        assert_eq!(found.get("lastAccessedAt"), Some(&date_at(100 * (round as i64 + 1) + 49)), "after {end}");
    }
    assert_eq!(feed.size("dead_letters").await, 0);
}
