//! Records: what is declared about a task type, what a task changes, and how changes meet what is stored. Pure.
//!
//! A task's *clock* decides what is newer, never the order of arrival: whatever the order, the repetition and the
//! number of workers, the same tasks end in the same record (see [`fold`]).

mod about;
mod access;
pub mod cached;
mod change;
mod clock;
mod declare;
mod fold;
#[cfg(test)]
mod fold_tests;
pub mod json;
mod live;
mod sensitive;
mod stored;

pub use about::{about, tombstone};
pub use access::{ACCESSED, access, wake};
pub use change::{Action, Change, ChangeError};
pub use clock::{Clock, ClockError};
pub use declare::{Cascade, RecordType, Registry};
pub use fold::{End, Folded, fold, fold_from, inserted, into_inserted};
pub use live::{Life, Live};
pub use stored::{SYNC, Sync, is_deleted, is_fenced, rev};
