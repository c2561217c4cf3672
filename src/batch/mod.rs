//! What is written together. Pure: no I/O, no clock.

mod gate;
mod write;

pub use gate::{Decision, Gate};
pub use write::{Mode, Resolution, Write, WriteSet};
