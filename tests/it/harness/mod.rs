//! What every test uses: services, an isolated namespace and database, the worker as a process, waiting for conditions.

pub mod cli;
pub mod env;
pub mod event;
pub mod metrics;
pub mod mongod;
pub mod ports;
pub mod redis_server;
pub mod services;
pub mod worker;

use std::{
    future::Future,
    time::{Duration, Instant},
};

pub use cli::Run;
pub use env::Env;
pub use event::{Event, analyze, typing};
pub use metrics::Metrics;
pub use mongod::MongodServer;
pub use redis_server::RedisServer;
pub use worker::{Launch, Worker};

/// The longest that anything may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often a condition is looked at again.
pub const POLL: Duration = Duration::from_millis(40);

/// Waits until `cond` gives a value, and fails with `what` when it does not within [`PATIENCE`].
pub async fn eventually<T, F, Fut>(what: &str, cond: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    within(PATIENCE, what, cond).await
}

/// As [`eventually`], with its own limit.
pub async fn within<T, F, Fut>(limit: Duration, what: &str, mut cond: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = cond().await {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// `Some(())` when true: for conditions that carry no value.
pub fn when(cond: bool) -> Option<()> {
    cond.then_some(())
}

/// The environment of the test run; tests read it here only.
#[expect(clippy::disallowed_methods, reason = "tests are told where the services are by the environment")]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The wall clock, for times in events.
#[expect(clippy::disallowed_methods, reason = "a producer's clock is the real one")]
pub fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

/// RFC 3339 of now plus `seconds`.
pub fn in_seconds(seconds: i64) -> String {
    (now() + chrono::Duration::seconds(seconds)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
