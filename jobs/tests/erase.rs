//! Users are erased: nothing of them is left anywhere, whatever happens meanwhile.

mod person;

use std::collections::BTreeMap;

use contextd_jobs::{
    engine::{Engine, Erased, Replayed, Request},
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
    // The first and the last call of each kind, before and after.
    let place_of = |at: usize| {
        let name = &names[at];
        names.iter().position(|n| n == name) == Some(at) || names.iter().rposition(|n| n == name) == Some(at)
    };
    let at: Vec<u64> = (0..names.len()).filter(|at| place_of(*at)).map(|at| at as u64).collect();
    let at: Vec<u64> = at.iter().enumerate().filter(|(n, _)| person::is_tried(*n)).map(|(_, at)| *at).collect();
    println!("{calls} calls, {} of them cut off", at.len());
    let cuts: Vec<(u64, bool)> = at.into_iter().flat_map(|call| [(call, false), (call, true)]).collect();
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

/// Puts the database back to what it was; what lies outside of it stays as it is.
async fn restore(place: &Place, backup: &All, files: &BTreeMap<String, Vec<u8>>) {
    place.db.drop().await.unwrap();
    for (collection, rows) in backup.iter().filter(|(_, rows)| !rows.is_empty()) {
        place.put(collection, rows.clone()).await;
    }
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("objects")) {
        let path = place.dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

async fn replay(place: &Place, dry: bool) -> Result<Replayed, JobError> {
    let mut run = place.run_at(now() + chrono::TimeDelta::days(2));
    run.dry_run = dry;
    Engine { world: &place.world, settings: &settings() }.replay(&mut run, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_what_was_erased_goes_again() {
    let place = Place::new("restore").await;
    seed(&place).await;
    let (backup, files) = (place.everything().await, place.files());
    let Erased::Done(first) = erase(&place, &place.run()).await.unwrap() else { panic!("done") };
    let erased = place.end().await;

    assert_eq!(replay(&place, false).await.unwrap().again, 0, "nothing is there again");

    restore(&place, &backup, &files).await;
    let dry = replay(&place, true).await.unwrap();
    assert!(
        dry.items.contains(&"users/usr-1".to_owned()) && dry.items.contains(&"documents/mine-d1".to_owned()),
        "{dry:?}"
    );
    assert_eq!(place.everything().await, backup, "a dry run changes nothing");

    let replayed = replay(&place, false).await.unwrap();
    assert_eq!(replayed.gone, BTreeMap::from([("users".to_owned(), 1)]), "and the documents with the user");
    assert!(replayed.left.is_empty() && replayed.rejoined >= 4, "{replayed:?}");
    assert_eq!(place.marked().await, Vec::<String>::new());
    let verdict = chain::verify(&place.db, None, Some(place.world.anchors.as_ref()), now()).await.unwrap();
    assert_eq!(verdict.faults, 0, "{verdict:?}");
    let entries = place.all("audit_log").await;
    let with = |action: &str| entries.iter().filter(|e| e.get_str("action").unwrap() == action).count();
    assert_eq!((with("lifecycle.replay"), with("lifecycle.anonymize"), with("lifecycle.purge")), (4, 1, 3));
    // The rows are what they were after the first time; certificates and tombstones tell of the second.
    let again = place.end().await;
    for collection in ["users", "session_history", "interactions", "ai_interactions", "auth_logs", "holds"] {
        let at =
            |rows: &Vec<Document>| rows.iter().map(|row| row.keys().cloned().collect::<Vec<_>>()).collect::<Vec<_>>();
        assert_eq!(at(&again[collection]), at(&erased[collection]), "{collection}");
    }
    assert_eq!(again["erasure_certificates"].len(), 1);
    assert_ne!(again["erasure_certificates"][0].get_str("_id").unwrap(), first.id());
    assert_eq!(place.files().keys().filter(|name| name.contains("certificate-")).count(), 2);
    assert_eq!(replay(&place, false).await.unwrap().again, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_back_one_collection_at_a_time_go_again_and_held_ones_stay() {
    let place = Place::new("partly").await;
    seed(&place).await;
    let backup = place.everything().await;
    erase(&place, &place.run()).await.unwrap();
    let mine = |collection: &str| -> Vec<Document> {
        let is_mine = |row: &&Document| row.get_str("_id").is_ok_and(|id| id.starts_with("mine"));
        backup[collection].iter().filter(is_mine).cloned().collect()
    };
    // Their tombstones are there still.
    let mut documents = mine("documents");
    documents[0].insert("holdCount", 1_i64);
    place.put("documents", documents).await;
    // What names the user itself: of the other only its session tells whose it is.
    place.put("contexts", mine("contexts").into_iter().filter(|row| row.contains_key("userId")).collect()).await;
    let replayed = replay(&place, false).await.unwrap();
    assert_eq!(
        replayed.left,
        BTreeMap::from([("held".to_owned(), 2)]),
        "a document, and the user because of it: {replayed:?}"
    );
    let left: Vec<String> = place.all("documents").await.iter().map(|row| row.get_str("_id").unwrap().into()).collect();
    assert_eq!(left, ["mine-d1", "theirs-d1", "theirs-d2", "theirs-d3"]);
    let lift = doc! { "$set": { "holdCount": 0_i64 } };
    place.db.collection::<Document>("documents").update_one(doc! { "_id": "mine-d1" }, lift).await.unwrap();
    assert!(replay(&place, false).await.unwrap().left.is_empty());
    assert_eq!(place.marked().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_on_after_the_restore_is_not_overwritten() {
    let place = Place::new("went_on").await;
    seed(&place).await;
    let (backup, files) = (place.everything().await, place.files());
    erase(&place, &place.run()).await.unwrap();
    restore(&place, &backup, &files).await;
    let entry = chain::Entry {
        id: "new@/s".into(),
        at: now(),
        action: "document.delete".into(),
        entity: ("documents".into(), "x".into()),
        actor: None,
        detail: doc! {},
    };
    place.put("audit_log", vec![entry.document(None)]).await;
    chain::link(&place.db, None).await.unwrap();
    let refused = replay(&place, false).await.unwrap_err().to_string();
    assert!(refused.contains("went on after the restore"), "{refused}");
}
