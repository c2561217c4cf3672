//! How a command ends, and what it prints.

use crate::{
    intake::{Fault, FaultKind},
    metrics::ErrorClass,
    pipeline::RunError,
    read::ReadError,
    store::StoreFault,
    vault::{VaultFault, VaultFaultKind},
};

/// A command that did not do what was asked: one readable line for stderr, and the exit status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The command found something wrong.
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    Usage(String),
    /// A service cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
    #[error("{0}")]
    NotFinished(String),
    #[error("{0}")]
    Configuration(String),
}

impl Failure {
    /// The exit status.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Wrong(_) => 1,
            Failure::Usage(_) => 64,
            Failure::Unavailable(_) => 69,
            Failure::Internal(_) => 70,
            Failure::NotFinished(_) => 75,
            Failure::Configuration(_) => 78,
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Unavailable => Failure::Unavailable(format!("{fault}: check that it runs and `redis.url`")),
            FaultKind::Denied => Failure::Configuration(format!("{fault}: check the user and password in `redis.url`")),
            FaultKind::Full => Failure::Unavailable(format!("{fault}: Redis is full, make room or raise `maxmemory`")),
            FaultKind::WrongType => Failure::Wrong(format!("{fault}: rename the key away, a queue's key must be free")),
            FaultKind::NoGroup | FaultKind::Refused => Failure::Wrong(fault.to_string()),
        }
    }
}

impl From<StoreFault> for Failure {
    fn from(fault: StoreFault) -> Self {
        match fault.class {
            ErrorClass::Rejected => Failure::Wrong(fault.to_string()),
            ErrorClass::Auth => {
                Failure::Configuration(format!("{fault}: check the user and password in `mongodb.uri`"))
            }
            _ => Failure::Unavailable(format!("{fault}: check that it runs and `mongodb.uri`")),
        }
    }
}

impl From<VaultFault> for Failure {
    fn from(fault: VaultFault) -> Self {
        match fault.kind {
            VaultFaultKind::NoKey | VaultFaultKind::WrongKey | VaultFaultKind::Configuration => {
                Failure::Configuration(fault.to_string())
            }
            VaultFaultKind::Corrupt => Failure::Wrong(fault.to_string()),
            VaultFaultKind::Unavailable => Failure::Unavailable(fault.to_string()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(fault) => fault.into(),
            ReadError::Vault(fault) => fault.into(),
            ReadError::UnknownKind(_) => Failure::Usage(error.to_string()),
            ReadError::Broken => Failure::Internal(error.to_string()),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Configuration(e) => Failure::Configuration(e),
            RunError::Unreachable(e) => Failure::Unavailable(e),
            RunError::Internal(e) => Failure::Internal(e),
        }
    }
}

/// What a command that ran prints on stdout, and what it found wrong all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// Ends with a line break.
    pub text: String,
    /// Printed after the text, on stderr; the exit status is then 1.
    pub wrong: Option<String>,
}

impl Printed {
    pub fn text(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Self { text, wrong: None }
    }

    /// One JSON document.
    pub fn json(value: &impl serde::Serialize) -> Result<Self, Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Internal(format!("JSON output: {e}")))?;
        Ok(Self::text(text))
    }
}
