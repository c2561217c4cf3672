//! Redis: where tasks come from and where they are settled. The only module, with `cache`, that talks to Redis.
mod link;
mod url;
pub use link::{Fault, FaultKind, Link};
