//! What a failed call to MongoDB means.

use mongodb::error::{Error, ErrorKind};

use crate::metrics::ErrorClass;

/// Error codes after which the same write may succeed: the server, not the document, is the reason.
/// (HostUnreachable, HostNotFound, LockTimeout, ExceededTimeLimit and their like, from the server's list of codes.)
const TRANSIENT: &[i32] = &[
    6, 7, 24, 39, 43, 46, 50, 63, 64, 79, 89, 91, 100, 112, 134, 150, 189, 202, 234, 262, 290, 317, 358, 384, 391,
    9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031, 20,
];

/// Whether a server error code says nothing against the document.
pub(super) fn is_transient_code(code: i32) -> bool {
    TRANSIENT.contains(&code)
}

/// A call to MongoDB without a certain end. Waiting and calling again resolves it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("MongoDB: {message}")]
pub struct StoreFault {
    pub class: ErrorClass,
    pub message: String,
}

impl StoreFault {
    pub(super) fn timeout(what: &str, after: std::time::Duration) -> Self {
        Self { class: ErrorClass::Timeout, message: format!("no answer to {what} within {after:?}") }
    }

    /// The server answered, but not as the command promises.
    pub(super) fn answer(class: ErrorClass, message: String) -> Self {
        Self { class, message }
    }
}

impl StoreFault {
    /// Waiting does not help: credentials, or a server that is not a replica set.
    pub fn is_configuration(&self) -> bool {
        matches!(self.class, ErrorClass::Auth | ErrorClass::Rejected)
    }
}

impl From<Error> for StoreFault {
    fn from(e: Error) -> Self {
        let class = match e.kind.as_ref() {
            ErrorKind::Authentication { .. } => ErrorClass::Auth,
            ErrorKind::Command(c) if c.code == 13 || c.code == 18 => ErrorClass::Auth,
            ErrorKind::Command(c) if matches!(c.code, 91 | 189 | 10107 | 11600 | 11602 | 13435 | 13436) => {
                ErrorClass::NotPrimary
            }
            ErrorKind::Command(c) if is_transient_code(c.code) => ErrorClass::Timeout,
            ErrorKind::Command(_) | ErrorKind::InvalidArgument { .. } => ErrorClass::Rejected,
            _ => ErrorClass::Network,
        };
        // The driver's texts name hosts and commands, never credentials or documents' values.
        Self { class, message: e.to_string() }
    }
}
