//! A run that is killed at any of its store calls, before it or with its answer lost, is finished by the next one:
//! the stores and the evidence end as if nothing had happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::Run;
use contextd_jobs::kit::to_bson;
use mongodb::bson::{Bson, Document, doc};

use crate::{
    boundaries::at,
    check::{compare, differences, right, rules_of},
    faults::{Kill, is_tried},
    model::{DAY, Stores},
    place::Place,
    rows::{CASES, Case, Item, OPTED_IN, user},
};

/// Two items that are due, and one that is not, whose id begins like another's.
fn items(case: &Case, now: DateTime<Utc>) -> Vec<Item> {
    let due = now - TimeDelta::milliseconds(case.term) - TimeDelta::hours(1);
    let young = now - TimeDelta::milliseconds(case.term / 2) + TimeDelta::days(i64::from(case.term == 0));
    let old = now - TimeDelta::days(1000);
    vec![user("u1", old), case.item("a", due), case.item("b", due), case.item("aa", young)]
}

/// What must be the same whether or not a run was killed: all of the stores, and what is written about it.
fn evidence(place: &Place, stores: &Stores) -> BTreeSet<String> {
    let mut lines = stores.view();
    lines.extend(stores.hot.iter().map(|key| format!("hot {key}")));
    lines.extend(stores.archive.iter().map(|key| format!("archived {key}")));
    for (id, entry) in stores.of("audit_log") {
        let entity = entry.get_document("entity").map(shape).unwrap_or_default();
        // A file's name is made by the run.
        let entity = entity.split_once(".jsonl").map_or(entity.clone(), |_| "a file".into());
        let detail = entry.get_document("detail").cloned().unwrap_or_default();
        let rule = detail.get_str("rule").unwrap_or_default().to_owned();
        let action = entry.get_str("action").unwrap_or_default();
        lines.insert(format!("audit {action} {entity} {rule}"));
        if entry.get_str("digest").is_err() {
            lines.insert(format!("audit entry {id} without a digest"));
        }
    }
    // A file that no entry names was not finished: the job removes it a day later, by the real clock.
    let named: Vec<&String> = stores.of("audit_log").map(|(id, _)| id).collect();
    for file in place.row_files().into_iter().filter(|file| named.iter().any(|id| file.ends_with(id))) {
        let mut rows: Vec<String> = rows_of(&file);
        rows.sort();
        lines.insert(format!("a file with {rows:?}"));
    }
    let count = |name: &str| stores.of(name).count();
    lines.insert(format!("{} audit entries", count("audit_log")));
    for (id, tombstone) in stores.of("tombstones") {
        let get = |field: &str| tombstone.get_str(field).unwrap_or_default().to_owned();
        lines.insert(format!("tombstone {id} {} {} {}", get("state"), get("rule"), get("action")));
    }
    // All fields of rows, except for those that tell when.
    for collection in
        ["documents", "document_versions", "sessions", "session_history", "users", "ai_interactions", "interactions"]
    {
        for (id, row) in stores.of(collection) {
            lines.insert(format!("fields {collection}/{id} {}", shape(row)));
        }
    }
    lines
}

/// Ids of the rows in a file.
fn rows_of(file: &std::path::Path) -> Vec<String> {
    let bytes = std::fs::read(file).expect("a file");
    let plain = zstd::decode_all(&bytes[..]).unwrap_or(bytes);
    let id = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(row.get("_id")?.as_str()?.to_owned())
    };
    String::from_utf8_lossy(&plain).lines().filter_map(id).collect()
}

/// Names of fields, and texts; neither dates nor counters nor random values.
fn shape(row: &Document) -> String {
    let of = |(name, value): (&String, &Bson)| match (name.as_str(), value) {
        ("_sync" | "lifecycle" | "run", _) => String::new(),
        ("email", _) => " email".into(),
        (_, Bson::String(text)) => format!(" {name}={text}"),
        (_, Bson::Document(inner)) => format!(" {name}={{{}}}", shape(inner)),
        (_, Bson::Null) => format!(" {name}=null"),
        _ => format!(" {name}"),
    };
    let fields: BTreeMap<String, String> = row.iter().map(|f| (f.0.clone(), of(f))).collect();
    fields.into_values().collect()
}

async fn run(place: &Place, case: &Case, now: DateTime<Utc>, kill: &Arc<Kill>) -> Result<(), String> {
    let job = place.job(case.job);
    let mut run: Run = place.at(&*job, now).with_faults(kill.clone());
    job.run(&mut run).await.map_err(|e| format!("{e}"))
}

/// What another job does about what a killed run leaves: reconciliation ends moves between the tiers.
async fn finished(place: &Place, case: &Case, later: DateTime<Utc>) {
    if case.job == "document-archival" {
        // Which moves have been left is told by the servers' real clock.
        let ago = to_bson(contextd::clock::now() - TimeDelta::days(1));
        let left = doc! { "moveLeft": { "$exists": true } };
        let done = place.coll("documents").update_many(left, doc! { "$set": { "movedAt": ago } }).await;
        done.expect("written");
        place.settled().await;
        place.run("reconciliation", later).await;
    }
}

/// At every point of every case of a job.
async fn killed_everywhere(job: &str) {
    let now = at();
    let place = Place::with(&format!("{OPTED_IN}[jobs.orphan_sweep]\nsettle = \"1ms\"\n")).await;
    let rules = rules_of(job, true);
    let mut wrong = Vec::new();
    for case in CASES.iter().filter(|case| case.job == job) {
        let items = items(case, now);
        place.clear().await;
        place.put(&items).await;
        let before = place.stores().await;
        let whole = Arc::new(Kill::default());
        run(&place, case, now, &whole).await.expect("an uncut run ends");
        finished(&place, case, now).await;
        let expected = place.stores().await;
        right(&format!("{case:?}, uncut"), &compare(&before, &expected, &rules, now));
        let expected = evidence(&place, &expected);
        let points = whole.points();
        println!("{} {}: {:?}", case.rule, case.case, whole.calls());
        let mut unreached = 0;
        for (number, (call, side)) in points.iter().enumerate().filter(|(n, _)| is_tried(*n, points.len())) {
            let what = format!("{} {}: point {number}, {side:?} {call}", case.rule, case.case);
            place.clear().await;
            place.put(&items).await;
            let kill = Arc::new(Kill::at(number));
            if run(&place, case, now, &kill).await.is_ok() && !kill.happened() {
                // A slow run looks at the load of the database more often than a quick one.
                unreached += 1;
                continue;
            }
            // A later run, as the schedule has it: nothing else has become due meanwhile.
            let later = now + TimeDelta::milliseconds((case.term / 4).clamp(0, DAY));
            if let Err(e) = run(&place, case, later, &Arc::default()).await {
                wrong.push(format!("{what}: the next run: {e}"));
                continue;
            }
            finished(&place, case, later).await;
            let found = place.stores().await;
            wrong.extend(found.misplaced().into_iter().map(|line| format!("{what}: {line}")));
            let different = differences(&expected, &evidence(&place, &found));
            wrong.extend(different.into_iter().map(|line| format!("{what}: {line}")));
        }
        assert!(unreached * 10 <= points.len(), "{case:?}: {unreached} of {} points were not reached", points.len());
    }
    place.end().await;
    right("killed and run again", &wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn archiving_sessions_survives_kills() {
    killed_everywhere("session-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_survives_kills() {
    killed_everywhere("version-pruning").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_cleanup_survives_kills() {
    killed_everywhere("anonymous-cleanup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archiving_documents_survives_kills() {
    killed_everywhere("document-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymizing_survives_kills() {
    killed_everywhere("anonymization").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archiving_logins_survives_kills() {
    killed_everywhere("auth-log-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_survives_kills() {
    killed_everywhere("retention").await;
}
