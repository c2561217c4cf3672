//! contextd takes tasks from Redis and turns them into durable records in MongoDB.
//!
//! The data flows one way, and the modules stand in that order:
//! `intake` (Redis) -> `task` (decode, check) -> `effect` (what a task means, with `analysis`) ->
//! `batch` and `record` (what is written together, and how it meets what is there) -> `store` (MongoDB) -> `intake` again (settle).
//! Contents of documents go to an object store (`content`), sensitive fields are sealed on the way (`vault`), what is read is
//! shown in Redis (`cache`). `read` goes the other way, through memory, Redis and MongoDB, for commands and for `mcp`.
//! `pipeline` runs that flow on apalis workers; `schedule` runs the jobs of the `contextd-jobs` crate;
//! `lifecycle` gives them what they reach besides MongoDB.

pub mod analysis;
pub mod batch;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod content;
pub mod effect;
pub mod intake;
pub mod lifecycle;
pub mod mcp;
pub mod metrics;
pub mod pipeline;
pub mod read;
pub mod record;
pub mod retry;
pub mod schedule;
pub mod status;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod vault;

/// Makes `ring` the process's provider of TLS, for every client in it. Cheap when it is that already.
pub fn install_tls() {
    // The only error is that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
