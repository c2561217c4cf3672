//! What can be wrong with keys and sealed values.

use crate::store::StoreFault;

/// What a caller does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaultFaultKind {
    /// The key that sealed the value is not there: not configured, or removed.
    NoKey,
    /// A key of that id is there, and it is another one.
    WrongKey,
    /// The value was damaged or moved, or is of a format that this version does not know.
    Corrupt,
    /// MongoDB cannot be asked for a data key: wait, and call again.
    Unavailable,
    /// Encryption is not set up for what was asked.
    Configuration,
}

/// A value that cannot be sealed or opened. The text says what to do, and holds neither contents nor keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct VaultFault {
    pub kind: VaultFaultKind,
    pub message: String,
}

impl VaultFault {
    pub(super) fn new(kind: VaultFaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Waiting helps, as opposed to an operator.
    pub fn is_transient(&self) -> bool {
        self.kind == VaultFaultKind::Unavailable
    }
}

impl From<StoreFault> for VaultFault {
    fn from(fault: StoreFault) -> Self {
        let kind = if fault.is_configuration() { VaultFaultKind::Configuration } else { VaultFaultKind::Unavailable };
        Self::new(kind, format!("the data keys cannot be read: {fault}"))
    }
}
