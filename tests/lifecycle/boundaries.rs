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
        ("future", Some(to_bson(now + ms(1)).into()), true),
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
    for case in CASES.iter().filter(|case| case.job == job) {
        let place = Place::with(OPTED_IN).await;
        boundary(&place, case, now).await;
        place.end().await;
    }
}

async fn boundary(place: &Place, case: &Case, now: DateTime<Utc>) {
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
    let (outcome, wrong) = checked(place, &*job, now, true).await;
    right(&format!("{} {}", case.rule, case.case), &wrong);
    let counts = outcome.rules.get(case.rule).unwrap_or_else(|| panic!("counts of {}", case.rule));
    assert_eq!(counts.done, 2, "{}: exactly the two that are due: {counts:?}", case.rule);
    // An item at the boundary of a term of 0 that is a millisecond younger is one of the future, too.
    let future = odd(now).iter().filter(|(.., future)| *future).count() as u64 + u64::from(case.term == 0);
    let undated = odd(now).len() as u64 - 2;
    assert_eq!((counts.future, counts.undated), (future, undated), "{} {}: {counts:?}", case.rule, case.case);
    // A second run changes nothing.
    let (again, wrong) = checked(place, &*job, now, true).await;
    right(&format!("{} {} again", case.rule, case.case), &wrong);
    assert_eq!(again.changed, 0, "{}: {again:?}", case.rule);
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
