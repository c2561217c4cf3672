//! The scheduled jobs: one file each. A job knows MongoDB and what it is given in [`Run`];
//! it cannot reach the intake or the HTTP server. When it runs is the configuration's business.
//!
//! A new job is a file here with what implements [`Job`], a section in the configuration, and one line in the scheduler's
//! registry. [`kit`] holds what jobs are built from; [`engine`] runs the rules of the [`policy`].

pub mod anonymization;
pub mod anonymous_cleanup;
pub mod audit_anchor;
pub mod auth_log_archival;
pub mod document_archival;
pub mod engine;
pub mod kit;
pub mod orphan_sweep;
pub mod policy;
pub mod reconciliation;
pub mod retention;
pub mod session_archival;
pub mod version_pruning;

pub use kit::{Guard, Job, JobError, Outcome, Run};
