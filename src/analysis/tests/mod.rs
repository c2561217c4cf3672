//! Tests of whole analyses, through the pool.

mod hostile;
mod offsets;
mod quality;
mod reuse;
mod threads;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use super::*;

fn config() -> PoolConfig {
    PoolConfig {
        threads: 2,
        text_bytes: 2 << 20,
        time_limit: Duration::from_secs(20),
        block_cache_bytes: 8 << 20,
        grammar: grammar::Settings {
            dialect: harper_core::Dialect::American,
            dictionary: vec!["contextd".into()],
            matches_per_block: 100,
        },
        secret: b"test".to_vec(),
    }
}

/// One pool for most tests: loading the engine takes its time.
static POOL: LazyLock<AnalysisPool> = LazyLock::new(|| AnalysisPool::new(config()).unwrap());

async fn analyze(request: Request) -> Analysis {
    POOL.analyze(request).await.unwrap()
}

/// The findings in English text.
async fn matches(request: Request) -> Vec<Match> {
    let language = "en".parse().ok();
    analyze(Request { language, ..request }).await.grammar.unwrap().matches
}

/// What a text's UTF-16 code units from `offset` say.
fn slice(text: &str, offset: u32, length: u32) -> String {
    let units: Vec<u16> = text.encode_utf16().skip(offset as usize).take(length as usize).collect();
    String::from_utf16(&units).unwrap()
}
