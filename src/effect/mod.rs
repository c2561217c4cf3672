//! What a task means: from a checked task to the writes that are its effect.

pub mod analyze;
pub mod typing;

pub use analyze::Analysis;

use crate::{batch::Write, metrics::ErrorClass, task::Reason};

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
    /// It was not finished before the worker stops.
    Released,
}
