//! Tests through the pool.

mod probe;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::*;

fn config(threads: usize) -> PoolConfig {
    PoolConfig {
        threads,
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

/// One pool for all tests: loading the engine is slow without optimization.
static POOL: LazyLock<AnalysisPool> = LazyLock::new(|| AnalysisPool::new(config(2)).unwrap());

async fn analyze(request: Request) -> Analysis {
    POOL.analyze(request).await.unwrap()
}
