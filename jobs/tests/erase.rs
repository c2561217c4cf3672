//! Users are erased: nothing of them is left anywhere, whatever happens meanwhile.

mod person;

use std::collections::BTreeMap;

use contextd_jobs::{
    engine::{Engine, Erased, Request},
    kit::{JobError, Run, chain},
};
use mongodb::bson::{Document, doc};
use person::*;

type All = BTreeMap<String, Vec<Document>>;

fn request() -> Request {
    Request { user: USER.into(), by: "privacy desk".into(), reason: Some("ticket 12".into()), at: now() }
}

async fn erase(place: &Place, run: &Run) -> Result<Erased, JobError> {
    Engine { world: &place.world, settings: &settings() }.erase(run, &request()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_user_is_left_anywhere() {
    let place = Place::new("all").await;
    seed(&place).await;
    let others = |all: All| -> Vec<String> {
        let is_theirs = |row: &&Document| row.get_str("_id").is_ok_and(|id| id.contains("theirs") || id == OTHER);
        all.values().flatten().filter(is_theirs).map(ToString::to_string).collect()
    };
    let before = others(place.everything().await);
    assert!(place.marked().await.len() > 30);

    let Erased::Done(certificate) = erase(&place, &place.run()).await.unwrap() else { panic!("done") };

    assert_eq!(place.marked().await, Vec::<String>::new());
    assert_eq!(others(place.everything().await), before, "somebody else's rows are as they were");
    let named: Vec<String> = named(&place).await.into_keys().collect();
    assert_eq!(named, ["audit_log", "erasure_certificates", "holds", "tombstones", "users"], "ids as evidence only");
    let user = place.one("users", USER).await.unwrap();
    assert_eq!(user.get_str("state").unwrap(), "anonymized");
    assert!(user.get_str("email").unwrap().starts_with("anonymized-") && !user.contains_key("emailHash"), "{user}");
    assert_eq!(user.get_document("_sync").unwrap().keys().collect::<Vec<_>>(), ["rev", "order"]);
    let kept = place.one("session_history", "mine-s1").await.unwrap();
    assert_eq!((kept.get_i64("interactionCount").unwrap(), kept.contains_key("userId")), (2, false));
    assert_eq!(place.one("document_versions", "guest").await.unwrap().get_i32("n").unwrap(), 1);
    let changed = certificate.0.get_document("changed").unwrap();
    let counted = |of: &str, how: &str| changed.get_document(of).unwrap().get_i64(how).unwrap();
    assert_eq!((counted("documents", "deleted"), counted("document_versions", "deleted")), (3, 3));
    assert_eq!((counted("sessions", "anonymized"), counted("session_history", "anonymized")), (2, 1));
    assert_eq!((counted("interactions", "anonymized"), counted("ai_interactions", "anonymized")), (2, 2));
    assert_eq!((counted("contexts", "deleted"), counted("auth_logs", "anonymized")), (2, 2));
    assert_eq!((counted("holds", "anonymized"), counted("document_versions", "namesRemoved")), (3, 2));
    assert_eq!(place.files().keys().filter(|name| name.starts_with("audit/certificate-")).count(), 1);
    let verdict = chain::verify(&place.db, None, Some(place.world.anchors.as_ref()), now()).await.unwrap();
    assert_eq!(verdict.faults, 0, "{verdict:?}");
    assert!(certificate.0.get_document("audit").unwrap().get_i64("seq").unwrap() >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_answers_the_same_certificate() {
    let place = Place::new("twice").await;
    seed(&place).await;
    let first = erase(&place, &place.run()).await.unwrap();
    let end = place.everything().await;
    let later = now() + chrono::TimeDelta::days(1);
    assert_eq!(erase(&place, &place.run_at(later)).await.unwrap(), first);
    assert_eq!(place.everything().await, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_user_or_anything_held_of_it_is_refused_before_the_first_write() {
    for (collection, id) in
        [("users", USER), ("documents", "mine-d2"), ("documents", "mine-d3"), ("sessions", "mine-s1")]
    {
        let place = Place::new("held").await;
        seed(&place).await;
        let held = doc! { "$set": { "holdCount": 1_i64 } };
        place.db.collection::<Document>(collection).update_one(doc! { "_id": id }, held).await.unwrap();
        let mut before = place.everything().await;
        before.remove("lifecycle_state");
        let refused = erase(&place, &place.run()).await.unwrap();
        assert_eq!(refused, Erased::Held(vec![format!("{collection}/{id}")]));
        let mut after = place.everything().await;
        after.remove("lifecycle_state");
        assert_eq!(after, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_nobody_knows_is_unknown_and_traces_without_an_account_are_erased() {
    let place = Place::new("unknown").await;
    assert_eq!(erase(&place, &place.run()).await.unwrap(), Erased::Unknown);
    assert_eq!(place.all("users").await, Vec::<Document>::new());
    seed(&place).await;
    place.db.collection::<Document>("users").delete_one(doc! { "_id": USER }).await.unwrap();
    assert!(matches!(erase(&place, &place.run()).await.unwrap(), Erased::Done(_)));
    assert_eq!(place.marked().await, Vec::<String>::new());
    assert_eq!(place.one("users", USER).await.unwrap().get_str("state").unwrap(), "anonymized");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_at_any_call_the_next_request_comes_to_the_same_end() {
    let whole = Place::new("whole").await;
    seed(&whole).await;
    let counting = CutAt::new(u64::MAX, false);
    erase(&whole, &whole.run().with_faults(counting.clone())).await.unwrap();
    let (calls, end, files) = (counting.count(), whole.end().await, whole.files());
    let names = counting.calls.lock().unwrap().clone();
    println!("{calls} calls");
    // All of them before and after, several places at a time.
    let cuts: Vec<(u64, bool)> = (0..calls).flat_map(|call| [(call, false), (call, true)]).collect();
    for cut in cuts.chunks(16) {
        let runs = cut.iter().map(|(call, after)| cut_off(*call, *after, calls, &names, &end, &files));
        futures::future::join_all(runs).await;
    }
}

async fn cut_off(call: u64, after: bool, calls: u64, names: &[String], end: &All, files: &BTreeMap<String, Vec<u8>>) {
    let place = Place::new("cut").await;
    seed(&place).await;
    let faults = CutAt::new(call, after);
    let first = erase(&place, &place.run().with_faults(faults)).await;
    let name = &names[call as usize];
    // What comes after the certificate is not part of it.
    assert!(first.is_err() || call + 8 > calls, "call {call} ({name}) after {after}: {first:?}");
    let again = erase(&place, &place.run()).await.unwrap();
    assert!(matches!(again, Erased::Done(_)), "call {call} ({name}) after {after}: {again:?}");
    assert_eq!(place.marked().await, Vec::<String>::new(), "call {call} ({name}) after {after}");
    let ended = place.end().await;
    for (collection, rows) in end {
        assert_eq!(&ended[collection], rows, "{collection}: call {call} ({name}) after {after}");
    }
    assert_eq!(place.files().into_keys().collect::<Vec<_>>(), files.keys().cloned().collect::<Vec<_>>());
    place.db.drop().await.unwrap();
}
