use mongodb::bson::{Bson, DateTime, doc};
use proptest::prelude::*;

use super::*;
use crate::config::{self, Config};

fn config(vars: &[(&str, &str)]) -> Config {
    config::load(None, vars.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))).expect("valid settings")
}

fn kinds(vars: &[(&str, &str)]) -> Kinds {
    Kinds::new(&config(vars).cache).unwrap()
}

fn session(extra: Document) -> Document {
    let mut session = doc! {
        "_id": "s1", "userId": "u1", "status": "active", "state": "active", "context": {"task": "x"}, "metadata": {"m": 1_i64},
        "lastActivityAt": DateTime::from_millis(1_769_860_800_500), "evaluation": {"score": 1.0},
        "_sync": {"rev": 7_i64, "order": 1_i64},
    };
    session.extend(extra);
    session
}

fn put(kind: &Kind, document: &Document) -> (Cached, Parsed) {
    match kind.plan(document, 42) {
        Plan::Put(cached) => {
            let parsed = parse(&cached.bytes).expect("readable");
            (cached, parsed)
        }
        other => panic!("not cached: {other:?}"),
    }
}

fn names(parsed: &Parsed) -> Vec<&str> {
    parsed.document.as_ref().expect("no marker").keys().map(String::as_str).collect()
}

#[test]
fn the_strategy_chooses_fields_and_time() {
    let kinds = kinds(&[]);
    let kind = kinds.get("session").unwrap();
    let (cached, parsed) = put(kind, &session(doc! {}));
    assert_eq!((cached.id.as_str(), cached.rev, cached.ttl), ("s1", 7, Duration::from_secs(3600)));
    assert_eq!(names(&parsed), ["_id", "userId", "status", "state", "lastActivityAt"]);
    let header = &parsed.header;
    assert_eq!((header.strategy.as_str(), header.at, header.rev, parsed.complete), ("CRITICAL_ONLY", 42, 7, false));

    let context = session(doc! { "cacheStrategy": "WITH_CONTEXT", INTERACTION_COUNT: 3_i64 });
    assert!(kind.wants_interactions(&context) && !kind.wants_interactions(&session(doc! {})));
    let (cached, parsed) = put(kind, &context);
    assert_eq!(cached.ttl, Duration::from_secs(1800));
    assert_eq!(parsed.document.as_ref().unwrap().get(INTERACTION_COUNT), Some(&Bson::Int64(3)));
    assert!(!names(&parsed).contains(&"metadata"));

    let (cached, parsed) = put(kind, &session(doc! { "cacheStrategy": "FULL_SESSION" }));
    assert_eq!(cached.ttl, Duration::from_secs(900));
    assert!(names(&parsed).contains(&"metadata") && !names(&parsed).contains(&"evaluation"));
    assert!(!names(&parsed).contains(&"_sync") && !parsed.complete, "an evaluation may be there");
}

#[test]
fn a_kind_without_fields_to_leave_out_is_complete() {
    let kinds = kinds(&[]);
    let context = doc! { "_id": "c1", "kind": "memory", "content": "x", "_sync": {"rev": 1_i64} };
    let (_, parsed) = put(kinds.get("context").unwrap(), &context);
    assert!(parsed.complete);
    assert_eq!(names(&parsed), ["_id", "kind", "content"]);
    let (_, parsed) = put(kinds.get("user").unwrap(), &doc! { "_id": "u1", "passwordHash": "x", "theme": "y" });
    assert_eq!((names(&parsed), parsed.complete), (vec!["_id", "theme"], false));
}

#[test]
fn what_is_over_is_not_cached() {
    let kinds = kinds(&[]);
    let kind = kinds.get("session").unwrap();
    let why = |document: &Document| match kind.plan(document, 0) {
        Plan::Gone { id, rev, why } => {
            assert_eq!((id.as_str(), rev), ("s1", 7));
            Some(why)
        }
        _ => None,
    };
    assert_eq!(why(&session(doc! { "cacheStrategy": "NONE" })), Some(Absence::Strategy));
    let ended = session(doc! { "state": "ended", "cacheStrategy": "FULL_SESSION" });
    assert_eq!(why(&ended), Some(Absence::Strategy));
    assert!(!kind.wants_interactions(&ended));
    assert_eq!(why(&session(doc! { "state": "deleted" })), Some(Absence::Removed));
    assert_eq!(why(&session(doc! { "state": "purging" })), Some(Absence::Removed));
    let odd = session(doc! { "cacheStrategy": "FULL_SESSION", "metadata": {"$date": "mine"} });
    assert_eq!(why(&odd), Some(Absence::Ambiguous));
    // Hashes as text do not compress well.
    let noise: String = (0..200_000_u32).map(|i| blake3::hash(&i.to_le_bytes()).to_hex().to_string()).collect();
    let large = session(doc! { "cacheStrategy": "FULL_SESSION", "metadata": {"n": noise} });
    assert_eq!(why(&large), Some(Absence::TooLarge));
    assert_eq!(kind.plan(&doc! { "_id": 5 }, 0), Plan::Nothing);
}

#[test]
fn environments_and_unknown_names() {
    let production = kinds(&[("CONTEXTD_CACHE__ENVIRONMENT", "production")]);
    let (cached, parsed) = put(production.get("session").unwrap(), &session(doc! {}));
    assert_eq!((parsed.header.strategy.as_str(), cached.unknown_strategy), ("WITH_CONTEXT", false));
    // A kind that says nothing about the environment keeps its default.
    assert!(matches!(production.get("document").unwrap().plan(&doc! { "_id": "d" }, 0), Plan::Put(_)));
    let (cached, parsed) = put(production.get("session").unwrap(), &session(doc! { "cacheStrategy": "EVERYTHING" }));
    assert_eq!((parsed.header.strategy.as_str(), cached.unknown_strategy), ("WITH_CONTEXT", true));
    let analytics = kinds(&[("CONTEXTD_CACHE__ENVIRONMENT", "analytics")]);
    assert!(matches!(analytics.get("session").unwrap().plan(&session(doc! {}), 0), Plan::Gone { .. }));
}

#[test]
fn under_an_id_by_a_field_the_newest_change_wins() {
    let kinds = kinds(&[]);
    let kind = kinds.get("ai").unwrap();
    let answer = |id: &str, order: i64, rev: i64| doc! { "_id": id, "cacheKey": "k", "aiResponse": "a", "_sync": {"rev": rev, "order": order << 11 | 5} };
    let revs =
        [answer("a", 10, 1), answer("a", 10, 2), answer("b", 11, 1), answer("b", 12, 9000)].map(|d| kind.rev(&d));
    assert!(revs.is_sorted_by(|a, b| a < b), "{revs:?}");
    assert_eq!(put(kind, &answer("a", 10, 1)).0.id, "k");
    assert_eq!(kind.plan(&doc! { "_id": "a" }, 0), Plan::Nothing);
}

#[test]
fn other_formats_and_garbage_are_misses() {
    let kinds = kinds(&[]);
    let (cached, _) = put(kinds.get("session").unwrap(), &session(doc! {}));
    let text = String::from_utf8(cached.bytes.clone()).unwrap();
    assert!(text.starts_with("{\"f\":1,\"rev\":7,\"at\":42,"), "{text}");
    assert_eq!(parse(text.replacen("\"f\":1", "\"f\":0", 1).as_bytes()), Err(Stale::Format));
    assert_eq!(parse(text.replacen("\"f\":1", "\"f\":2", 1).as_bytes()), Err(Stale::Format));
    assert_eq!(parse(b"{\"f\":2,\"other\":\"header\"}\nx"), Err(Stale::Format));
    for garbage in [&b""[..], b"x", b"{}\n{}", b"{\"f\":1}\n{}", &cached.bytes[..cached.bytes.len() - 1], b"\n"] {
        assert_eq!(parse(garbage), Err(Stale::Garbage), "{}", String::from_utf8_lossy(garbage));
    }
    let marker = parse(&gone(9, 1)).unwrap();
    assert_eq!((marker.header.rev, marker.header.gone, marker.document), (9, true, None));
}

#[test]
fn large_payloads_are_compressed_as_the_settings_say() {
    let document = doc! { "_id": "d", "text": "the same again and again ".repeat(200) };
    let size = |over: &str| {
        let kinds = kinds(&[("CONTEXTD_CACHE__COMPRESS_OVER", over)]);
        let (cached, parsed) = put(kinds.get("document").unwrap(), &document);
        assert_eq!(parsed.document.as_ref(), Some(&document));
        cached.bytes.len()
    };
    assert!(size("1KiB") < 500, "{}", size("1KiB"));
    assert!(size("1MiB") > 5_000);
}

proptest! {
    /// Whatever a record holds and however it is packed, its fields come back as they were.
    #[test]
    fn values_come_back(values in prop::collection::btree_map("[a-z]{1,8}", crate::record::json::tests::values(), 0..6), over in prop_oneof![Just("0B"), Just("64B"), Just("1MiB")], rev in 0_i64.., at in 0_i64..) {
        let mut document: Document = values.into_iter().collect();
        for name in ["kind", "state"] {
            document.remove(name);
        }
        document.insert("_id", "x");
        let mut stored = document.clone();
        stored.insert("_sync", doc! { "rev": rev });
        let kinds = kinds(&[("CONTEXTD_CACHE__COMPRESS_OVER", over)]);
        let Plan::Put(cached) = kinds.get("document").unwrap().plan(&stored, at) else { panic!("cached") };
        let parsed = parse(&cached.bytes).unwrap();
        prop_assert_eq!((parsed.header.rev, parsed.header.at, parsed.complete), (rev, at, true));
        prop_assert_eq!(format!("{:?}", parsed.document), format!("{:?}", Some(document)));
    }

    /// No bytes make the reader panic, or read something that was not written.
    #[test]
    fn broken_values_are_misses(cut in 0_usize..200, flip in 0_usize..200, bit in 0_u8..8) {
        let kinds = kinds(&[("CONTEXTD_CACHE__COMPRESS_OVER", "0B")]);
        let document = doc! { "_id": "d", "text": "again and again and again and again and again and again and again and again" };
        let (cached, _) = put(kinds.get("document").unwrap(), &document);
        let mut bytes = cached.bytes.clone();
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= 1 << bit;
        }
        let _ = parse(&bytes);
    }
}
