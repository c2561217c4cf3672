//! Which terms hold: tenants' and regions', two fleets' with different policies, and how much may go at once.

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::{kit::to_bson, policy::Policy};

use crate::{
    boundaries::at,
    place::Place,
    rows::{self, Item},
};

const TENANTS: &str = r#"
[policy]
version = 3
region = "eu"
[policy.regions.eu.rules.dead-letter]
after = "20d"
[policy.tenants.short.rules.dead-letter]
after = "2d"
[policy.tenants.long.rules.dead-letter]
after = "200d"
[policy.tenants.never.rules.dead-letter]
enabled = false
[policy.tenants.short.rules.session-archival.cases.user]
after = "10m"
"#;

fn letter(tenant: Option<&str>, id: &str, at: DateTime<Utc>) -> Item {
    let mut item = rows::dead(id, at);
    if let Some(tenant) = tenant {
        item.edit("dead_letters", id).insert("tenant", tenant);
    }
    item
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_of_tenants_and_regions_hold_to_the_millisecond() {
    let place = Place::with(TENANTS).await;
    let mut items = Vec::new();
    for (tenant, days) in [(None, 20), (Some("short"), 2), (Some("long"), 200), (Some("other"), 20)] {
        for (what, off) in [("goes", 0), ("stays", 1)] {
            let date = at() - TimeDelta::days(days) + TimeDelta::milliseconds(off);
            items.push(letter(tenant, &format!("{}-{what}", tenant.unwrap_or("none")), date));
        }
    }
    items.push(letter(Some("never"), "never-stays", at() - TimeDelta::days(4000)));
    for (id, off) in [("s-goes", 0), ("s-stays", 1)] {
        let seen = at() - TimeDelta::minutes(10) + TimeDelta::milliseconds(off);
        let mut item = rows::session(id, Some("u1"), seen);
        item.edit("sessions", id).insert("tenant", "short");
        items.push(item);
    }
    place.put(&items).await;
    place.run("retention", at()).await;
    place.run("session-archival", at()).await;
    let stores = place.stores().await;
    let left: Vec<&String> = stores.of("dead_letters").chain(stores.of("sessions")).map(|(id, _)| id).collect();
    let stay = ["long-stays", "never-stays", "none-stays", "other-stays", "short-stays", "s-stays"];
    assert_eq!(left, stay, "those that are a millisecond younger than their term, and no other");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_policy_of_the_same_version_and_an_older_one_take_nothing() {
    let place = Place::new().await;
    let old = at() - TimeDelta::days(300);
    let ours = (*place.world.policy).clone();
    let with = |version: u32, hash: &str| Policy { version, hash: hash.into(), ..ours.clone() };
    place.put(&[rows::dead("first", old)]).await;
    place.run("retention", at()).await;
    let steps = [
        (ours.version, "another", false),
        (ours.version + 2, "newer", true),
        (ours.version, &ours.hash, false),
        (ours.version + 1, "between", false),
        (ours.version + 2, "other", false),
        (ours.version + 2, "newer", true),
    ];
    for (n, (version, hash, runs)) in steps.into_iter().enumerate() {
        let id = format!("{n}-{version}-{hash}");
        place.put(&[rows::dead(&id, old)]).await;
        let job = place.job_under("retention", with(version, hash));
        let done = job.run(&mut place.at(&*job, at())).await;
        let gone = place.one("dead_letters", &id).await.is_none();
        assert_eq!((done.is_ok(), gone), (runs, runs), "version {version}, hash {hash}: {done:?}");
        place.coll("dead_letters").delete_many(mongodb::bson::doc! {}).await.expect("deleted");
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_over_its_cap_takes_nothing_until_it_is_told_to() {
    let settings = "[policy]\nversion = 2\n[policy.rules.dead-letter]\ncap = { share = 0.5, floor = 2, rows = 1000 }\n";
    let place = Place::with(settings).await;
    let old = |n: i64| rows::dead(&format!("old{n}"), at() - TimeDelta::days(40 + n));
    let items: Vec<Item> = (0..6).map(old).chain([rows::dead("young", at())]).collect();
    place.put(&items).await;
    let job = place.job("retention");
    let mut run = place.at(&*job, at());
    let done = job.run(&mut run).await;
    assert_eq!(place.all("dead_letters").await.len(), 7, "nothing of it: {done:?} {:?}", run.outcome);
    assert!(run.outcome.rules.get("dead-letter").is_some_and(|counts| counts.over_cap), "{:?}", run.outcome);
    // Exactly at the cap: 4 of 8 rows.
    let update = mongodb::bson::doc! { "$set": { "deadAt": to_bson(at()) } };
    for id in ["old0", "old1"] {
        place.coll("dead_letters").update_one(mongodb::bson::doc! { "_id": id }, update.clone()).await.expect("set");
    }
    place.put(&[rows::dead("young2", at())]).await;
    place.run("retention", at()).await;
    assert_eq!(place.all("dead_letters").await.len(), 4, "half of them are allowed");
    place.put(&(20..26).map(old).collect::<Vec<_>>()).await;
    let mut run = place.at(&*job, at());
    run.over_cap = true;
    job.run(&mut run).await.expect("it was told to");
    assert_eq!(place.all("dead_letters").await.len(), 4, "{:?}", run.outcome);
    place.end().await;
}
