//! Redis: where tasks come from and where they are settled. With `cache` the only module that talks to Redis.
//!
//! Delivery is at least once. A task leaves Redis only when its batch is settled; a batch whose worker
//! dies is taken over when its lease ends. Nothing here pops a task destructively.

mod delivery;
mod entries;
mod keys;
mod lease;
mod link;
mod quotas;
mod source;
mod stats;
mod stream;
mod url;
mod wrap;

/// The calls to Redis as they are named in the metrics.
pub const COMMANDS: &[&str] = &[
    "ping",
    "take",
    "settle",
    "renew",
    "hand_back",
    "script_load",
    "exists",
    "xreadgroup",
    "xpending",
    "xclaim",
    "xack",
    "xgroup",
    "stream_settle",
    "stream_renew",
    "stream_tidy",
    "stats",
    "push",
    "pause",
    "typing_set",
    "cache_get",
    "cache_set",
    "record_get",
    "record_set",
    "session_live",
];

pub use delivery::{Ack, Ask, Batch, Claim, Delivery, Leftovers, Return, SettleAnswer};
pub use keys::QueueKeys;
pub use lease::{LeaseSource, SourceSettings};
pub use link::{Fault, FaultKind, Link};
pub use source::{BatchSource, QueueSource};
pub use stats::{QueueAdmin, QueueStats};
pub use stream::{GROUP, StreamSource};
