//! Something else gets in at every point of a run: an access, a restore, a hold, a claim, a new version, done by a real
//! worker. Either it is written and the item stays with all that belongs to it, or it comes too late and all is gone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::kit::to_bson;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::{
    check::right,
    faults::{Kill, Meanwhile, Side, is_tried},
    model::{Stores, text},
    place::Place,
    rows::{CASES, Case, Item, session, user},
    worker::Worker,
};

/// What gets in between.
struct Op {
    name: &'static str,
    task: &'static str,
    data: fn(&str, &str) -> Value,
}

const TOUCH: Op = Op {
    name: "access",
    task: "document.touch.v1",
    data: |id, now| json!({ "documentId": id, "lastAccessedAt": now }),
};
const SAVE: Op = Op {
    name: "save",
    task: "document.save.v1",
    data: |id, now| json!({ "documentId": id, "content": "A new content.", "updatedAt": now, "lastAccessedAt": now }),
};
/// As the editor of an anonymous session sends it.
const SAVE_ANONYMOUS: Op = Op {
    name: "anonymous save",
    task: "document.save.v1",
    data: |id, now| {
        json!({ "documentId": id, "sessionId": format!("{id}-session"), "content": "A new content.", "updatedAt": now,
            "lastAccessedAt": now })
    },
};
const RESTORE: Op =
    Op { name: "restore", task: "document.restore.v1", data: |id, now| json!({ "documentId": id, "restoredAt": now }) };
const HOLD: Op = Op {
    name: "hold",
    task: "hold.place.v1",
    data: |id, now| json!({ "holdId": format!("h-{id}"), "entityType": "document", "entityId": id, "reason": "r", "placedAt": now }),
};
const HOLD_USER: Op = Op {
    name: "hold of the user",
    task: "hold.place.v1",
    data: |id, now| json!({ "holdId": format!("h-{id}"), "entityType": "user", "entityId": format!("{id}-user"), "reason": "r", "placedAt": now }),
};
const HOLD_SESSION: Op = Op {
    name: "hold of the session",
    task: "hold.place.v1",
    data: |id, now| json!({ "holdId": format!("h-{id}"), "entityType": "session", "entityId": format!("{id}-session"), "reason": "r", "placedAt": now }),
};
const VERSION: Op = Op {
    name: "version",
    task: "version.save.v1",
    data: |id, now| json!({ "documentId": id, "versionId": format!("{id}-v9"), "kind": "major", "content": "Version nine.", "createdAt": now }),
};
const CLAIM: Op = Op {
    name: "claim",
    task: "user.claim.v1",
    data: |id, now| json!({ "sessionId": format!("{id}-session"), "userId": "claimer", "claimedAt": now }),
};
const TOUCH_SESSION: Op = Op {
    name: "activity",
    task: "session.touch.v1",
    data: |id, now| json!({ "sessionId": id, "lastActivityAt": now }),
};
const HOLD_THIS_SESSION: Op = Op {
    name: "hold",
    task: "hold.place.v1",
    data: |id, now| json!({ "holdId": format!("h-{id}"), "entityType": "session", "entityId": id, "reason": "r", "placedAt": now }),
};
const HOLD_OF_VERSION: Op = Op {
    name: "hold",
    task: "hold.place.v1",
    data: |id, now| {
        json!({ "holdId": format!("h-{id}"), "entityType": "document", "entityId": format!("{id}-document"), "reason": "r",
            "placedAt": now })
    },
};
const RESTORE_VERSION: Op = Op {
    name: "restoring the version",
    task: "version.restore.v1",
    data: |id, now| json!({ "documentId": format!("{id}-document"), "versionId": id, "newVersionId": format!("{id}-v9"), "restoredAt": now }),
};
const HOLD_THIS_USER: Op = Op {
    name: "hold",
    task: "hold.place.v1",
    data: |id, now| json!({ "holdId": format!("h-{id}"), "entityType": "user", "entityId": id, "reason": "r", "placedAt": now }),
};

/// With rows of owners that holds need.
fn item(case: &Case, id: &str, date: DateTime<Utc>) -> Item {
    let (owner, session_id) = (format!("{id}-user"), format!("{id}-session"));
    let mut item = case.item(id, date);
    if case.on == "documents" && case.rule.starts_with("anonymous") {
        if !item.rows.iter().any(|(c, row)| c == "sessions" && text(row, "_id") == Some(&session_id)) {
            item = item.and(session(&session_id, None, date));
            item.edit("sessions", &session_id).extend(doc! { "state": "ended", "endedAt": to_bson(date) });
        }
    } else if case.on == "documents" {
        item.edit("documents", id).insert("userId", &owner);
        item = item.and(user(&owner, date));
    }
    item
}

/// Not taken by the rule, in part or whole.
fn untouched(case: &Case, row: Option<&Document>) -> bool {
    let Some(row) = row else { return false };
    let state = text(row, "state");
    state != Some("purging")
        && match case.rule {
            "deleted-user" => !row.contains_key("anonymizedAt"),
            "inactive-document" => state == Some("active"),
            _ => true,
        }
}

/// Written, it keeps the item whenever it came: what it is about is either whole or it cannot be written. (A session is
/// claimed without the document that is gone; a hold can be
/// placed on what is archived or anonymized, and on the document of a version or the owner of a document that is gone.)
fn always_keeps(case: &Case, op: &Op) -> bool {
    match case.rule {
        "deleted-document" | "anonymous-cleanup" => ![HOLD_USER.name, HOLD_SESSION.name, CLAIM.name].contains(&op.name),
        "inactive-document" => op.task != HOLD.task,
        "session-archival" => op.task == TOUCH_SESSION.task,
        _ => false,
    }
}

/// Everything of the item is there, or nothing; in words what is wrong.
fn whole_or_gone(case: &Case, id: &str, stores: &Stores, protected: bool) -> Vec<String> {
    let row = stores.row(case.on, id);
    let mut wrong = Vec::new();
    let mut see = |collection: &str, child: String, there: bool| {
        if stores.row(collection, &child).is_some() != there {
            wrong.push(format!("{collection}/{child} {}", if there { "is lost" } else { "is left over" }));
        }
    };
    let there = row.is_some();
    match case.rule {
        "deleted-document" | "anonymous-cleanup" => {
            see("analyses", format!("{id}-analysis"), there);
            see("context_links", format!("{id}:RELATES_TO:{id}-other"), there);
            if case.rule == "deleted-document" {
                see("document_versions", format!("{id}-v1"), there);
            }
            if !there {
                see("document_versions", format!("{id}-v9"), false);
                let objects = stores.hot.iter().chain(&stores.archive);
                wrong.extend(
                    objects.filter(|key| key.split('/').nth(2) == Some(id)).map(|key| format!("{key} is left over")),
                );
            }
        }
        "session-archival" => see("session_history", id.to_owned(), !there),
        _ => {}
    }
    if there && row.is_some_and(|row| text(row, "state") == Some("purging")) {
        wrong.push("it stays fenced".into());
    }
    if protected && !untouched(case, row) {
        wrong.push(format!("it was written, and the item was taken: {row:?}"));
    }
    wrong.extend(stores.misplaced().into_iter().filter(|line| line.contains(id)));
    wrong
}

async fn races_of(rule: &str, name: &str, ops: &'static [Op]) {
    let place = Arc::new(Place::with("[jobs.orphan_sweep]\nsettle = \"1ms\"\n").await);
    let case = *CASES.iter().find(|case| case.rule == rule && case.case == name).expect("a case");
    let now = contextd::clock::now();
    let due = now - TimeDelta::milliseconds(case.term) - TimeDelta::hours(1);
    place.put(&[user("claimer", due), user("u1", due)]).await;
    let worker = {
        let place = place.clone();
        Arc::new(Mutex::new(tokio::task::spawn_blocking(move || Worker::start(&place)).await.expect("started")))
    };
    // How many calls a run makes.
    place.put(&[item(&case, "first", due)]).await;
    let whole = Arc::new(Kill::default());
    let job = place.job(case.job);
    job.run(&mut place.at(&*job, now).with_faults(whole.clone())).await.expect("an undisturbed run");
    let points = whole.points();
    let mut wrong = Vec::new();
    let (mut written, mut late, mut copied) = (0, 0, 0);
    for op in ops {
        for (number, (call, side)) in points.iter().enumerate().filter(|(n, _)| is_tried(*n, points.len())) {
            // Before a call is after the one before it.
            if number == 0 || *side == Side::After {
                let id = format!("{}-{number}-{side:?}", op.name.replace(' ', "-"));
                place.put(&[item(&case, &id, due)]).await;
                let told = Arc::new(Mutex::new((String::new(), [0; 5], false)));
                let act = {
                    let (worker, told, id) = (worker.clone(), told.clone(), id.clone());
                    move || {
                        let get = move || {
                            let mut worker = worker.lock().expect("not poisoned");
                            let before = worker.counts();
                            let data = (op.data)(&id, &contextd::clock::now().to_rfc3339());
                            let outcome = worker.task(op.task, &data, Duration::from_millis(700));
                            let row = worker.look(case.on, &id);
                            let there = outcome != "waits" && untouched(&case, row.as_ref());
                            *told.lock().expect("not poisoned") = (outcome, before, there);
                        };
                        // A runtime cannot be entered twice.
                        std::thread::spawn(get).join().expect("done");
                    }
                };
                let faults = Arc::new(Meanwhile::at(number, act));
                let ended = job.run(&mut place.at(&*job, now).with_faults(faults)).await;
                let (mut outcome, before, in_time) = told.lock().expect("not poisoned").clone();
                if outcome == "waits" {
                    let worker = worker.clone();
                    let later = move || worker.lock().expect("not poisoned").later(&before);
                    outcome = tokio::task::spawn_blocking(later).await.expect("done");
                }
                let what = format!("{} at point {number} ({call}): {outcome}", op.name);
                if let Err(e) = ended {
                    println!("{what}: the run: {e}");
                }
                // The next run has nothing against it.
                if let Err(e) = job.run(&mut place.at(&*job, now)).await {
                    wrong.push(format!("{what}: the next run: {e}"));
                }
                let mut stores = place.stores().await;
                if op.task == CLAIM.task && stores.row(case.on, &id).is_none() {
                    // What a claim has copied of a document that is gone is swept when it is old enough.
                    if stores.hot.iter().any(|key| key.contains(&id)) {
                        copied += 1;
                        place.run("orphan-sweep", now + TimeDelta::days(2)).await;
                        stores = place.stores().await;
                    }
                }
                // A version that is restored lives on as the new one.
                let keeps = op.task != RESTORE_VERSION.task && (in_time || always_keeps(&case, op));
                let mine = whole_or_gone(&case, &id, &stores, outcome == "written" && keeps);
                wrong.extend(mine.into_iter().map(|line| format!("{what}: {line}")));
                match outcome.as_str() {
                    "written" => written += 1,
                    "expired" | "dead" | "superseded" => late += 1,
                    _ => {}
                }
                if outcome == "dead" || outcome == "waits" {
                    let letters = place.all("dead_letters").await;
                    let why = letters.last().map(|letter| {
                        format!("{:?}: {:?}", letter.get_str("reason").ok(), letter.get_str("error").ok())
                    });
                    wrong.push(format!("{what}: a task that comes late has to end as expired; {why:?}"));
                }
            }
        }
    }
    println!("{rule} {name}: {} points, {written} written, {late} too late, {copied} copies swept", points.len());
    tokio::task::spawn_blocking(move || drop(worker)).await.expect("stopped");
    Arc::into_inner(place).expect("no other user").end().await;
    right(&format!("{rule} {name}"), &wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_document_is_whole_or_gone() {
    races_of("deleted-document", "", &[RESTORE, HOLD, HOLD_USER]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_document_is_whole_or_gone() {
    races_of("anonymous-cleanup", "marked", &[TOUCH, SAVE_ANONYMOUS, HOLD, HOLD_SESSION, VERSION]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_document_is_whole_or_gone() {
    races_of("anonymous-cleanup", "unmarked", &[CLAIM]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_archived_stays_whole() {
    races_of("inactive-document", "", &[TOUCH, SAVE, VERSION, HOLD]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_here_or_in_the_history() {
    races_of("session-archival", "user", &[TOUCH_SESSION, HOLD_THIS_SESSION]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_whole_or_gone() {
    races_of("minor-version", "", &[RESTORE_VERSION, HOLD_OF_VERSION]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_user_keeps_the_name() {
    races_of("deleted-user", "", &[HOLD_THIS_USER]).await;
}
