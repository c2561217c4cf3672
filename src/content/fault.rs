//! Why a content cannot be stored or read, and what is to be done about it.

use std::{error::Error, io};

/// What kind of fault it is; callers branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The object store (or what sealing needs) does not answer: it goes on by itself when that is back.
    Unavailable,
    /// There is no such object.
    Missing,
    /// What is stored is not what was stored once.
    Corrupt,
    /// Someone has to change a setting or a permission.
    Configuration,
}

impl FaultKind {
    /// Whether waiting and asking again can help. A wrong setting counts: an operator mends it while tasks wait.
    pub fn passes(self) -> bool {
        matches!(self, Self::Unavailable | Self::Configuration)
    }
}

/// A full sentence that names the object where there is one and says what to do. It never holds contents or secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ContentFault {
    pub kind: FaultKind,
    pub message: String,
}

impl ContentFault {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// From what the client of the object store says about `action` on `key` in `place`, which `setting` names.
    pub(super) fn of_store(error: &object_store::Error, action: &str, key: &str, place: &str, setting: &str) -> Self {
        use object_store::Error as E;
        let said = one_line(&error.to_string());
        match (error, cause(error)) {
            // S3 answers the same for a bucket that is not there as for an object.
            (E::NotFound { .. }, _) if said.contains("NoSuchBucket") || action == "store" => Self::new(
                FaultKind::Configuration,
                format!("{place} is not there: create it or correct `{setting}` ({said})"),
            ),
            (E::NotFound { .. }, _) => Self::new(
                FaultKind::Missing,
                format!("{place} has no object {key}: restore it from a backup of the object store"),
            ),
            (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _)
            | (_, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)) => Self::new(
                FaultKind::Configuration,
                format!("{place} may not be used to {action} {key}: check its permissions and `content.s3` ({said})"),
            ),
            (E::UnknownConfigurationKey { .. } | E::NotSupported { .. } | E::NotImplemented { .. }, _) => {
                Self::new(FaultKind::Configuration, format!("{place} cannot {action} {key}: check `content` ({said})"))
            }
            (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => Self::new(
                FaultKind::Unavailable,
                format!("{place} is full and could not {action} {key}: make room there ({said})"),
            ),
            _ => Self::new(
                FaultKind::Unavailable,
                format!("{place} could not {action} {key}: check that it runs and can be reached ({said})"),
            ),
        }
    }
}

/// The kind of the operating system's error that lies below, if one does.
fn cause(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

/// Servers answer with pages of XML; a message is one readable line.
fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
