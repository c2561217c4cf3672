//! What a task means: from a checked task to the writes that are its effect.

mod adopt;
pub mod analyze;
mod caches;
mod cascade;
mod claim;
mod content;
mod document_save;
mod evaluation;
pub mod hold;
mod late;
mod numbered;
mod patience;
pub mod purged;
pub mod records;
mod relate;
mod sealing;
#[cfg(test)]
mod sealing_tests;
mod session;
mod touches;
pub mod typing;
mod user_erase;
mod version_decide;
mod version_restore;
mod version_save;
mod versions;

pub use analyze::Analysis;
pub use patience::Patience;
pub(crate) use patience::patiently;
pub use records::Records;
pub use touches::TouchGate;
pub use user_erase::Erasing;
pub use versions::Turns;

use crate::{
    batch::Write,
    metrics::{ErrorClass, Outcome},
    task::Reason,
};

/// What is to be done about one task.
#[derive(Debug)]
pub enum Planned {
    /// Its effect is this write.
    Write(Write),
    /// A newer task of the same batch makes it moot.
    Superseded,
    /// The same task is in the batch already.
    Duplicate,
    /// It can never be done.
    Dead(Reason, String),
    /// Its effect failed this time.
    Failed(ErrorClass, String),
    /// Something that it refers to is not there (yet).
    Missing(ErrorClass, String),
    /// It is done, by whatever the effect needed.
    Done(Outcome),
    /// It goes on waiting until then (ms since 1970).
    Later { at_ms: i64 },
    /// It was not finished before the worker stops.
    Released,
}
