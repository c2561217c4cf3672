//! What `document.analyze.v1` finds: offsets, languages, Markdown, caches.

use mongodb::bson::Document;
use serde_json::{Value, json};

use crate::{
    harness::{Env, Event},
    list_queue::number,
};

fn event(id: &str, content: &str, more: Value) -> Event {
    let mut data = json!({ "documentId": format!("doc-{id}"), "content": content });
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Event::new("document.analyze.v1", id, data)
}

/// The part of a text that a finding is about; `None` when the offsets do not lie in the text.
fn marked(text: &str, offset: i64, length: i64) -> Option<String> {
    let units: Vec<u16> = text.encode_utf16().collect();
    let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(offset + length).ok()?);
    String::from_utf16(units.get(start..end)?).ok()
}

/// (text marked, first replacement) of every finding; checks that each context tells the same.
fn findings(analysis: &Document, content: &str) -> Vec<(String, Option<String>)> {
    let matches = analysis.get_document("grammar").unwrap().get_array("matches").unwrap();
    matches
        .iter()
        .map(|m| m.as_document().unwrap())
        .map(|m| {
            let text = marked(content, number(m, "offset"), number(m, "length"))
                .unwrap_or_else(|| panic!("the finding lies outside the text: {m}"));
            let context = m.get_document("context").unwrap();
            let in_context =
                marked(context.get_str("text").unwrap(), number(context, "offset"), number(context, "length"));
            assert_eq!(in_context.as_deref(), Some(text.as_str()), "{m}");
            let replacement = m
                .get_array("replacements")
                .unwrap()
                .first()
                .map(|r| r.as_document().unwrap().get_str("value").unwrap().to_owned());
            (text, replacement)
        })
        .collect()
}

fn has(found: &[(String, Option<String>)], text: &str, replacement: &str) -> bool {
    found.iter().any(|(t, r)| t == text && r.as_deref() == Some(replacement))
}

#[tokio::test]
async fn offsets_count_utf16_code_units_behind_emoji_and_combining_characters() {
    let env = Env::new().await;
    let texts = [
        ("plain", "There is an mistake in this sentence."),
        ("emoji", "🎉🎉 There is an mistake in this sentence."),
        ("family", "👩‍👩‍👧‍👦 and 🇩🇪 say: There is an mistake in this sentence."),
        ("combining", "Cafe\u{301} re\u{301}sume\u{301}. There is an mistake in this sentence."),
        ("bom", "\u{feff}There is an mistake in this sentence."),
        ("crlf", "A first paragraph 🎉 here.\r\n\r\nThere is an mistake in this sentence.\r\n"),
        ("tabs", "\t\u{a0}\u{2003}There is an mistake in this sentence."),
        ("second", "The first paragraph has 𝒻𝒶𝓃𝒸𝓎 letters 🎉.\n\nThere is an mistake in this sentence."),
    ];
    let events: Vec<Event> = texts.iter().map(|(id, text)| event(id, text, json!({ "language": "en-US" }))).collect();
    env.push("analysis", "normal", &events).await;
    env.drain("analysis").await;
    for (id, text) in texts {
        let found = findings(&env.analysis(id).await, text);
        let an = |(t, r): &(String, Option<String>)| {
            (t == "an" && r.as_deref() == Some("a")) || (t == "an mistake" && r.as_deref() == Some("a mistake"))
        };
        assert!(found.iter().any(an), "{id}: {found:?}");
    }
}

#[tokio::test]
async fn misspelled_words_are_found_with_their_replacement() {
    let env = Env::new().await;
    let text = "We recieve many letters, and we definately answer all of them in seperate rooms.";
    env.push("analysis", "normal", &[event("e", text, json!({}))]).await;
    env.drain("analysis").await;
    let found = findings(&env.analysis("e").await, text);
    for (wrong, right) in [("recieve", "receive"), ("definately", "definitely"), ("seperate", "separate")] {
        assert!(has(&found, wrong, right), "{wrong}: {found:?}");
    }
}

#[tokio::test]
async fn code_in_markdown_is_not_linted() {
    let env = Env::new().await;
    let text = "# The teh title\n\nProse with a mispeled word and `inlien_code` in it.\n\n```rust\nlet speling = recieve();\n\
                // teh comment\n```\n\n    indentd_code recieve\n\n- A list with a seperate thing.\n\n\
                [a link](https://exampel.test/recieve) ends it.\n";
    env.push(
        "analysis",
        "normal",
        &[
            event("md", text, json!({ "contentType": "text/markdown", "language": "en-US" })),
            event("txt", text, json!({ "contentType": "text/plain", "language": "en-US" })),
        ],
    )
    .await;
    env.drain("analysis").await;
    let found: Vec<String> = findings(&env.analysis("md").await, text).into_iter().map(|(t, _)| t).collect();
    for word in ["mispeled", "seperate"] {
        assert!(found.iter().any(|t| t == word), "{word} is prose: {found:?}");
    }
    for code in ["speling", "recieve", "inlien_code", "inlien", "indentd_code", "indentd"] {
        assert!(!found.iter().any(|t| t.contains(code)), "{code} is code: {found:?}");
    }
    let plain = findings(&env.analysis("txt").await, text);
    assert!(plain.iter().any(|(t, _)| t == "speling"), "in plain text it is a word: {plain:?}");
}

#[tokio::test]
async fn text_that_is_not_english_gets_statistics_and_the_reason() {
    let env = Env::new().await;
    let text = "Der schnelle braune Fuchs springt über den faulen Hund. Danach schläft er unter einem Baum im Schatten, \
                weil es ein sehr heißer Tag gewesen ist und niemand ihn stört.";
    env.push(
        "analysis",
        "normal",
        &[event("german", text, json!({})), event("named", "Bonjour à tous mes amis.", json!({ "language": "fr" }))],
    )
    .await;
    env.drain("analysis").await;
    let found = env.analysis("german").await;
    let language = found.get_document("language").unwrap();
    assert_eq!(language.get_str("code").unwrap(), "de");
    assert!(language.get_bool("detected").unwrap());
    assert!(found.get_document("statistics").is_ok_and(|s| !s.is_empty()), "{found}");
    assert!(found.get("grammar").is_none_or(|g| g.as_null().is_some()), "no grammar for German: {found}");
    let reason = found.get_str("grammarSkipped").unwrap_or_default();
    assert!(reason.contains("de"), "it says why there is no grammar: {found}");

    let found = env.analysis("named").await;
    let language = found.get_document("language").unwrap();
    assert_eq!(language.get_str("code").unwrap(), "fr");
    assert!(!language.get_bool("detected").unwrap());
    assert!(found.get("grammar").is_none_or(|g| g.as_null().is_some()), "{found}");
}

#[tokio::test]
async fn only_the_analyzers_asked_for_run() {
    let env = Env::new().await;
    let text = "This sentence are wrong, and there is enough of it to measure how it reads. ".repeat(6);
    for only in ["grammar", "readability", "statistics"] {
        env.push("analysis", "normal", &[event(only, &text, json!({ "analyzers": [only], "language": "en" }))]).await;
    }
    env.push("analysis", "normal", &[event("all", &text, json!({ "language": "en" }))]).await;
    env.drain("analysis").await;
    let there = |d: &Document, field: &str| d.get(field).is_some_and(|v| v.as_null().is_none());
    for only in ["grammar", "readability", "statistics"] {
        let found = env.analysis(only).await;
        for field in ["grammar", "readability", "statistics"] {
            assert_eq!(there(&found, field), field == only, "{field} of the one with {only} only: {found}");
        }
    }
    let all = env.analysis("all").await;
    assert!(["grammar", "readability", "statistics"].iter().all(|field| there(&all, field)), "{all}");
}

#[tokio::test]
async fn identical_content_is_answered_from_memory_redis_and_mongodb() {
    let env = Env::new().await;
    let text = "There is an mistake in this text, and it will be asked about again and again. ".repeat(10);
    let ask = |id: &str| event(id, &text, json!({ "language": "en-US", "userId": id }));
    let worker = env.worker("analysis").ready().await;
    env.push("analysis", "normal", &[ask("first")]).await;
    let first = env.analysis("first").await;
    assert!(!first.get_bool("cached").unwrap_or(false), "{first}");
    env.push("analysis", "normal", &[ask("memory")]).await;
    let memory = env.analysis("memory").await;
    env.drained("analysis").await;
    worker.stop().await;

    // A new process has nothing in memory.
    let keys = env.keys("cache:analysis:*").await;
    assert!(!keys.is_empty(), "the result is in Redis");
    for key in &keys {
        let ttl = env.count("TTL", key).await;
        assert!((1..=3600).contains(&ttl), "{key}: TTL {ttl}");
    }
    let worker = env.worker("analysis").ready().await;
    env.push("analysis", "normal", &[ask("redis")]).await;
    let redis = env.analysis("redis").await;
    env.drained("analysis").await;
    worker.stop().await;

    // Nor has Redis now.
    for key in env.keys("cache:*").await {
        redis::cmd("DEL").arg(key).query_async::<()>(&mut env.redis()).await.unwrap();
    }
    let worker = env.worker("analysis").ready().await;
    env.push("analysis", "normal", &[ask("mongodb")]).await;
    let mongodb = env.analysis("mongodb").await;
    // Other analyzers are another question.
    let other = event("other", &text, json!({ "language": "en-US", "analyzers": ["statistics"] }));
    env.push("analysis", "normal", &[other]).await;
    let other = env.analysis("other").await;
    worker.stop().await;

    for (tier, found) in [("memory", &memory), ("redis", &redis), ("mongodb", &mongodb)] {
        assert!(found.get_bool("cached").unwrap_or(false), "{tier}: {found}");
        for field in ["grammar", "readability", "statistics", "language", "engine", "contentHash"] {
            assert_eq!(found.get(field), first.get(field), "{tier}: {field}");
        }
        assert_eq!(found.get_str("userId").unwrap(), tier, "what is the task's own is not cached");
    }
    assert!(!other.get_bool("cached").unwrap_or(false), "{other}");
}

#[tokio::test]
async fn of_an_edited_document_only_the_changed_blocks_are_computed() {
    let env = Env::new().await;
    let block = |i: usize| format!("This is paragraph number {i}, and there is an mistake in each of them for sure.");
    let mut blocks: Vec<String> = (0..30).map(block).collect();
    let worker = env.worker("analysis").ready().await;
    let text = blocks.join("\n\n");
    env.push("analysis", "normal", &[event("before", &text, json!({ "language": "en-US" }))]).await;
    let before = env.analysis("before").await;
    assert_eq!(counts(&before), (30, 30), "(all blocks, computed ones)");

    blocks[12] = "This paragraph was edited, and it's mistake is another one 🎉.".into();
    let edited = blocks.join("\n\n");
    env.push("analysis", "normal", &[event("after", &edited, json!({ "language": "en-US" }))]).await;
    let after = env.analysis("after").await;
    assert_eq!(counts(&after), (30, 1), "(all blocks, computed ones)");
    assert!(!after.get_bool("cached").unwrap_or(false));
    assert_eq!(
        findings(&after, &edited).iter().filter(|(t, _)| t.starts_with("an")).count(),
        findings(&before, &text).iter().filter(|(t, _)| t.starts_with("an")).count() - 1,
        "the findings of the other blocks are where they belong"
    );
    worker.stop().await;
}

fn counts(analysis: &Document) -> (i64, i64) {
    let blocks = analysis.get_document("timings").unwrap().get_document("blocks").unwrap();
    (number(blocks, "total"), number(blocks, "computed"))
}

#[tokio::test]
async fn readability_is_null_for_a_few_words() {
    let env = Env::new().await;
    let long = "The committee decided yesterday that the project would continue for another year. ".repeat(6);
    let more = json!({ "language": "en", "analyzers": ["readability", "statistics"] });
    env.push(
        "analysis",
        "normal",
        &[event("short", "Only five words are here.", more.clone()), event("long", &long, more)],
    )
    .await;
    env.drain("analysis").await;
    let short = env.analysis("short").await;
    assert!(short.get("readability").is_none_or(|r| r.as_null().is_some()), "{short}");
    assert!(env.analysis("long").await.get_document("readability").is_ok_and(|r| !r.is_empty()));
}

#[tokio::test]
async fn what_breaks_grammar_engines_fails_alone() {
    let env = Env::new().await.set("analysis.time_limit", "5s");
    let killers = [
        "THERE'S CHANGES in the file.".to_owned(),
        "x".repeat(1_000),
        "a".repeat(100_000),
        "@".repeat(20_000),
        ". ".repeat(20_000),
        "漢字".repeat(20_000),
        "\u{202e}\u{200f}\u{0}\u{7f}".repeat(100),
        "(((((((((([[[[[[[[[[{{{{{{{{{{".repeat(200),
        "é\u{301}\u{301}\u{301}\u{301}".repeat(2_000),
        "👩‍👩‍👧‍👦".repeat(2_000),
    ];
    let events: Vec<Event> =
        killers.iter().enumerate().map(|(i, t)| event(&format!("k{i}"), t, json!({ "language": "en-US" }))).collect();
    env.push("analysis", "high", &events).await;
    env.push("analysis", "low", &[event("sane", "There is an mistake here.", json!({ "language": "en-US" }))]).await;
    let metrics = env.drain("analysis").await;
    assert_eq!(metrics.finished("analysis", "written"), (killers.len() + 1) as f64);
    assert_eq!(env.size("dead_letters").await, 0);
    assert!(!findings(&env.analysis("sane").await, "There is an mistake here.").is_empty());
}
