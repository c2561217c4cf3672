//! A user is erased, in all stores that a worker writes to; and nothing that comes late brings anything back.

use mongodb::bson::doc;
use serde_json::{Value, json};

use crate::{
    harness::{Event, eventually, typing, when},
    records_common::{Feed, World},
};

/// Stands in every text of the user.
const MARK: &str = "Marenholt";
const USER: &str = "usr-marked";
const AT: &str = "2026-05-01T10:00:00Z";

fn event(kind: &str, id: &str, data: Value) -> Event {
    Event::new(kind, id, data).with("time", AT)
}

/// One task of each type that leaves something of a user. `n` tells repeated ones apart.
fn all_of_a_user(n: &str) -> Vec<Event> {
    let id = |name: &str| format!("{name}-{n}");
    let of = |kind: &str, name: &str, data: Value| event(kind, &id(name), data);
    vec![
        of(
            "user.save.v1",
            "u",
            json!({ "userId": USER, "email": format!("{MARK}@example.org"), "firstName": MARK, "metadata": { "a": [MARK] } }),
        ),
        of(
            "session.persist.v1",
            "s",
            json!({ "sessionId": id("ses"), "userId": USER, "context": { "a": MARK }, "cacheStrategy": "FULL_SESSION", "more": MARK }),
        ),
        of(
            "interaction.persist.v1",
            "i",
            json!({ "interactionId": id("int"), "sessionId": id("ses"), "userId": USER, "request": MARK, "response": { "text": MARK }, "cacheStrategy": "FULL_INTERACTION" }),
        ),
        of(
            "interaction.persist.v1",
            "j",
            json!({ "interactionId": id("int-of-session"), "sessionId": id("ses"), "response": MARK, "metadata": { "x": MARK } }),
        ),
        of(
            "evaluation.persist.v1",
            "e",
            json!({ "entityId": id("int"), "entityType": "interaction", "evaluationData": { "why": MARK } }),
        ),
        of(
            "ai_interaction.log.v1",
            "a",
            json!({ "aiInteractionId": id("ai"), "userId": USER, "customPrompt": MARK, "aiResponse": MARK, "cacheKey": id("key"), "cacheStrategy": "FULL" }),
        ),
        of(
            "auth.log.v1",
            "l",
            json!({ "userId": USER, "event": "login", "ip": "192.0.2.77", "userAgent": MARK, "metadata": { "x": MARK } }),
        ),
        of("preference.save.v1", "p", json!({ "userId": USER, "theme": MARK })),
        of(
            "context.save.v1",
            "c",
            json!({ "contextId": id("ctx"), "userId": USER, "type": "note", "title": MARK, "content": MARK }),
        ),
        of(
            "memory.save.v1",
            "m",
            json!({ "memoryId": id("mem"), "type": "fact", "content": MARK, "sessionId": id("ses") }),
        ),
        of(
            "context.relate.v1",
            "r",
            json!({ "from": id("ctx"), "to": id("mem"), "relation": "RELATES_TO", "metadata": { "x": MARK } }),
        ),
        of(
            "document.save.v1",
            "d",
            json!({ "documentId": id("doc"), "userId": USER, "title": MARK, "content": MARK, "description": MARK }),
        ),
        of(
            "document.save.v1",
            "o",
            json!({ "documentId": id("doc-of-session"), "sessionId": id("ses"), "title": MARK, "content": MARK }),
        ),
        of(
            "version.save.v1",
            "v",
            json!({ "documentId": id("doc"), "versionId": id("ver"), "kind": "major", "content": MARK, "changeDescription": MARK, "createdBy": USER }),
        ),
        of(
            "prompt_template.save.v1",
            "t",
            json!({ "templateId": id("tpl"), "name": MARK, "promptText": MARK, "createdBy": USER }),
        ),
    ]
}

/// What in MongoDB or Redis holds the mark.
async fn marked(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for name in world.db().list_collection_names().await.unwrap() {
        for row in world.all(&name).await {
            if row.to_string().contains(MARK) || row.to_string().contains("192.0.2.77") {
                found.push(format!("{name}: {row}"));
            }
        }
    }
    for key in world.keys("*").await {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut world.redis()).await.unwrap();
        if kind != "string" {
            continue;
        }
        let value: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut world.redis()).await.unwrap();
        if String::from_utf8_lossy(&value).contains(MARK) {
            found.push(key);
        }
    }
    found
}

async fn filled() -> Feed {
    let mut feed = World::new().await.set("cache.compress_over", "1MiB").feed().await;
    let ended = feed.apply(&all_of_a_user("1")).await;
    assert_eq!(ended.written, 15, "{ended:?} {:?}", feed.letters().await);
    feed.world.xadd("typing", &[typing("ty", "doc-1", "ses-1", 1).data("recentText", MARK).data("userId", USER)]).await;
    feed.world.drain("typing").await;
    eventually("the caches are in step", || async { when(feed.world.size("kvshadow").await == 0) }).await;
    feed
}

#[tokio::test]
async fn nothing_of_an_erased_user_is_left_and_nothing_comes_back() {
    let mut feed = filled().await;
    assert!(marked(&feed.world).await.len() > 15);
    assert!(!feed.world.objects().is_empty());

    let refused = feed.world.command(&["erase", "user", USER]).end().await;
    refused.readable().code(64).says(&["--yes"]);
    let erase = ["erase", "user", USER, "--yes", "--by", "desk", "--reason", "case 7", "--json"];
    let certificate = feed.world.command(&erase).end().await.code(0).json();
    assert_eq!(
        (&certificate["user"], &certificate["requestedBy"], &certificate["reason"]),
        (&json!(USER), &json!("desk"), &json!("case 7"))
    );
    assert_eq!(certificate["changed"]["documents"]["deleted"], 2, "{certificate}");

    assert_eq!(marked(&feed.world).await, Vec::<String>::new());
    assert_eq!(feed.world.objects(), Vec::<String>::new());
    let row = feed.world.one("users", USER).await.unwrap();
    assert!(!row.contains_key("emailHash") && row.get_str("state").is_ok_and(|state| state == "anonymized"), "{row}");

    // The same again, late: as redeliveries, and as newer tasks about the same things and about new ones.
    let newer: Vec<Event> =
        all_of_a_user("1").into_iter().map(|event| event.with("time", "2026-05-02T10:00:00Z")).collect();
    for events in [all_of_a_user("1"), newer] {
        feed.apply(&events).await;
        assert_eq!(marked(&feed.world).await, Vec::<String>::new());
    }
    // Of new things those come in that name nobody, and only those.
    let without_template = |mut events: Vec<Event>| {
        events.pop();
        events
    };
    feed.apply(&without_template(all_of_a_user("2"))).await;
    let named: Vec<String> = marked(&feed.world).await.into_iter().filter(|found| found.contains(USER)).collect();
    assert_eq!(named, Vec::<String>::new());

    let again = feed.world.command(&erase).end().await.code(0).json();
    assert_eq!(again["_id"], certificate["_id"]);
    let shown = feed.world.command(&["erase", "certificate", USER]).end().await.code(0);
    assert!(
        shown.out.contains("What remains, and until when") && shown.out.contains("backups of MongoDB"),
        "{}",
        shown.out
    );
    feed.world.command(&["audit", "verify"]).end().await.code(0);
    feed.world.command(&["policy", "replay"]).end().await.code(0);
}

#[tokio::test]
async fn the_task_erases_as_the_command_does_and_gives_way_to_holds() {
    let mut feed = filled().await;
    let hold = json!({ "holdId": "h", "entityType": "document", "entityId": "doc-1", "reason": "case" });
    feed.one(event("hold.place.v1", "h-1", hold), "written").await;
    let erase = || event("user.erase.v1", "erase-1", json!({ "userId": USER, "requestedBy": "desk" }));
    feed.one(erase(), "dead").await;
    assert!(feed.letters().await.join("").contains("documents/doc-1"));
    let held = feed.world.command(&["erase", "user", USER, "--yes"]).end().await;
    held.readable().code(1).says(&["documents/doc-1", "nothing was changed"]);
    feed.world.command(&["erase", "user", "usr-nobody", "--yes"]).end().await.readable().code(1).says(&["usr-nobody"]);
    feed.one(event("hold.lift.v1", "h-2", json!({ "holdId": "h" })).with("time", "2026-05-01T11:00:00Z"), "written")
        .await;
    feed.world.coll("dead_letters").delete_many(doc! {}).await.unwrap();

    feed.one(erase(), "written").await;
    assert_eq!(marked(&feed.world).await, Vec::<String>::new());
    assert_eq!(feed.world.objects(), Vec::<String>::new());
    feed.one(erase(), "written").await;
    let other = event("user.erase.v1", "erase-2", json!({ "userId": USER })).with("time", "2026-05-03T10:00:00Z");
    feed.one(other, "duplicate").await;
    assert_eq!(feed.world.size("erasure_certificates").await, 1);
}
