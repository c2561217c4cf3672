//! Whose records they are: users, claims of anonymous sessions, holds, evaluations.

use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::{
    harness::Event,
    list_queue::number,
    records_common::{Ended, Feed, World, at, date_at, state, text},
};

fn document(id: &str, key: &str, owner: (&str, &str)) -> Event {
    let data = json!({ "documentId": key, owner.0: owner.1, "title": key, "content": format!("Text of {key}."), "updatedAt": at(1) });
    Event::new("document.save.v1", id, data)
}

fn session(id: &str, key: &str) -> Event {
    Event::new("session.persist.v1", id, json!({ "sessionId": key, "status": "active", "updatedAt": at(1) }))
}

fn interaction(id: &str, key: &str, session: &str) -> Event {
    let data = json!({ "interactionId": key, "sessionId": session, "response": "Yes.", "timestamp": at(1) });
    Event::new("interaction.persist.v1", id, data)
}

fn claim(id: &str, session: &str, user: &str, seconds: i64) -> Event {
    Event::new("user.claim.v1", id, json!({ "sessionId": session, "userId": user, "claimedAt": at(seconds) }))
}

fn user(id: &str, key: &str, seconds: i64) -> Event {
    let data =
        json!({ "userId": key, "email": format!("{key}@example.org"), "firstName": "A", "updatedAt": at(seconds) });
    Event::new("user.save.v1", id, data)
}

/// An anonymous session with three documents, each with a version, and four interactions.
async fn anonymous() -> Feed {
    let mut feed = World::new().await.feed().await;
    let mut events =
        vec![session("s", "s1"), session("s-other", "s2"), document("other", "d-other", ("sessionId", "s2"))];
    for i in 0..3 {
        events.push(document(&format!("d-{i}"), &format!("d{i}"), ("sessionId", "s1")));
    }
    events.extend((0..4).map(|i| interaction(&format!("i-{i}"), &format!("i{i}"), "s1")));
    feed.apply(&events).await;
    let versions: Vec<Event> = (0..3)
        .map(|i| {
            let data = json!({
                "documentId": format!("d{i}"), "versionId": format!("v{i}"), "kind": "major", "content": format!("Version of d{i}."),
                "createdAt": at(2)
            });
            Event::new("version.save.v1", &format!("v-{i}"), data)
        })
        .collect();
    let ended = feed.apply(&versions).await;
    assert_eq!(ended, Ended { written: 3, ..Ended::default() });
    feed
}

async fn owners(feed: &Feed, collection: &str, filter: Document) -> Vec<String> {
    use futures::TryStreamExt;
    let found: Vec<Document> = feed.coll(collection).find(filter).await.unwrap().try_collect().await.unwrap();
    found.iter().map(|record| record.get_str("userId").unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn what_an_anonymous_session_made_becomes_the_users() {
    let mut feed = anonymous().await;
    let before = feed.objects();
    assert!(before.iter().any(|key| key.starts_with("documents/s1/d0/")), "{before:?}");
    assert!(before.iter().any(|key| key.starts_with("versions/s1/d0/v0.")), "{before:?}");
    feed.one(claim("c", "s1", "u1", 5), "written").await;

    assert_eq!(text(&feed.record("sessions", "s1").await, "userId"), "u1");
    for i in 0..3 {
        let found = feed.record("documents", &format!("d{i}")).await;
        assert_eq!(text(&found, "userId"), "u1");
        let key = text(found.get_document("content").unwrap(), "key").to_owned();
        assert!(key.starts_with(&format!("documents/u1/d{i}/")), "{key}");
        assert!(feed.objects().contains(&key), "{key} is not there");
        let version = feed.record("document_versions", &format!("v{i}")).await;
        let key = text(version.get_document("content").unwrap(), "key").to_owned();
        assert!(key.starts_with(&format!("versions/u1/d{i}/v{i}.")), "{key}");
        assert!(feed.objects().contains(&key), "{key} is not there");
    }
    assert_eq!(owners(&feed, "interactions", doc! { "sessionId": "s1" }).await, ["u1"; 4]);
    // Moved, not copied; and nobody else's.
    crate::harness::eventually("the old objects are gone", || async {
        crate::harness::when(!feed.objects().iter().any(|key| key.contains("/s1/")))
    })
    .await;
    assert_eq!(feed.objects().len(), before.len());
    assert_eq!(owners(&feed, "documents", doc! { "_id": "d-other" }).await, [""]);
    let entry = feed.one_of("audit_log", "c@/it").await.expect("an audit entry");
    assert!(
        entry.get_document("entity").is_ok_and(|entity| text(entity, "id") == "s1" || text(entity, "id") == "u1"),
        "{entry}"
    );

    feed.one(claim("c", "s1", "u1", 5), "duplicate").await;
    assert_eq!(feed.size("audit_log").await, 1);
}

/// Without documents there is nothing to move, and an empty session is claimed as well.
#[tokio::test]
async fn interactions_go_with_their_session() {
    let mut feed = World::new().await.feed().await;
    let mut events = vec![session("s", "s1"), session("s-2", "s2"), session("s-3", "s3")];
    events.extend(
        (0..150).map(|i| interaction(&format!("i-{i}"), &format!("i{i}"), if i % 3 == 2 { "s2" } else { "s1" })),
    );
    events.extend((0..5).map(|i| {
        let data =
            json!({ "aiInteractionId": format!("a{i}"), "sessionId": "s1", "aiResponse": "Yes.", "timestamp": at(1) });
        Event::new("ai_interaction.log.v1", &format!("a-{i}"), data)
    }));
    assert_eq!(feed.apply(&events).await, Ended { written: 158, ..Ended::default() });
    feed.one(claim("c", "s1", "u1", 5), "written").await;
    feed.one(claim("c-3", "s3", "u1", 5), "written").await;
    assert_eq!(owners(&feed, "interactions", doc! { "sessionId": "s1" }).await, ["u1"; 100]);
    assert_eq!(owners(&feed, "interactions", doc! { "sessionId": "s2" }).await, [""; 50]);
    assert_eq!(owners(&feed, "ai_interactions", doc! {}).await, ["u1"; 5]);
    assert_eq!(owners(&feed, "sessions", doc! { "_id": "s3" }).await, ["u1"]);
    let (reason, error) = feed.dies(claim("thief", "s1", "u2", 6)).await;
    assert_eq!(reason, "rejected", "{error}");
    feed.one(claim("c", "s1", "u1", 5), "duplicate").await;
    // What the session said before it was claimed, late: it does not become anonymous again.
    feed.apply(&[session("late", "s1").data("updatedAt", at(4)).data("status", "idle")]).await;
    assert_eq!(owners(&feed, "sessions", doc! { "_id": "s1" }).await, ["u1"]);
}

/// Delivered after the claim, made before it or after: arrival decides nothing.
#[tokio::test]
async fn what_comes_late_of_a_claimed_session_is_the_users() {
    let mut feed = World::new().await.feed().await;
    feed.one(session("s", "s1"), "written").await;
    feed.one(claim("c", "s1", "u1", 5), "written").await;
    let newer = document("d-2", "d2", ("sessionId", "s1")).data("updatedAt", at(9));
    feed.apply(&[document("d-1", "d1", ("sessionId", "s1")), newer, interaction("i-1", "i1", "s1")]).await;
    for (collection, id) in [("documents", "d1"), ("documents", "d2"), ("interactions", "i1")] {
        assert_eq!(feed.record(collection, id).await.get_str("userId").ok(), Some("u1"), "{id}");
    }
    assert!(feed.objects().iter().all(|key| key.starts_with("documents/u1/")), "{:?}", feed.objects());
    // Whoever says whose it is, is believed.
    feed.one(interaction("i-2", "i2", "s1").data("userId", "u2"), "written").await;
    assert_eq!(text(&feed.record("interactions", "i2").await, "userId"), "u2");
}

#[tokio::test]
async fn a_claimed_session_cannot_be_claimed_by_another() {
    let mut feed = anonymous().await;
    feed.one(claim("c", "s1", "u1", 5), "written").await;
    let before = (feed.all("documents").await, feed.all("interactions").await, feed.all("sessions").await);
    let (_, error) = feed.dies(claim("thief", "s1", "u2", 6)).await;
    assert!(error.contains("claim"), "{error}");
    assert!(!error.contains("u1"), "whose it is, is nobody's business: {error}");
    // An earlier one, late: too late as well.
    feed.dies(claim("early", "s1", "u2", 4)).await;
    assert_eq!((feed.all("documents").await, feed.all("interactions").await, feed.all("sessions").await), before);
    // The same user once more: nothing to do.
    let ended = feed.apply(&[claim("again", "s1", "u1", 7)]).await;
    assert_eq!((ended.all(), ended.dead), (1, 0), "{ended:?}");
    let (reason, _) = feed.dies(claim("nothing", "s-none", "u1", 5)).await;
    assert_eq!(reason, "missing");
}

/// Two users claim one session at the same time, by two workers: all of it is one user's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_claims_at_once_one_gets_all() {
    let world = World::new().await.set("queues.records.batch.tasks", 1);
    let feed = world.feed().await;
    let other = feed.world.worker("records").ready().await;
    let mut events = Vec::new();
    for s in 0..10 {
        events.push(session(&format!("s-{s}"), &format!("s{s}")));
        events.extend(
            (0..3).map(|i| document(&format!("d-{s}-{i}"), &format!("d{s}-{i}"), ("sessionId", &format!("s{s}")))),
        );
        events.extend((0..3).map(|i| interaction(&format!("i-{s}-{i}"), &format!("i{s}-{i}"), &format!("s{s}"))));
    }
    feed.send(&events).await;
    feed.world.drained("records").await;
    let claims: Vec<Event> = (0..10)
        .flat_map(|s| ["u1", "u2"].map(|user| claim(&format!("c-{s}-{user}"), &format!("s{s}"), user, 5)))
        .collect();
    feed.send(&claims).await;
    feed.settled(&[&feed.worker, &other]).await;
    assert_eq!(feed.size("dead_letters").await, 10);
    for s in 0..10 {
        let key = format!("s{s}");
        let winner = text(&feed.record("sessions", &key).await, "userId").to_owned();
        assert_eq!(
            owners(&feed, "documents", doc! { "_id": { "$regex": format!("^d{s}-") } }).await,
            [winner.as_str(); 3]
        );
        assert_eq!(owners(&feed, "interactions", doc! { "sessionId": &key }).await, [winner.as_str(); 3]);
    }
    assert_eq!(feed.size("audit_log").await, 10);
}

#[tokio::test]
async fn a_deleted_user_takes_documents_and_sessions_along() {
    let mut feed = World::new().await.feed().await;
    let mut events = vec![user("u", "u1", 1), user("o", "u2", 1)];
    events.extend((0..3).map(|i| document(&format!("d-{i}"), &format!("d{i}"), ("userId", "u1"))));
    events.push(document("d-other", "d-other", ("userId", "u2")));
    events.extend((0..2).map(|i| session(&format!("s-{i}"), &format!("s{i}")).data("userId", "u1")));
    events.push(session("s-other", "s-other").data("userId", "u2"));
    feed.apply(&events).await;
    let delete = Event::new("user.delete.v1", "x", json!({ "userId": "u1", "deletedAt": at(5), "actor": "u-admin" }));
    feed.one(delete.clone(), "written").await;
    assert_eq!(state(&feed.record("users", "u1").await), "deleted");
    for i in 0..3 {
        let found = feed.record("documents", &format!("d{i}")).await;
        assert_eq!((state(&found), found.get("deletedAt")), ("deleted", Some(&date_at(5))));
    }
    for i in 0..2 {
        assert_eq!(state(&feed.record("sessions", &format!("s{i}")).await), "ended");
    }
    for (collection, id) in [("users", "u2"), ("documents", "d-other"), ("sessions", "s-other")] {
        assert_eq!(state(&feed.record(collection, id).await), "active", "{id}");
    }
    feed.one(delete, "duplicate").await;
    assert_eq!(feed.size("audit_log").await, 1);
    // Late tasks from before the deletion.
    feed.apply(&[user("late", "u1", 4), document("d-late", "d0", ("userId", "u1")).data("updatedAt", at(4))]).await;
    assert_eq!(state(&feed.record("users", "u1").await), "deleted");
    assert_eq!(state(&feed.record("documents", "d0").await), "deleted");
}

/// Found by a keyed hash where the addresses are encrypted.
#[tokio::test]
async fn no_two_users_have_one_email() {
    let keys = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for world in [World::new().await, World::new().await.set("encryption.keys", keys)] {
        let mut feed = world.feed().await;
        feed.one(user("a", "u1", 1), "written").await;
        let ended = feed.apply(&[user("b", "u2", 2).data("email", "u1@example.org"), user("c", "u3", 2)]).await;
        assert_eq!(ended, Ended { written: 1, dead: 1, ..Ended::default() });
        let letter = feed.dead("b").await;
        assert_eq!(text(&letter, "reason"), "rejected", "{letter}");
        assert!(!text(&letter, "error").contains("u1@example.org"), "{letter}");
        feed.one(user("d", "u1", 3).data("firstName", "B"), "written").await;
        // Given up by the one, free for the other.
        feed.one(user("e", "u1", 4).data("email", "new@example.org"), "written").await;
        feed.one(user("f", "u2", 5).data("email", "u1@example.org"), "written").await;
    }
}

/// Neither MongoDB nor Redis sees what is declared sensitive.
#[tokio::test]
async fn personal_data_is_sealed_wherever_it_lies() {
    let keys = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let mut feed = World::new().await.set("encryption.keys", keys).feed().await;
    let names = user("a", "u1", 1).data("firstName", "Quinevere").data("lastName", "Oddfellow");
    feed.one(names.clone().data("email", "quinevere@example.org").with("tenant", "acme"), "written").await;
    let secrets = ["Quinevere", "Oddfellow", "quinevere@example.org"];
    let stored = mongodb::bson::serialize_to_vec(&feed.record("users", "u1").await).unwrap();
    let mut seen = vec![("MongoDB".to_owned(), stored)];
    let mut redis = feed.redis();
    for key in feed.keys("cache:*").await {
        let value: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
        seen.push((key, value));
    }
    for (place, bytes) in &seen {
        for secret in secrets {
            let there = bytes.windows(secret.len()).any(|part| part.eq_ignore_ascii_case(secret.as_bytes()));
            assert!(!there, "{place} shows {secret}");
        }
    }
    let read = |settings: &[(&str, &str)]| {
        let run = feed.command(&["get", "user", "u1", "--json"]);
        settings.iter().fold(run, |run, (name, value)| run.set(name, value))
    };
    let open = read(&[]).end().await.code(0).json().to_string();
    assert!(secrets.iter().all(|secret| open.contains(secret)), "{open}");
    // Without the key, or with a wrong one of the same name: said, never shown.
    for wrong in
        ["", "k1:MAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "k2:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
    {
        let ended = read(&[("encryption.keys", wrong)]).end().await.readable();
        assert_ne!(ended.code, 0, "{wrong:?}: {}", ended.out);
        assert!(!secrets.iter().any(|secret| ended.out.contains(secret) || ended.err.contains(secret)));
        assert!(ended.err.contains("k1") || ended.err.contains("encryption"), "{}", ended.err);
    }
    // A redelivery of what is sealed differently each time is a redelivery all the same.
    let before = feed.record("users", "u1").await;
    let ended = feed.apply(&[names.data("email", "quinevere@example.org").with("tenant", "acme")]).await;
    assert_eq!((ended.written, ended.duplicate + ended.superseded), (0, 1), "{ended:?}");
    assert_eq!(feed.record("users", "u1").await, before);
}

fn place(id: &str, hold: &str, kind: &str, entity: &str, seconds: i64) -> Event {
    let data = json!({
        "holdId": hold, "entityType": kind, "entityId": entity, "reason": "A case.", "placedBy": "u-legal", "placedAt": at(seconds)
    });
    Event::new("hold.place.v1", id, data)
}

fn lift(id: &str, hold: &str, seconds: i64) -> Event {
    let data = json!({ "holdId": hold, "liftedBy": "u-legal", "liftedAt": at(seconds), "reason": "Settled." });
    Event::new("hold.lift.v1", id, data)
}

async fn held(feed: &Feed, collection: &str, id: &str) -> i64 {
    feed.record(collection, id).await.get_i64("holdCount").unwrap_or_default()
}

#[tokio::test]
async fn holds_are_placed_and_lifted_on_the_record_itself() {
    let mut feed = World::new().await.feed().await;
    feed.apply(&[document("d", "d1", ("userId", "u1")), session("s", "s1"), user("u", "u1", 1)]).await;
    for (kind, collection, entity) in
        [("user", "users", "u1"), ("session", "sessions", "s1"), ("document", "documents", "d1")]
    {
        let (first, second) = (format!("h1-{kind}"), format!("h2-{kind}"));
        feed.one(place(&format!("p1-{kind}"), &first, kind, entity, 3), "written").await;
        feed.one(place(&format!("p1-{kind}"), &first, kind, entity, 3), "duplicate").await;
        assert_eq!(held(&feed, collection, entity).await, 1, "{kind}");
        feed.one(place(&format!("p2-{kind}"), &second, kind, entity, 4), "written").await;
        assert_eq!(held(&feed, collection, entity).await, 2, "{kind}");
        feed.one(lift(&format!("l1-{kind}"), &first, 5), "written").await;
        let ended = feed.apply(&[lift(&format!("l1-{kind}"), &first, 5), lift(&format!("l3-{kind}"), &first, 6)]).await;
        assert_eq!((ended.written, ended.dead, ended.all()), (0, 0, 2), "{ended:?}");
        assert_eq!(held(&feed, collection, entity).await, 1, "{kind}");
        let hold = feed.record("holds", &first).await;
        assert_eq!(
            (text(&hold, "entityId"), hold.get("placedAt"), hold.get("liftedAt")),
            (entity, Some(&date_at(3)), Some(&date_at(5)))
        );
        // Placed again by an old task, after it was lifted: no.
        feed.apply(&[place(&format!("p1-{kind}"), &first, kind, entity, 3)]).await;
        assert_eq!(held(&feed, collection, entity).await, 1, "{kind}");
        feed.one(lift(&format!("l2-{kind}"), &second, 7), "written").await;
        assert_eq!(held(&feed, collection, entity).await, 0, "{kind}");
    }
    // A lift of what was lifted already leaves none.
    assert_eq!(feed.size("audit_log").await, 12);
    let (reason, _) = feed.dies(lift("nothing", "h-none", 9)).await;
    assert_eq!(reason, "missing");
    let (reason, _) = feed.dies(place("nobody", "h-x", "document", "d-none", 9)).await;
    assert_eq!(reason, "missing");
}

/// Many holds and other changes of one document at once: the count is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_are_counted_without_races() {
    let world = World::new().await.set("queues.records.batch.tasks", 5).set("retry.attempts", 20);
    let mut feed = world.feed().await;
    feed.one(document("d", "d1", ("userId", "u1")), "written").await;
    let other = feed.world.worker("records").ready().await;
    let mut events = Vec::new();
    for i in 0..40 {
        events.push(place(&format!("p-{i}"), &format!("h{i}"), "document", "d1", i));
        events.push(place(&format!("p-{i}"), &format!("h{i}"), "document", "d1", i));
        if i % 2 == 0 {
            events.push(lift(&format!("l-{i}"), &format!("h{i}"), 100 + i));
        }
        events.push(
            document(&format!("t-{i}"), "d1", ("userId", "u1")).data("updatedAt", at(i)).data("title", format!("{i}")),
        );
    }
    feed.send(&events).await;
    feed.settled(&[&feed.worker, &other]).await;
    assert_eq!(feed.size("dead_letters").await, 0, "{:?}", feed.letters().await);
    let found = feed.record("documents", "d1").await;
    assert_eq!((number(&found, "holdCount"), text(&found, "title")), (20, "39"));
    assert_eq!(feed.size("holds").await, 40);
    assert_eq!(feed.size("audit_log").await, 60);
}

#[tokio::test]
async fn an_evaluation_is_put_onto_its_record_and_never_cached() {
    let mut feed = World::new().await.feed().await;
    feed.apply(&[
        session("s", "s1").data("cacheStrategy", "FULL_SESSION"),
        interaction("i", "i1", "s1").data("cacheStrategy", "FULL_INTERACTION"),
    ])
    .await;
    let evaluation = |id: &str, kind: &str, entity: &str, seconds: i64, score: i64| {
        let data = json!({
            "entityId": entity, "entityType": kind, "evaluationData": { "score": score, "words": "confidential-judgement" },
            "evaluatedAt": at(seconds)
        });
        Event::new("evaluation.persist.v1", id, data)
    };
    for (kind, collection, entity) in [("session", "sessions", "s1"), ("interaction", "interactions", "i1")] {
        feed.one(evaluation(&format!("e5-{kind}"), kind, entity, 5, 5), "written").await;
        feed.one(evaluation(&format!("e5-{kind}"), kind, entity, 5, 5), "duplicate").await;
        feed.one(evaluation(&format!("e4-{kind}"), kind, entity, 4, 4), "superseded").await;
        let found = feed.record(collection, entity).await;
        assert_eq!(number(found.get_document("evaluation").unwrap(), "score"), 5, "{found}");
        assert_eq!(found.get("evaluatedAt"), Some(&date_at(5)));
        assert!(!found.contains_key("entityId") && !found.contains_key("entityType"), "{found}");
    }
    // The record itself goes on as before.
    feed.one(session("s-6", "s1").data("updatedAt", at(2)).data("status", "idle"), "written").await;
    let found = feed.record("sessions", "s1").await;
    assert_eq!((text(&found, "status"), number(found.get_document("evaluation").unwrap(), "score")), ("idle", 5));
    let mut redis = feed.redis();
    for key in feed.keys("cache:*").await {
        let value: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
        assert!(!String::from_utf8_lossy(&value).contains("confidential"), "{key}");
    }
    let (reason, _) = feed.dies(evaluation("nobody", "session", "s-none", 5, 1)).await;
    assert_eq!(reason, "missing");
    assert_eq!(feed.size("sessions").await, 1);
}
