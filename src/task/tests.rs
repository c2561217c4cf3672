//! The decoder as a whole: what is taken, what is refused and why, and that nothing makes it panic.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Decoder, DecoderError, Reason, Rejected, Schemas, Task, attribute::parse_time};
use crate::config::{Bare, BatchLimits, Limits, Queue, QueueKind, TaskFormat};

fn limits() -> Limits {
    Limits {
        task_bytes: bytesize::ByteSize::mib(1),
        clock_skew: std::time::Duration::from_secs(300),
        records_flush: std::time::Duration::from_secs(10),
    }
}

fn queue(bare: Option<(&str, &str)>) -> Queue {
    Queue {
        kind: QueueKind::List,
        format: if bare.is_some() { TaskFormat::Bare } else { TaskFormat::CloudEvents },
        bare: bare.map(|(kind, id)| Bare { r#type: kind.into(), id: id.into() }),
        batch: BatchLimits::default(),
        concurrency: 1,
        low_share: 0.1,
    }
}

fn decoder(bare: Option<(&str, &str)>) -> Decoder {
    Decoder::new("typing", &queue(bare), &limits(), Arc::new(Schemas::builtin())).unwrap()
}

pub(super) fn decode(text: &str) -> Result<Task, Rejected> {
    decoder(None).decode(text.as_bytes())
}

fn event() -> Value {
    json!({
        "specversion": "1.0", "id": "0192f0c2", "source": "/editor", "type": "typing.context.v1",
        "data": {"sessionId": "s1", "documentId": "d1", "sequence": 7}
    })
}

/// The event with `name` set to `value`; a name with slashes is a JSON pointer to something that is there.
fn with(name: &str, value: Value) -> String {
    let mut event = event();
    match name.rsplit_once('/') {
        Some((parent, last)) => event.pointer_mut(parent).unwrap()[last] = value,
        None => event[name] = value,
    }
    event.to_string()
}

fn without(name: &str) -> String {
    let mut event = event();
    event.as_object_mut().unwrap().remove(name);
    event.to_string()
}

/// Refused for `reason`, in words that hold all of `words`.
#[track_caller]
fn refused(text: &str, reason: Reason, words: &[&str]) -> Rejected {
    let rejected = decode(text).expect_err(text);
    assert_eq!(rejected.reason, reason, "{}", rejected.error);
    for word in words {
        assert!(rejected.error.contains(word), "{word:?} is not in {:?}", rejected.error);
    }
    rejected
}

#[test]
fn takes_an_event_with_everything() {
    let mut event = event();
    let more = json!({
        "time": "2026-01-31T13:00:00+01:00", "expirytime": "2026-02-01T00:00:00Z", "notbefore": "2026-01-31T12:30:00Z",
        "partitionkey": "d1", "tenant": "acme", "maxattempts": 3, "unknown": [{"a": 1}], "datacontenttype": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"
    });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let task = decode(&event.to_string()).unwrap();
    assert_eq!((task.id.as_str(), task.source.as_str()), ("0192f0c2", "/editor"));
    assert_eq!(task.kind, "typing.context.v1");
    assert_eq!(task.time, parse_time("2026-01-31T12:00:00Z"));
    assert_eq!(task.expiry, parse_time("2026-02-01T00:00:00Z"));
    assert_eq!(task.not_before, parse_time("2026-01-31T12:30:00Z"));
    assert_eq!((task.partition_key.as_deref(), task.tenant.as_deref()), (Some("d1"), Some("acme")));
    assert_eq!(task.max_attempts, Some(3));
    assert_eq!(task.trace.unwrap().state.as_deref(), Some("a=1"));
    assert_eq!(Value::Object(task.data), event["data"]);
}

#[test]
fn takes_what_is_equal_to_absent_or_to_an_integer() {
    for name in ["time", "expirytime", "notbefore", "partitionkey", "tenant", "maxattempts", "traceparent"] {
        assert_eq!(decode(&with(name, Value::Null)), decode(&event().to_string()), "{name}");
    }
    assert_eq!(decode(&with("tenant", json!(""))).unwrap().tenant, None);
    assert_eq!(decode(&with("maxattempts", json!(2.0))).unwrap().max_attempts, Some(2));
    for bad in [json!(7), json!("x"), json!({})] {
        assert_eq!(decode(&with("traceparent", bad)).unwrap().trace, None);
    }
    let spaced = format!(" \n{}\r\n\t", event());
    assert_eq!(decode(&spaced), decode(&event().to_string()));
    let escaped = event().to_string().replace("\"id\"", "\"\\u0069d\"").replace("/editor", "\\/editor");
    assert_eq!(decode(&escaped), decode(&event().to_string()));
}

#[test]
fn refuses_what_is_not_json() {
    for (text, words) in [
        ("", &["empty"] as &[_]),
        (" ", &["EOF"]),
        ("hello", &["byte 0"]),
        ("{\"id\":", &["byte 5", "EOF"]),
        ("{\"id\":\"a\",\n\"x\" 1}", &["byte 15"]),
        ("[1,2", &["EOF"]),
        ("{} {}", &["byte 3", "trailing"]),
        ("{\"id\":\"\u{1}\"}", &["control character"]),
        ("{\"n\":1e999}", &["out of range"]),
        ("\u{feff}{}", &["byte order mark"]),
        ("{'id':1}", &["byte 1"]),
    ] {
        refused(text, Reason::NotJson, words);
    }
    let cut = event().to_string();
    refused(&cut[..cut.len() - 3], Reason::NotJson, &["EOF"]);
    let rejected = refused("{\"id\":\"a\",\"source\":\"/s\",\"data\":{", Reason::NotJson, &[]);
    assert_eq!((rejected.id.as_deref(), rejected.source.as_deref()), (Some("a"), Some("/s")));
    let rejected = decoder(None).decode(b"{\"id\":\"\xff\"}").unwrap_err();
    assert_eq!(rejected.reason, Reason::NotJson);
    assert!(rejected.error.contains("not UTF-8 at byte 7"), "{}", rejected.error);
}

#[test]
fn refuses_deep_nesting_wherever_it_stands() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    for deep in [&deep, &deep_object] {
        refused(deep, Reason::NotJson, &["nested too deep at byte"]);
        for name in ["data", "id", "data_base64", "unknown"] {
            refused(&without("data").replacen('{', &format!("{{\"{name}\":{deep},"), 1), Reason::NotJson, &["nested"]);
        }
    }
    let fits = format!("{}{}", "[".repeat(125), "]".repeat(125));
    decode(&event().to_string().replace("\"sequence\":7", &format!("\"sequence\":7,\"x\":{fits}"))).unwrap();
}

#[test]
fn refuses_json_of_another_shape() {
    for (text, word) in
        [("[1,2]", "an array"), ("\"x\"", "a string"), ("null", "null"), ("true", "a boolean"), ("-1.5", "a number")]
    {
        refused(text, Reason::BadEnvelope, &[word, "send one CloudEvents"]);
    }
    refused("{}", Reason::BadEnvelope, &["specversion", "missing"]);
}

#[test]
fn refuses_every_single_corruption_of_the_envelope() {
    for name in ["specversion", "id", "source", "type"] {
        refused(&without(name), Reason::BadEnvelope, &[name, "is missing"]);
        refused(&with(name, Value::Null), Reason::BadEnvelope, &[name, "is missing"]);
        for other in [json!(1), json!(true), json!(["a"]), json!({"a": 1}), json!(1.5), json!(u64::MAX)] {
            refused(&with(name, other), Reason::BadEnvelope, &[name, "not a string"]);
        }
        refused(&with(name, json!("")), Reason::BadEnvelope, &[name]);
    }
    for name in ["time", "expirytime", "notbefore"] {
        for other in [json!(1), json!(""), json!("2026-01-31"), json!([]), json!("yesterday")] {
            refused(&with(name, other), Reason::BadEnvelope, &[name, "RFC 3339"]);
        }
    }
    for name in ["partitionkey", "tenant"] {
        for other in [json!(1), json!(false), json!([]), json!({})] {
            refused(&with(name, other), Reason::BadEnvelope, &[name, "send a string"]);
        }
    }
    for other in [json!(0), json!(-1), json!(1.5), json!("3"), json!(1_u64 << 31), json!(u64::MAX), json!([])] {
        refused(&with("maxattempts", other), Reason::BadEnvelope, &["maxattempts", "integer from 1"]);
    }
    refused(&with("specversion", json!("0.3")), Reason::BadEnvelope, &["specversion", "1.0"]);
    refused(&with("id", json!("a b")), Reason::BadEnvelope, &["`id`", "not allowed"]);
    refused(&with("source", json!("a b")), Reason::BadEnvelope, &["`source`", "URI reference"]);
    for other in [json!("text"), json!([]), json!(1)] {
        refused(&with("data", other), Reason::BadEnvelope, &["`data`", "not a JSON object"]);
    }
    refused(&without("data"), Reason::BadEnvelope, &["`data` is missing"]);
    refused(&with("data", Value::Null), Reason::BadEnvelope, &["`data` is missing"]);
    let binary = without("data").replacen('{', "{\"data_base64\":\"AAAA\",", 1);
    refused(&binary, Reason::BadEnvelope, &["data_base64"]);
}

#[test]
fn refuses_a_repeated_attribute_and_takes_the_last_of_a_repeated_property() {
    for name in ["id", "data", "tenant"] {
        let twice = with("tenant", json!("a")).replacen('{', &format!("{{\"{name}\":\"first\","), 1);
        refused(&twice, Reason::BadEnvelope, &[name, "twice"]);
    }
    let unknown = event().to_string().replacen('{', "{\"x\":1,\"x\":2,", 1);
    decode(&unknown).unwrap();
    let last = decode(&event().to_string().replace("\"sequence\":7", "\"sequence\":7,\"sequence\":8")).unwrap();
    assert_eq!(last.data["sequence"], json!(8));
}

#[test]
fn refuses_what_is_too_large_before_reading_it() {
    let limit = 1024 * 1024;
    refused(&" ".repeat(limit + 1), Reason::TooLarge, &["1048577", "1048576", "limits.task_bytes"]);
    refused(&" ".repeat(limit), Reason::NotJson, &[]);
    refused(&"x".repeat(2 * limit), Reason::TooLarge, &[]);
}

#[test]
fn refuses_an_unknown_type_and_names_the_near_one() {
    let rejected =
        refused(&with("type", json!("typing.contxt.v1")), Reason::UnknownType, &["mean `typing.context.v1`"]);
    assert_eq!(rejected.kind.as_deref(), Some("typing.contxt.v1"));
    assert_eq!(rejected.id.as_deref(), Some("0192f0c2"));
    refused(&with("type", json!("zzz")), Reason::UnknownType, &["known are ai_interaction.decide.v1, "]);
    let long = refused(&with("type", json!("ä".repeat(300))), Reason::UnknownType, &[]);
    assert_eq!(long.kind, Some("ä".repeat(128)));
}

#[test]
fn refuses_what_the_schema_forbids() {
    for (at, value, words) in [
        ("/data/sequence", json!("7"), &["`/data/sequence` must be an integer", "newest"] as &[_]),
        ("/data/sequence", json!(-1), &["at least 0"]),
        ("/data/sequence", json!(7.5), &["an integer"]),
        ("/data/sequence", json!(i64::MAX as u64 + 1), &["at most 9223372036854775807"]),
        ("/data/sequence", json!(9.3e18), &["at most"]),
        ("/data/sequence", json!(9_223_372_036_854_775_808.0), &["at most"]),
        ("/data/sessionId", json!(""), &["`/data/sessionId` must not be empty"]),
        ("/data/documentId", json!("d".repeat(257)), &["at most 256 characters"]),
        ("/data/cursor", json!([]), &["`/data/cursor` must be an object"]),
        ("/data/cursor", json!({"offset": -1}), &["`/data/cursor/offset` must be at least 0"]),
        ("/data/selection", json!({"end": "x"}), &["`/data/selection/end` must be an integer"]),
        ("/data/clientTime", json!("noon"), &["`/data/clientTime`", "RFC 3339"]),
        ("/data", json!({}), &["`/data/sessionId` is missing", "`/data/sequence` is missing"]),
    ] {
        refused(&with(at, value), Reason::Schema, words);
    }
    let secret = with("/data/paragraph", json!({"private": "words"}));
    assert!(!refused(&secret, Reason::Schema, &["a string"]).error.contains("words"));
    for name in ["$set", "a.b", ""] {
        refused(&with(&format!("/data/{name}"), json!(1)), Reason::Schema, &["rename the property"]);
    }
    refused(&with("/data/x", json!({"a\u{0}b": 1})), Reason::Schema, &["NUL"]);
    decode(&with("/data/x", json!({"$a.b": 1}))).unwrap();
}

#[test]
fn document_schema() {
    let schemas = Schemas::builtin();
    let schema = schemas.get("document.analyze.v1").unwrap();
    let data = |name: &str, value: Value| {
        let mut data = json!({"documentId": "d1", "content": ""});
        data[name] = value;
        data
    };
    for (name, value) in [
        ("content", json!("")),
        ("contentType", json!("text/markdown")),
        ("versionNumber", json!(0)),
        ("language", json!("en")),
        ("language", json!("zh-Hant-TW")),
        ("language", json!("x-klingon")),
        ("analyzers", json!(["statistics"])),
        ("more", json!({"a": []})),
    ] {
        assert!(schema.is_valid(&data(name, value.clone())), "{name} {value}");
    }
    for (name, value) in [
        ("documentId", json!(null)),
        ("content", json!(1)),
        ("contentType", json!("text/html")),
        ("versionNumber", json!(-1)),
        ("versionNumber", json!("1")),
        ("language", json!("")),
        ("language", json!("en_US")),
        ("language", json!("e")),
        ("language", json!("en-")),
        ("analyzers", json!([])),
        ("analyzers", json!(["grammar", "grammar"])),
        ("analyzers", json!(["spelling"])),
        ("analyzers", json!("grammar")),
    ] {
        let bad = data(name, value.clone());
        assert!(!schema.is_valid(&bad), "{name} {value}");
        assert!(schema.explain(&bad, "/data").contains(&format!("`/data/{name}")), "{}", schema.explain(&bad, "/data"));
    }
}

#[test]
fn declared_integers_are_integers_behind_the_decoder() {
    let mut event = event();
    event["data"] =
        json!({"sessionId": "s", "documentId": "d", "sequence": 7.0, "cursor": {"offset": 2.0}, "free": 1.0});
    let data = decode(&event.to_string()).unwrap().data;
    assert_eq!(data["sequence"].as_i64(), Some(7));
    assert_eq!(data["cursor"]["offset"].as_i64(), Some(2));
    assert!(data["free"].is_f64());
    let largest = decode(&with("/data/sequence", json!(i64::MAX))).unwrap().data;
    assert_eq!(largest["sequence"].as_i64(), Some(i64::MAX));
}

#[test]
fn bare_payloads() {
    let text =
        |id: &str| format!("{{\"job\":{{\"id\":{id}}},\"sessionId\":\"s\",\"documentId\":\"d\",\"sequence\":1}}");
    let by_pointer = decoder(Some(("typing.context.v1", "/job/id")));
    let task = by_pointer.decode(text("\"a-1\"").as_bytes()).unwrap();
    assert_eq!((task.id.as_str(), task.source.as_str()), ("a-1", "/queues/typing"));
    assert_eq!((task.kind.as_str(), &task.data["sequence"]), ("typing.context.v1", &json!(1)));
    for (id, expected) in [("42", "42"), ("18446744073709551615", "18446744073709551615"), ("-1", "-1")] {
        assert_eq!(by_pointer.decode(text(id).as_bytes()).unwrap().id, expected);
    }
    for bad in ["null", "1.5", "\"a b\"", "\"\"", "[1]", "true"] {
        let rejected = by_pointer.decode(text(bad).as_bytes()).unwrap_err();
        assert_eq!(rejected.reason, Reason::BadEnvelope);
        assert!(rejected.error.contains("`/job/id`"), "{}", rejected.error);
    }
    let refused = by_pointer.decode(b"{\"job\":{\"id\":7}}").unwrap_err();
    assert_eq!((refused.reason, refused.id.as_deref()), (Reason::Schema, Some("7")));
    assert!(refused.error.contains("`/sessionId` is missing"), "{}", refused.error);
    assert_eq!(by_pointer.decode(b"[]").unwrap_err().reason, Reason::BadEnvelope);
    assert_eq!(by_pointer.decode(b"{").unwrap_err().reason, Reason::NotJson);
    assert_eq!(by_pointer.decode(b"{}").unwrap_err().reason, Reason::BadEnvelope);

    let by_content = decoder(Some(("typing.context.v1", "")));
    let ids: Vec<_> =
        [text("1"), text("1"), text("2")].map(|t| by_content.decode(t.as_bytes()).unwrap().id).into_iter().collect();
    assert_eq!(ids[0].len(), 64);
    assert!(ids[0] == ids[1] && ids[0] != ids[2]);
}

#[test]
fn bare_settings_that_do_not_go_together() {
    let schemas = Arc::new(Schemas::builtin());
    let new = |name: &str, queue: &Queue| Decoder::new(name, queue, &limits(), schemas.clone()).unwrap_err();
    let incomplete = Queue { bare: None, ..queue(Some(("typing.context.v1", ""))) };
    assert!(matches!(new("q", &incomplete), DecoderError::NoType(_)));
    assert!(matches!(new("q", &queue(Some(("typing", "")))), DecoderError::UnknownType(..)));
    assert!(matches!(new("q", &queue(Some(("typing.context.v1", "jobId")))), DecoderError::Pointer(..)));
    assert!(matches!(new("a b", &queue(Some(("typing.context.v1", "")))), DecoderError::Name(_)));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[^\0]{0,6}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decoder(None).decode(&bytes).is_err());
        let _ = decoder(Some(("typing.context.v1", "/id"))).decode(&bytes);
    }

    #[test]
    fn no_damage_to_an_event_makes_it_panic(at in 0usize..200, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = event().to_string().into_bytes();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Err(rejected) = decoder(None).decode(&bytes) {
            prop_assert!(!rejected.error.is_empty());
        }
    }

    #[test]
    fn any_json_is_answered(value in json_value()) {
        let rejected = decode(&value.to_string()).unwrap_err();
        prop_assert_eq!(rejected.reason, Reason::BadEnvelope);
    }

    #[test]
    fn valid_events_come_back_as_they_were(
        id in "[A-Za-z0-9._:-]{1,64}",
        tenant in prop::option::of(".{1,20}"),
        sequence in 0..=i64::MAX,
        session in ".{1,256}",
        extra in prop::collection::btree_map("x[^.\0]{0,8}", json_value(), 0..4),
        attempts in prop::option::of(1..=i32::MAX),
    ) {
        let mut data: Map<String, Value> = extra.into_iter().collect();
        data.insert("sessionId".into(), session.into());
        data.insert("documentId".into(), "d".into());
        data.insert("sequence".into(), sequence.into());
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/s", "type": "typing.context.v1", "tenant": tenant,
            "maxattempts": attempts, "data": data
        });
        let task = decode(&event.to_string()).map_err(|e| TestCaseError::fail(e.error))?;
        prop_assert_eq!(task.id, id);
        prop_assert_eq!(task.tenant, tenant);
        prop_assert_eq!(task.max_attempts.map(i64::from), attempts.map(i64::from));
        prop_assert_eq!(&task.data["sequence"], &json!(sequence));
        let stored = super::bson::object(&task.data).unwrap();
        prop_assert_eq!(stored.get_i64("sequence").unwrap(), sequence);
        prop_assert!(mongodb::bson::Document::try_from(stored).is_ok());
        prop_assert_eq!(task.data.len(), data.len());
    }
}

/// Not a test: `cargo test --lib decode_speed -- --ignored --nocapture`, with the package's own code optimized.
#[test]
#[ignore = "a measurement"]
fn decode_speed() {
    let paragraph = "The quick brown fox jumps over the lazy dog and goes on to the next line. ".repeat(4);
    let event = json!({
        "specversion": "1.0", "id": "0192f0c1-7c1f-7d3a-9d5b-000000000001", "source": "/editor", "type": "typing.context.v1",
        "time": "2026-01-31T12:00:00.123Z", "partitionkey": "d1:s1",
        "data": {"sessionId": "s-0001", "documentId": "d-0001", "userId": "u-0001", "sequence": 123_456,
            "cursor": {"offset": 512}, "selection": {"start": 512, "end": 512}, "recentText": "next line",
            "paragraph": &paragraph[..140], "clientTime": "2026-01-31T12:00:00.100Z"}
    });
    let text = event.to_string();
    let decoder = decoder(None);
    let task = decoder.decode(text.as_bytes()).unwrap();
    let data = Value::Object(task.data.clone());
    let schema = decoder.schemas().get("typing.context.v1").unwrap();
    let measure = |name: &str, run: &dyn Fn()| {
        let best = (0..20).map(|_| {
            let start = std::time::Instant::now();
            (0..10_000).for_each(|_| run());
            start.elapsed().as_nanos() / 10_000
        });
        println!("{name}: {} ns", best.min().unwrap_or_default());
    };
    println!("{} bytes", text.len());
    measure("decode", &|| drop(std::hint::black_box(decoder.decode(text.as_bytes()))));
    measure("serde_json::Value of the whole", &|| drop(std::hint::black_box(serde_json::from_str::<Value>(&text))));
    measure("schema", &|| _ = std::hint::black_box(schema.is_valid(&data)));
    measure("bson", &|| drop(std::hint::black_box(super::bson::object(&task.data))));
}
