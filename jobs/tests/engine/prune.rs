use contextd_jobs::{
    kit::{Objects, Tier},
    policy::{Action, Guard, Rule},
};
use futures::FutureExt;
use mongodb::bson::{Document, doc};

use crate::world::{Between, Death, Place, ago, case, left, rule};

const MINOR: &str = "minor-version";
const AI: &str = "ai-version";
const ALL: [&str; 5] = ["users", "documents", "document_versions", "tombstones", "audit_log"];

/// As they are shipped.
fn rules() -> Vec<Rule> {
    let minor = case("", doc! { "kind": "minor" }, "createdAt", 24 * 60);
    let ai = case("", doc! { "kind": "ai", "decision": "rejected" }, "decidedAt", 0);
    [(MINOR, minor), (AI, ai)]
        .map(|(name, case)| {
            let mut rule = rule(name, "document_versions", Action::Prune, vec![case]);
            rule.guards = vec![Guard::NotCurrent, Guard::NoDeltaBase];
            rule
        })
        .to_vec()
}

async fn place() -> Place {
    Place::new(rules()).await
}

fn document(id: &str, current: &str) -> Document {
    doc! { "_id": id, "userId": "u", "currentVersionId": current, "state": "active", "_sync": { "rev": 7_i64 } }
}

fn key(document: &str, number: i64) -> String {
    format!("versions/u/{document}/{document}v{number}.00")
}

/// A version of two days ago.
fn version(document: &str, number: i64, kind: &str) -> Document {
    let mut row = doc! {
        "_id": format!("{document}v{number}"), "documentId": document, "versionNumber": number, "kind": kind,
        "createdAt": ago(48 * 60 - number), "content": { "key": key(document, number), "codec": "zstd" },
        "_sync": { "rev": 1_i64 },
    };
    if number > 1 {
        row.insert("previousVersionId", format!("{document}v{}", number - 1));
    }
    if kind == "ai" {
        row.extend(doc! { "decision": "rejected", "decidedAt": ago(60) });
    }
    row
}

/// A document whose versions have these kinds; the last one is current.
async fn put(place: &Place, document_id: &str, kinds: &[&str]) {
    let versions: Vec<Document> =
        kinds.iter().zip(1..).map(|(kind, number)| version(document_id, number, kind)).collect();
    let current = versions.last().unwrap().get_str("_id").unwrap().to_owned();
    for number in 1..=kinds.len() as i64 {
        place.files.put(Tier::Hot, &key(document_id, number), b"text".to_vec()).await.unwrap();
    }
    place.put("document_versions", versions).await;
    place.put("documents", vec![document(document_id, &current)]).await;
}

/// Number and predecessor of every version that is there.
async fn chain(place: &Place, document: &str) -> Vec<(i64, Option<String>)> {
    let mut rows: Vec<_> = place.all("document_versions").await;
    rows.retain(|row| row.get_str("documentId").ok() == Some(document));
    rows.sort_by_key(|row| row.get_i64("versionNumber").unwrap());
    let of = |row: &Document| {
        let previous = row.get_str("previousVersionId").ok().map(str::to_owned);
        (row.get_i64("versionNumber").unwrap(), previous)
    };
    rows.iter().map(of).collect()
}

fn to(id: &str) -> Option<String> {
    Some(id.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_versions_leave_the_chain_the_store_and_their_evidence() {
    for pages in [1, 3, 100] {
        let place = place().await.pages_of(pages);
        put(&place, "d", &["minor", "major", "minor", "minor", "ai", "minor", "major", "minor"]).await;
        put(&place, "e", &["major", "minor", "major"]).await;
        let outcome = place.run().await;
        assert_eq!((outcome.rules[MINOR].done, outcome.rules[AI].done), (5, 1), "pages of {pages}");
        assert_eq!(chain(&place, "d").await, [(2, None), (7, to("dv2")), (8, to("dv7"))]);
        assert_eq!(chain(&place, "e").await, [(1, None), (3, to("ev1"))]);
        let stay = [("d", 2), ("d", 7), ("d", 8), ("e", 1), ("e", 3)].map(|(d, n)| key(d, n));
        assert_eq!(place.keys(Tier::Hot).await, stay);
        let next = place.row("document_versions", "ev3").await;
        assert_eq!(next.get_document("_sync").unwrap().get_i64("rev").ok(), Some(2));
        assert!(next.contains_key("content"));
        let parent = place.row("documents", "e").await;
        assert_eq!(parent.get_document("_sync").unwrap().get_i64("rev").ok(), Some(8));
        let stones = place.all("tombstones").await;
        let stone = stones.iter().find(|s| s.get_str("_id").ok() == Some("document_versions/ev2")).unwrap();
        assert_eq!((stone.get_str("state").ok(), stone.get_str("documentId").ok()), (Some("closed"), Some("e")));
        assert_eq!(stone.get_array("owners").unwrap(), &vec!["u".into()]);
        assert_eq!((stones.len(), place.all("audit_log").await.len()), (6, 6));
        let forgotten = place.keys.forgotten.lock().unwrap().clone();
        for (id, rev) in [("ev2", 2), ("ev2", i64::MAX), ("ev3", 1)] {
            assert!(forgotten.contains(&("document_versions".into(), id.into(), rev)), "{id} {rev}");
        }
        assert_eq!(place.run().await.changed, 0);
        place.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn current_versions_bases_and_what_is_held_stay() {
    let place = place().await;
    // 1 is the base of 2, 2 goes at once and 1 with the next run.
    put(&place, "base", &["minor", "minor", "major"]).await;
    place.set("document_versions", "basev2", doc! { "content.base": "basev1" }).await;
    // A major version's base stays as long as that.
    put(&place, "kept", &["minor", "major", "major"]).await;
    place.set("document_versions", "keptv2", doc! { "content.base": "keptv1" }).await;
    put(&place, "current", &["minor", "minor"]).await;
    for (id, held) in [("held", ("documents", "held")), ("mine", ("users", "w")), ("anon", ("sessions", "s"))] {
        put(&place, id, &["minor", "major"]).await;
        place
            .db
            .collection::<Document>(held.0)
            .update_one(doc! { "_id": held.1 }, doc! { "$set": { "holdCount": 1_i64 } })
            .upsert(true)
            .await
            .unwrap();
    }
    place.set("documents", "mine", doc! { "userId": "w" }).await;
    let of_session = doc! { "$unset": { "userId": "" }, "$set": { "sessionId": "s" } };
    place.db.collection::<Document>("documents").update_one(doc! { "_id": "anon" }, of_session).await.unwrap();
    put(&place, "going", &["minor", "major"]).await;
    place.set("documents", "going", doc! { "state": "purging" }).await;
    // Versions without a document: of one that was purged, and of one that nobody knows.
    place.put("document_versions", vec![version("gone", 1, "minor"), version("lost", 1, "minor")]).await;
    place
        .put("tombstones", vec![doc! { "_id": "documents/gone", "key": "gone", "state": "closed", "owners": ["x"] }])
        .await;
    put(&place, "locked", &["minor", "major"]).await;

    let outcome = place.run().await;
    assert_eq!(chain(&place, "base").await, [(1, None), (3, to("basev1"))]);
    assert_eq!(chain(&place, "current").await, [(2, None)]);
    for id in ["kept", "held", "mine", "anon", "going", "locked", "lost"] {
        assert!(place.ids("document_versions").await.contains(&format!("{id}v1")), "{id}");
    }
    let expected = [("current", 1), ("delta-base", 2), ("held", 3), ("no-document", 1), ("purging", 1), ("stuck", 1)];
    assert_eq!(left(&outcome, MINOR), expected.map(|(why, n)| (why.to_owned(), n)).into());
    assert_eq!(outcome.rules[MINOR].done, 3);
    let stone = place.row("tombstones", "document_versions/gonev1").await;
    assert_eq!((stone.get_str("state").ok(), stone.get_array("owners").unwrap().len()), (Some("closed"), 1));
    assert_eq!(place.row("tombstones", "document_versions/lockedv1").await.get_str("state").ok(), Some("open"));
    // What stays keeps its content.
    let kept = place.row("document_versions", "heldv1").await;
    assert!(kept.contains_key("content") && !kept.contains_key("state"));

    assert_eq!(place.run().await.rules[MINOR].done, 1);
    assert_eq!(chain(&place, "base").await, [(3, None)]);
    place.end().await;
}

/// Runs once with something done by others right before `call`.
async fn meanwhile(
    call: &'static str,
    deed: impl Fn(mongodb::Database) -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static,
) -> (Place, contextd_jobs::Outcome) {
    let place = place().await;
    put(&place, "d", &["major", "minor", "major"]).await;
    place.put("users", vec![doc! { "_id": "u" }]).await;
    let db = place.db.clone();
    let (outcome, ended) = place.run_with(Some(Between::new(call, move || deed(db.clone())))).await;
    ended.unwrap();
    (place, outcome)
}

async fn update(db: &mongodb::Database, collection: &str, id: &str, update: Document) {
    db.collection::<Document>(collection).update_one(doc! { "_id": id }, update).await.expect("updated");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_before_the_fence_keeps_a_version() {
    for call in ["forget", "begin", "delta bases", "owners"] {
        // A version that is stored as a difference to it, as a save makes it.
        let save = |db: mongodb::Database| {
            async move {
                update(&db, "documents", "d", doc! { "$inc": { "_sync.rev": 1_i64, "versionCounter": 1_i64 } }).await;
                let mut new = version("d", 4, "major");
                new.insert("content", doc! { "key": "x", "codec": "zstd-delta", "base": "dv2" });
                db.collection("document_versions").insert_one(new).await.expect("inserted");
            }
            .boxed()
        };
        let (place, outcome) = meanwhile(call, save).await;
        assert_eq!(left(&outcome, MINOR), [("delta-base".to_owned(), 1)].into(), "{call}");
        assert_eq!(chain(&place, "d").await.len(), 4, "{call}");
        place.end().await;

        let restore = |db: mongodb::Database| {
            async move {
                let current = doc! { "$set": { "currentVersionId": "dv2" }, "$inc": { "_sync.rev": 1_i64 } };
                update(&db, "documents", "d", current).await;
            }
            .boxed()
        };
        let (place, outcome) = meanwhile(call, restore).await;
        assert_eq!(left(&outcome, MINOR), [("current".to_owned(), 1)].into(), "{call}");
        place.end().await;

        let hold = |db: mongodb::Database| {
            async move { update(&db, "users", "u", doc! { "$inc": { "holdCount": 1_i64 } }).await }.boxed()
        };
        let (place, outcome) = meanwhile(call, hold).await;
        assert_eq!(left(&outcome, MINOR), [("held".to_owned(), 1)].into(), "{call}");
        place.end().await;

        let change = |db: mongodb::Database| {
            let set = doc! { "$set": { "kind": "major" }, "$inc": { "_sync.rev": 1_i64 } };
            async move { update(&db, "document_versions", "dv2", set).await }.boxed()
        };
        let (place, outcome) = meanwhile(call, change).await;
        assert_eq!(left(&outcome, MINOR), [("changed".to_owned(), 1)].into(), "{call}");
        assert_eq!(chain(&place, "d").await, [(1, None), (2, to("dv1")), (3, to("dv2"))]);
        assert!(place.all("tombstones").await.is_empty() && place.all("audit_log").await.is_empty());
        assert_eq!(place.keys(Tier::Hot).await.len(), 3);
        place.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_the_next_run_comes_to_the_same_end() {
    let place = place().await.pages_of(2);
    let seed = || async {
        place.clear(&ALL).await;
        put(&place, "d", &["major", "minor", "minor", "ai", "major"]).await;
        put(&place, "e", &["minor", "major"]).await;
    };
    let state = || async {
        let mut all = Vec::new();
        for collection in ALL {
            let mut rows = place.all(collection).await;
            // How often the document was written depends on where the pages end.
            for row in rows.iter_mut().filter(|_| collection == "documents") {
                row.remove("fences");
                row.remove("_sync");
            }
            all.push(rows);
        }
        (all, place.keys(Tier::Hot).await)
    };
    seed().await;
    assert_eq!(place.run().await.changed, 4);
    let expected = state().await;
    let mut deaths = 0;
    for at in 0.. {
        let mut came = false;
        for after in [false, true] {
            seed().await;
            let death = Death::new(at, after);
            let (_, ended) = place.run_with(Some(death.clone())).await;
            assert_eq!(ended.is_err(), death.came());
            came |= death.came();
            // Objects go behind the fence only: what still has its content has its object.
            for row in place.all("document_versions").await {
                let Ok(content) = row.get_document("content") else { continue };
                let key = content.get_str("key").unwrap().to_owned();
                assert!(place.keys(Tier::Hot).await.contains(&key), "{key}, killed at call {at}");
            }
            place.run().await;
            assert_eq!(state().await, expected, "killed at call {at}, its answer lost: {after}");
            assert_eq!(place.run().await.changed, 0);
        }
        if !came {
            break;
        }
        deaths += 2;
    }
    assert!(deaths > 80, "{deaths} deaths");
    place.end().await;
}
