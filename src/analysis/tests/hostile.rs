//! Texts that take the bare engine down, or hold it for minutes.

use super::*;

/// Long enough to get through the smaller ones without optimization, short enough to see the limit at work.
const LIMIT: Duration = Duration::from_secs(3);

/// What the last block may take beyond the limit, on a busy machine without optimization.
const SLACK: Duration = Duration::from_secs(20);

static HASTY: LazyLock<AnalysisPool> =
    LazyLock::new(|| AnalysisPool::new(PoolConfig { time_limit: LIMIT, ..config() }).unwrap());

async fn survives(name: &str, text: String) -> Analysis {
    HASTY.ready().await;
    let length = text.encode_utf16().count() as u32;
    let begin = Instant::now();
    let request = Request { language: "en".parse().ok(), ..Request::plain(text) };
    let analysis = HASTY.analyze(request).await.unwrap();
    let queued = Duration::from_secs_f64(analysis.timings.queued_ms / 1e3);
    assert!(begin.elapsed().saturating_sub(queued) < LIMIT + SLACK, "{name}: {:?}", begin.elapsed());
    let warnings = &analysis.grammar.as_ref().unwrap().warnings;
    assert!(warnings.skipped_blocks.iter().all(|skipped| skipped.offset + skipped.length <= length), "{name}");
    assert_eq!(analysis.is_complete(), analysis.timings.blocks.skipped == 0 && warnings.dropped_matches == 0, "{name}");
    analysis
}

#[tokio::test]
async fn monstrous_words() {
    assert!(survives("100 kB word", "a".repeat(100_000)).await.is_complete());
    assert!(survives("1,000 characters", format!("See {} there.", "q".repeat(1_000))).await.is_complete());
    assert!(survives("dotted", "a.".repeat(50_000)).await.timings.blocks.total > 20);
    survives("hyphens", "ab-".repeat(30_000)).await;
    survives("apostrophes", "b'".repeat(50_000)).await;
}

#[tokio::test]
async fn known_panics() {
    let analysis = survives("panic", "THERE'S CHANGES in the file, and teh rest.".into()).await;
    let grammar = analysis.grammar.unwrap();
    assert_eq!((grammar.matches.len(), grammar.warnings.incomplete_results), (1, false));
    survives("many", "THERE’S CHANGES in the file.\n\n".repeat(500)).await;
}

#[tokio::test]
async fn endless_symbols() {
    for symbol in [".", "@", "a@", ". ", "1", "1.", "(", "\"", "'", "-", "/", "[a-", "#", "\t", "\u{301}", "🙂"] {
        survives(symbol, format!("A {}", symbol.repeat(100_000 / symbol.len()))).await;
    }
}

#[tokio::test]
async fn foreign_scripts() {
    let analysis = survives("CJK", "漢字仮名交".repeat(20_000)).await;
    assert!(analysis.timings.blocks.total >= 25);
    survives("Hangul words", "한국어 ".repeat(20_000)).await;
    survives("mixed", "a漢b字".repeat(20_000)).await;
}

#[tokio::test]
async fn one_sentence_of_a_megabyte() {
    let analysis = survives("1 MB", format!("This sentence {}.", "goes on and on and ".repeat(55_000))).await;
    assert!(analysis.timings.blocks.total >= 260);
    assert_eq!(analysis.statistics.unwrap().sentences, 1);
    assert!(analysis.timings.blocks.computed + analysis.timings.blocks.cached > 0);
}

#[tokio::test]
async fn more_mistakes_than_a_record_can_hold() {
    let text = (0..8_000).map(|n| format!("I saw teh house on {n} roads.\n\n")).collect();
    let grammar = survives("typos", text).await.grammar.unwrap();
    assert!(grammar.matches.len() <= 5_000 && grammar.warnings.incomplete_results);
}

#[tokio::test]
async fn a_late_limit_leaves_the_rest_and_says_so() {
    let config = PoolConfig { time_limit: Duration::ZERO, ..config() };
    let pool = AnalysisPool::new(config).unwrap();
    let text = "One paragraph.\n\nAnother one.\n\nAnd a third.";
    let analysis = pool.analyze(Request { language: "en".parse().ok(), ..Request::plain(text) }).await.unwrap();
    assert!(!analysis.is_complete() && !analysis.is_cacheable());
    let skipped = analysis.grammar.unwrap().warnings.skipped_blocks;
    assert_eq!(skipped, [SkippedBlock { offset: 0, length: text.len() as u32, reason: SkipReason::TimeLimit }]);
    assert_eq!(analysis.timings.blocks, BlockCounts { total: 3, computed: 0, cached: 0, skipped: 3 });
}

#[tokio::test]
async fn tangled_markdown() {
    for pattern in ["[", "`", "*a ", "[a](", "<", "> ", "- ", "|", "\\", "[^a]", "$a", "***a"] {
        let text = format!("A {}", pattern.repeat(20_000 / pattern.len()));
        HASTY.ready().await;
        let begin = Instant::now();
        let request = Request { language: "en".parse().ok(), ..Request::markdown(text) };
        let queued = HASTY.analyze(request).await.unwrap().timings.queued_ms;
        let elapsed = begin.elapsed().saturating_sub(Duration::from_secs_f64(queued / 1e3));
        assert!(elapsed < LIMIT + SLACK, "{pattern:?}: {elapsed:?}");
    }
}
