//! The grammar analyzer: blocks through the engine, or from the cache, and together again.

mod cache;
mod engine;
mod findings;
mod guard;
mod rules;
mod task;

pub use cache::BlockCache;
pub use engine::{Engine, NAME, Settings, version};
pub use guard::{BlockParser, GuardedDictionary};
pub use task::{CheckTask, Limits};

use super::result::Match;

/// The findings of one block, with offsets from its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    pub matches: Vec<Match>,
    /// How many more there were.
    pub dropped: u32,
    /// It is in another language than its text, and was not checked.
    pub other_language: bool,
}
