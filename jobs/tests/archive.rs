//! Contents in the archive tier, and rows in files there.

mod common;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::{Cut, Place, at, date, rule};
use contextd_jobs::{
    JobError,
    engine::{
        archive_rows,
        unarchive::{Unarchived, flagged, unarchive},
    },
    kit::{Run, Tier},
    policy::{Action, Rule},
};
use mongodb::bson::{Bson, Document, doc};
use tokio_util::sync::CancellationToken;

const DAY: u64 = 86_400;

fn now() -> DateTime<Utc> {
    at("2026-06-01T03:00:00Z")
}

fn inactive() -> [Rule; 1] {
    let term = Duration::from_secs(90 * DAY);
    let equal = [("state", "active"), ("ownerType", "user")];
    [rule("inactive-document", "documents", &equal, "lastAccessedAt", term, Action::Archive)]
}

fn content(key: &str, bytes: &[u8]) -> Document {
    doc! {
        "key": key, "codec": "zstd", "hash": "of the plain bytes", "size": 100_i64, "stored": bytes.len() as i64, "sealed": false,
    }
}

/// A document with two versions, last used a year ago.
async fn document(place: &Place, id: &str) {
    let keys =
        [format!("documents/u/{id}/0"), format!("versions/u/{id}/{id}-1.0"), format!("versions/u/{id}/{id}-2.0")];
    for key in &keys {
        place.objects.write(Tier::Hot, key, key.as_bytes());
    }
    let content = |at: usize| content(&keys[at], keys[at].as_bytes());
    let row = doc! {
        "_id": id, "userId": "u", "ownerType": "user", "state": "active", "lastAccessedAt": date(now() - TimeDelta::days(365)),
        "content": content(0), "_sync": { "rev": 3_i64 },
    };
    place.insert("documents", [row]).await;
    let version = |n: usize| {
        doc! { "_id": format!("{id}-{n}"), "documentId": id, "content": content(n), "_sync": { "rev": 1_i64 } }
    };
    place.insert("document_versions", [version(1), version(2)]).await;
}

async fn prepared(name: &str, ids: &[&str]) -> Place {
    let place = Place::new(name).await;
    place.index(&inactive()).await;
    for id in ids {
        document(&place, id).await;
    }
    place
}

/// All contents of the document are in `tier` and only there, and the rows say so.
async fn is_in(place: &Place, id: &str, tier: Tier) {
    let row = place.row("documents", id).await.expect("the document");
    assert!(!row.contains_key("moveLeft") && !row.contains_key("movedAt"), "{row}");
    let mut rows = vec![row];
    for n in [1, 2] {
        rows.push(place.row("document_versions", &format!("{id}-{n}")).await.expect("the version"));
    }
    for row in rows {
        let content = row.get_document("content").expect("a content");
        assert_eq!(content.get_str("tier").ok(), (tier == Tier::Archive).then_some("archive"), "{row}");
        let key = content.get_str("key").expect("a key");
        assert_eq!(std::fs::read(place.objects.path(tier, key)).expect("the object"), key.as_bytes());
        assert!(!place.objects.path(tier.other(), key).exists(), "{key} is still there");
    }
}

async fn runs(place: &Place, rules: &[Rule], now: DateTime<Utc>) -> Result<Run, JobError> {
    run_with(place, rules, now, |run| run).await
}

async fn run_with(
    place: &Place,
    rules: &[Rule],
    now: DateTime<Utc>,
    with: impl FnOnce(Run) -> Run,
) -> Result<Run, JobError> {
    place.run_with(rules, now, with).await.map_err(|(_, error)| error)
}

fn by_hand(place: &Place, now: DateTime<Utc>) -> Run {
    let mut run = Run::new(&place.db, "test", now, now, CancellationToken::new(), None).simulated(now);
    run.dry_run = false;
    run
}

async fn set(place: &Place, id: &str, update: Document) {
    place.db.collection::<Document>("documents").update_one(doc! { "_id": id }, update).await.expect("updated");
}

/// As if the process that moves had been gone for long.
async fn abandon(place: &Place) {
    let update = doc! { "$set": { "movedAt": mongodb::bson::DateTime::from_millis(0) } };
    let moved = doc! { "movedAt": { "$exists": true } };
    place.db.collection::<Document>("documents").update_many(moved, update).await.expect("updated");
}

#[tokio::test]
async fn contents_go_to_the_archive_and_come_back() {
    let place = prepared("archive", &["d1", "d2"]).await;
    let run = runs(&place, &inactive(), now()).await.expect("it runs");
    assert_eq!(run.outcome.by_action["archive"], 2);
    for id in ["d1", "d2"] {
        is_in(&place, id, Tier::Archive).await;
        let row = place.row("documents", id).await.expect("the document");
        assert_eq!((row.get_str("state").unwrap(), row.get("archivedAt")), ("archived", Some(&date(now()))));
    }
    assert_eq!(place.count("audit_log", doc! { "action": "lifecycle.archive" }).await, 2);
    let again = runs(&place, &inactive(), now()).await.expect("it runs");
    assert_eq!(again.outcome.changed, 0);

    // By a use, which sets the flag; and by command.
    set(&place, "d1", doc! { "$set": { "state": "active", "unarchive": true }, "$inc": { "_sync.rev": 1_i64 } }).await;
    let run = by_hand(&place, now());
    assert_eq!(flagged(&place.world(vec![]), &run).await.expect("it answers").done, 1);
    let command = |id: &'static str| {
        let (run, world) = (by_hand(&place, now()), place.world(vec![]));
        async move { unarchive(&world, &run, &id.into()).await.expect("it answers") }
    };
    assert_eq!(command("d2").await, Unarchived::Done(3));
    for id in ["d1", "d2"] {
        is_in(&place, id, Tier::Hot).await;
        let row = place.row("documents", id).await.expect("the document");
        assert_eq!(row.get_str("state").unwrap(), "active");
        assert!(!row.contains_key("unarchive") && !row.contains_key("archivedAt"), "{row}");
    }
    assert_eq!(command("d2").await, Unarchived::Nothing);
    assert_eq!(command("nobody").await, Unarchived::Missing);
    // The command counts as a use.
    let run = runs(&place, &inactive(), now()).await.expect("it runs");
    assert_eq!(run.outcome.by_action.get("archive"), Some(&1));
    is_in(&place, "d2", Tier::Hot).await;
    assert_eq!(place.count("audit_log", doc! { "action": "lifecycle.unarchive" }).await, 2);
}

#[tokio::test]
async fn cut_off_anywhere_the_next_run_makes_it_good() {
    let place = prepared("archive_calls", &["d"]).await;
    let count = Cut::never();
    run_with(&place, &inactive(), now(), |run| run.with_faults(count.clone())).await.expect("it runs");
    for at in (1..=count.calls()).filter(|at| common::is_tried(*at, count.calls())) {
        for after in [false, true] {
            let place = prepared("archive_cut", &["d"]).await;
            let cut = run_with(&place, &inactive(), now(), |run| run.with_faults(Cut::new(at, after))).await;
            assert!(cut.is_err(), "call {at}");
            abandon(&place).await;
            runs(&place, &inactive(), now()).await.expect("the next run ends");
            is_in(&place, "d", Tier::Archive).await;
            assert_eq!(place.count("audit_log", doc! {}).await, 1);
        }
    }
}

#[tokio::test]
async fn cut_off_anywhere_contents_come_back_all_the_same() {
    let archived = async |name: &str| {
        let place = prepared(name, &["d"]).await;
        runs(&place, &inactive(), now()).await.expect("it runs");
        place
    };
    let place = archived("unarchive_calls").await;
    let count = Cut::never();
    unarchive(&place.world(vec![]), &by_hand(&place, now()).with_faults(count.clone()), &"d".into())
        .await
        .expect("done");
    for at in (1..=count.calls()).filter(|at| common::is_tried(*at, count.calls())) {
        for after in [false, true] {
            let place = archived("unarchive_cut").await;
            let run = by_hand(&place, now()).with_faults(Cut::new(at, after));
            assert!(unarchive(&place.world(vec![]), &run, &"d".into()).await.is_err(), "call {at}");
            abandon(&place).await;
            // The job goes on with a move that was cut off; the command does the rest.
            runs(&place, &[], now()).await.expect("a run");
            let run = by_hand(&place, now());
            contextd_jobs::engine::finish_moves(&place.world(vec![]), &run).await.expect("it ends");
            let done = unarchive(&place.world(vec![]), &run, &"d".into()).await.expect("it answers");
            assert!(matches!(done, Unarchived::Done(_) | Unarchived::Nothing), "{done:?}");
            is_in(&place, "d", Tier::Hot).await;
        }
    }
}

#[tokio::test]
async fn what_is_damaged_is_told_and_others_go_on() {
    let place = prepared("archive_damaged", &["d1", "d2", "d3"]).await;
    place.objects.write(Tier::Hot, "documents/u/d1/0", b"short");
    let run = runs(&place, &inactive(), now()).await.expect("it runs");
    assert_eq!((run.outcome.by_action["archive"], run.outcome.rules["inactive-document"].left["stuck"]), (2, 1));
    assert_eq!(place.row("documents", "d1").await.unwrap().get_str("state").unwrap(), "active");

    // Altered in the archive, by one byte; and gone from there.
    let altered = b"Versions/u/d2/d2-1.0";
    place.objects.write(Tier::Archive, "versions/u/d2/d2-1.0", altered);
    std::fs::remove_file(place.objects.path(Tier::Archive, "versions/u/d3/d3-2.0")).expect("removed");
    for id in ["d2", "d3"] {
        let before = place.row("documents", id).await;
        let run = by_hand(&place, now());
        let done = unarchive(&place.world(vec![]), &run, &id.into()).await.expect("it answers");
        assert!(matches!(&done, Unarchived::Damaged(why) if !why.is_empty()), "{done:?}");
        assert_eq!(place.row("documents", id).await, before);
    }
}

#[tokio::test]
async fn a_store_that_is_away_stops_the_run_and_nothing_is_lost() {
    let place = prepared("archive_away", &["d"]).await;
    *place.objects.down.lock().unwrap() = true;
    let error = runs(&place, &inactive(), now()).await.expect_err("it stops");
    assert!(error.is_transient(), "{error}");
    *place.objects.down.lock().unwrap() = false;
    runs(&place, &inactive(), now()).await.expect("it runs");
    is_in(&place, "d", Tier::Archive).await;
}

/// Changes the document when the copies are made and the transaction has not begun.
struct Between {
    place: Place,
    change: Document,
}

impl contextd_jobs::kit::Faults for Between {
    fn before(&self, call: &str) -> Result<(), JobError> {
        if call == "begin" {
            let (db, change) = (self.place.db.clone(), self.change.clone());
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let rows = db.collection::<Document>("documents");
                    rows.update_one(doc! { "_id": "d" }, change).await.expect("updated");
                });
            });
        }
        Ok(())
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_touches_or_holds_a_document_between_copy_and_transaction_wins() {
    for (name, change, why) in [
        ("touched", doc! { "$set": { "lastAccessedAt": date(now()) }, "$inc": { "_sync.rev": 1_i64 } }, "changed"),
        ("held", doc! { "$set": { "holdCount": 1_i64 }, "$inc": { "_sync.rev": 1_i64 } }, "changed"),
        ("purged", doc! { "$set": { "state": "purging" } }, "changed"),
    ] {
        let place = prepared(&format!("archive_{name}"), &["d"]).await;
        let other = Place {
            db: place.db.clone(),
            objects: place.objects.clone(),
            caches: place.caches.clone(),
            anchors: place.anchors.clone(),
        };
        let between = std::sync::Arc::new(Between { place: other, change });
        let run = run_with(&place, &inactive(), now(), |run| run.with_faults(between)).await.expect("it runs");
        assert_eq!(run.outcome.rules["inactive-document"].left.get(why), Some(&1), "{name}: {:?}", run.outcome);
        let row = place.row("documents", "d").await.unwrap();
        assert!(!row.get_document("content").unwrap().contains_key("tier"), "{name}");
        assert!(place.objects.path(Tier::Hot, "documents/u/d/0").exists(), "{name}");
        // Copies of what is being purged do not stay.
        let copies = place.objects.all().iter().filter(|path| path.starts_with("archive/")).count();
        assert_eq!(copies, if name == "purged" { 0 } else { 3 }, "{name}");
    }
}

fn auth_log() -> [Rule; 1] {
    let action = Action::ArchiveRows { archive_for: Duration::from_secs(10 * DAY) };
    [rule("auth-log", "auth_logs", &[], "timestamp", Duration::from_secs(365 * DAY), action)]
}

async fn logs(name: &str) -> Place {
    let place = Place::new(name).await;
    place.index(&auth_log()).await;
    // Inserted in transactions: the collections have to be there on old servers.
    let rows = (0..150).map(|n| {
        let user = if n % 3 == 0 { "u1" } else { "u2" };
        let age = TimeDelta::days(400) - TimeDelta::seconds(n);
        doc! {
            "_id": format!("log-{n:03}"), "userId": user, "event": "login", "ip": "192.0.2.1", "userAgent": "a browser",
            "timestamp": date(now() - age), "_sync": { "rev": 1_i64, "order": n },
        }
    });
    place.insert("auth_logs", rows).await;
    place
        .insert(
            "auth_logs",
            [doc! { "_id": "young", "userId": "u1", "timestamp": date(now()), "_sync": { "rev": 1_i64 } }],
        )
        .await;
    place
}

/// Ids of all archived rows, in their order.
fn archived(place: &Place) -> Vec<String> {
    let mut ids: Vec<String> = rows(place).iter().map(|row| row.get_str("_id").expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

fn rows(place: &Place) -> Vec<Document> {
    let files = place.objects.all().into_iter().filter(|path| path.starts_with("archive/auth_logs/"));
    files
        .flat_map(|path| {
            let bytes = std::fs::read(place.objects.root.join(path)).expect("a file");
            let lines = zstd::stream::decode_all(bytes.as_slice()).expect("zstd");
            let lines = String::from_utf8(lines).expect("text");
            lines.lines().map(|line| serde_json::from_str(line).expect("a row")).collect::<Vec<Document>>()
        })
        .collect()
}

#[tokio::test]
async fn old_rows_go_to_files_that_have_an_end() {
    let place = logs("rows").await;
    let run = runs(&place, &auth_log(), now()).await.expect("it runs");
    assert_eq!(run.outcome.by_action["archive-rows"], 150);
    assert_eq!(place.count("auth_logs", doc! {}).await, 1);
    assert_eq!(archived(&place), (0..150).map(|n| format!("log-{n:03}")).collect::<Vec<_>>());
    assert!(place.objects.all().iter().all(|path| path.starts_with("archive/auth_logs/2026-06-11/auth-log-")));
    assert_eq!(place.count("tombstones", doc! { "state": "closed" }).await, 150);
    let files = place.objects.all().len() as u64;
    assert_eq!(place.count("audit_log", doc! { "action": "lifecycle.archive-rows" }).await, files);

    // Types survive.
    let row = rows(&place).into_iter().find(|row| row.get_str("_id").unwrap() == "log-000").expect("there");
    assert_eq!(row.get("timestamp"), Some(&date(now() - TimeDelta::days(400))));
    assert_eq!(row.get_document("_sync").unwrap().get("rev"), Some(&Bson::Int64(1)));

    // On its last day a file is still there; when somebody in it is held, longer.
    runs(&place, &auth_log(), at("2026-06-11T23:00:00Z")).await.expect("it runs");
    assert_eq!(place.objects.all().len() as u64, files);
    place.insert("users", [doc! { "_id": "u2", "holdCount": 1_i64 }]).await;
    let run = runs(&place, &auth_log(), at("2026-06-12T00:10:00Z")).await.expect("it runs");
    assert_eq!((place.objects.all().len() as u64, run.outcome.held), (files, files));
    place.db.collection::<Document>("users").delete_many(doc! {}).await.expect("deleted");
    let run = runs(&place, &auth_log(), at("2026-06-12T00:10:00Z")).await.expect("it runs");
    assert_eq!((place.objects.all().len(), run.outcome.by_action["archive-end"]), (0, files));
    assert_eq!(place.count("audit_log", doc! { "action": "lifecycle.archive-end" }).await, files);
}

#[tokio::test]
async fn an_erased_user_is_in_no_file() {
    let place = logs("rows_erased").await;
    runs(&place, &auth_log(), now()).await.expect("it runs");
    let (world, run) = (place.world(auth_log().to_vec()), by_hand(&place, now()));
    let erased = archive_rows::erase_user(&world, &run, "u1").await.expect("it answers");
    assert_eq!((erased.rows, erased.unread.len()), (50, 0));
    assert_eq!(archived(&place).len(), 150);
    for row in rows(&place) {
        let is_of_u2 = row.get_str("userId").is_ok_and(|user| user == "u2");
        assert_eq!(row.get_str("ip").is_ok(), is_of_u2, "{row}");
        assert_eq!(row.get_str("event").unwrap(), "login");
    }
    let again = archive_rows::erase_user(&world, &run, "u1").await.expect("it answers");
    assert_eq!(again.rows, 0);
    // The new files are known: no later run takes them for unfinished.
    runs(&place, &auth_log(), now() + TimeDelta::days(5)).await.expect("it runs");
    assert_eq!(archived(&place).len(), 150);
}

#[tokio::test]
async fn cut_off_anywhere_no_row_is_lost_or_kept_twice() {
    let place = logs("rows_calls").await;
    let count = Cut::never();
    run_with(&place, &auth_log(), now(), |run| run.with_faults(count.clone())).await.expect("it runs");
    for at in (1..=count.calls()).filter(|at| common::is_tried(*at, count.calls())) {
        let place = logs("rows_cut").await;
        let cut = run_with(&place, &auth_log(), now(), |run| run.with_faults(Cut::new(at, at % 2 == 0))).await;
        assert!(cut.is_err(), "call {at}");
        runs(&place, &auth_log(), now()).await.expect("the next run ends");
        assert_eq!(place.count("auth_logs", doc! {}).await, 1);
        // A file that was not finished holds rows that another one has, too, until it is removed.
        let mut ids = archived(&place);
        ids.dedup();
        assert_eq!(ids.len(), 150, "call {at}");
        for path in place.objects.all() {
            let file = std::fs::File::options().write(true).open(place.objects.root.join(path)).expect("the file");
            file.set_modified((now() - TimeDelta::days(2)).into()).expect("a date");
        }
        runs(&place, &auth_log(), now()).await.expect("the next run ends");
        assert_eq!(archived(&place), ids, "call {at}");
    }
}

/// A row that changes while its page is archived stays, and is in no file.
struct Changing(mongodb::Database);

impl contextd_jobs::kit::Faults for Changing {
    fn before(&self, call: &str) -> Result<(), JobError> {
        if call == "begin" {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let rows = self.0.collection::<Document>("auth_logs");
                    let update = doc! { "$set": { "holdCount": 1_i64 } };
                    rows.update_one(doc! { "_id": "log-007" }, update).await.expect("updated");
                });
            });
        }
        Ok(())
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_changes_meanwhile_stays_and_is_in_no_file() {
    let place = logs("rows_changing").await;
    let changing = std::sync::Arc::new(Changing(place.db.clone()));
    let run = run_with(&place, &auth_log(), now(), |run| run.with_faults(changing)).await.expect("it runs");
    assert_eq!(run.outcome.by_action["archive-rows"], 149);
    assert_eq!(run.outcome.rules["auth-log"].left["changed"], 1);
    assert!(place.row("auth_logs", "log-007").await.is_some());
    assert_eq!(archived(&place).len(), 149);
    assert!(!archived(&place).contains(&"log-007".to_owned()));
}
