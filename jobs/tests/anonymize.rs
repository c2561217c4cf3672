//! The rules that anonymize: users 30 days after they were deleted, AI interactions after 30 days.

mod person;

use contextd_jobs::{
    Outcome,
    engine::Engine,
    kit::{JobError, Run},
};
use mongodb::{
    IndexModel,
    bson::{Bson, Document, doc},
};
use person::*;

async fn indexed(name: &str) -> Place {
    let place = Place::new(name).await;
    seed(&place).await;
    for rule in &place.world.policy.rules {
        for case in &rule.cases {
            let index = IndexModel::builder().keys(case.hint()).build();
            place.db.collection::<Document>(&rule.on).create_index(index).await.unwrap();
        }
    }
    place
}

async fn run_rules(place: &Place, mut run: Run) -> Result<Outcome, JobError> {
    Engine { world: &place.world, settings: &settings() }.run(&mut run).await.map(|()| run.outcome)
}

/// AI interactions around the end of their term: a millisecond before, at it, after it; held; and one without a date.
async fn interactions(place: &Place) {
    let mut rows = Vec::new();
    for (id, millis, more) in [
        ("young", 1, doc! {}),
        ("exactly", 0, doc! {}),
        ("old", -1, doc! {}),
        ("held", -1, doc! { "holdCount": 2_i64 }),
        ("of-held", -1, doc! { "userId": "held-user" }),
    ] {
        let at = mongodb::bson::DateTime::from_millis(at(30).timestamp_millis() + millis);
        let mut row = doc! {
            "_id": id, "timestamp": at, "customPrompt": MARK, "aiResponse": MARK, "extra": { "deep": MARK }, "model": "m",
            "cacheKey": format!("k-{id}"), "tenant": "acme",
            "_sync": { "rev": 1_i64, "order": 9_i64, "base": 4_i64, "fields": { "aiResponse": 4_i64 }, "task": "t@/s" },
        };
        row.extend(more);
        rows.push(row);
    }
    place.put("ai_interactions", rows).await;
    place.put("users", vec![doc! { "_id": "held-user", "holdCount": 1_i64 }]).await;
    place.caches.put(&["cache:ai_interactions:k-old", "cache:ai_interactions:k-young"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_ai_interaction_keeps_its_figures_and_nothing_else() {
    let place = indexed("ai").await;
    interactions(&place).await;
    let outcome = run_rules(&place, place.run()).await.unwrap();
    for id in ["old", "exactly"] {
        let row = place.one("ai_interactions", id).await.unwrap();
        let mut keys: Vec<&String> = row.keys().collect();
        keys.sort();
        assert_eq!(keys, ["_id", "_sync", "anonymizedAt", "lifecycle", "model", "state", "tenant", "timestamp"]);
        assert_eq!(row.get_document("_sync").unwrap(), &doc! { "rev": 2_i64, "order": 9_i64 });
        assert_eq!(row.get_str("state").unwrap(), "anonymized");
    }
    for id in ["young", "held", "of-held"] {
        assert!(place.one("ai_interactions", id).await.unwrap().to_string().contains(MARK), "{id} stays");
    }
    assert_eq!(outcome.rules["ai-interaction-30"].done, 2);
    assert_eq!(outcome.rules["ai-interaction-30"].left["held"], 2);
    let keys = place.caches.keys();
    assert!(!keys.contains("cache:ai_interactions:k-old") && keys.contains("cache:ai_interactions:k-young"));
    let entries = place.all("audit_log").await;
    assert_eq!(
        entries.iter().filter(|entry| entry.get_str("_id").unwrap().starts_with("ai-interaction-30/")).count(),
        2
    );
    let end = place.everything().await;
    let again = run_rules(&place, place.run()).await.unwrap();
    assert_eq!(again.rules["ai-interaction-30"].done, 0);
    assert_eq!(place.everything().await["ai_interactions"], end["ai_interactions"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_user_is_nobody_after_the_term_and_not_before() {
    let place = indexed("user").await;
    let set = |id: &'static str, millis: i64| {
        let at = mongodb::bson::DateTime::from_millis(at(30).timestamp_millis() + millis);
        let users = place.db.collection::<Document>("users");
        async move { users.update_one(doc! { "_id": id }, doc! { "$set": { "deletedAt": at } }).await.unwrap() }
    };
    set(USER, 1).await;
    set(OTHER, 1).await;
    assert_eq!(run_rules(&place, place.run()).await.unwrap().rules["deleted-user"].done, 0);
    set(USER, 0).await;
    let outcome = run_rules(&place, place.run()).await.unwrap();
    assert_eq!((outcome.rules["deleted-user"].done, outcome.by_action["anonymize"]), (1, 1));
    assert_eq!(place.marked().await, Vec::<String>::new());
    let certificate = place.all("erasure_certificates").await.pop().unwrap();
    assert_eq!(certificate.get_str("rule").unwrap(), "deleted-user");
    assert_eq!(certificate.get_str("requestedBy").unwrap(), "contextd");
    let remains = certificate.get_array("remains").unwrap();
    let backups = remains.first().and_then(Bson::as_document).unwrap();
    assert_eq!(*backups.get_datetime("until").unwrap(), at(-7));
    assert_eq!(place.one("users", OTHER).await.unwrap().get_str("state").unwrap(), "deleted");
    assert_eq!(run_rules(&place, place.run()).await.unwrap().rules["deleted-user"].done, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_on_a_user_or_its_things_keeps_the_user() {
    for (collection, id) in [("users", USER), ("documents", "mine-d1"), ("session_history", "mine-s0")] {
        let place = indexed("kept").await;
        let held = doc! { "$set": { "holdCount": 1_i64 } };
        place.db.collection::<Document>(collection).update_one(doc! { "_id": id }, held).await.unwrap();
        let outcome = run_rules(&place, place.run()).await.unwrap();
        // Somebody else's account is due, too.
        let counts = &outcome.rules["deleted-user"];
        assert_eq!((counts.done, counts.left["held"]), (1, 1), "{collection}");
        assert!(place.one("users", USER).await.unwrap().to_string().contains(MARK), "{collection}");
        assert!(place.one("tombstones", "users/usr-1").await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_run_began_is_brought_to_its_end_first() {
    let place = indexed("resume").await;
    let whole = CutAt::new(u64::MAX, false);
    run_rules(&place, place.run().with_faults(whole.clone())).await.unwrap();
    let calls = whole.count();
    for call in (20..calls).step_by(usize::try_from(calls / 12).unwrap()) {
        let place = indexed("resumed").await;
        assert!(run_rules(&place, place.run().with_faults(CutAt::new(call, true))).await.is_err(), "call {call}");
        run_rules(&place, place.run()).await.unwrap();
        assert_eq!(place.marked().await, Vec::<String>::new(), "call {call}");
        assert_eq!(place.all("erasure_certificates").await.len(), 2, "call {call}");
        let open = place.all("tombstones").await.into_iter().find(|stone| stone.get_str("state").unwrap() == "open");
        assert_eq!(open, None, "call {call}");
    }
}
