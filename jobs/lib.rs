//! The scheduled jobs: one file each. A job knows MongoDB and what it is given in [`Run`];
//! it cannot reach the intake or the HTTP server. When it runs is the configuration's business.
//!
//! A new job is a file here whose `Settings` implement [`Job`], a section in the configuration, and
//! one line in the scheduler's registry. [`kit`] holds what jobs are built from.

pub mod anonymization;
pub mod anonymous_cleanup;
pub mod audit_anchor;
pub mod auth_log_archival;
pub mod document_archival;
pub mod engine;
pub mod housekeeping;
pub mod kit;
pub mod policy;
pub mod retention;
pub mod session_archival;
pub mod version_pruning;

pub use kit::{Guard, Job, JobError, Outcome, Run};

use mongodb::IndexModel;

/// The indexes that the jobs' queries are served by, with their collections. A job refuses to run without its own.
pub fn indexes() -> Vec<(&'static str, IndexModel)> {
    housekeeping::indexes()
}
