//! Scheduled jobs against a real MongoDB: once per fleet, whatever the clocks say and whoever dies.

mod command;
mod fleet;
mod harness;
mod policies;
mod runs;
mod services;
