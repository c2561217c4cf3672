//! The declared policy: which rows of which collection meet which end, and when.
//!
//! Everything here is pure. What a file may say and what is refused is in `load`; what a rule asks of the database is
//! in `query`.

mod check;
mod fight;
mod file;
mod hash;
mod known;
mod load;
mod near;
mod query;

use std::{collections::BTreeMap, time::Duration};

use mongodb::bson::Bson;

pub use check::Surroundings;
pub use known::{lookup_indexes, shipped_collection, shipped_indexes};
pub use load::{ACCESSED, load};
pub use query::{Index, MIN_ID, before};

/// The section `[policy]` that contextd ships.
pub const SHIPPED: &str = include_str!("../../config/lifecycle.toml");

/// Something that is wrong with a declared policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Of the setting, dotted: `policy.rules.minor-version.after`.
    pub path: String,
    /// A sentence that says what to do.
    pub message: String,
}

/// A whole policy, as it is in force after region and overrides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Grows with every change of the policy; see [`Policy::hash`].
    pub version: u32,
    /// BLAKE3 of everything that decides what is destroyed, hexadecimal. One version has one hash in a database.
    pub hash: String,
    /// The worker's and MongoDB's clock may differ by this; more ends a run before it begins.
    pub skew: Duration,
    /// Is part of the terms of rules on [`ACCESSED`] already; see [`Policy::slack`].
    pub access_slack: Duration,
    /// Whose terms are in force; empty: none's.
    pub region: String,
    /// The strongest actions first.
    pub rules: Vec<Rule>,
    /// Collections that are kept for ever, each with its reason.
    pub keep: BTreeMap<String, String>,
    /// Indexes of the operator's own collections, which `migrate` makes.
    pub indexes: Vec<Index>,
    /// Collections that the operator declared, with fields that only their records have.
    pub fields: BTreeMap<String, Vec<String>>,
}

/// One rule: rows of one collection, their conditions, and what becomes of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub name: String,
    /// The job that runs it.
    pub job: String,
    pub enabled: bool,
    /// The collection.
    pub on: String,
    /// At least one; a row is due when it meets any.
    pub cases: Vec<Case>,
    pub guards: Vec<Guard>,
    pub action: Action,
    pub cap: Cap,
    /// Terms of single tenants, by the row's field `tenant`: per case of `cases`, in their order. `None`: disabled.
    pub tenants: BTreeMap<String, Vec<Option<Duration>>>,
}

/// When a row is due: it has these values, and its date is older than the term.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Empty for the only case of a rule.
    pub name: String,
    pub equal: Vec<(String, Bson)>,
    /// Fields that are missing or null.
    pub absent: Vec<String>,
    /// Fields that are there and not null.
    pub present: Vec<String>,
    /// The field whose date counts.
    pub date: String,
    pub after: Duration,
}

/// A condition that takes another look than at the row itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// There is no key NAMESPACE:session:ID in Redis.
    NoLiveSession,
    /// That, and the session's row is gone or not active.
    SessionExpired,
    /// Not the version that its document names as current.
    NotCurrent,
    /// No other version is stored as a difference to it.
    NoDeltaBase,
    /// A newer row of the same document has been there for the whole term.
    Superseded,
}

impl Guard {
    /// What it means for a row that it keeps.
    pub fn sentence(self) -> &'static str {
        match self {
            Guard::NoLiveSession => "Its session is live.",
            Guard::SessionExpired => "Its session has not expired.",
            Guard::NotCurrent => "It is the current version of its document.",
            Guard::NoDeltaBase => "Another version is stored as a difference to it.",
            Guard::Superseded => "No newer one of its document has been there for the whole term.",
        }
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    ArchiveSession,
    Prune,
    Mark {
        state: String,
    },
    /// Of a document: contents to the archive tier; the row stays.
    Archive,
    SoftDelete,
    /// Of a document with all that belongs to it.
    Purge,
    /// Everything but `keep` is removed from the row; `random` fields get a random placeholder.
    Anonymize {
        keep: Vec<String>,
        random: Vec<String>,
    },
    /// The rows go to files in the archive tier, which are deleted after this long.
    ArchiveRows {
        archive_for: Duration,
    },
}

impl Action {
    /// As policies write it.
    pub fn name(&self) -> &'static str {
        match self {
            Action::ArchiveSession => "archive-session",
            Action::Prune => "prune",
            Action::Mark { .. } => "mark",
            Action::Archive => "archive",
            Action::SoftDelete => "soft-delete",
            Action::Purge => "purge",
            Action::Anonymize { .. } => "anonymize",
            Action::ArchiveRows { .. } => "archive-rows",
        }
    }
}

/// How much a rule may take at once; a plan over it stops before its first write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cap {
    /// Of the collection's rows, 0 to 1.
    pub share: f64,
    /// The share never means fewer rows than this.
    pub floor: u64,
    /// Absolute.
    pub rows: u64,
}

impl Cap {
    /// Rows that may go at once out of `total`.
    pub fn of(&self, total: u64) -> u64 {
        let share = (total as f64 * self.share) as u64;
        share.max(self.floor).min(self.rows)
    }
}

impl Policy {
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    /// How much of the case's term is slack for access times that are written late. Included in its `after`.
    pub fn slack(&self, rule: &Rule, case: &Case) -> Duration {
        let slack = case.date == ACCESSED && !matches!(rule.action, Action::Mark { .. });
        if slack { self.access_slack } else { Duration::ZERO }
    }

    /// The indexes that serve the rules, and those that the operator asked for; each once.
    pub fn needed_indexes(&self) -> Vec<Index> {
        let of_rule = |rule: &Rule| {
            let on = rule.on.clone();
            rule.cases.iter().map(move |case| Index { collection: on.clone(), keys: case.keys() }).collect::<Vec<_>>()
        };
        let mut needed: Vec<Index> = Vec::new();
        for index in self.rules.iter().flat_map(of_rule).chain(self.indexes.iter().cloned()) {
            if !needed.contains(&index) {
                needed.push(index);
            }
        }
        needed
    }

    /// Those of the collections that have neither a rule nor a reason for which they are kept.
    pub fn undecided<'c>(&self, collections: impl Iterator<Item = &'c str>) -> Vec<&'c str> {
        let decided = |name: &str| self.keep.contains_key(name) || self.rules.iter().any(|rule| rule.on == name);
        let open: std::collections::BTreeSet<&str> = collections.filter(|name| !decided(name)).collect();
        open.into_iter().collect()
    }

    /// The enabled rules of a job, in their order.
    pub fn of_job<'p>(&'p self, job: &'p str) -> impl Iterator<Item = &'p Rule> {
        self.rules.iter().filter(move |rule| rule.enabled && rule.job == job)
    }
}

#[cfg(test)]
mod tests;
