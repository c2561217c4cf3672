//! (module cli)

pub mod compose;
pub mod dead;
pub mod demo;
pub mod enqueue;
pub mod failure;
pub mod jobs;
pub mod pause;
pub mod queues;
mod table;
