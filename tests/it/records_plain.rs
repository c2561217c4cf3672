//! The plain write modes, through types that ship: what is newest is decided by the declared order, never by arrival.

use mongodb::bson::Bson;
use serde_json::json;

use crate::{
    harness::Event,
    records_common::{Ended, World, at, at_micros, date_at, rev, state, text},
};

fn session(id: &str, seconds: i64, status: &str) -> Event {
    Event::new("session.persist.v1", id, json!({ "sessionId": "s1", "status": status, "updatedAt": at(seconds) }))
}

fn interaction(id: &str, key: &str, response: &str) -> Event {
    Event::new(
        "interaction.persist.v1",
        id,
        json!({ "interactionId": key, "sessionId": "s1", "role": "assistant", "response": response, "timestamp": at(1) }),
    )
}

fn context(id: &str, seconds: i64, content: &str) -> Event {
    let data = json!({ "contextId": "c1", "type": "note", "content": content, "updatedAt": at(seconds) });
    Event::new("context.save.v1", id, data)
}

fn context_update(id: &str, seconds: i64, field: &str, value: &str) -> Event {
    Event::new("context.update.v1", id, json!({ "contextId": "c1", "updatedAt": at(seconds) })).data(field, value)
}

fn context_delete(id: &str, seconds: i64) -> Event {
    Event::new("context.delete.v1", id, json!({ "contextId": "c1", "deletedAt": at(seconds), "actor": "u-admin" }))
}

fn document(id: &str, seconds: i64, title: &str) -> Event {
    let data = json!({ "documentId": "d1", "userId": "u1", "title": title, "updatedAt": at(seconds) });
    Event::new("document.save.v1", id, data)
}

fn document_delete(id: &str, seconds: i64) -> Event {
    Event::new("document.delete.v1", id, json!({ "documentId": "d1", "deletedAt": at(seconds), "actor": "u-admin" }))
}

fn document_restore(id: &str, seconds: i64) -> Event {
    Event::new("document.restore.v1", id, json!({ "documentId": "d1", "restoredAt": at(seconds), "actor": "u-admin" }))
}

#[tokio::test]
async fn insert_happens_once() {
    let mut feed = World::new().await.feed().await;
    feed.one(interaction("i-1", "int1", "first"), "written").await;
    feed.one(interaction("i-1", "int1", "first"), "duplicate").await;
    // Another task about the same record: what is there stays.
    let ended = feed.apply(&[interaction("i-2", "int1", "second")]).await;
    assert_eq!((ended.all(), ended.written, ended.dead), (1, 0, 0), "{ended:?}");
    let found = feed.record("interactions", "int1").await;
    assert_eq!((text(&found, "response"), rev(&found)), ("first", 1));
    assert_eq!(found.get("timestamp"), Some(&date_at(1)));

    // Within one batch as well.
    let many: Vec<Event> = (0..40).map(|i| interaction(&format!("m-{i}"), &format!("m{}", i % 4), "text")).collect();
    let ended = feed.apply(&[&many[..], &many[..]].concat()).await;
    assert_eq!((ended.written, ended.duplicate + ended.superseded, ended.dead), (4, 76, 0), "{ended:?}");
    assert_eq!(feed.size("interactions").await, 5);
}

#[tokio::test]
async fn merge_keeps_of_each_field_the_newest() {
    let mut feed = World::new().await.feed().await;
    feed.one(session("s-5", 5, "busy").data("documentId", "d1"), "written").await;
    // Older, with a field that nobody has set yet: only that is taken.
    feed.one(session("s-3", 3, "starting").data("userId", "u1"), "written").await;
    let found = feed.record("sessions", "s1").await;
    assert_eq!((text(&found, "status"), text(&found, "userId"), text(&found, "documentId")), ("busy", "u1", "d1"));
    assert_eq!((state(&found), found.get("updatedAt")), ("active", Some(&date_at(5))));
    // Wholly older: moot.
    feed.one(session("s-4", 4, "idle").data("userId", "u2"), "written").await;
    feed.one(session("s-2", 2, "unborn").data("userId", "u0"), "superseded").await;
    let found = feed.record("sessions", "s1").await;
    assert_eq!((text(&found, "status"), text(&found, "userId"), rev(&found)), ("busy", "u2", 3));
    // Redelivery changes nothing, however old.
    let before = feed.record("sessions", "s1").await;
    let again =
        [session("s-5", 5, "busy").data("documentId", "d1"), session("s-3", 3, "starting").data("userId", "u1")];
    let ended = feed.apply(&again).await;
    assert_eq!((ended.written, ended.duplicate + ended.superseded), (0, 2), "{ended:?}");
    assert_eq!(feed.record("sessions", "s1").await, before);
    // Newer: everything that it says, nothing else.
    feed.one(session("s-9", 9, "done"), "written").await;
    let found = feed.record("sessions", "s1").await;
    assert_eq!((text(&found, "status"), text(&found, "userId"), text(&found, "documentId")), ("done", "u2", "d1"));
}

#[tokio::test]
async fn a_batch_of_one_record_ends_as_the_tasks_would_one_by_one() {
    let mut feed = World::new().await.feed().await;
    let mut events: Vec<Event> = (0..100).map(|i| session(&format!("s-{i}"), i, &format!("status {i}"))).collect();
    events.reverse();
    let ended = feed.apply(&events).await;
    assert_eq!((ended.all(), ended.dead, ended.expired), (100, 0, 0), "{ended:?}");
    let found = feed.record("sessions", "s1").await;
    assert_eq!(text(&found, "status"), "status 99");
    assert_eq!(found.get("updatedAt"), Some(&date_at(99)));
}

#[tokio::test]
async fn microseconds_decide() {
    let mut feed = World::new().await.feed().await;
    let event = |id: &str, micros: i64, status: &str| {
        let data = json!({ "sessionId": "s1", "status": status, "updatedAt": at_micros(micros) });
        Event::new("session.persist.v1", id, data)
    };
    feed.one(event("a", 2, "two"), "written").await;
    feed.one(event("b", 1, "one"), "superseded").await;
    assert_eq!(text(&feed.record("sessions", "s1").await, "status"), "two");
    feed.one(event("c", 3, "three"), "written").await;
    assert_eq!(text(&feed.record("sessions", "s1").await, "status"), "three");
}

/// Two tasks of the same instant: some one of them wins, whatever the order of arrival.
#[tokio::test]
async fn of_equals_the_same_one_wins_in_either_order() {
    let (mut one, mut other) = (World::new().await.feed().await, World::new().await.feed().await);
    let tasks: Vec<Event> = (0..8).map(|i| session(&format!("equal-{i}"), 5, &format!("status {i}"))).collect();
    for event in &tasks {
        one.apply(std::slice::from_ref(event)).await;
    }
    for event in tasks.iter().rev() {
        other.apply(std::slice::from_ref(event)).await;
    }
    let (found, also) = (one.record("sessions", "s1").await, other.record("sessions", "s1").await);
    assert_eq!(text(&found, "status"), text(&also, "status"));
}

/// Equals that came in one batch: each of them once more, alone, changes nothing.
#[tokio::test]
async fn of_equals_in_one_batch_a_redelivery_changes_nothing() {
    let mut feed = World::new().await.feed().await;
    let tasks: Vec<Event> = (0..60)
        .map(|i| {
            let data = json!({ "sessionId": format!("s{}", i % 20), "status": format!("{i}"), "updatedAt": at(5) });
            Event::new("session.persist.v1", &format!("equal-{i}"), data)
        })
        .collect();
    feed.apply(&tasks).await;
    let statuses = |records: Vec<mongodb::bson::Document>| -> std::collections::BTreeMap<String, String> {
        records.iter().map(|r| (text(r, "_id").to_owned(), text(r, "status").to_owned())).collect()
    };
    let before = statuses(feed.all("sessions").await);
    for event in tasks.iter().rev() {
        feed.apply(std::slice::from_ref(event)).await;
    }
    assert_eq!(statuses(feed.all("sessions").await), before);
}

#[tokio::test]
async fn without_its_order_field_the_time_of_the_event_counts() {
    let mut feed = World::new().await.feed().await;
    let event = |id: &str, seconds: i64, status: &str| {
        let data = json!({ "sessionId": "s1", "status": status });
        Event::new("session.persist.v1", id, data).with("time", at(seconds))
    };
    feed.one(event("a", 5, "five"), "written").await;
    feed.one(event("b", 4, "four"), "superseded").await;
    // A field of the data comes before the event's time.
    feed.one(session("c", 6, "six").with("time", at(1)), "written").await;
    feed.one(session("d", 3, "three").with("time", at(9)), "superseded").await;
    let found = feed.record("sessions", "s1").await;
    assert_eq!((text(&found, "status"), found.get("updatedAt")), ("six", Some(&date_at(6))));
}

#[tokio::test]
async fn replace_takes_the_place_of_the_whole() {
    let mut feed = World::new().await.feed().await;
    feed.one(context("c-5", 5, "five").data("title", "Five"), "written").await;
    feed.one(context("c-4", 4, "four").data("title", "Four"), "superseded").await;
    feed.one(context("c-6", 6, "six"), "written").await;
    let found = feed.record("contexts", "c1").await;
    assert_eq!((text(&found, "content"), text(&found, "kind"), state(&found)), ("six", "context", "active"));
    assert!(!found.contains_key("title"), "{found}");
    feed.one(context("c-6", 6, "six"), "duplicate").await;

    // A merge that is newer than a later replacement stays; an older one goes.
    feed.one(context_update("u-9", 9, "title", "Nine"), "written").await;
    feed.one(context_update("u-7", 7, "importance", "high"), "written").await;
    feed.one(context("c-8", 8, "eight"), "written").await;
    let found = feed.record("contexts", "c1").await;
    assert_eq!((text(&found, "content"), text(&found, "title")), ("eight", "Nine"));
    assert!(!found.contains_key("importance"), "{found}");
    // An update from before the replacement, late.
    feed.one(context_update("u-71", 7, "importance", "low"), "superseded").await;
    assert!(!feed.record("contexts", "c1").await.contains_key("importance"));
}

#[tokio::test]
async fn a_deleted_record_stays_deleted_whatever_comes_late() {
    let mut feed = World::new().await.feed().await;
    feed.one(context("c-5", 5, "five"), "written").await;
    feed.one(context_delete("x-7", 7), "written").await;
    let deleted = feed.record("contexts", "c1").await;
    assert_eq!((state(&deleted), deleted.get("deletedAt")), ("deleted", Some(&date_at(7))));
    assert_eq!(text(&deleted, "content"), "five", "a soft deletion keeps what was there");
    feed.one(context_delete("x-7", 7), "duplicate").await;
    feed.one(context("c-6", 6, "six"), "superseded").await;
    feed.one(context_update("u-6", 6, "title", "late"), "superseded").await;
    assert_eq!(feed.record("contexts", "c1").await, deleted);
    // A newer change of a field does not bring it back.
    feed.apply(&[context_update("u-8", 8, "title", "eight")]).await;
    assert_eq!(state(&feed.record("contexts", "c1").await), "deleted");
    // A newer whole does.
    feed.one(context("c-9", 9, "nine"), "written").await;
    let anew = feed.record("contexts", "c1").await;
    assert_eq!((state(&anew), text(&anew, "content")), ("active", "nine"));
    assert!(!anew.contains_key("deletedAt"), "{anew}");
    // The deletion, delivered once more, is an old one now.
    let ended = feed.apply(&[context_delete("x-7", 7)]).await;
    assert_eq!((ended.written, ended.dead), (0, 0), "{ended:?}");
    assert_eq!(state(&feed.record("contexts", "c1").await), "active");
}

#[tokio::test]
async fn a_deletion_that_comes_before_its_record_holds() {
    let mut feed = World::new().await.feed().await;
    let ended = feed.apply(&[context_delete("x-7", 7)]).await;
    assert_eq!((ended.all(), ended.dead), (1, 0), "{ended:?}");
    feed.one(context("c-6", 6, "six"), "superseded").await;
    let found = feed.one_of("contexts", "c1").await;
    assert!(found.as_ref().is_none_or(|record| state(record) == "deleted"), "{found:?}");
}

#[tokio::test]
async fn a_document_is_deleted_and_restored() {
    let mut feed = World::new().await.feed().await;
    feed.one(document("d-1", 1, "one").data("content", "The text."), "written").await;
    feed.one(document_delete("x-3", 3), "written").await;
    assert_eq!(state(&feed.record("documents", "d1").await), "deleted");
    // Before the deletion: no effect.
    let ended = feed.apply(&[document_restore("r-2", 2)]).await;
    assert_eq!((ended.written, ended.dead), (0, 0), "{ended:?}");
    assert_eq!(state(&feed.record("documents", "d1").await), "deleted");

    feed.one(document_restore("r-4", 4), "written").await;
    let found = feed.record("documents", "d1").await;
    assert_eq!((state(&found), text(&found, "title")), ("active", "one"));
    assert!(!found.contains_key("deletedAt"), "{found}");
    assert_eq!(feed.objects().len(), 1, "the content is still there");
    // The deletion, late and again: the restoration is newer.
    for event in [document_delete("x-3", 3), document_delete("x-35", 3)] {
        let ended = feed.apply(&[event]).await;
        assert_eq!((ended.written, ended.dead), (0, 0), "{ended:?}");
        assert_eq!(state(&feed.record("documents", "d1").await), "active");
    }
    feed.one(document_restore("r-4", 4), "duplicate").await;
    feed.one(document_delete("x-6", 6), "written").await;
    assert_eq!(state(&feed.record("documents", "d1").await), "deleted");
}

/// The restoration overtakes the deletion that it undoes.
#[tokio::test]
async fn a_restoration_that_overtakes_its_deletion_still_undoes_it() {
    let mut feed = World::new().await.feed().await;
    feed.one(document("d-1", 1, "one"), "written").await;
    feed.apply(&[document_restore("r-4", 4)]).await;
    feed.apply(&[document_delete("x-3", 3)]).await;
    assert_eq!(state(&feed.record("documents", "d1").await), "active");
}

#[tokio::test]
async fn deletions_and_restorations_leave_one_audit_entry_each() {
    let mut feed = World::new().await.feed().await;
    feed.one(document("d-1", 1, "one"), "written").await;
    for _ in 0..2 {
        feed.apply(&[document_delete("x-3", 3)]).await;
    }
    for _ in 0..2 {
        feed.apply(&[document_restore("r-4", 4)]).await;
    }
    let mut entries = feed.all("audit_log").await;
    entries.sort_by_key(|entry| text(entry, "_id").to_owned());
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| {
            let entity = entry.get_document("entity").unwrap_or_else(|e| panic!("{e}: {entry}"));
            assert!(matches!(entry.get("at"), Some(Bson::DateTime(_))), "{entry}");
            assert!(!text(entry, "action").is_empty());
            (text(entry, "_id"), text(entity, "id"), text(entry, "actor"))
        })
        .collect();
    assert_eq!(seen, [("r-4@/it", "d1", "u-admin"), ("x-3@/it", "d1", "u-admin")]);
    assert_ne!(text(&entries[0], "action"), text(&entries[1], "action"));
}

#[tokio::test]
async fn a_session_is_touched_and_ended() {
    let mut feed = World::new().await.feed().await;
    feed.one(session("s-1", 1, "active").data("userId", "u1"), "written").await;
    let touch = |id: &str, seconds: i64| {
        Event::new("session.touch.v1", id, json!({ "sessionId": "s1", "lastActivityAt": at(seconds) }))
    };
    feed.one(touch("t-5", 5), "written").await;
    feed.one(touch("t-4", 4), "superseded").await;
    assert_eq!(feed.record("sessions", "s1").await.get("lastActivityAt"), Some(&date_at(5)));
    feed.one(
        Event::new("session.end.v1", "e-8", json!({ "sessionId": "s1", "endedAt": at(8), "reason": "logout" })),
        "written",
    )
    .await;
    let ended = feed.record("sessions", "s1").await;
    assert_eq!((state(&ended), ended.get("endedAt"), text(&ended, "userId")), ("ended", Some(&date_at(8)), "u1"));
    // A state of affairs from before the end, late, does not bring the session back.
    feed.apply(&[session("s-7", 7, "active"), touch("t-7", 7)]).await;
    let ended = feed.record("sessions", "s1").await;
    assert_eq!((state(&ended), ended.get("lastActivityAt")), ("ended", Some(&date_at(7))));
}

/// One event of each type that ships, as the samples have them, in their order: all of them are taken.
#[tokio::test]
async fn the_examples_of_all_types_are_taken() {
    let mut samples: Vec<serde_json::Value> =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/records"))
            .expect("the samples are there")
            .map(|entry| serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap())
            .collect();
    samples.sort_by_key(|event| event["id"].as_str().unwrap().to_owned());
    let mut feed = World::new().await.feed().await;
    for event in samples {
        feed.world.push_bytes("records", "normal", &[event.to_string().into_bytes()]).await;
        let ended = feed.rest().await;
        let dead = feed.letters().await;
        assert_eq!(ended, Ended { written: 1, ..Ended::default() }, "{event}\n{dead:?}");
    }
}
