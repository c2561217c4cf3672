//! Removing any one term of a rule is noticed: for each there is a row that only this term keeps.

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::{
    kit::to_bson,
    policy::{Guard, Policy, Rule},
};
use mongodb::bson::{Bson, doc};

use crate::{
    boundaries::at,
    check::{checked, right},
    place::Place,
    rows::{CASES, Case, Item, OPTED_IN, Version, analysis, document, session, user, version},
};

/// A policy with one term less, and what was taken out.
fn mutants(policy: &Policy) -> Vec<(String, String, Policy)> {
    let mut all = Vec::new();
    for (at, rule) in policy.rules.iter().enumerate() {
        let mut add = |what: String, change: &dyn Fn(&mut Rule)| {
            let mut mutant = policy.clone();
            change(&mut mutant.rules[at]);
            mutant.hash = format!("{}-mutant", policy.hash);
            all.push((rule.job.clone(), format!("{}: {what}", rule.name), mutant));
        };
        for (n, case) in rule.cases.iter().enumerate() {
            for (i, (field, _)) in case.equal.iter().enumerate() {
                add(format!("{} equal {field}", case.name), &|rule| drop(rule.cases[n].equal.remove(i)));
            }
            for (i, field) in case.absent.iter().enumerate() {
                add(format!("{} absent {field}", case.name), &|rule| drop(rule.cases[n].absent.remove(i)));
            }
            for (i, field) in case.present.iter().enumerate() {
                add(format!("{} present {field}", case.name), &|rule| drop(rule.cases[n].present.remove(i)));
            }
            if !case.after.is_zero() {
                add(format!("{} term", case.name), &|rule| rule.cases[n].after = std::time::Duration::ZERO);
            }
        }
        for guard in &rule.guards {
            add(format!("guard {guard:?}"), &|rule| rule.guards.retain(|other| other != guard));
        }
    }
    all
}

/// Rows that each keep for one reason only, and those that go.
pub fn population(now: DateTime<Utc>, job: &str, policy: &Policy) -> Vec<Item> {
    let mut items = vec![user("u1", now - TimeDelta::days(1000)), user("held-user", now - TimeDelta::days(1000))];
    items[1].edit("users", "held-user").insert("holdCount", 1_i64);
    for case in CASES.iter().filter(|case| case.job == job) {
        let rule = policy.rule(case.rule).expect("a shipped rule");
        let declared = rule.cases.iter().find(|c| c.name == case.case || rule.cases.len() == 1).expect("its case");
        let due = now - TimeDelta::milliseconds(case.term) - TimeDelta::minutes(1);
        let id = |what: &str| format!("{}-{}-{what}", case.rule, case.case);
        items.push(case.item(&id("due"), due));
        items.push(case.item(&id("young"), now - TimeDelta::milliseconds(case.term / 2)));
        for (field, value) in &declared.equal {
            let other = match value {
                Bson::String(_) => Bson::String("other".into()),
                _ => Bson::Null,
            };
            let id = id(&format!("not-{field}"));
            let mut item = case.item(&id, due);
            item.edit(case.on, &id).insert(field, other);
            items.push(item);
        }
        for field in &declared.absent {
            let id = id(&format!("has-{field}"));
            let mut item = case.item(&id, due);
            item.edit(case.on, &id).insert(field, "something");
            items.push(item);
        }
        for field in &declared.present {
            let id = id(&format!("lacks-{field}"));
            let mut item = case.item(&id, due);
            item.edit(case.on, &id).remove(field);
            items.push(item);
        }
        for guard in &rule.guards {
            items.push(guarded(case, *guard, &id(&format!("{guard:?}")), due, now));
        }
        let held = id("held");
        let mut item = case.item(&held, due);
        item.edit(case.on, &held).insert("holdCount", 1_i64);
        items.push(item);
        let fenced = id("fenced");
        let mut item = case.item(&fenced, due);
        item.edit(case.on, &fenced).insert("state", "purging");
        items.push(item);
        let owned = id("owner-held");
        let mut item = case.item(&owned, due);
        let row = item.edit(case.on, &owned);
        if row.contains_key("userId") && case.on != "users" {
            row.insert("userId", "held-user");
            items.push(item);
        }
        items.extend(held_from_afar(case, &id("far"), due));
    }
    items
}

/// Items that belong to something held, which is not their own `userId`.
fn held_from_afar(case: &Case, id: &str, due: DateTime<Utc>) -> Vec<Item> {
    let held = |mut item: Item, collection: &str, id: &str| {
        item.edit(collection, id).insert("holdCount", 1_i64);
        item
    };
    match case.rule {
        "anonymous-mark" | "anonymous-cleanup" => {
            let session_id = format!("{id}-session");
            let mut item = case.item(id, due);
            if case.case != "unmarked" {
                item = item.and(session(&session_id, None, due));
                item.edit("sessions", &session_id).extend(doc! { "state": "ended", "endedAt": to_bson(due) });
            }
            vec![held(item, "sessions", &session_id)]
        }
        "minor-version" | "ai-version" => {
            let of_user = format!("{id}-of-user");
            let mut theirs = case.item(&of_user, due);
            theirs.edit("documents", &format!("{of_user}-document")).insert("userId", "held-user");
            vec![held(case.item(id, due), "documents", &format!("{id}-document")), theirs]
        }
        "analysis-result" => {
            let of = format!("{id}-document");
            let of_user = format!("{id}-of-user");
            let theirs = document(&format!("{of_user}-document"), Some("held-user"), None, due);
            vec![
                held(case.item(id, due).and(document(&of, Some("u1"), None, due)), "documents", &of),
                case.item(&of_user, due).and(theirs),
            ]
        }
        "ai-interaction-30" | "ai-interaction-90" => {
            let of = format!("{id}-document");
            let mut item = case.item(id, due).and(document(&of, Some("u1"), None, due));
            item.edit("ai_interactions", id).insert("documentId", &of);
            let of_user = format!("{id}-of-user");
            let theirs = format!("{of_user}-document");
            let mut far = case.item(&of_user, due).and(document(&theirs, Some("held-user"), None, due));
            far.edit("ai_interactions", &of_user).insert("documentId", &theirs);
            vec![held(item, "documents", &of), far]
        }
        _ => Vec::new(),
    }
}

/// An item that only this guard keeps.
fn guarded(case: &Case, guard: Guard, id: &str, due: DateTime<Utc>, now: DateTime<Utc>) -> Item {
    let mut item = case.item(id, due);
    match guard {
        Guard::NoLiveSession if case.on == "sessions" => item.key(format!("session:{id}"), "1"),
        Guard::NoLiveSession => item.key(format!("session:{id}-session"), "1"),
        Guard::SessionExpired => item.and(session(&format!("{id}-session"), None, due)),
        Guard::NotCurrent => {
            item.edit("documents", &format!("{id}-document")).insert("currentVersionId", id);
            item
        }
        Guard::NoDeltaBase => {
            let of = Version {
                id: &format!("{id}-delta"),
                document: &format!("{id}-document"),
                owner: "u1",
                kind: "major",
                number: 9,
                previous: None,
                base: Some(id),
            };
            item.and(version(&of, due))
        }
        Guard::Superseded => {
            let mut item = analysis(id, &format!("{id}-document"), due);
            let newer = analysis(&format!("{id}-newer"), &format!("{id}-document"), now - TimeDelta::days(1));
            item.edit("analyses", id).insert("createdAt", to_bson(due));
            item.and(newer)
        }
    }
}

/// Terms whose removal changes nothing: the action looks again itself, in its transaction; and a user's session that was
/// idle for a day has been idle for half an hour, too.
const REDUNDANT: [(&str, &str); 5] = [
    ("session-archival", "anonymous absent userId"),
    ("minor-version", "NotCurrent"),
    ("minor-version", "NoDeltaBase"),
    ("ai-version", "NotCurrent"),
    ("ai-version", "NoDeltaBase"),
];

async fn terms_of(job: &str) {
    let now = at();
    let place = Place::with(OPTED_IN).await;
    let policy = (*place.world.policy).clone();
    let items = population(now, job, &policy);
    place.put(&items).await;
    let (outcome, wrong) = checked(&place, &*place.job(job), now, true).await;
    right(&format!("the whole policy; {outcome:?}"), &wrong);
    let mut unnoticed = Vec::new();
    for (_, what, mutant) in mutants(&policy).into_iter().filter(|(of, ..)| of == job) {
        place.clear().await;
        place.put(&items).await;
        // Another policy of the same version would be refused: nothing of the one before is left after `clear`.
        for case in mutant.rules.iter().filter(|rule| rule.job == job).flat_map(|rule| &rule.cases) {
            let on = crate::model::collection(&what[..what.find(':').unwrap_or_default()]);
            let index = mongodb::IndexModel::builder().keys(case.hint()).build();
            place.db.collection::<mongodb::bson::Document>(on).create_index(index).await.expect("an index");
        }
        let (_, mut wrong) = checked(&place, &*place.job_under(job, mutant), now, true).await;
        // That the run ends with an error is no proof: it has to take what the term keeps.
        let refused = wrong.first().is_some_and(|line| line.starts_with(job));
        if refused {
            println!("{what}: {}", wrong[0]);
            wrong.clear();
        }
        println!("{what}: {} differences, as {:?}", wrong.len(), wrong.first());
        if wrong.is_empty() && !REDUNDANT.iter().any(|(rules, guard)| what.starts_with(rules) && what.ends_with(guard))
        {
            unnoticed.push(what);
        }
    }
    place.end().await;
    right("terms whose removal nothing notices", &unnoticed);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_about_sessions_is_needed() {
    terms_of("session-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_about_versions_is_needed() {
    terms_of("version-pruning").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_about_anonymous_documents_is_needed() {
    terms_of("anonymous-cleanup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_about_archiving_is_needed() {
    terms_of("document-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_about_anonymizing_is_needed() {
    terms_of("anonymization").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_about_logins_is_needed() {
    terms_of("auth-log-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_about_retention_is_needed() {
    terms_of("retention").await;
}
