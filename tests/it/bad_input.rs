//! What is no good is dead at once, alone, with the reason, and its bytes are kept as they came.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document, doc};
use serde_json::json;

use crate::{
    harness::{Env, Event, Metrics, analyze, eventually, typing, when},
    list_queue::{date, number},
};

/// The body of a dead letter, which is binary: not every task is text.
pub fn body(letter: &Document) -> &[u8] {
    match letter.get("body") {
        Some(Bson::Binary(binary)) => &binary.bytes,
        other => panic!("body is no binary but {other:?}"),
    }
}

/// Pushes each of these to `queue` with good tasks around it, drains, and checks what all dead letters have in common:
/// everything bad is dead with one of its reasons and its own bytes, everything good is written.
async fn all_dead(queue: &str, bad: &[(&str, Vec<u8>, &[&str])]) -> (Env, Metrics) {
    let env = Env::new().await;
    let mut bodies = vec![analyze("good-first", "The first.").json().into_bytes()];
    bodies.extend(bad.iter().map(|(_, body, _)| body.clone()));
    bodies.push(analyze("good-last", "The last.").json().into_bytes());
    env.push_bytes(queue, "high", &bodies).await;
    let metrics = env.drain(queue).await;

    assert_eq!(metrics.finished(queue, "written"), 2.0, "the batch goes on without the bad ones");
    env.analysis("good-first").await;
    env.analysis("good-last").await;
    assert_eq!(metrics.finished(queue, "dead"), bad.len() as f64);

    let letters = env.all("dead_letters").await;
    assert_eq!(letters.len(), bad.len());
    let by_body: BTreeMap<&[u8], &Document> = letters.iter().map(|l| (body(l), l)).collect();
    for (name, bytes, reasons) in bad {
        let letter = by_body.get(bytes.as_slice()).unwrap_or_else(|| panic!("{name}: no dead letter has its bytes"));
        let reason = letter.get_str("reason").unwrap();
        assert!(reasons.contains(&reason), "{name}: reason {reason}, not one of {reasons:?}");
        assert_eq!(letter.get_str("queue").unwrap(), queue, "{name}");
        assert_eq!(letter.get_str("priority").unwrap(), "high", "{name}");
        let error = letter.get_str("error").unwrap();
        assert!(error.len() >= 10, "{name}: an error says what is wrong, not {error:?}");
        assert!(error.len() <= 2_000, "{name}: an error is for reading: {} bytes", error.len());
        assert!(number(letter, "attempts") <= 1, "{name}: nothing was retried");
        assert_eq!(number(letter, "crashes"), 0, "{name}");
        date(letter, "deadAt");
        for field in ["eventId", "source", "type"] {
            assert!(letter.contains_key(field), "{name}: {field} is missing (null where it could not be read)");
        }
    }
    (env, metrics)
}

#[tokio::test]
async fn what_is_not_json_is_dead() {
    let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let nested_data = analyze("deep", "x").json().replacen(
        "\"data\":{",
        &format!("\"data\":{{\"deep\":{}{},", "[".repeat(10_000), "]".repeat(10_000)),
        1,
    );
    let not_json: &[&str] = &["not_json"];
    let deep: &[&str] = &["not_json", "bad_envelope"];
    all_dead(
        "analysis",
        &[
            ("no JSON", b"this is no JSON".to_vec(), not_json),
            ("empty", Vec::new(), not_json),
            ("cut off", br#"{"specversion":"1.0","id":"x""#.to_vec(), not_json),
            ("two documents", br#"{"a":1}{"b":2}"#.to_vec(), not_json),
            ("invalid UTF-8", b"\xff\xfe\x00\x80".to_vec(), not_json),
            ("invalid UTF-8 in a string", b"{\"specversion\":\"1.0\",\"id\":\"\xc3\x28\"}".to_vec(), not_json),
            ("NUL bytes", vec![0; 100], not_json),
            ("a lone surrogate", br#"{"specversion":"1.0","id":"\ud800"}"#.to_vec(), deep),
            ("10,000 levels", nested.into_bytes(), deep),
            ("10,000 levels in data", nested_data.into_bytes(), deep),
        ],
    )
    .await;
}

#[tokio::test]
async fn json_of_another_shape_or_with_bad_attributes_is_dead() {
    let envelope: &[&str] = &["bad_envelope"];
    let data: &[&str] = &["bad_envelope", "schema"];
    let ok = || analyze("x", "Text.");
    let long_source = format!("/{}", "s".repeat(256));
    let bad: Vec<(&str, String, &[&str])> = vec![
        ("an array", "[1,2,3]".into(), envelope),
        ("a string", "\"text\"".into(), envelope),
        ("a number", "17".into(), envelope),
        ("null", "null".into(), envelope),
        ("an empty object", "{}".into(), envelope),
        ("no specversion", ok().without("specversion").json(), envelope),
        ("specversion 0.3", ok().with("specversion", "0.3").json(), envelope),
        ("specversion as a number", ok().with("specversion", 1.0).json(), envelope),
        ("no id", ok().without("id").json(), envelope),
        ("an empty id", ok().with("id", "").json(), envelope),
        ("a numeric id", ok().with("id", 17).json(), envelope),
        ("an id of 65 characters", ok().with("id", "i".repeat(65)).json(), envelope),
        ("an id with a space", ok().with("id", "a b").json(), envelope),
        ("an id with a slash", ok().with("id", "../../etc").json(), envelope),
        ("an id with @", ok().with("id", "a@b").json(), envelope),
        ("an id with $", ok().with("id", "$where").json(), envelope),
        ("an id with a line break", ok().with("id", "a\nb").json(), envelope),
        ("an id with NUL", ok().with("id", "a\0b").json(), envelope),
        ("an id with an emoji", ok().with("id", "id-🎉").json(), envelope),
        ("no source", ok().without("source").json(), envelope),
        ("an empty source", ok().with("source", "").json(), envelope),
        ("a source of 257 bytes", ok().with("source", long_source).json(), envelope),
        ("a source that is no URI", ok().with("source", "not a uri reference").json(), envelope),
        ("no type", ok().without("type").json(), envelope),
        ("a numeric type", ok().with("type", 5).json(), envelope),
        ("no data", ok().without("data").json(), data),
        ("data that is no object", ok().with("data", "text").json(), data),
        ("data null", ok().with("data", json!(null)).json(), data),
        ("an odd time", ok().with("time", "yesterday").json(), envelope),
        ("an odd expirytime", ok().with("expirytime", "2026-13-45T99:00:00Z").json(), envelope),
        ("a numeric notbefore", ok().with("notbefore", 1_700_000_000).json(), envelope),
        ("an odd partitionkey", ok().with("partitionkey", json!(["a"])).json(), envelope),
        ("an odd tenant", ok().with("tenant", json!({})).json(), envelope),
        ("an odd maxattempts", ok().with("maxattempts", "many").json(), envelope),
    ];
    let bad: Vec<(&str, Vec<u8>, &[&str])> = bad.into_iter().map(|(n, b, r)| (n, b.into_bytes(), r)).collect();
    all_dead("analysis", &bad).await;
}

#[tokio::test]
async fn unknown_types_and_violated_schemas_are_dead() {
    let event = |id: &str, data| Event::new("document.analyze.v1", id, data);
    let unknown: &[&str] = &["unknown_type"];
    let schema: &[&str] = &["schema"];
    let bad = [
        ("unknown type", Event::new("no.such.type.v1", "u1", json!({})), unknown),
        ("unknown version", Event::new("document.analyze.v99", "u2", json!({"documentId":"d","content":"x"})), unknown),
        ("no documentId", event("s1", json!({"content":"x"})), schema),
        ("no content", event("s2", json!({"documentId":"d"})), schema),
        ("content that is no string", event("s3", json!({"documentId":"d","content":17})), schema),
        ("content null", event("s4", json!({"documentId":"d","content":null})), schema),
        ("an odd contentType", event("s5", json!({"documentId":"d","content":"x","contentType":"text/html"})), schema),
        ("an unknown analyzer", event("s6", json!({"documentId":"d","content":"x","analyzers":["astrology"]})), schema),
        (
            "analyzers that are no list",
            event("s7", json!({"documentId":"d","content":"x","analyzers":"grammar"})),
            schema,
        ),
        ("a numeric documentId", event("s8", json!({"documentId":17,"content":"x"})), schema),
    ];
    let bad: Vec<(&str, Vec<u8>, &[&str])> = bad.into_iter().map(|(n, e, r)| (n, e.json().into_bytes(), r)).collect();
    let (env, _) = all_dead("analysis", &bad).await;
    // What could be read of the envelope is told.
    let letter = env.dead("s2").await;
    assert_eq!(letter.get_str("source").unwrap(), "/it");
    assert_eq!(letter.get_str("type").unwrap(), "document.analyze.v1");
    assert!(letter.get_str("error").unwrap().contains("content"), "the error names the field: {letter}");
}

#[tokio::test]
async fn a_task_of_2_mib_is_dead_with_all_its_bytes() {
    let large = analyze("large", &"word ".repeat(2 * 1024 * 1024 / 5)).json().into_bytes();
    assert!(large.len() > 2_000_000);
    let padding = vec![b'x'; 2 * 1024 * 1024];
    let reasons: &[&str] = &["too_large"];
    all_dead("analysis", &[("2 MiB", large, reasons), ("2 MiB of no JSON", padding, reasons)]).await;
}

#[tokio::test]
async fn a_task_too_large_for_a_document_of_mongodb_is_neither_lost_nor_in_the_way() {
    let env = Env::new().await;
    // MongoDB takes documents of at most 16 MiB.
    let huge = vec![b'x'; 20 * 1024 * 1024];
    env.push_bytes("analysis", "high", std::slice::from_ref(&huge)).await;
    env.push("analysis", "low", &[analyze("after", "After the huge one.")]).await;
    let worker = env.worker("analysis").ready().await;
    env.analysis("after").await;
    env.drained("analysis").await;
    let metrics = worker.at_rest().await;
    assert_eq!(metrics.finished("analysis", "dead"), 1.0);
    worker.stop().await;
    let letters = env.all("dead_letters").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].get_str("reason").unwrap(), "too_large");
    // Its bytes cannot lie in one document: the letter must say so, or lead to them.
    if letters[0].get("body").is_some_and(|b| matches!(b, Bson::Binary(b) if b.bytes == huge)) {
        return;
    }
    assert!(!letters[0].get_str("error").unwrap().is_empty());
}

#[tokio::test]
async fn ids_with_every_allowed_character_are_written() {
    let env = Env::new().await;
    let ids = ["A.Z_a:z-09", ".", "...", "-", ":", "__proto__", &"i".repeat(64), "null", "0"];
    let events: Vec<Event> = ids.iter().map(|id| analyze("x", &format!("For {id}.")).with("id", *id)).collect();
    env.push("analysis", "normal", &events).await;
    let metrics = env.drain("analysis").await;
    assert_eq!(metrics.finished("analysis", "written"), ids.len() as f64);
    for id in ids {
        env.analysis(id).await;
    }
}

#[tokio::test]
async fn odd_document_and_session_ids_stay_what_they_are() {
    let env = Env::new().await;
    let odd = ["a:b", "..", "$ref", "{typing}", "naïve 🎉", "*"];
    let events: Vec<Event> = odd.iter().enumerate().map(|(i, d)| typing(&format!("e{i}"), d, "s", 1)).collect();
    env.xadd("typing", &events).await;
    let metrics = env.drain("typing").await;
    let written = metrics.finished("typing", "written") as u64;
    let dead = metrics.finished("typing", "dead") as u64;
    assert_eq!(written + dead, odd.len() as u64);
    for document in env.all("typing_contexts").await {
        let id = document.get_str("documentId").unwrap();
        assert!(odd.contains(&id), "{id}");
        assert_eq!(document.get_str("_id").unwrap(), format!("{id}:s"));
    }
    assert_eq!(env.size("typing_contexts").await, written);
    assert_eq!(env.size("dead_letters").await, dead);
}

#[tokio::test]
async fn stream_entries_that_are_no_tasks_are_dead() {
    let env = Env::new().await;
    let key = env.key("typing", "events");
    let mut redis = env.redis();
    let mut add = redis::pipe();
    add.cmd("XADD").arg(&key).arg("*").arg("payload").arg("no body here").ignore();
    add.cmd("XADD").arg(&key).arg("*").arg("body").arg("").ignore();
    add.cmd("XADD").arg(&key).arg("*").arg("body").arg(b"\xff\xfe".as_slice()).ignore();
    add.cmd("XADD").arg(&key).arg("*").arg("other").arg("1").arg("body").arg(typing("e1", "d", "s", 1).json()).ignore();
    add.cmd("XADD").arg(&key).arg("*").arg("body").arg(typing("e2", "d", "s", 1).data("sequence", "three").json());
    add.query_async::<()>(&mut redis).await.unwrap();
    let metrics = env.drain("typing").await;
    assert_eq!(metrics.finished("typing", "dead"), 4.0);
    assert_eq!(metrics.finished("typing", "written"), 1.0, "further fields beside the body do no harm");
    let letters = env.all("dead_letters").await;
    assert_eq!(letters.len(), 4);
    for letter in &letters {
        assert_eq!(letter.get_str("queue").unwrap(), "typing");
    }
    assert!(letters.iter().any(|l| body(l) == b"\xff\xfe"));
    let without = letters.iter().find(|l| l.get_str("reason").unwrap() == "bad_envelope").expect("no body, no event");
    assert!(without.get_str("error").unwrap().contains("body"), "{without}");
    env.arrives("typing_contexts", "d:s").await;
}

#[tokio::test]
async fn empty_content_is_analysed() {
    let env = Env::new().await;
    for (i, content) in ["", " ", "\n\n\n", "\u{feff}", "\u{200b}", "🎉"].iter().enumerate() {
        let data = json!({ "documentId": "d", "content": content });
        env.push("analysis", "normal", &[Event::new("document.analyze.v1", &format!("e{i}"), data)]).await;
    }
    let metrics = env.drain("analysis").await;
    assert_eq!(metrics.finished("analysis", "written"), 6.0);
    let found = env.analysis("e0").await;
    assert!(found.get_document("statistics").is_ok(), "{found}");
}

#[tokio::test]
async fn one_sentence_of_1_mb_neither_stops_the_worker_nor_is_lost() {
    let env = Env::new().await.set("analysis.time_limit", "3s").set("analysis.threads", 2);
    let words = format!("{}end.", "the cat sat on a mat and ".repeat(1_000_000 / 25));
    let long_word = "a".repeat(100_000);
    let dots = ".".repeat(100_000);
    for (id, content) in [("sentence", &words), ("word", &long_word), ("dots", &dots)] {
        let data = json!({ "documentId": id, "content": content, "language": "en-US" });
        env.push("analysis", "high", &[Event::new("document.analyze.v1", id, data)]).await;
    }
    env.push("analysis", "low", &[analyze("short", "A short one.")]).await;
    let worker = env.worker("analysis").ready().await;
    env.analysis("short").await;
    env.drained("analysis").await;
    let metrics = worker.at_rest().await;
    assert_eq!(metrics.finished("analysis", "written") + metrics.finished("analysis", "dead"), 4.0);
    worker.stop().await;
    for id in ["sentence", "word", "dots"] {
        match env.one("analyses", &format!("{id}@/it")).await {
            Some(found) => {
                let grammar = found.get_document("grammar").unwrap();
                let warnings = grammar.get_document("warnings").unwrap();
                let skipped = warnings.get_array("skippedBlocks").unwrap();
                let said = warnings.get_bool("incompleteResults").unwrap();
                assert!(said || skipped.is_empty(), "{id}: what was left out is said: {warnings}");
            }
            None => {
                let letter = env.dead(id).await;
                assert_eq!(letter.get_str("reason").unwrap(), "text_too_large", "{id}");
            }
        }
    }
}

#[tokio::test]
async fn a_text_over_its_limit_is_dead_with_the_reason() {
    let env = Env::new().await.set("analysis.text_bytes", "10KiB");
    env.push("analysis", "normal", &[analyze("long", &"word ".repeat(4_000)), analyze("short", "A short one.")]).await;
    env.drain("analysis").await;
    env.analysis("short").await;
    let letter = env.dead("long").await;
    assert_eq!(letter.get_str("reason").unwrap(), "text_too_large");
}

#[tokio::test]
async fn a_key_of_another_type_stops_only_itself_and_is_named() {
    let env = Env::new().await;
    let broken = env.key("analysis", "high");
    let stream = env.key("typing", "events");
    let mut redis = env.redis();
    redis::cmd("SET").arg(&broken).arg("no list").query_async::<()>(&mut redis).await.unwrap();
    env.push("analysis", "normal", &[analyze("waits", "It waits or it is done.")]).await;
    env.xadd("typing", &[typing("e1", "d", "s", 1)]).await;

    let worker = env.worker("analysis,typing").start();
    env.arrives("typing_contexts", "d:s").await;
    eventually("the worker names the key", || async { when(worker.output().contains(&broken)) }).await;
    let status = eventually("/ready answers", || worker.get("/ready")).await;
    assert!([200, 503].contains(&status.0), "{status:?}");

    // Put right, it goes on by itself.
    redis::cmd("DEL").arg(&broken).query_async::<()>(&mut redis).await.unwrap();
    env.push("analysis", "high", &[analyze("mended", "After the mending.")]).await;
    env.analysis("mended").await;
    env.analysis("waits").await;
    env.drained("analysis").await;

    // The same for a stream key, under the running worker.
    env.drained("typing").await;
    redis::pipe()
        .cmd("DEL")
        .arg(&stream)
        .ignore()
        .cmd("SET")
        .arg(&stream)
        .arg("no stream")
        .ignore()
        .query_async::<()>(&mut redis)
        .await
        .unwrap();
    eventually("the worker names the stream", || async { when(worker.output().contains(&stream)) }).await;
    env.push("analysis", "low", &[analyze("meanwhile", "The other queue goes on.")]).await;
    env.analysis("meanwhile").await;
    redis::cmd("DEL").arg(&stream).query_async::<()>(&mut redis).await.unwrap();
    env.xadd("typing", &[typing("e2", "d", "s", 2)]).await;
    eventually("the newer context arrives", || async {
        let found = env.one("typing_contexts", "d:s").await?;
        when(number(&found, "sequence") == 2)
    })
    .await;
    env.drained("typing").await;
    let metrics = worker.at_rest().await;
    assert_eq!(metrics.sum("tasks_finished_total", &[("outcome", "dead")]), 0.0, "nothing is held against the tasks");
    worker.stop().await;
}

#[tokio::test]
async fn what_mongodb_refuses_for_good_is_dead_and_the_rest_of_the_batch_is_written() {
    let env = Env::new().await;
    env.command(&["migrate"]).end().await.code(0);
    let unique = mongodb::options::IndexOptions::builder().unique(true).name("operators_own".to_owned()).build();
    let index = mongodb::IndexModel::builder().keys(doc! { "documentId": 1 }).options(unique).build();
    env.coll("analyses").create_index(index).await.unwrap();
    let events: Vec<Event> = (0..20).map(|i| analyze(&format!("t{i}"), &format!("Text {i}."))).collect();
    let clash = analyze("clash", "Its document is there already.").data("documentId", "doc-t3");
    env.push("analysis", "normal", &events).await;
    env.push("analysis", "normal", std::slice::from_ref(&clash)).await;
    let metrics = env.drain("analysis").await;
    assert_eq!(metrics.finished("analysis", "written"), 20.0);
    assert_eq!(metrics.finished("analysis", "dead"), 1.0);
    let letters = env.all("dead_letters").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].get_str("reason").unwrap(), "rejected");
    let error = letters[0].get_str("error").unwrap();
    assert!(error.contains("unique") && error.contains("documentId"), "the error names the index: {error}");
    assert_eq!(env.size("analyses").await, 20);

    // With the cause gone, a requeued letter has its effect.
    env.coll("analyses").drop_index("operators_own").await.unwrap();
    env.command(&["dead", "requeue", "--reason", "rejected"]).end().await.code(0);
    assert_eq!(env.size("dead_letters").await, 0);
    env.drain("analysis").await;
    assert_eq!(env.size("analyses").await, 21);
}
