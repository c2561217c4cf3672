//! Documents go with all that belongs to them, from anywhere a run may be cut off.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Cut, Place, at, date, rule};
use contextd_jobs::{
    kit::{Faults, Tier},
    policy::{Action, Rule},
};
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};

const DAY: Duration = Duration::from_secs(86_400);

fn deleted() -> Rule {
    rule("deleted-document", "documents", &[("state", "deleted")], "deletedAt", 30 * DAY, Action::Purge)
}

fn content(key: &str) -> Document {
    doc! { "key": key, "codec": "raw", "hash": "h", "size": 1_i64, "stored": 1_i64, "sealed": false }
}

/// `d-N` was deleted N days before the first of May; each with two versions and rows that name it.
async fn fill(place: &Place, days: &[i64]) {
    let end = at("2026-05-01T00:00:00Z");
    place.index(&[deleted()]).await;
    for n in days {
        let id = format!("d-{n}");
        let key = format!("documents/u1/{id}/t");
        place.objects.write(Tier::Hot, &key, b"x");
        let row = doc! { "_id": &id, "state": "deleted", "userId": "u1", "ownerType": "user",
        "deletedAt": date(end - chrono::TimeDelta::days(*n)), "content": content(&key), "_sync": { "rev": 3_i64 } };
        place.insert("documents", [row]).await;
        for v in 0..2 {
            let key = format!("versions/u1/{id}/{id}-v{v}.h");
            place.objects.write(Tier::Hot, &key, b"y");
            let row = doc! { "_id": format!("{id}-v{v}"), "documentId": &id, "content": content(&key) };
            place.insert("document_versions", [row]).await;
        }
        place.objects.write(Tier::Hot, &format!("documents/u1/{id}/of-nobody"), b"z");
        place.insert("analyses", [doc! { "_id": format!("a-{id}"), "documentId": &id }]).await;
        place.insert("typing_contexts", [doc! { "_id": format!("{id}:s"), "documentId": &id, "sessionId": "s" }]).await;
        place.insert("context_links", [doc! { "_id": format!("l-{id}"), "from": &id, "to": "x" }]).await;
        place.insert("interactions", [doc! { "_id": format!("i-{id}"), "documentId": &id, "sessionId": "s" }]).await;
    }
}

/// Everything that is left, in a form that two runs have in common.
async fn left(place: &Place) -> Vec<String> {
    let mut all = place.objects.all();
    for collection in [
        "documents",
        "document_versions",
        "analyses",
        "typing_contexts",
        "context_links",
        "interactions",
        "tombstones",
        "audit_log",
    ] {
        let rows = place.db.collection::<Document>(collection);
        let rows = rows.find(doc! {}).sort(doc! { "_id": 1 });
        let rows: Vec<Document> = rows.await.expect("rows").try_collect().await.expect("rows");
        for mut row in rows {
            for of_the_moment in ["digest", "lifecycle"] {
                row.remove(of_the_moment);
            }
            all.push(format!("{collection} {row}"));
        }
    }
    all
}

#[tokio::test]
async fn a_document_goes_with_all_that_belongs_to_it() {
    let place = Place::new("cascade").await;
    fill(&place, &[29, 30, 31]).await;
    let run = place.run(&[deleted()], at("2026-05-01T00:00:00Z")).await.map_err(|(_, e)| e).expect("it runs");
    assert_eq!(run.outcome.by_action["purge"], 2);
    assert_eq!(place.count("documents", doc! {}).await, 1);
    assert_eq!(place.count("document_versions", doc! {}).await, 2);
    assert_eq!(place.count("analyses", doc! {}).await, 1);
    assert_eq!(place.count("typing_contexts", doc! {}).await, 1);
    assert_eq!(place.count("context_links", doc! {}).await, 1);
    assert_eq!(place.count("interactions", doc! { "documentId": { "$exists": true } }).await, 1);
    assert_eq!(place.count("interactions", doc! {}).await, 3, "interactions stay and forget the document");
    let objects = place.objects.all();
    assert_eq!(objects.len(), 4, "{objects:?}");
    assert!(objects.iter().all(|key| key.contains("d-29")), "{objects:?}");
    assert_eq!(place.count("tombstones", doc! { "state": "closed" }).await, 2);
    assert_eq!(place.count("audit_log", doc! { "action": "lifecycle.purge" }).await, 2);
    assert_eq!(place.caches.typing.lock().expect("no panic").len(), 2);
}

#[tokio::test]
async fn a_hold_on_the_document_or_its_user_keeps_it() {
    let place = Place::new("held").await;
    fill(&place, &[40, 41]).await;
    place.insert("users", [doc! { "_id": "u1", "holdCount": 1_i64 }]).await;
    let now = at("2026-05-01T00:00:00Z");
    let run = place.run(&[deleted()], now).await.map_err(|(_, e)| e).expect("it runs");
    assert_eq!((run.outcome.changed, run.outcome.held), (0, 2));
    let users = place.db.collection::<Document>("users");
    users.update_one(doc! {}, doc! { "$set": { "holdCount": 0_i64 } }).await.expect("written");
    let documents = place.db.collection::<Document>("documents");
    documents.update_one(doc! { "_id": "d-40" }, doc! { "$set": { "holdCount": 2_i64 } }).await.expect("written");
    let run = place.run(&[deleted()], now).await.map_err(|(_, e)| e).expect("it runs");
    assert_eq!((run.outcome.changed, run.outcome.held), (1, 1));
    assert!(place.row("documents", "d-40").await.is_some());
}

#[tokio::test]
async fn over_its_cap_a_rule_writes_nothing() {
    let place = Place::new("cap").await;
    fill(&place, &[40, 41, 42]).await;
    let mut capped = deleted();
    capped.cap.floor = 2;
    let now = at("2026-05-01T00:00:00Z");
    let before = left(&place).await;
    let (_, error) = place.run(std::slice::from_ref(&capped), now).await.map(|_| ()).expect_err("over the cap");
    assert!(error.to_string().contains("its cap is 2"), "{error}");
    assert_eq!(left(&place).await, before);
    let capped = [capped];
    let forced = place.run_with(&capped, now, |mut run| {
        run.over_cap = true;
        run
    });
    assert_eq!(forced.await.map_err(|(_, e)| e).expect("told to go").outcome.changed, 3);
}

#[tokio::test]
async fn cut_off_at_any_call_the_next_run_comes_to_the_same_end() {
    let now = at("2026-05-01T00:00:00Z");
    let whole = Place::new("whole").await;
    fill(&whole, &[29, 31, 32]).await;
    let count = Cut::never();
    let counted: Arc<dyn Faults> = count.clone();
    whole.run_with(&[deleted()], now, |run| run.with_faults(counted)).await.map_err(|(_, e)| e).expect("it runs");
    let expected = left(&whole).await;
    for call in (1..=count.calls()).filter(|call| common::is_tried(*call, count.calls())) {
        for after in [false, true] {
            let place = Place::new(&format!("cut_{call}_{after}")).await;
            fill(&place, &[29, 31, 32]).await;
            let cut: Arc<dyn Faults> = Cut::new(call, after);
            let _ = place.run_with(&[deleted()], now, |run| run.with_faults(cut)).await;
            place.run(&[deleted()], now).await.map_err(|(_, e)| e).expect("it goes on");
            assert_eq!(left(&place).await, expected, "cut off {} call {call}", if after { "after" } else { "before" });
            place.db.drop().await.expect("MongoDB answers");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_away_ends_the_run_and_the_next_goes_on() {
    let place = Place::new("away").await;
    fill(&place, &[31, 32]).await;
    let now = at("2026-05-01T00:00:00Z");
    *place.objects.down.lock().expect("no panic") = true;
    let (_, error) = place.run(&[deleted()], now).await.map(|_| ()).expect_err("it is away");
    assert!(error.is_transient(), "{error}");
    assert_eq!(place.count("documents", doc! { "state": "purging" }).await, 2, "fenced, and all still there");
    assert_eq!(place.count("document_versions", doc! {}).await, 4);
    *place.objects.down.lock().expect("no panic") = false;
    place.run(&[deleted()], now).await.map_err(|(_, e)| e).expect("it goes on");
    assert_eq!(place.count("documents", doc! {}).await, 0);
    assert!(place.objects.all().is_empty());
}
