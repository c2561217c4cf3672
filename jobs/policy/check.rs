//! What is refused of a policy that can be read.

use super::{Action, Policy, load::Problems};

/// What a policy meets: collections and jobs that there are besides those that contextd ships.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Collections of the operator's own record types.
    pub collections: Vec<String>,
}

/// How much of a row an action takes; a stronger one may follow a weaker one.
pub(super) fn strength(action: &Action) -> u8 {
    match action {
        Action::Mark { .. } => 0,
        Action::Archive => 1,
        Action::Anonymize { .. } => 2,
        Action::SoftDelete => 3,
        Action::ArchiveSession | Action::ArchiveRows { .. } | Action::Prune | Action::Purge => 4,
    }
}

pub(super) fn check(_policy: &Policy, _around: &Surroundings, _problems: &mut Problems) {}
