//! Reading records through the tiers: memory, Redis, MongoDB.
//!
//! A record is read from MongoDB once however many ask for it at the same time, and put into the faster tiers under the
//! same guard as a writer's value: an older one never replaces a newer one. A fill that took longer than
//! [`SLOWEST_FILL`] is dropped, because the marker that a deletion leaves in Redis ends at some time. Nothing is
//! answered from memory for longer than `cache.memory_ttl`: that is how late another process's write may be seen.

pub mod advise;
pub mod find;
mod flight;
mod kinds;
mod memory;
pub mod plain;
mod reader;
pub mod survey;

pub use kinds::{Readable, Readables};
pub use reader::{Ask, Found, ReadError, Reader, SLOWEST_FILL, Source};
