//! Every case of every rule at its boundary, a millisecond before and after it; dates that are no dates.

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::kit::to_bson;
use mongodb::bson::{Bson, Timestamp, doc};

use crate::{
    check::{checked, right},
    place::Place,
    rows::{CASES, Case, OPTED_IN, user},
};

/// With milliseconds that are not zero, on a leap day.
pub fn at() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2024-02-29T23:59:59.503Z").expect("a time").to_utc()
}

fn ms(n: i64) -> TimeDelta {
    TimeDelta::milliseconds(n)
}

/// Values that are no date in the past, by name; `true` when they are dates in the future.
fn odd(now: DateTime<Utc>) -> Vec<(&'static str, Option<Bson>, bool)> {
    let long_ago = now - TimeDelta::days(3650);
    let old = Bson::DateTime(to_bson(long_ago));
    vec![
        ("future", Some(to_bson(now + TimeDelta::minutes(11)).into()), true),
        ("far-future", Some(to_bson(now + TimeDelta::days(3650)).into()), true),
        ("missing", None, false),
        ("null", Some(Bson::Null), false),
        ("string", Some(long_ago.to_rfc3339().into()), false),
        ("number", Some(long_ago.timestamp_millis().into()), false),
        ("float", Some(1.5.into()), false),
        ("bool", Some(false.into()), false),
        ("document", Some(doc! { "date": old.clone() }.into()), false),
        ("array", Some(vec![old].into()), false),
        ("timestamp", Some(Bson::Timestamp(Timestamp { time: 1, increment: 1 })), false),
    ]
}

async fn boundaries_of(job: &str) {
    let now = at();
    let mut wrong = Vec::new();
    let place = Place::with(OPTED_IN).await;
    for case in CASES.iter().filter(|case| case.job == job) {
        place.clear().await;
        let found = boundary(&place, case, now).await;
        wrong.extend(found.into_iter().map(|line| format!("{} {}: {line}", case.rule, case.case)));
    }
    place.end().await;
    right(job, &wrong);
}

async fn boundary(place: &Place, case: &Case, now: DateTime<Utc>) -> Vec<String> {
    let cutoff = now - ms(case.term);
    let mut items = vec![
        user("u1", now - TimeDelta::days(1000)),
        case.item("younger", cutoff + ms(1)),
        case.item("exact", cutoff),
        case.item("older", cutoff - ms(1)),
    ];
    for (name, value, _) in odd(now) {
        items.push(case.with_date(name, cutoff - ms(1), value));
    }
    place.put(&items).await;
    let job = place.job(case.job);
    let (outcome, mut wrong) = checked(place, &*job, now, true).await;
    let counts = outcome.rules.get(case.rule).cloned().unwrap_or_default();
    // Of the future is what is further ahead than clocks may be off, and slack.
    let future = odd(now).iter().filter(|(.., future)| *future).count() as u64;
    let undated = odd(now).len() as u64 - future;
    let told = counts.undated + counts.left.get("lacking").copied().unwrap_or_default();
    // A row can be told by more than one case.
    if counts.done != 2 || counts.future < future || told < undated {
        wrong.push(format!("2 done, {future} in the future, {undated} without a date: {counts:?}"));
    }
    // A second run changes nothing.
    let (again, more) = checked(place, &*job, now, true).await;
    wrong.extend(more.into_iter().map(|line| format!("again: {line}")));
    if again.changed != 0 {
        wrong.push(format!("again: {again:?}"));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_archived_at_their_limit() {
    boundaries_of("session-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_pruned_at_their_term() {
    boundaries_of("version-pruning").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_documents_go_at_their_term() {
    boundaries_of("anonymous-cleanup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_archived_at_their_term() {
    boundaries_of("document-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_anonymized_at_their_term() {
    boundaries_of("anonymization").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_logins_are_archived_at_their_term() {
    boundaries_of("auth-log-archival").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_goes_at_its_term() {
    boundaries_of("retention").await;
}

/// What is cached of a document's analysis quotes its text.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_drops_what_is_cached_of_analyses() {
    let place = Place::new().await;
    let case = CASES.iter().find(|case| case.rule == "deleted-document").expect("a case");
    let due = at() - ms(case.term) - ms(1);
    place.put(&[case.item("d", due).key("cache:analysis:hash-d-analysis".into(), "{}")]).await;
    place.run(case.job, at()).await;
    let keys = place.keys().await;
    place.end().await;
    assert!(!keys.contains(&"cache:analysis:hash-d-analysis".to_owned()), "{keys:?}");
}
