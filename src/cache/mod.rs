//! What is kept in Redis for readers. Losing it loses nothing: MongoDB is the authority.

mod access;
mod analysis;
mod lifecycle;
mod records;
mod repair;
mod sync;
mod typing;

pub use access::{AccessCounter, FLUSH_EVERY};
pub use analysis::AnalysisCache;
pub use lifecycle::LifecycleCache;
pub use records::{Away, Entry, Put, RecordCache};
pub use repair::Repaired;
pub use sync::{CacheWriter, Written};
pub use typing::TypingCache;
