//! The life of the pool and its threads.

use std::sync::Arc;

use super::*;

#[tokio::test]
async fn too_large_texts_are_refused() {
    let pool = AnalysisPool::new(PoolConfig { text_bytes: 10, ..config() }).unwrap();
    let error = pool.analyze(Request::plain("eleven byte")).await.unwrap_err();
    assert_eq!(error, AnalysisError::TextTooLarge { bytes: 11, limit: 10 });
}

#[tokio::test]
async fn texts_may_come_before_the_engine_is_loaded() {
    let pool = AnalysisPool::new(config()).unwrap();
    assert!(pool.analyze(Request::plain("Teh text comes early.")).await.unwrap().grammar.is_some());
    assert!(pool.is_ready());
    pool.ready().await;
}

#[tokio::test]
async fn many_texts_at_once_all_get_their_own_answer() {
    let texts = (0..50).map(|n| format!("Text number {n} has {} mistakes: {}", n % 3, "by teh door, ".repeat(n % 3)));
    let answers = texts.map(|text| async move { (text.matches("teh").count(), matches(Request::plain(text)).await) });
    for (expected, found) in futures::future::join_all(answers).await {
        assert_eq!(found.iter().filter(|found| found.rule.id == "The").count(), expected);
    }
}

#[tokio::test]
async fn a_dropped_future_ends_its_work() {
    let pool = Arc::new(AnalysisPool::new(PoolConfig { threads: 1, ..config() }).unwrap());
    pool.ready().await;
    let long = (0..4_000).map(|n| format!("Paragraph {n} is here.\n\n")).collect::<String>();
    let begin = Instant::now();
    let busy = tokio::spawn({
        let (pool, long) = (pool.clone(), long.clone());
        async move { pool.analyze(Request::plain(long)).await }
    });
    let waiting = tokio::time::timeout(Duration::from_millis(100), pool.analyze(Request::plain(long)));
    assert!(waiting.await.is_err());
    busy.abort();
    let analysis = pool.analyze(Request::plain("A short text comes after them.")).await.unwrap();
    assert!(analysis.is_complete());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn threads_end_with_their_pool() {
    let names = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect::<Vec<_>>()
    };
    let pool = AnalysisPool::new(PoolConfig { threads: 9, ..config() }).unwrap();
    pool.ready().await;
    // Only this pool has so many threads.
    let ninth = || names().iter().any(|name| name.trim() == "analysis-8");
    assert!(ninth());
    drop(pool);
    while ninth() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
