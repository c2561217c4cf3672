//! Tasks and the lifecycle: what was purged does not come back, what is used again is not cleared away, and archived
//! sessions are found where they lie. What the lifecycle does is written into MongoDB directly.

use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use crate::{
    harness::{Env, Event, MongodServer, analyze, services, typing},
    list_queue::number,
    records_common::{Ended, Feed, World, at, date_at, rev, state, text},
};

fn event(kind: &str, id: &str, data: Value) -> Event {
    Event::new(&format!("{kind}.v1"), id, data)
}

fn document(id: &str, key: &str, user: &str, seconds: i64) -> Event {
    let data = json!({ "documentId": key, "userId": user, "title": id, "content": "Text.", "updatedAt": at(seconds) });
    event("document.save", id, data)
}

fn version(id: &str, document: &str, seconds: i64) -> Event {
    let data =
        json!({ "documentId": document, "versionId": id, "kind": "minor", "content": format!("{id} at {seconds}.") });
    event("version.save", id, data).data("createdAt", at(seconds))
}

fn session(id: &str, key: &str, seconds: i64) -> Event {
    event("session.persist", id, json!({ "sessionId": key, "updatedAt": at(seconds) }))
}

fn touch(id: &str, document: &str, seconds: i64) -> Event {
    event("document.touch", id, json!({ "documentId": document, "lastAccessedAt": at(seconds) }))
}

fn interaction(id: &str) -> Event {
    event("interaction.persist", id, json!({ "interactionId": id, "sessionId": "s1", "timestamp": at(1) }))
}

fn evaluation(id: &str, session: &str, seconds: i64) -> Event {
    let data = json!({ "entityId": session, "entityType": "session", "evaluationData": { "score": seconds } });
    event("evaluation.persist", id, data).data("evaluatedAt", at(seconds))
}

fn hold(id: &str, kind: &str, entity: &str) -> Event {
    let data = json!({ "holdId": id, "entityType": kind, "entityId": entity, "reason": "A case.", "placedAt": at(1) });
    event("hold.place", id, data)
}

async fn tombstones(env: &Env, ids: &[&str]) {
    for id in ids {
        env.coll("tombstones").insert_one(doc! { "_id": id, "state": "closed" }).await.unwrap();
    }
}

async fn set(feed: &Feed, collection: &str, id: &str, fields: Document) {
    let change = doc! { "$set": fields, "$inc": { "_sync.rev": 1_i64 } };
    feed.coll(collection).update_one(doc! { "_id": id }, change).await.unwrap();
}

/// Moves a session as the lifecycle does.
async fn archive(feed: &Feed, id: &str) {
    let row = feed.record("sessions", id).await;
    feed.coll("session_history").insert_one(row).await.unwrap();
    tombstones(feed, &[&format!("sessions/{id}")]).await;
    feed.coll("sessions").delete_one(doc! { "_id": id }).await.unwrap();
}

#[tokio::test]
async fn late_tasks_of_every_type_about_what_is_purged_leave_nothing() {
    let mut feed = World::new().await.feed().await;
    tombstones(
        &feed,
        &[
            "documents/d0",
            "users/u0",
            "contexts/c0",
            "sessions/s0",
            "interactions/i0",
            "ai_interactions/a0",
            "auth_logs/auth@/it",
            "document_versions/v0",
            "ai_prompt_templates/t0",
            "user_preferences/u9",
        ],
    )
    .await;
    let ai = |id: &str, owner: &str, value: &str| {
        let data = json!({ "aiInteractionId": id, "sessionId": "s1", "timestamp": at(1) });
        event("ai_interaction.log", &format!("{id}-{owner}"), data).data(owner, value)
    };
    let preference = |id: &str, user: &str| event("preference.save", id, json!({ "userId": user, "updatedAt": at(1) }));
    let context = |id: &str, key: &str| {
        event("context.save", id, json!({ "contextId": key, "type": "t", "content": "x", "updatedAt": at(1) }))
    };
    let related = |id: &str, from: &str, to: &str| {
        let data = json!({ "from": from, "to": to, "relation": "RELATES_TO", "updatedAt": at(1) });
        event(if id.starts_with("doc") { "document.link" } else { "context.relate" }, id, data)
    };
    let late = [
        // Their own key.
        document("d", "d0", "u1", 1),
        touch("t", "d0", 9),
        event("document.delete", "dd", json!({ "documentId": "d0", "deletedAt": at(9) })),
        event("document.restore", "dr", json!({ "documentId": "d0", "restoredAt": at(9) })),
        version("v1", "d0", 1),
        version("v0", "d1", 1),
        event("version.decide", "vd", json!({ "versionId": "v0", "decision": "accepted", "decidedAt": at(9) })),
        event(
            "version.restore",
            "vr",
            json!({ "documentId": "d0", "versionId": "v0", "newVersionId": "v2", "restoredAt": at(9) }),
        ),
        event("user.save", "us", json!({ "userId": "u0", "updatedAt": at(9) })),
        event("user.delete", "ud", json!({ "userId": "u0", "deletedAt": at(9) })),
        preference("p9", "u9"),
        event(
            "prompt_template.save",
            "pt",
            json!({ "templateId": "t0", "name": "n", "promptText": "p", "updatedAt": at(9) }),
        ),
        context("c", "c0"),
        event("context.update", "cu", json!({ "contextId": "c0", "title": "x", "updatedAt": at(9) })),
        event("context.delete", "cd", json!({ "contextId": "c0", "deletedAt": at(9) })),
        event("memory.save", "m", json!({ "memoryId": "c0", "type": "fact", "content": "x", "updatedAt": at(9) })),
        session("s", "s0", 9),
        event("session.touch", "st", json!({ "sessionId": "s0", "lastActivityAt": at(9) })),
        event("session.end", "se", json!({ "sessionId": "s0", "endedAt": at(9) })),
        evaluation("e", "s0", 9),
        interaction("i0"),
        event("auth.log", "auth", json!({ "event": "login", "timestamp": at(1) })),
        ai("a0", "model", "m"),
        event(
            "ai_interaction.decide",
            "ad",
            json!({ "aiInteractionId": "a0", "acceptedSuggestions": 1, "rejectedSuggestions": 0, "decidedAt": at(9) }),
        ),
        // The document that they are about, or the user.
        interaction("i1").data("documentId", "d0"),
        interaction("i2").data("userId", "u0"),
        ai("a1", "documentId", "d0"),
        ai("a2", "userId", "u0"),
        event("auth.log", "auth2", json!({ "event": "login", "userId": "u0", "timestamp": at(1) })),
        preference("p0", "u0"),
        document("du", "d2", "u0", 1),
        session("su", "s2", 1).data("userId", "u0"),
        context("cc", "c2").data("userId", "u0"),
        related("doc-from", "d0", "c5"),
        related("doc-to", "c5", "d0"),
        related("from", "c0", "c5"),
        event("user.claim", "uc", json!({ "sessionId": "s0", "userId": "u1", "claimedAt": at(9) })),
        hold("h1", "document", "d0"),
        hold("h2", "user", "u0"),
        hold("h3", "session", "s0"),
    ];
    let count = late.len() as u64;
    let mut ended = Ended::default();
    // One by one, and all at once again: what is redelivered ends no other way.
    for event in &late {
        ended = feed.apply(std::slice::from_ref(event)).await;
        assert_eq!(ended, Ended { expired: 1, ..ended }, "{} {:?}", event.json(), feed.letters().await);
        assert_eq!(ended.all(), 1, "{}", event.json());
    }
    assert_eq!(ended.expired, 1);
    assert_eq!(feed.apply(&late).await, Ended { expired: count, ..Ended::default() }, "{:?}", feed.letters().await);
    let kept = ["tombstones", "schema_migrations", "job_schedules", "job_runs"];
    for name in feed.db().list_collection_names().await.unwrap() {
        if !kept.contains(&name.as_str()) {
            assert_eq!(feed.all(&name).await, [] as [Document; 0], "{name}");
        }
    }
    assert_eq!(feed.objects(), [""; 0]);
    assert!(feed.keys("cache:*").await.is_empty() && feed.keys("session:*").await.is_empty());
    // An erased user gets nothing by a claim, either; neither does a session.
    feed.one(session("s-ok", "s5", 1), "written").await;
    feed.one(event("user.claim", "uc5", json!({ "sessionId": "s5", "userId": "u0", "claimedAt": at(9) })), "expired")
        .await;
    assert!(!feed.record("sessions", "s5").await.contains_key("userId"));
}

#[tokio::test]
async fn analyses_and_typing_contexts_of_what_is_purged_are_not_made() {
    let env = Env::new().await;
    tombstones(&env, &["documents/d0", "documents/doc-a0", "users/u0"]).await;
    env.push(
        "analysis",
        "normal",
        &[analyze("a0", "A text."), analyze("a1", "A text.").data("userId", "u0"), analyze("a2", "A text.")],
    )
    .await;
    let late = [
        typing("1", "d0", "s", 1),
        typing("2", "d0", "s", 2),
        typing("3", "d1", "s", 1),
        typing("4", "d2", "s", 1).data("userId", "u0"),
    ];
    env.xadd("typing", &late).await;
    let metrics = env.drain("analysis,typing").await;
    assert_eq!((metrics.finished("analysis", "expired"), metrics.finished("analysis", "written")), (2.0, 1.0));
    let (expired, written) = (metrics.finished("typing", "expired"), metrics.finished("typing", "written"));
    assert_eq!((expired, written, metrics.finished("typing", "superseded")), (3.0, 1.0, 0.0));
    assert_eq!((env.size("analyses").await, env.size("typing_contexts").await), (1, 1));
    assert!(env.one("typing_contexts", "d1:s").await.is_some());
    let keys = env.keys("typing:*").await;
    assert_eq!(keys.len(), 1, "{keys:?}");
}

/// The tombstone comes after the first look and before the write: the second look finds it.
#[tokio::test]
async fn what_is_purged_while_it_is_written_is_taken_back() {
    let Some(mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await;
    let feed = World::in_env(env).feed().await;
    let other = feed.worker("analysis,typing").ready().await;
    // Inserts wait for a while; the test's own write is an update.
    let slow = doc! { "failCommands": ["insert"], "blockConnection": true, "blockTimeMS": 1500 };
    mongod.fail_command("alwaysOn", slow).await;
    feed.send(&[interaction("i1").data("documentId", "d0"), interaction("i2").data("documentId", "d1")]).await;
    feed.xadd("typing", &[typing("1", "d0", "s", 1), typing("2", "d1", "s", 1)]).await;
    feed.push("analysis", "normal", &[analyze("a0", "A text.").data("documentId", "d0")]).await;
    crate::harness::eventually("all are being written", || async {
        let (a, b) = (feed.worker.metrics().await, other.metrics().await);
        crate::harness::when(a.sum("tasks_in_flight", &[]) == 2.0 && b.sum("tasks_in_flight", &[]) == 3.0)
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mark = doc! { "$set": { "state": "open" } };
    feed.coll("tombstones").update_one(doc! { "_id": "documents/d0" }, mark).upsert(true).await.unwrap();
    let (a, b) = (feed.worker.at_rest().await, other.at_rest().await);
    mongod.fail_command("off", doc! {}).await;
    assert_eq!((a.finished("records", "expired"), a.finished("records", "written")), (1.0, 1.0));
    assert_eq!((b.finished("typing", "expired"), b.finished("typing", "written")), (1.0, 1.0));
    assert_eq!(b.finished("analysis", "expired"), 1.0);
    for (collection, left) in [("interactions", 1), ("typing_contexts", 1), ("analyses", 0)] {
        assert_eq!(feed.size(collection).await, left, "{collection}");
    }
    assert_eq!(feed.keys("typing:*").await.len(), 1);
    assert!(feed.one_of("interactions", "i2").await.is_some());
}

#[tokio::test]
async fn what_is_used_again_is_active_again() {
    let mut feed = World::new().await.set("limits.records_flush", "0s").feed().await;
    let restore =
        |id: &str, key: &str, s: i64| event("document.restore", id, json!({ "documentId": key, "restoredAt": at(s) }));
    for unused in ["pending_cleanup", "archived"] {
        let accesses: [fn(&str, &str) -> Event; 3] =
            [|id, d| touch(id, d, 60), |id, d| document(id, d, "u1", 60), |id, d| version(id, d, 60)];
        for (n, access) in accesses.into_iter().enumerate() {
            let key = format!("{unused}-{n}");
            feed.one(document(&format!("{key}-first"), &key, "u1", 10), "written").await;
            set(
                &feed,
                "documents",
                &key,
                doc! { "state": unused, "markedAt": DateTime::now(), "archivedAt": DateTime::now() },
            )
            .await;
            // Older than the last access known: it undoes nothing.
            feed.one(touch(&format!("{key}-old"), &key, 5), "superseded").await;
            assert_eq!(state(&feed.record("documents", &key).await), unused);
            feed.one(access(&format!("{key}-new"), &key), "written").await;
            let found = feed.record("documents", &key).await;
            assert_eq!((state(&found), found.get("lastAccessedAt")), ("active", Some(&date_at(60))), "{found}");
            assert!(!found.contains_key("archivedAt") && !found.contains_key("markedAt"), "{found}");
            assert_eq!(found.get("unarchive"), Some(&Bson::Boolean(true)));
        }
        let key = format!("{unused}-restored");
        feed.one(document(&format!("{key}-first"), &key, "u1", 10), "written").await;
        set(&feed, "documents", &key, doc! { "state": unused }).await;
        feed.one(restore(&format!("{key}-r"), &key, 60), "written").await;
        let found = feed.record("documents", &key).await;
        assert_eq!((state(&found), found.get("lastAccessedAt")), ("active", Some(&date_at(60))));
        assert_eq!(found.contains_key("unarchive"), unused == "archived");
    }
    // Neither deleted ones nor those that are being purged.
    feed.one(document("gone", "gone", "u1", 10), "written").await;
    feed.one(event("document.delete", "g-d", json!({ "documentId": "gone", "deletedAt": at(20) })), "written").await;
    feed.apply(&[touch("g-t", "gone", 60), document("g-s", "gone", "u1", 61), version("g-v", "gone", 62)]).await;
    assert_eq!(state(&feed.record("documents", "gone").await), "deleted");
    set(&feed, "documents", "gone", doc! { "state": "purging" }).await;
    let before = feed.record("documents", "gone").await;
    for event in [
        touch("p-t", "gone", 70),
        document("p-s", "gone", "u1", 71),
        version("p-v", "gone", 72),
        restore("p-r", "gone", 73),
    ] {
        feed.one(event, "expired").await;
    }
    assert_eq!(feed.record("documents", "gone").await, before);
}

#[tokio::test]
async fn rows_say_whose_data_they_are_and_no_task_says_otherwise() {
    let mut feed = World::new().await.feed().await;
    let of = |event: Event| event.with("tenant", "acme");
    let first = [
        of(document("d", "d1", "u1", 1)),
        of(session("s", "s1", 1)),
        of(interaction("i1")),
        of(event("user.save", "u", json!({ "userId": "u1", "updatedAt": at(1) }))),
        of(event("auth.log", "auth", json!({ "event": "login", "timestamp": at(1) }))),
        of(event("context.save", "c", json!({ "contextId": "c1", "type": "t", "content": "x", "updatedAt": at(1) }))),
        of(event(
            "document.link",
            "l",
            json!({ "from": "d1", "to": "c1", "relation": "RELATES_TO", "updatedAt": at(1) }),
        )),
    ];
    assert_eq!(feed.apply(&first).await, Ended { written: 7, ..Ended::default() }, "{:?}", feed.letters().await);
    feed.one(of(version("v1", "d1", 2)), "written").await;
    let again = json!({ "documentId": "d1", "versionId": "v1", "newVersionId": "v2", "restoredAt": at(3) });
    feed.one(of(event("version.restore", "r", again)), "written").await;
    feed.one(of(hold("h1", "document", "d1")), "written").await;
    let ids = [
        ("documents", "d1"),
        ("sessions", "s1"),
        ("interactions", "i1"),
        ("users", "u1"),
        ("auth_logs", "auth@/it"),
        ("contexts", "c1"),
        ("context_links", "d1:RELATES_TO:c1"),
        ("document_versions", "v1"),
        ("document_versions", "v2"),
        ("holds", "h1"),
    ];
    // Another's task about it changes nothing of that.
    let others = json!({ "contextId": "c1", "type": "t", "content": "y", "updatedAt": at(5) });
    feed.one(event("context.save", "c2", others).with("tenant", "other"), "written").await;
    feed.one(document("d2", "d1", "u1", 5).with("tenant", "other"), "written").await;
    for (collection, id) in ids {
        assert_eq!(text(&feed.record(collection, id).await, "tenant"), "acme", "{collection}");
    }
    for name in ["tenant", "lifecycle", "archivedAt", "markedAt", "unarchive"] {
        let (reason, error) = feed.dies(document(&format!("own-{name}"), "d1", "u1", 9).data(name, "x")).await;
        assert_eq!(reason, "schema");
        assert!(error.contains(name), "{error}");
    }
    let env = Env::new().await;
    env.xadd(
        "typing",
        &[
            typing("1", "d", "s", 1).data("tenant", "said").with("tenant", "acme"),
            typing("2", "e", "s", 1).data("tenant", "said"),
        ],
    )
    .await;
    env.push("analysis", "normal", &[analyze("a", "A text.").with("tenant", "acme")]).await;
    env.drain("analysis,typing").await;
    assert_eq!(text(&env.one("typing_contexts", "d:s").await.unwrap(), "tenant"), "acme");
    assert!(!env.one("typing_contexts", "e:s").await.unwrap().contains_key("tenant"));
    assert_eq!(text(&env.analysis("a").await, "tenant"), "acme");
}

#[tokio::test]
async fn archived_sessions_are_evaluated_held_and_claimed_where_they_lie() {
    let mut feed = World::new().await.feed().await;
    let own = json!({ "documentId": "d1", "sessionId": "s1", "content": "Text.", "updatedAt": at(1) });
    feed.apply(&[session("s", "s1", 1), event("document.save", "d", own), interaction("i1")]).await;
    feed.one(evaluation("e1", "s1", 3), "written").await;
    archive(&feed, "s1").await;
    set(&feed, "documents", "d1", doc! { "state": "pending_cleanup" }).await;

    feed.one(evaluation("e2", "s1", 5), "written").await;
    feed.one(evaluation("e2", "s1", 5), "duplicate").await;
    feed.one(evaluation("e0", "s1", 4), "superseded").await;
    let found = feed.record("session_history", "s1").await;
    assert_eq!(number(found.get_document("evaluation").unwrap(), "score"), 5);
    // With a late task about the session itself in one batch: each ends alone.
    let ended = feed.apply(&[evaluation("e3", "s1", 6), session("s-late", "s1", 7), evaluation("none", "s1", 2)]).await;
    assert_eq!(ended, Ended { written: 1, expired: 1, superseded: 1, ..Ended::default() });
    for late in [
        event("session.touch", "late-t", json!({ "sessionId": "s1", "lastActivityAt": at(8) })),
        event("session.end", "late-e", json!({ "sessionId": "s1", "endedAt": at(9) })),
    ] {
        feed.one(late, "expired").await;
    }
    feed.one(interaction("i-late"), "written").await;
    assert_eq!((feed.size("sessions").await, feed.size("interactions").await), (0, 2));

    feed.one(hold("h1", "session", "s1"), "written").await;
    feed.one(hold("h2", "session", "s1"), "written").await;
    feed.one(event("hold.lift", "l2", json!({ "holdId": "h2", "liftedAt": at(9) })), "written").await;
    assert_eq!(number(&feed.record("session_history", "s1").await, "holdCount"), 1);

    let claim = || event("user.claim", "c1", json!({ "sessionId": "s1", "userId": "u1", "claimedAt": at(20) }));
    feed.one(claim(), "written").await;
    feed.one(claim(), "duplicate").await;
    let found = feed.record("documents", "d1").await;
    assert_eq!((text(&found, "userId"), text(&found, "ownerType"), state(&found)), ("u1", "user", "active"));
    assert_eq!(text(&feed.record("session_history", "s1").await, "claimedBy"), "u1");
    feed.one(interaction("i-later"), "written").await;
    for id in ["i1", "i-late", "i-later"] {
        assert_eq!(text(&feed.record("interactions", id).await, "userId"), "u1", "{id}");
    }
    // Being moved just now: in neither place as it should be. Nothing is lost.
    feed.one(session("s3", "s3", 1), "written").await;
    set(&feed, "sessions", "s3", doc! { "state": "purging" }).await;
    let (reason, _) = feed.dies(evaluation("moving", "s3", 5)).await;
    assert_eq!(reason, "missing");
}

#[tokio::test]
async fn what_comes_late_of_a_deleted_user_goes_with_the_user() {
    let mut feed = World::new().await.feed().await;
    let user = event("user.save", "u", json!({ "userId": "u1", "updatedAt": at(1) }));
    let own = |id: &str, key: &str| {
        session(id, key, 1).data("userId", "u1").data("lastActivityAt", crate::harness::in_seconds(-60))
    };
    feed.apply(&[user, document("d1", "d1", "u1", 1), own("s1", "s1")]).await;
    let live = |key: &str| format!("{}:session:{key}", feed.namespace);
    assert_eq!(feed.count("EXISTS", &live("s1")).await, 1);
    let (one, two) = (live("s1"), live("s2"));
    feed.one(event("user.delete", "gone", json!({ "userId": "u1", "deletedAt": at(10) })), "written").await;
    assert_eq!(
        (state(&feed.record("documents", "d1").await), state(&feed.record("sessions", "s1").await)),
        ("deleted", "ended")
    );
    assert_eq!(feed.count("EXISTS", &one).await, 0, "a revoked session is not live");

    // Saved before the deletion or after it, and late in any case.
    for (key, seconds) in [("before", 5), ("after", 15)] {
        feed.one(document(key, key, "u1", seconds), "written").await;
        let found = feed.record("documents", key).await;
        assert_eq!((state(&found), found.get("deletedAt")), ("deleted", Some(&date_at(10))), "{found}");
    }
    feed.one(own("s2", "s2"), "written").await;
    assert_eq!(state(&feed.record("sessions", "s2").await), "ended");
    assert_eq!(feed.count("EXISTS", &two).await, 0);
    let cached = feed.command(&["get", "document", "after"]).end().await;
    assert_eq!(cached.code, 1, "{}", cached.out);
    // A session of nobody that is claimed for the user: its documents go, too.
    let anonymous = json!({ "documentId": "d3", "sessionId": "s3", "content": "Text.", "updatedAt": at(1) });
    feed.apply(&[session("s3", "s3", 1), event("document.save", "d3", anonymous)]).await;
    feed.one(event("user.claim", "c", json!({ "sessionId": "s3", "userId": "u1", "claimedAt": at(20) })), "written")
        .await;
    assert_eq!(state(&feed.record("documents", "d3").await), "deleted");
    assert_eq!(state(&feed.record("sessions", "s3").await), "ended");
    // Others are as they were.
    feed.one(document("other", "other", "u2", 15), "written").await;
    assert_eq!(state(&feed.record("documents", "other").await), "active");
}

#[tokio::test]
async fn an_anonymized_user_stays_as_it_is() {
    let mut feed = World::new().await.feed().await;
    feed.one(event("user.save", "u", json!({ "userId": "u1", "email": "a@b.example", "updatedAt": at(1) })), "written")
        .await;
    set(&feed, "users", "u1", doc! { "state": "anonymized", "email": "random" }).await;
    let before = feed.record("users", "u1").await;
    feed.one(
        event("user.save", "u2", json!({ "userId": "u1", "email": "a@b.example", "updatedAt": at(9) })),
        "expired",
    )
    .await;
    feed.one(event("user.delete", "u3", json!({ "userId": "u1", "deletedAt": at(9) })), "expired").await;
    feed.one(hold("h", "user", "u1"), "expired").await;
    assert_eq!(feed.record("users", "u1").await, before);
    assert_eq!(feed.command(&["get", "user", "u1"]).end().await.code, 1, "readers do not see it");
}

#[tokio::test]
async fn holds_are_placed_lifted_and_listed_by_hand() {
    let mut feed = World::new().await.feed().await;
    feed.one(document("d", "d1", "u1", 1), "written").await;
    feed.one(event("user.save", "u", json!({ "userId": "u1", "updatedAt": at(1) })), "written").await;
    let hold = |args: &[&str]| feed.command(&[&["hold"], args].concat()).end();
    assert!(hold(&["list"]).await.code(0).out.contains("no holds"));
    let place = ["place", "document", "d1", "--reason", "Case 7.", "--by", "legal", "--id", "h1", "--json"];
    let placed = hold(&place).await.code(0).json();
    assert_eq!((&placed["id"], &placed["state"], &placed["entityId"]), (&json!("h1"), &json!("active"), &json!("d1")));
    let found = feed.record("documents", "d1").await;
    assert_eq!((number(&found, "holdCount"), rev(&found)), (1, 2));
    // The same again is one hold; its id for another thing is refused.
    assert!(hold(&place[..9]).await.code(0).out.contains("already"));
    hold(&["place", "user", "u1", "--reason", "Case 7.", "--id", "h1"]).await.code(1).says(&["another"]).readable();
    assert_eq!(number(&feed.record("documents", "d1").await, "holdCount"), 1);
    let user = hold(&["place", "user", "u1", "--reason", "Case 8."]).await.code(0);
    assert!(user.out.contains("is held"), "{}", user.out);

    let all = hold(&["list", "--json"]).await.code(0).json();
    assert_eq!(all["holds"].as_array().unwrap().len(), 2);
    let one = hold(&["list", "--entity", "document/d1", "--json"]).await.code(0).json();
    assert_eq!(one["holds"][0]["reason"], "Case 7.");
    hold(&["list", "--entity", "paper/d1"]).await.code(64).says(&["KIND/ID"]);
    assert!(hold(&["list"]).await.code(0).out.contains("document/d1"));

    let lifted = hold(&["lift", "h1", "--reason", "Settled.", "--by", "legal"]).await.code(0);
    assert!(lifted.out.contains("is lifted") && lifted.out.contains("no hold is left"), "{}", lifted.out);
    assert!(hold(&["lift", "h1"]).await.code(0).out.contains("before"));
    // Lifted is lifted: the same id does not hold it again, and nobody is told so.
    hold(&place).await.code(1).says(&["--id"]);
    assert_eq!(number(&feed.record("documents", "d1").await, "holdCount"), 0);
    assert!(!hold(&["list"]).await.code(0).out.contains("h1"));
    let all = hold(&["list", "--all", "--json"]).await.code(0).json();
    let ended = all["holds"].as_array().unwrap().iter().find(|h| h["id"] == "h1").unwrap();
    assert_eq!((&ended["liftReason"], &ended["liftedBy"]), (&json!("Settled."), &json!("legal")));

    hold(&["lift", "none"]).await.code(1).says(&["no hold"]).readable();
    hold(&["place", "document", "none", "--reason", "x"]).await.code(1).says(&["there is no document"]).readable();
    hold(&["place", "document", "d1", "--reason", ""]).await.code(64).says(&["reason"]).readable();
    tombstones(&feed, &["documents/purged"]).await;
    hold(&["place", "document", "purged", "--reason", "x"]).await.code(1).says(&["purged already"]).readable();
    set(&feed, "documents", "d1", doc! { "state": "purging" }).await;
    hold(&["place", "document", "d1", "--reason", "x"]).await.code(1).says(&["purged already"]);
    assert_eq!(feed.size("audit_log").await, 3);
    // Cached copies follow.
    crate::harness::eventually("the caches are in step", || async {
        crate::harness::when(feed.size("kvshadow").await == 0)
    })
    .await;
}
