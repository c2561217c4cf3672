use contextd_jobs::policy::{Action, Guard, Rule};
use futures::FutureExt;
use mongodb::bson::{Bson, Document, doc};

use crate::world::{Between, Death, Place, ago, case, left, now, rule};

const RULE: &str = "session-archival";
const ALL: [&str; 7] =
    ["sessions", "session_history", "interactions", "documents", "typing_contexts", "tombstones", "audit_log"];

/// As it is shipped.
fn archival() -> Rule {
    let mut user = case("user", doc! { "state": "active" }, "lastActivityAt", 30);
    user.present = vec!["userId".into()];
    let mut anonymous = case("anonymous", doc! { "state": "active" }, "lastActivityAt", 24 * 60);
    anonymous.absent = vec!["userId".into()];
    let ended = case("ended", doc! { "state": "ended" }, "endedAt", 0);
    let mut rule = rule(RULE, "sessions", Action::ArchiveSession, vec![user, anonymous, ended]);
    rule.guards = vec![Guard::NoLiveSession];
    rule
}

async fn place() -> Place {
    Place::new(vec![archival()]).await
}

/// A session whose last activity was so many minutes ago.
fn session(id: &str, user: Option<&str>, minutes: i64) -> Document {
    let mut row = doc! {
        "_id": id, "sessionId": id, "state": "active", "startedAt": ago(minutes + 10), "lastActivityAt": ago(minutes),
        "_sync": { "rev": 3_i64, "order": 1_i64 },
    };
    if let Some(user) = user {
        row.insert("userId", user);
    }
    row
}

fn interaction(id: &str, session: &str, document: Option<&str>, minutes: i64) -> Document {
    let mut row = doc! { "_id": id, "sessionId": session, "timestamp": ago(minutes) };
    if let Some(document) = document {
        row.insert("documentId", document);
    }
    row
}

fn previous(row: &Document) -> Option<&str> {
    row.get_str("previousSessionId").ok()
}

async fn links(place: &Place) -> Vec<(String, Option<String>)> {
    let rows = place.all("session_history").await;
    rows.iter().map(|row| (row.get_str("_id").unwrap().to_owned(), previous(row).map(str::to_owned))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_over_move_with_their_figures() {
    let place = place().await;
    let mut ended = session("ended", Some("u2"), 5);
    ended.extend(doc! { "state": "ended", "endedAt": ago(2), "claimLeft": [], "fences": 3_i64, "holdCount": 0_i64 });
    let sessions = vec![
        session("idle", Some("u1"), 31),
        session("busy", Some("u1"), 29),
        session("anon", None, 24 * 60 + 1),
        session("young-anon", None, 23 * 60),
        ended,
    ];
    place.put("sessions", sessions).await;
    place.keys.live.lock().unwrap().insert("other".into());
    place
        .put(
            "interactions",
            vec![
                interaction("i1", "idle", Some("d2"), 35),
                interaction("i2", "idle", Some("d1"), 34),
                interaction("i3", "idle", Some("d2"), 33),
                interaction("i4", "idle", None, 32),
                interaction("i5", "busy", Some("d1"), 30),
            ],
        )
        .await;
    place.put("documents", vec![doc! { "_id": "d3", "sessionId": "idle" }, doc! { "_id": "d9" }]).await;
    let typing = doc! { "_id": "d0:idle", "documentId": "d0", "sessionId": "idle", "sequence": 1_i64 };
    place.put("typing_contexts", vec![typing]).await;

    let outcome = place.run().await;
    assert_eq!((outcome.changed, outcome.rules[RULE].done), (3, 3));
    assert_eq!(place.ids("sessions").await, ["busy", "young-anon"]);
    let expected = doc! {
        "_id": "idle", "sessionId": "idle", "state": "archived", "startedAt": ago(41), "lastActivityAt": ago(31),
        "_sync": { "rev": 4_i64, "order": 1_i64 }, "userId": "u1", "archivedAt": ago(0), "endedAt": ago(31),
        "durationMs": 600_000_i64, "interactionCount": 4_i64, "documentsTouched": ["d0", "d1", "d2", "d3"],
    };
    assert_eq!(place.row("session_history", "idle").await, expected);
    let ended = place.row("session_history", "ended").await;
    assert_eq!(ended.get_datetime("endedAt").ok(), Some(&ago(2)));
    assert_eq!(ended.get_i64("durationMs").ok(), Some(13 * 60_000));
    for name in ["claimLeft", "fences", "lifecycle", "holdCount", "previousSessionId"] {
        assert!(!ended.contains_key(name), "{name}");
    }
    let stones = place.all("tombstones").await;
    let closed: Vec<_> = stones.iter().map(|s| (s.get_str("_id").unwrap(), s.get_str("state").unwrap())).collect();
    assert_eq!(closed, [("sessions/anon", "closed"), ("sessions/ended", "closed"), ("sessions/idle", "closed")]);
    let audit = place.all("audit_log").await;
    assert_eq!(audit.len(), 3);
    assert!(
        audit.iter().all(|e| e.get_str("action").ok() == Some("lifecycle.archive-session") && e.contains_key("digest"))
    );
    assert_eq!(*place.keys.live.lock().unwrap(), ["other".to_owned()].into());
    assert!(place.keys.typing.lock().unwrap().contains(&("d0".into(), "idle".into())));
    assert!(place.keys.forgotten.lock().unwrap().contains(&("sessions".into(), "idle".into(), 4)));
    assert_eq!(place.run().await.changed, 0);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_names_the_one_before_it_in_whatever_order_they_come() {
    for pages in [1, 2, 100] {
        let place = place().await.pages_of(pages);
        // Ended sessions are scanned behind the idle ones, though they may be older.
        let mut old = session("u-1-ended", Some("u"), 300);
        old.extend(doc! { "state": "ended", "endedAt": ago(300) });
        let mut at_once = session("u-3-b", Some("u"), 100);
        at_once.extend(doc! { "state": "ended", "endedAt": ago(100) });
        let mut shared = session("v", Some("v"), 90);
        shared.insert("documentId", "d1");
        let mut ended = session("a-2", None, 60);
        ended.extend(doc! { "state": "ended", "endedAt": ago(60) });
        let sessions = vec![
            session("u-2", Some("u"), 200),
            session("u-4", Some("u"), 40),
            session("u-3-a", Some("u"), 100),
            at_once,
            old,
            session("a-1", None, 3_000),
            session("b", None, 2_000),
            ended,
            shared,
        ];
        place.put("sessions", sessions).await;
        let of = |id: &str, session: &str, document: &str| interaction(id, session, Some(document), 100);
        place
            .put(
                "interactions",
                vec![of("1", "a-1", "d1"), of("2", "a-2", "d1"), of("3", "a-2", "d2"), of("4", "b", "d3")],
            )
            .await;
        assert_eq!(place.run().await.changed, 9);
        let expected = [
            ("a-1", None),
            // The latest of those that touched one of its documents, whoever's it was.
            ("a-2", Some("v")),
            ("b", None),
            ("u-1-ended", None),
            ("u-2", Some("u-1-ended")),
            ("u-3-a", Some("u-2")),
            ("u-3-b", Some("u-2")),
            ("u-4", Some("u-3-b")),
            ("v", None),
        ];
        let expected = expected.map(|(id, previous)| (id.to_owned(), previous.map(str::to_owned)));
        assert_eq!(links(&place).await, expected, "pages of {pages}");
        // And of one that comes later, between two that are there.
        place.put("sessions", vec![session("u-2-late", Some("u"), 150)]).await;
        assert_eq!(place.run().await.changed, 1);
        assert_eq!(previous(&place.row("session_history", "u-2-late").await), Some("u-2"));
        assert_eq!(previous(&place.row("session_history", "u-3-a").await), Some("u-2-late"));
        assert_eq!(previous(&place.row("session_history", "u-4").await), Some("u-3-b"));
        place.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_held_and_half_claimed_sessions_stay() {
    let place = place().await;
    let mut claimed = session("claimed", Some("u"), 100);
    claimed.insert("claimLeft", vec![Bson::from(doc! { "key": "documents/s/d/1" })]);
    let mut held = session("held", Some("u"), 100);
    held.insert("holdCount", 1_i64);
    let sessions = vec![
        claimed,
        held,
        session("live", Some("u"), 100),
        session("h", Some("held"), 100),
        session("o", Some("u"), 99),
    ];
    place.put("sessions", sessions).await;
    place.put("users", vec![doc! { "_id": "held", "holdCount": 2_i64 }, doc! { "_id": "u" }]).await;
    place.keys.live.lock().unwrap().insert("live".into());
    let outcome = place.run().await;
    assert_eq!(place.ids("sessions").await, ["claimed", "h", "held", "live"]);
    assert_eq!(place.ids("session_history").await, ["o"]);
    let expected = [("claim-unfinished".to_owned(), 1), ("held".to_owned(), 2), ("live-session".to_owned(), 1)];
    assert_eq!(left(&outcome, RULE), expected.into());
    assert_eq!(place.all("audit_log").await.len(), 1);
    // The claim comes to its end.
    place.set("sessions", "claimed", doc! { "claimLeft": Bson::Array(Vec::new()) }).await;
    assert_eq!(place.run().await.changed, 1);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_before_the_write_keeps_a_session() {
    // Before the transaction, and within it where it makes the transaction begin anew.
    for call in ["forget", "session before", "begin", "owners", "rows", "take"] {
        let place = place().await;
        place.put("users", vec![doc! { "_id": "u" }]).await;
        place.put("sessions", vec![session("s", Some("u"), 100), session("t", Some("u"), 90)]).await;
        let db = place.db.clone();
        let touch = Between::new(call, move || {
            let sessions = db.collection::<Document>("sessions");
            async move {
                let set = doc! { "$set": { "lastActivityAt": ago(0) }, "$inc": { "_sync.rev": 1_i64 } };
                sessions.update_one(doc! { "_id": "s" }, set).await.expect("touched");
            }
            .boxed()
        });
        let (outcome, ended) = place.run_with(Some(touch)).await;
        ended.unwrap();
        assert_eq!(place.ids("sessions").await, ["s"], "{call}");
        assert_eq!(place.ids("session_history").await, ["t"], "{call}");
        assert_eq!(left(&outcome, RULE), [("changed".to_owned(), 1)].into(), "{call}");
        assert_eq!(place.ids("tombstones").await, ["sessions/t"], "{call}");
        assert_eq!(place.all("audit_log").await.len(), 1, "{call}");
        place.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_while_summaries_are_made_keeps_a_session() {
    let place = place().await;
    place.put("sessions", vec![session("s", Some("u"), 100)]).await;
    let keys = place.keys.clone();
    let touch = Between::new("interactions", move || {
        keys.live.lock().unwrap().insert("s".into());
        futures::future::ready(()).boxed()
    });
    let (outcome, ended) = place.run_with(Some(touch)).await;
    ended.unwrap();
    assert_eq!(left(&outcome, RULE), [("live-session".to_owned(), 1)].into());
    assert_eq!(place.ids("sessions").await, ["s"]);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_made_again_is_one_with_what_was_archived() {
    let place = place().await;
    place.put("sessions", vec![session("s", Some("u"), 100)]).await;
    place.put("interactions", vec![interaction("1", "s", None, 105)]).await;
    assert_eq!(place.run().await.changed, 1);
    place.put("sessions", vec![doc! { "_id": "s", "state": "ended", "endedAt": ago(1), "userId": "u" }]).await;
    place.put("interactions", vec![interaction("2", "s", None, 2)]).await;
    assert_eq!(place.run().await.changed, 1);
    let row = place.row("session_history", "s").await;
    assert_eq!((row.get_i64("interactionCount").ok(), row.get_datetime("endedAt").ok()), (Some(2), Some(&ago(1))));
    assert_eq!(row.get_i64("durationMs").ok(), Some(109 * 60_000));
    assert_eq!((previous(&row), place.all("audit_log").await.len()), (None, 2));
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_the_next_run_comes_to_the_same_end() {
    let place = place().await.pages_of(2);
    let seed = || async {
        place.clear(&ALL).await;
        let mut ended = session("e", Some("u"), 70);
        ended.extend(doc! { "state": "ended", "endedAt": ago(70) });
        let sessions =
            vec![session("s", Some("u"), 100), session("t", Some("u"), 90), session("a", None, 3_000), ended];
        place.put("sessions", sessions).await;
        place
            .put("interactions", vec![interaction("1", "s", Some("d"), 105), interaction("2", "a", Some("d"), 3_001)])
            .await;
    };
    let state = || async {
        let mut all = Vec::new();
        for collection in ALL {
            all.push(place.all(collection).await);
        }
        all
    };
    seed().await;
    assert_eq!(place.run().await.changed, 4);
    let expected = state().await;
    assert_eq!(expected[1].len(), 4, "at {}", now());
    let mut deaths = 0;
    for at in 0.. {
        let mut came = false;
        for after in [false, true] {
            seed().await;
            let death = Death::new(at, after);
            let (_, ended) = place.run_with(Some(death.clone())).await;
            assert_eq!(ended.is_err(), death.came());
            came |= death.came();
            place.run().await;
            assert_eq!(state().await, expected, "killed at call {at}, its answer lost: {after}");
            assert_eq!(place.run().await.changed, 0);
        }
        if !came {
            break;
        }
        deaths += 2;
    }
    assert!(deaths > 40, "{deaths} deaths");
    place.end().await;
}
