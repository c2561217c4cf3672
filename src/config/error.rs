//! What is wrong with the configuration, and where it was set.

use std::{collections::BTreeMap, fmt};

/// Every problem found, each one sentence that says what to do. Never holds a value that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// One problem, and where the setting was made ("contextd.toml:12", "CONTEXTD_REDIS__URL").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Option<String>,
    pub message: String,
}

impl Problem {
    pub(super) fn at(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: Some(place.into()), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [only] => write!(f, "configuration: {only}"),
            several => {
                write!(f, "the configuration has {} problems:", several.len())?;
                several.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// Where each setting was made, by its dotted path. What is not in it is a default.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    pub(super) fn set(&mut self, path: String, place: String) {
        self.0.insert(path, place);
    }

    /// Later layers win.
    pub(super) fn extend(&mut self, later: Origins) {
        self.0.extend(later.0);
    }

    /// The place of `path`, of the nearest section around it, or of the first setting within it.
    pub(super) fn of(&self, path: &str) -> Option<&str> {
        let around = std::iter::successors(Some(path), |p| p.rsplit_once('.').map(|(parent, _)| parent));
        let within = format!("{path}.");
        let first_within = || self.0.range(within.clone()..).next().filter(|(p, _)| p.starts_with(&within));
        self.0
            .get(path)
            .or_else(|| first_within().map(|(_, place)| place))
            .or_else(|| around.skip(1).find_map(|p| self.0.get(p)))
            .map(String::as_str)
    }
}
