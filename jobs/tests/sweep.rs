//! What is left over is found and removed; what is in use is not touched.

mod common;

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use common::{Cut, Place, date, settings};
use contextd_jobs::{
    Job, JobError,
    kit::{Run, Tier, from_bson},
    orphan_sweep, reconciliation,
};
use mongodb::bson::{Document, doc};
use tokio_util::sync::CancellationToken;

fn figures() -> orphan_sweep::Settings {
    orphan_sweep::Settings {
        pace: settings(),
        grace: Duration::from_secs(86_400),
        settle: Duration::ZERO,
        echo: Duration::from_secs(2 * 86_400),
        cap_share: 0.25,
        cap_floor: 100,
        cap_objects: 10_000,
    }
}

/// By MongoDB's clock, which is the files', too.
async fn clock(place: &Place) -> DateTime<Utc> {
    let hello = place.db.run_command(doc! { "hello": 1 }).await.expect("MongoDB answers");
    from_bson(*hello.get_datetime("localTime").expect("a time"))
}

fn by_hand(place: &Place, now: DateTime<Utc>) -> Run {
    let mut run = Run::new(&place.db, "orphan-sweep", now, now, CancellationToken::new(), None).simulated(now);
    run.dry_run = false;
    run
}

async fn sweep(place: &Place, with: impl FnOnce(Run) -> Run) -> Result<Run, JobError> {
    let mut run = with(by_hand(place, clock(place).await));
    orphan_sweep::job(figures(), place.world(vec![])).run(&mut run).await.map(|()| run)
}

fn write(place: &Place, tier: Tier, key: &str, days: u64) {
    place.objects.write(tier, key, key.as_bytes());
    let file = std::fs::File::options().write(true).open(place.objects.path(tier, key)).expect("the file");
    file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).expect("a date");
}

fn content(key: &str, tier: Option<&str>) -> Document {
    let mut content = doc! { "key": key, "codec": "zstd", "stored": key.len() as i64 };
    if let Some(tier) = tier {
        content.insert("tier", tier);
    }
    content
}

/// Everything that may be named, and in both tiers something that is not.
async fn place(name: &str) -> Place {
    let place = Place::new(name).await;
    let long = format!("documents/u/{}~0123456789/0", "d".repeat(150));
    for key in ["documents/u/d/0", "documents/u/d/moving", "documents/s%201/d/claimed", "versions/u/d/v.0", &long] {
        write(&place, Tier::Hot, key, 30);
    }
    write(&place, Tier::Archive, "documents/u/a/0", 30);
    place
        .insert(
            "documents",
            [
                doc! { "_id": "d", "content": content("documents/u/d/0", None), "moveLeft": [content("documents/u/d/moving", None)] },
                doc! { "_id": "a", "content": content("documents/u/a/0", Some("archive")) },
                doc! { "_id": "d".repeat(200), "content": content(&long, None) },
            ],
        )
        .await;
    place
        .insert(
            "document_versions",
            [doc! { "_id": "v", "documentId": "d", "content": content("versions/u/d/v.0", None) }],
        )
        .await;
    place.insert("sessions", [doc! { "_id": "s 1", "claimLeft": [content("documents/s%201/d/claimed", None)] }]).await;
    // Of nobody: a document's, a version's, a copy in the tier where the row does not say it is; and young ones.
    write(&place, Tier::Hot, "documents/u/d/old", 2);
    write(&place, Tier::Archive, "versions/u/gone/v.0", 2);
    write(&place, Tier::Hot, "documents/u/a/0", 2);
    write(&place, Tier::Hot, "documents/u/d/young", 0);
    write(&place, Tier::Archive, "documents/u/d/0", 0);
    place
}

const ORPHANS: [&str; 3] = ["archive/versions/u/gone/v.0", "hot/documents/u/a/0", "hot/documents/u/d/old"];

#[tokio::test]
async fn objects_that_no_row_names_go_when_they_are_old() {
    let place = place("sweep").await;
    let before = place.objects.all();
    let mut dry = by_hand(&place, clock(&place).await);
    dry.dry_run = true;
    orphan_sweep::job(figures(), place.world(vec![])).run(&mut dry).await.expect("it runs");
    assert_eq!((dry.outcome.by_action["delete_orphans"], place.objects.all()), (3, before.clone()));
    assert_eq!(dry.outcome.samples.len(), 3);

    let run = sweep(&place, |run| run).await.expect("it runs");
    assert_eq!(run.outcome.by_action["delete_orphans"], 3);
    let left: Vec<String> = before.into_iter().filter(|path| !ORPHANS.contains(&path.as_str())).collect();
    assert_eq!(place.objects.all(), left);
    assert_eq!(place.count("audit_log", doc! { "action": "lifecycle.orphan" }).await, 3);
    let again = sweep(&place, |run| run).await.expect("it runs");
    assert_eq!(again.outcome.changed, 0);
}

#[tokio::test]
async fn cut_off_anywhere_the_next_sweep_does_the_rest() {
    let count = Cut::never();
    sweep(&place("sweep_calls").await, |run| run.with_faults(count.clone())).await.expect("it runs");
    for at in (1..=count.calls()).filter(|at| common::is_tried(*at, count.calls())) {
        for after in [false, true] {
            let place = place("sweep_cut").await;
            assert!(sweep(&place, |run| run.with_faults(Cut::new(at, after))).await.is_err(), "call {at}");
            sweep(&place, |run| run).await.expect("the next run ends");
            let all = place.objects.all();
            assert!(!ORPHANS.iter().any(|orphan| all.iter().any(|path| path == orphan)), "call {at}: {all:?}");
            assert_eq!((all.len(), place.count("audit_log", doc! {}).await), (8, 3), "call {at}");
        }
    }
}

#[tokio::test]
async fn over_the_cap_nothing_is_deleted() {
    let place = Place::new("sweep_cap").await;
    for n in 0..120 {
        write(&place, Tier::Hot, &format!("documents/u/d{n}/0"), 2);
    }
    let error = sweep(&place, |run| run).await.expect_err("it stops");
    assert!(error.to_string().contains("120 of 120 objects"), "{error}");
    assert_eq!(place.objects.all().len(), 120);
    sweep(&place, |mut run| {
        run.over_cap = true;
        run
    })
    .await
    .expect("it runs");
    assert_eq!(place.objects.all().len(), 0);
}

/// Names the object at the very moment between the last look and the deletion.
struct Late(mongodb::Database);

impl contextd_jobs::kit::Faults for Late {
    fn before(&self, call: &str) -> Result<(), JobError> {
        if call == "delete orphan" {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let row = doc! { "_id": "late", "content": content("documents/u/late/0", None) };
                    self.0.collection::<Document>("documents").insert_one(row).await.expect("inserted");
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
async fn an_object_that_gets_its_row_at_the_last_moment_is_put_back() {
    let place = Place::new("sweep_late").await;
    write(&place, Tier::Hot, "documents/u/late/0", 2);
    let run = sweep(&place, |run| run.with_faults(std::sync::Arc::new(Late(place.db.clone())))).await.expect("it runs");
    assert_eq!(run.outcome.changed, 0);
    assert_eq!(place.objects.all(), ["hot/documents/u/late/0"]);
}

#[tokio::test]
async fn rows_without_objects_are_told_and_stay() {
    let place = place("sweep_lost").await;
    place.insert("documents", [doc! { "_id": "lost", "content": content("documents/u/lost/0", None) }]).await;
    // One that is in the other tier than its row says is not lost.
    place.objects.write(Tier::Archive, "documents/u/moved/0", b"x");
    place.insert("documents", [doc! { "_id": "moved", "content": content("documents/u/moved/0", None) }]).await;
    let run = sweep(&place, |run| run).await.expect("it runs");
    assert_eq!(run.outcome.rules["rows-without-objects"].left["lost"], 1);
    assert!(place.row("documents", "lost").await.is_some());
}

#[tokio::test]
async fn what_comes_after_a_purge_goes_again() {
    let place = Place::new("sweep_echo").await;
    let now = clock(&place).await;
    let stone = |id: &str, days: i64| {
        let closed = date(now - chrono::TimeDelta::days(days));
        doc! {
            "_id": format!("documents/{id}"), "collection": "documents", "key": id, "state": "closed",
            "closedAt": closed, "owners": ["u"],
        }
    };
    place.insert("tombstones", [stone("gone", 1), stone("restored", 1), stone("long", 10)]).await;
    place.insert("documents", [doc! { "_id": "restored" }]).await;
    for id in ["gone", "restored", "long"] {
        place.insert("analyses", [doc! { "_id": format!("a-{id}"), "documentId": id }]).await;
        place.insert("document_versions", [doc! { "_id": format!("v-{id}"), "documentId": id }]).await;
        // Young: only the echo takes it.
        place.objects.write(Tier::Hot, &format!("documents/u/{id}/late"), b"x");
    }
    let run = sweep(&place, |run| run).await.expect("it runs");
    assert_eq!(run.outcome.by_action["delete_echoes"], 3);
    for collection in ["analyses", "document_versions"] {
        assert_eq!(place.count(collection, doc! { "documentId": "gone" }).await, 0);
        assert_eq!(place.count(collection, doc! {}).await, 2);
    }
    assert_eq!(place.objects.all(), ["hot/documents/u/long/late", "hot/documents/u/restored/late"]);
}

#[tokio::test]
async fn reconciliation_ends_what_has_ended_and_tells_what_is_late() {
    let place = Place::new("reconcile").await;
    let now = clock(&place).await;
    let hours = |n| date(now - chrono::TimeDelta::hours(n));
    let session = |id: &str, state: &str| doc! { "_id": id, "state": state, "endedAt": hours(0) };
    place.insert("sessions", [session("over", "ended"), session("on", "active")]).await;
    place
        .insert(
            "session_history",
            [doc! { "_id": "past", "archivedAt": hours(0) }, doc! { "_id": "on", "archivedAt": hours(0) }],
        )
        .await;
    place.caches.live.lock().unwrap().extend(["over", "on", "past"].map(str::to_owned));
    place
        .insert(
            "tombstones",
            [
                doc! { "_id": "documents/d", "state": "closed", "closedAt": hours(0) },
                doc! { "_id": "documents/late", "state": "open", "fencedAt": hours(2) },
            ],
        )
        .await;
    place.insert("kvshadow", [doc! { "_id": "session:s", "since": hours(2) }]).await;
    let figures = reconciliation::Settings {
        window: Duration::from_secs(3_600),
        shadow_limit: Duration::from_secs(3_600),
        tombstone_limit: Duration::from_secs(3_600),
    };
    let mut run = by_hand(&place, now);
    reconciliation::job(figures, place.world(vec![])).run(&mut run).await.expect("it runs");
    let mut ended = place.caches.ended.lock().unwrap().clone();
    ended.sort();
    assert_eq!(ended, ["over", "past"]);
    assert_eq!(*place.caches.forgotten.lock().unwrap(), [("documents".to_owned(), "d".to_owned(), i64::MAX)]);
    assert_eq!(run.outcome.rules["overdue-tombstones"].left["overdue"], 1);
    assert_eq!(run.outcome.rules["overdue-kvshadow"].left["overdue"], 1);
}
