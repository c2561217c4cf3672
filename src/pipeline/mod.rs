//! The flow of a batch, on apalis workers:
//! `intake.claim -> process (decode, effect, store.write) -> Settlement -> intake.settle`.
//!
//! apalis owns when a batch is claimed (only when a handler is free), how many run at once, isolation of
//! panics and the drain. What is ours: leases, outcomes per task, retries, dead letters.

mod backend;
mod connect;
mod error;
mod flight;
mod process;
mod queue;
mod run;
mod settle;
mod snapshot;
mod upkeep;

pub use error::RunError;
pub use flight::{Claimed, Settlement};
pub use run::{RunOptions, Signals, run};
