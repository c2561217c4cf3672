//! A dry run names exactly what a run takes from frozen data, and changes nothing.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use contextd_jobs::kit::to_bson;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::{
    boundaries::at,
    check::{compare, differences, right, rules_of},
    model::collection,
    place::Place,
    rows::{CASES, user},
    terms::population,
};

async fn plan_is_run(job: &str) {
    let now = at();
    let place = Place::with(crate::rows::OPTED_IN).await;
    let policy = (*place.world.policy).clone();
    place.put(&population(now, job, &policy)).await;
    let before = place.stores().await;

    let work = place.job(job);
    let mut dry = place.at(&*work, now);
    dry.dry_run = true;
    dry.keep_notes();
    work.run(&mut dry).await.expect("a dry run");
    let mut noted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for note in dry.notes() {
        noted.entry(note.rule).or_default().push(note.id.as_str().expect("a text").to_owned());
    }
    let after = place.stores().await;
    let mut wrong = differences(&before.view(), &after.view());
    wrong.extend(differences_of_counts(&before.rows, &after.rows));

    let mut run = place.at(&*work, now);
    work.run(&mut run).await.expect("a run");
    let found = place.stores().await;
    for rule in rules_of(job, true) {
        let mut told = noted.remove(rule).unwrap_or_default();
        told.sort();
        let expected: Vec<String> = before.due(rule, now).into_iter().collect();
        if told != expected {
            wrong.push(format!("{rule}: planned {told:?}, due are {expected:?}"));
        }
        let done = run.outcome.rules.get(rule).map(|counts| counts.done).unwrap_or_default();
        let counted = dry.outcome.rules.get(rule).map(|counts| counts.done).unwrap_or_default();
        if done != expected.len() as u64 || counted != done {
            wrong.push(format!(
                "{rule}: {counted} planned, {done} done, {} due in {}",
                expected.len(),
                collection(rule)
            ));
        }
    }
    wrong.extend(compare(&before, &found, &rules_of(job, true), now));
    place.end().await;
    right(job, &wrong);
}

/// Collections with more or fewer rows than before.
fn differences_of_counts<V>(
    before: &BTreeMap<String, BTreeMap<String, V>>,
    after: &BTreeMap<String, BTreeMap<String, V>>,
) -> Vec<String> {
    let len = |of: &BTreeMap<String, BTreeMap<String, V>>, name: &str| of.get(name).map_or(0, BTreeMap::len);
    let differs = |name: &&String| len(before, name) != len(after, name);
    after.keys().filter(differs).map(|name| format!("a dry run changed {name}")).collect()
}

macro_rules! plans {
    ($($name:ident: $job:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            plan_is_run($job).await;
        }
    )*};
}

plans! {
    sessions_go_as_planned: "session-archival",
    versions_go_as_planned: "version-pruning",
    anonymous_documents_go_as_planned: "anonymous-cleanup",
    documents_are_archived_as_planned: "document-archival",
    people_are_anonymized_as_planned: "anonymization",
    logins_are_archived_as_planned: "auth-log-archival",
    what_was_retained_goes_as_planned: "retention",
}

/// Of every case one item that is due now and one that is not.
async fn planned(place: &Place, file: &str) -> Value {
    let now = contextd::clock::now();
    let mut items = vec![user("u1", now - TimeDelta::days(1000))];
    for case in CASES {
        let due = now - TimeDelta::milliseconds(case.term) - TimeDelta::minutes(5);
        let name = format!("{}{}", case.rule, case.case);
        items.push(case.item(&format!("{name}-due"), due));
        items.push(case.item(&format!("{name}-also"), due));
    }
    place.put(&items).await;
    let (code, out, err) = place.command(&["policy", "plan", "--out", file, "--json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    serde_json::from_slice(&std::fs::read(file).expect("a plan")).expect("JSON")
}

fn file_of(place: &Place, name: &str) -> String {
    place.file.with_file_name(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_nothing_and_is_carried_out_to_its_end() {
    let place = Place::with(crate::rows::OPTED_IN).await;
    let file = file_of(&place, "plan.json");
    planned(&place, &file).await;
    let before = place.stores().await;
    let (code, ..) = place.command(&["policy", "plan"]).await;
    assert_eq!(code, 0);
    let mut wrong = differences(&before.view(), &place.stores().await.view());
    let (code, out, err) = place.command(&["policy", "apply", &file]).await;
    assert_eq!(code, 0, "{out}{err}");
    let after = place.stores().await;
    for case in CASES {
        let id = format!("{}{}-due", case.rule, case.case);
        if after.due(case.rule, contextd::clock::now()).contains(&id) {
            wrong.push(format!("{} {} was not done", case.rule, case.case));
        }
    }
    wrong.extend(after.misplaced());
    place.end().await;
    right("plan and apply", &wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_the_plan_is_left_and_nothing_is_added() {
    let place = Place::with(crate::rows::OPTED_IN).await;
    let file = file_of(&place, "plan.json");
    planned(&place, &file).await;
    let now = contextd::clock::now();
    let set = |collection: &'static str, id: &'static str, fields: Document| {
        let rows = place.coll(collection);
        async move {
            let update = doc! { "$set": fields, "$inc": { "_sync.rev": 1_i64 } };
            let done = rows.update_one(doc! { "_id": id }, update).await.expect("written");
            assert_eq!(done.modified_count, 1, "{collection}/{id}");
        }
    };
    set("documents", "inactive-document-due", doc! { "lastAccessedAt": to_bson(now) }).await;
    set("documents", "deleted-document-due", doc! { "state": "active" }).await;
    set("documents", "anonymous-cleanupmarked-due", doc! { "holdCount": 1_i64 }).await;
    set("sessions", "session-archivaluser-due", doc! { "lastActivityAt": to_bson(now) }).await;
    set("dead_letters", "dead-letter-due", doc! { "deadAt": to_bson(now) }).await;
    // Due as well, and not in the plan.
    let case = CASES.iter().find(|case| case.rule == "job-run").expect("a case");
    place.put(&[case.item("not-planned", now - TimeDelta::days(100))]).await;
    let (code, out, err) = place.command(&["policy", "apply", &file, "--json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let after = place.stores().await;
    for (collection, id) in [
        ("documents", "inactive-document-due"),
        ("documents", "deleted-document-due"),
        ("documents", "anonymous-cleanupmarked-due"),
        ("sessions", "session-archivaluser-due"),
        ("dead_letters", "dead-letter-due"),
        ("job_runs", "not-planned"),
    ] {
        assert!(after.row(collection, id).is_some(), "{collection}/{id} was taken: {out}");
    }
    assert_eq!(
        crate::model::text(after.row("documents", "inactive-document-due").expect("there"), "state"),
        Some("active")
    );
    assert!(after.row("dead_letters", "dead-letter-also").is_none(), "the rest was done: {out}");
    println!("{out}");
    place.end().await;
}

/// Every value of a plan, changed one at a time.
fn tampered(plan: &Value) -> Vec<(String, Value)> {
    fn leaves(value: &Value, path: &str, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| leaves(v, &format!("{path}/{k}"), out)),
            Value::Array(all) => {
                out.push(path.to_owned());
                all.iter().enumerate().for_each(|(n, v)| leaves(v, &format!("{path}/{n}"), out));
            }
            _ => out.push(path.to_owned()),
        }
    }
    let mut paths = Vec::new();
    leaves(plan, "", &mut paths);
    // Of what is there many times, some.
    let every = (paths.len() / 40).max(1);
    let change = |path: &String| {
        let mut plan = plan.clone();
        let place = plan.pointer_mut(path)?;
        match place {
            Value::String(text) => text.push('0'),
            Value::Number(n) => *place = (n.as_i64().unwrap_or_default() + 1).into(),
            Value::Bool(flag) => *flag = !*flag,
            Value::Array(all) => drop(all.pop()?),
            Value::Null => *place = 1.into(),
            Value::Object(_) => return None,
        }
        Some((path.clone(), plan))
    };
    paths
        .iter()
        .enumerate()
        .filter(|(n, path)| n % every == 0 || path.matches('/').count() < 3)
        .filter_map(|(_, p)| change(p))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_was_tampered_with_or_is_not_ours_is_refused() {
    let place = Place::with(crate::rows::OPTED_IN).await;
    let file = file_of(&place, "plan.json");
    let plan = planned(&place, &file).await;
    let before = place.stores().await.view();
    let mut wrong = Vec::new();
    let all = tampered(&plan);
    println!("{} changes", all.len());
    for (what, changed) in all {
        let other = file_of(&place, "other.json");
        std::fs::write(&other, changed.to_string()).expect("written");
        let (code, out, err) = place.command(&["policy", "apply", &other]).await;
        // Refused, and not begun and failed.
        if code != 1 || !err.contains("plan") || err.contains("policy-apply") {
            wrong.push(format!("{what}: exit {code}: {out}{err}"));
        }
    }
    // Not a plan at all.
    for text in ["", "{}", "[]", "{\"rules\":[]}", "not json"] {
        let other = file_of(&place, "other.json");
        std::fs::write(&other, text).expect("written");
        let (code, out, err) = place.command(&["policy", "apply", &other]).await;
        if code != 1 {
            wrong.push(format!("{text:?}: exit {code}: {out}{err}"));
        }
    }
    // Of another database.
    let elsewhere = Place::with(crate::rows::OPTED_IN).await;
    let (code, _, err) = elsewhere.command(&["policy", "apply", &file]).await;
    if code != 1 {
        wrong.push(format!("another database: exit {code}: {err}"));
    }
    elsewhere.end().await;
    // Of another version of the policy.
    let text = format!("[policy]\nversion = 2\n{}", crate::rows::OPTED_IN);
    std::fs::write(&place.file, text).expect("written");
    let (code, _, err) = place.command(&["policy", "apply", &file]).await;
    if code != 1 || err.contains("policy-apply") {
        wrong.push(format!("another version: exit {code}: {err}"));
    }
    wrong.extend(differences(&before, &place.stores().await.view()));
    place.end().await;
    right("plans that have to be refused", &wrong);
}
