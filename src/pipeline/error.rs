//! Why the worker ends.

/// Why the worker could not run, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Internal(String),
}
