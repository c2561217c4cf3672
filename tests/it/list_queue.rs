//! The list queue: four priorities, `document.analyze.v1` into `analyses`.

use mongodb::bson::{Bson, DateTime, Document};
use serde_json::json;

use crate::harness::{Env, Event, analyze, eventually, when};

const PRIORITIES: [&str; 4] = ["critical", "high", "normal", "low"];

#[tokio::test]
async fn a_task_of_every_priority_becomes_one_analysis() {
    let env = Env::new().await;
    for priority in PRIORITIES {
        env.push("analysis", priority, &[analyze(priority, &format!("Pushed to {priority}."))]).await;
    }
    let metrics = env.drain("analysis").await;
    for priority in PRIORITIES {
        assert_eq!(env.analysis(priority).await.get_str("documentId").unwrap(), format!("doc-{priority}"));
    }
    assert_eq!(env.size("analyses").await, 4);
    assert_eq!(metrics.finished("analysis", "written"), 4.0);
}

#[tokio::test]
async fn an_analysis_has_the_fields_of_the_contract() {
    let env = Env::new().await;
    let event = Event::new(
        "document.analyze.v1",
        "0192f0c1",
        json!({
            "documentId": "d1", "content": "Their is a error in this text.", "versionNumber": 7,
            "userId": "u1", "sessionId": "s1", "language": "en-US",
        }),
    )
    .with("source", "/editor")
    .with("anunknownattribute", "is ignored");
    env.push("analysis", "normal", &[event]).await;
    env.drain("analysis").await;

    let found = env.one("analyses", "0192f0c1@/editor").await.expect("_id is <id>@<source>");
    assert_eq!(found.get_str("documentId").unwrap(), "d1");
    assert_eq!(number(&found, "versionNumber"), 7);
    assert_eq!(found.get_str("userId").unwrap(), "u1");
    assert_eq!(found.get_str("sessionId").unwrap(), "s1");
    assert!(!found.get_str("contentHash").unwrap().is_empty());
    let language = found.get_document("language").unwrap();
    assert_eq!(language.get_str("code").unwrap(), "en-US");
    assert!(!language.get_bool("detected").unwrap());
    let engine = found.get_document("engine").unwrap();
    assert!(!engine.get_str("name").unwrap().is_empty());
    assert!(!engine.get_str("version").unwrap().is_empty());
    assert!(found.contains_key("readability"), "{found}");
    assert!(found.get_document("statistics").is_ok_and(|s| !s.is_empty()), "{found}");
    assert!(found.get_document("timings").is_ok(), "{found}");
    assert!(date(&found, "createdAt") <= date(&found, "analyzedAt"));

    let grammar = found.get_document("grammar").unwrap();
    let warnings = grammar.get_document("warnings").unwrap();
    assert!(!warnings.get_bool("incompleteResults").unwrap());
    assert!(warnings.get_array("skippedBlocks").unwrap().is_empty());
    let matches = grammar.get_array("matches").unwrap();
    assert!(!matches.is_empty(), "two errors are in the text: {found}");
    for one in matches.iter().map(|m| m.as_document().unwrap()) {
        assert!(number(one, "offset") >= 0);
        assert!(number(one, "length") > 0);
        assert!(!one.get_str("message").unwrap().is_empty());
        assert!(one.get_str("shortMessage").is_ok());
        for replacement in one.get_array("replacements").unwrap() {
            assert!(replacement.as_document().unwrap().get_str("value").is_ok());
        }
        let rule = one.get_document("rule").unwrap();
        assert!(!rule.get_str("id").unwrap().is_empty());
        assert!(!rule.get_str("issueType").unwrap().is_empty());
        let category = rule.get_document("category").unwrap();
        assert!(!category.get_str("id").unwrap().is_empty());
        assert!(!category.get_str("name").unwrap().is_empty());
        let context = one.get_document("context").unwrap();
        assert!(!context.get_str("text").unwrap().is_empty());
        assert!(number(context, "offset") >= 0);
        assert_eq!(number(context, "length"), number(one, "length"));
    }
}

#[tokio::test]
async fn the_oldest_of_a_priority_is_taken_first() {
    let env = Env::new().await;
    let events: Vec<Event> = (0..60).map(|i| analyze(&format!("t{i:03}"), &format!("Text number {i}."))).collect();
    env.push("analysis", "normal", &events).await;
    let worker = env.worker("analysis").config(&one_batch_at_a_time(5)).ready().await;
    env.drained("analysis").await;
    worker.stop().await;

    let order = in_order(&env).await;
    assert_eq!(order.len(), 60);
    // Tasks of one batch may share a time; whole batches must not change places.
    for pair in order.windows(2) {
        assert!(batch_of(&pair[0].1) <= batch_of(&pair[1].1) || pair[0].0 == pair[1].0, "{order:?}");
    }
}

fn batch_of(id: &str) -> usize {
    id[1..4].parse::<usize>().unwrap() / 5
}

#[tokio::test]
async fn higher_priorities_go_first() {
    let env = Env::new().await;
    // Pushed in the wrong order.
    for priority in PRIORITIES.iter().rev() {
        let events: Vec<Event> =
            (0..100).map(|i| analyze(&format!("{priority}-{i}"), &format!("{priority} number {i}."))).collect();
        env.push("analysis", priority, &events).await;
    }
    let worker = env.worker("analysis").config(&one_batch_at_a_time(10)).ready().await;
    env.drained("analysis").await;
    worker.stop().await;

    let order = in_order(&env).await;
    assert_eq!(order.len(), 400);
    let mean = |priority: &str| {
        let ranks = order.iter().enumerate().filter(|(_, (_, id))| id.starts_with(priority)).map(|(rank, _)| rank);
        ranks.sum::<usize>() / 100
    };
    let means: Vec<usize> = PRIORITIES.iter().map(|p| mean(p)).collect();
    assert!(means.is_sorted(), "mean rank by priority: {means:?}");
    assert!(means[0] < 100, "critical ones come almost all at once: {means:?}");
}

#[tokio::test]
async fn low_is_not_starved_by_a_backlog_of_high() {
    let env = Env::new().await;
    let high: Vec<Event> = (0..800).map(|i| analyze(&format!("high-{i}"), &format!("High number {i}."))).collect();
    let low: Vec<Event> = (0..8).map(|i| analyze(&format!("low-{i}"), &format!("Low number {i}."))).collect();
    env.push("analysis", "high", &high).await;
    env.push("analysis", "low", &low).await;
    let worker = env.worker("analysis").config(&one_batch_at_a_time(20)).ready().await;
    env.drained("analysis").await;
    worker.stop().await;

    let order = in_order(&env).await;
    assert_eq!(order.len(), 808);
    let last_low = order.iter().rposition(|(_, id)| id.starts_with("low")).unwrap();
    assert!(last_low < 404, "the last low one was number {last_low} of 808");
}

#[tokio::test]
async fn an_idle_worker_takes_what_comes() {
    let env = Env::new().await;
    let worker = env.worker("analysis").ready().await;
    for i in 0..3 {
        let id = format!("late-{i}");
        env.push("analysis", "high", &[analyze(&id, &format!("Late number {i}."))]).await;
        env.analysis(&id).await;
    }
    env.drained("analysis").await;
    worker.stop().await;
}

#[tokio::test]
async fn tasks_of_one_partition_key_keep_their_order_within_a_batch() {
    let env = Env::new().await;
    let events: Vec<Event> = (0..40)
        .map(|i| {
            analyze(&format!("k{}-{:02}", i % 2, i / 2), &format!("Step {i}."))
                .with("partitionkey", format!("key-{}", i % 2))
                .with("tenant", "tenant-a")
        })
        .collect();
    env.push("analysis", "normal", &events).await;
    env.drain("analysis").await;
    let order = in_order(&env).await;
    assert_eq!(order.len(), 40);
    for key in ["k0", "k1"] {
        let of_key: Vec<&(DateTime, String)> = order.iter().filter(|(_, id)| id.starts_with(key)).collect();
        for pair in of_key.windows(2) {
            assert!(pair[0].0 <= pair[1].0 && (pair[0].0 == pair[1].0 || pair[0].1 < pair[1].1), "{of_key:?}");
        }
    }
}

#[tokio::test]
async fn the_same_task_twice_is_one_document_and_one_duplicate() {
    let env = Env::new().await;
    let task = analyze("twice", "Pushed twice.");
    let other_source = task.clone().with("source", "/elsewhere");
    let worker = env.worker("analysis").ready().await;
    // Twice at once, and once more when the first has long been written.
    env.push("analysis", "normal", &[task.clone(), task.clone(), other_source]).await;
    env.analysis("twice").await;
    env.drained("analysis").await;
    let first = env.one("analyses", "twice@/it").await.unwrap();
    env.push("analysis", "low", &[task]).await;
    let metrics = eventually("three are written or duplicates", || async {
        let m = worker.metrics().await;
        when(m.finished("analysis", "written") + m.finished("analysis", "duplicate") == 4.0).map(|()| m)
    })
    .await;
    assert_eq!(metrics.finished("analysis", "written"), 2.0, "one for each source");
    assert_eq!(metrics.finished("analysis", "duplicate"), 2.0);
    assert_eq!(env.size("analyses").await, 2);
    assert_eq!(env.one("analyses", "twice@/it").await.unwrap(), first, "a duplicate changes nothing");
    worker.stop().await;
}

/// Order can be seen only where one batch follows the other.
fn one_batch_at_a_time(tasks: usize) -> String {
    format!("[queues.analysis]\nkind = \"list\"\nconcurrency = 1\nbatch = {{ tasks = {tasks} }}\nlow_share = 0.1\n")
}

/// (`analyzedAt`, event id) of all analyses, by time and id.
async fn in_order(env: &Env) -> Vec<(DateTime, String)> {
    let mut order: Vec<(DateTime, String)> = env
        .all("analyses")
        .await
        .iter()
        .map(|d| (date(d, "analyzedAt"), d.get_str("_id").unwrap().trim_end_matches("@/it").to_owned()))
        .collect();
    order.sort();
    order
}

pub fn date(document: &Document, field: &str) -> DateTime {
    *document.get_datetime(field).unwrap_or_else(|e| panic!("{field}: {e}: {document}"))
}

/// A number of any BSON type.
pub fn number(document: &Document, field: &str) -> i64 {
    match document.get(field) {
        Some(Bson::Int32(n)) => i64::from(*n),
        Some(Bson::Int64(n)) => *n,
        Some(Bson::Double(n)) => *n as i64,
        other => panic!("{field} is no number but {other:?}: {document}"),
    }
}
