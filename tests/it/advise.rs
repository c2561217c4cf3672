//! `contextd advise`: what the fleet counted, and what follows from it.

use contextd::{cache::Written, read::Ask};
use mongodb::bson::{DateTime, doc};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Env, Event, in_seconds, now},
    tiers::Tiers,
};

fn counts(kind: &str, hours_ago: i64, fields: mongodb::bson::Document) -> mongodb::bson::Document {
    let hour = now().timestamp() / 3_600 - hours_ago;
    let mut counts = doc! {
        "_id": format!("{kind}/{hour}"), "kind": kind, "hour": DateTime::from_millis(hour * 3_600_000),
    };
    counts.extend(fields);
    counts
}

fn of<'a>(advice: &'a Value, kind: &str) -> &'a Value {
    let kinds = advice["kinds"].as_array().expect("kinds");
    kinds.iter().find(|k| k["kind"] == kind).unwrap_or_else(|| panic!("no advice on {kind}: {advice}"))
}

#[tokio::test]
async fn advice_follows_what_was_measured() {
    let env = Env::new().await;
    env.command(&["migrate"]).end().await.code(0);
    let sessions = (0..300).map(|i| {
        doc! {
            "_id": format!("s{i}"), "userId": "u", "status": "active", "state": "active", "lastActivityAt": DateTime::now(),
            "context": { "topic": "x".repeat(600) }, "metadata": { "m": "y".repeat(900) }, "_sync": { "rev": 1_i64 },
        }
    });
    env.coll("sessions").insert_many(sessions).await.expect("inserted");
    let stats = [
        // Two hours of two kinds, an old hour that no longer counts, and hardly anything of a third kind.
        counts(
            "session",
            1,
            doc! { "redis": 50_000_i64, "mongodb": 5_000_i64, "fills": 5_000_i64, "writes": 4_000_i64 },
        ),
        counts("session", 2, doc! { "memory": 9_000_i64, "whole": 100_i64, "writes": 4_000_i64 }),
        counts("session", 40, doc! { "writes": 9_000_000_i64 }),
        counts("interaction", 1, doc! { "mongodb": 10_i64, "writes": 5_000_i64 }),
        counts("document", 1, doc! { "redis": 3_i64 }),
    ];
    env.coll("access_stats").insert_many(stats).await.expect("inserted");

    let advice = env.command(&["advise", "--json"]).end().await.code(0).json();
    let session = of(&advice, "session");
    assert_eq!(
        (&session["pattern"], &session["advised"]),
        (&"high_frequency".into(), &"WITH_CONTEXT".into()),
        "{session}"
    );
    assert_eq!(session["current"], "CRITICAL_ONLY");
    let figures = &session["figures"];
    assert_eq!((&figures["reads"], &figures["writes"]), (&64_000.into(), &8_000.into()));
    assert_eq!((&figures["records"], &figures["sampled"]), (&300.into(), &200.into()));
    assert!((figures["hitRate"].as_f64().unwrap() - 59.0 / 64.0).abs() < 0.001, "{figures}");
    let cost = |name: &str| {
        let costs = session["costs"].as_array().unwrap();
        costs.iter().find(|c| c["strategy"] == name).unwrap().clone()
    };
    let bytes = |name: &str| cost(name)["entryBytes"].as_u64().unwrap();
    assert!(bytes("CRITICAL_ONLY") > 150 && bytes("CRITICAL_ONLY") < bytes("WITH_CONTEXT"), "{session}");
    assert_eq!((bytes("NONE"), &cost("CRITICAL_ONLY")["entries"]), (0, &300.into()));

    let interaction = of(&advice, "interaction");
    assert_eq!((&interaction["pattern"], &interaction["advised"]), (&"archival".into(), &"NONE".into()));
    let document = of(&advice, "document");
    assert_eq!((&document["pattern"], &document["advised"]), (&Value::Null, &Value::Null));
    assert!(document["why"].as_str().unwrap().contains("too little data"), "{document}");

    let table = env.command(&["advise"]).end().await.code(0).out;
    for part in ["WITH_CONTEXT", "too little data", "archival", "200 records sampled"] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    let longer = env.command(&["advise", "--json", "--hours", "48"]).end().await.code(0).json();
    assert_eq!(of(&longer, "session")["figures"]["writes"], 9_008_000);
    env.command(&["advise", "--hours", "0"]).end().await.code(64).readable();
}

#[tokio::test]
async fn without_anything_counted_nothing_is_advised() {
    let env = Env::new().await;
    let advice = env.command(&["advise", "--json"]).end().await.code(0).json();
    for kind in advice["kinds"].as_array().expect("kinds") {
        assert_eq!(kind["advised"], Value::Null, "{kind}");
    }
    assert!(env.command(&["advise"]).end().await.code(0).out.contains("too little data"));
}

#[tokio::test]
async fn a_worker_leaves_its_counts_when_it_ends() {
    let env = Env::new().await;
    let save = |i: usize| {
        Event::new("session.persist.v1", &format!("e{i}"), json!({ "sessionId": format!("s{i}"), "status": "active" }))
            .with("time", in_seconds(0))
    };
    env.push("records", "normal", &[save(1), save(2), save(3)]).await;
    env.drain("records").await;
    let advice = env.command(&["advise", "--json"]).end().await.code(0).json();
    assert_eq!(of(&advice, "session")["figures"]["writes"], 3, "{advice}");
}

#[tokio::test]
async fn readers_and_writers_count_what_they_do() {
    let env = Env::new().await;
    let tiers = Tiers::new(&env).await;
    let session = doc! { "_id": "s", "userId": "u", "state": "active", "metadata": {}, "_sync": { "rev": 1_i64 } };
    env.coll("sessions").insert_one(&session).await.expect("inserted");
    let written = || vec![Written { kind: "session".into(), document: session.clone(), kept_strategy: false }];
    for _ in 0..3 {
        tiers.writer.after_write(written()).await;
    }
    let (part, whole) = (Ask::default(), Ask { full: true, ..Ask::default() });
    // From Redis, from memory; whole from MongoDB, since only a part is cached; one that is not there.
    for (id, ask) in [("s", part), ("s", part), ("s", whole), ("nobody", part), ("s", Ask { deleted: true, ..part })] {
        tiers.reader.get("session", id, ask).await.expect("read");
    }
    // A kind that is not cached has no strategy to judge.
    tiers.reader.get("hold", "h", part).await.expect("read");
    tiers.reader.access().flush(&tiers.store, now()).await.expect("counted");
    tiers.reader.access().flush(&tiers.store, now()).await.expect("nothing to count");
    let stop = CancellationToken::new();
    stop.cancel();
    tiers.writer.repair(stop).await;
    // A process of its own.
    env.command(&["get", "session", "s"]).end().await.code(0);

    let advice = env.command(&["advise", "--json"]).end().await.code(0).json();
    let figures = &of(&advice, "session")["figures"];
    let count = |name: &str| figures[name].as_u64().unwrap_or_else(|| panic!("{name}: {figures}"));
    assert_eq!((count("reads"), count("writes"), count("wholeReads")), (5, 3, 1), "{figures}");
    assert_eq!((count("memoryHits"), count("redisHits"), count("mongodbReads"), count("absentReads")), (1, 2, 1, 1));
    assert_eq!(count("fills"), 1, "{figures}");
}
