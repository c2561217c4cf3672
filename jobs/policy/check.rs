//! What is refused of a policy that can be read: each refusal is a sentence that says what to do.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Action, Guard, Policy, Rule, fight,
    known::{self, COLLECTIONS, IDENTIFYING, JOBS, OWN},
    load::Problems,
    near::did_you_mean,
};

/// What a policy meets besides what contextd ships.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Collections of the operator's own record types.
    pub collections: Vec<String>,
    /// How far dates of accesses can be behind by caches and buffers as they are set; the slack is never less.
    pub late: Duration,
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

pub(super) fn check(policy: &Policy, around: &Surroundings, problems: &mut Problems) {
    if policy.version == 0 {
        problems.add("policy.version", "`policy.version` must be at least 1, and rise with every change");
    }
    let (second, minutes) = (Duration::from_secs(1), Duration::from_secs(600));
    if !(second..=minutes).contains(&policy.skew) {
        problems.add("policy.skew", "`policy.skew` must be from 1s to 10m");
    }
    if policy.access_slack > 144 * minutes {
        problems
            .add("policy.access_slack", "`policy.access_slack` must be at most 1 day: it is for writes that are late");
    }
    let indexed = known::shipped_indexes();
    for rule in &policy.rules {
        let rule = Checked { rule, path: format!("policy.rules.{}", rule.name), policy, around };
        rule.names(problems);
        rule.fields(problems);
        rule.action(problems);
        rule.tenants(problems);
        rule.indexes(&indexed, problems);
    }
    kept(policy, around, problems);
    fight::check(policy, problems);
}

/// Whether there is such a collection, and if not, what may be meant.
fn unknown_collection(name: &str, policy: &Policy, around: &Surroundings) -> Option<String> {
    let own = around.collections.iter().chain(policy.fields.keys()).map(String::as_str);
    let names: Vec<&str> = COLLECTIONS.iter().map(|known| known.name).chain(own).collect();
    (!names.contains(&name)).then(|| did_you_mean(name, names.into_iter()))
}

/// Every known collection has a rule, or a reason for which it is kept.
fn kept(policy: &Policy, around: &Surroundings, problems: &mut Problems) {
    for name in policy.keep.keys() {
        let path = format!("policy.keep.{name}");
        if let Some(hint) = unknown_collection(name, policy, around) {
            problems.add(&path, format!("`{path}`: there is no collection `{name}`{hint}"));
        }
        if let Some(rule) = policy.rules.iter().find(|rule| rule.enabled && rule.on == *name) {
            let message = format!(
                "`{path}` keeps the collection for ever, and the rule `{}` takes from it: disable the rule, or set \
                 `{path} = \"\"`",
                rule.name
            );
            problems.add(&path, message);
        }
    }
    for known in COLLECTIONS {
        let name = known.name;
        if !policy.keep.contains_key(name) && !policy.rules.iter().any(|rule| rule.on == name) {
            let message = format!(
                "nothing says what becomes of the collection `{name}`: declare a rule on it, or why it is kept in \
                 [policy.keep]"
            );
            problems.add(format!("policy.keep.{name}"), message);
        }
    }
}

struct Checked<'p> {
    rule: &'p Rule,
    path: String,
    policy: &'p Policy,
    around: &'p Surroundings,
}

impl Checked<'_> {
    fn refuse(&self, key: &str, what: &str, problems: &mut Problems) {
        let path = if key.is_empty() { self.path.clone() } else { format!("{}.{key}", self.path) };
        problems.add(path, format!("the rule `{}` {what}", self.rule.name));
    }

    fn names(&self, problems: &mut Problems) {
        let Rule { name, job, on, .. } = self.rule;
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&name.len()) || !name.bytes().all(fine) {
            let message = format!("the name of the rule {name:?} must be 1 to 64 of the characters a-z, 0-9 and -");
            problems.add(&self.path, message);
        }
        if !JOBS.contains(&job.as_str()) {
            let hint = did_you_mean(job, JOBS.into_iter());
            let what = format!("names an unknown job `{job}`{hint}; rules are run by {}", JOBS.join(", "));
            self.refuse("job", &what, problems);
        }
        if let Some(hint) = unknown_collection(on, self.policy, self.around) {
            let what = format!(
                "is on an unknown collection `{on}`{hint}; a collection of your own is declared in [policy.collections.{on}]"
            );
            self.refuse("on", &what, problems);
        }
        if known::collection(on).is_some_and(|known| known.own) {
            let what = format!("is on `{on}`, whose rows contextd itself rests on: no rule can take them");
            self.refuse("on", &what, problems);
        }
    }

    /// Fields are named once in a case, and are fields that rows have.
    fn fields(&self, problems: &mut Problems) {
        let known = known::collection(&self.rule.on);
        let more = self.policy.fields.get(&self.rule.on);
        for case in &self.rule.cases {
            let mut seen = BTreeSet::new();
            let equal = case.equal.iter().map(|(name, _)| name);
            for field in equal.chain(&case.absent).chain(&case.present).chain([&case.date]) {
                if field.is_empty() || field.starts_with('$') || field.contains('\0') || field == "_id" {
                    self.refuse("", &format!("names {field:?}, which cannot be a field of a condition"), problems);
                    continue;
                }
                if !seen.insert(field) {
                    self.refuse("", &format!("names the field `{field}` twice in one condition"), problems);
                }
                let Some(known) = known.filter(|known| !known.own) else { continue };
                let first = field.split('.').next().unwrap_or_default();
                let of_row = || known.fields.iter().chain(&OWN).copied();
                if !of_row().any(|name| name == first)
                    && !more.is_some_and(|more| more.iter().any(|name| name == first))
                {
                    let hint = did_you_mean(first, of_row());
                    let what = format!(
                        "names `{field}`, which is no field of `{0}`{hint}; a field that only your records have is \
                         declared in [policy.collections.{0}], as `fields = [{first:?}]`",
                        self.rule.on
                    );
                    self.refuse("", &what, problems);
                }
            }
            if case.equal.iter().any(|(name, value)| name == "state" && value.as_str() == Some("purging")) {
                self.refuse("", "asks for the state \"purging\", which is what is being purged already", problems);
            }
        }
    }

    fn action(&self, problems: &mut Problems) {
        let on = self.rule.on.as_str();
        let name = self.rule.action.name();
        let of = |collections: &[&str]| collections.contains(&on);
        let large = of(&["documents", "document_versions", "sessions"]);
        let wrong = match &self.rule.action {
            Action::ArchiveSession if !of(&["sessions"]) => Some("is for `sessions` only"),
            Action::Prune if !of(&["document_versions"]) => Some("is for `document_versions` only"),
            Action::Archive if !of(&["documents"]) => {
                Some("is for `documents` only; rows of others have `archive-rows`")
            }
            Action::SoftDelete if of(&["users", "sessions", "document_versions"]) => Some("is not for these rows"),
            Action::Mark { .. } if of(&["users", "document_versions"]) => Some("is not for these rows"),
            Action::Purge if of(&["document_versions"]) => Some("would break the chain of versions; they have `prune`"),
            Action::Purge if of(&["sessions"]) => Some("would leave the session's keys; they have `archive-session`"),
            Action::Purge if of(&["users"]) => Some("would leave what belongs to the user; they have `anonymize`"),
            Action::Anonymize { .. } | Action::ArchiveRows { .. } if large => {
                Some("is for rows without contents or keys elsewhere")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.refuse("action", &format!("is on `{on}`, and its action `{name}` {wrong}"), problems);
        }
        self.guards(problems);
        self.progress(problems);
        if let Action::Anonymize { keep, random } = &self.rule.action {
            for field in keep.iter().filter(|field| IDENTIFYING.contains(&field.as_str())) {
                let what =
                    format!("keeps `{field}`, by which somebody can be known: what is anonymized has to lose it");
                self.refuse("keep", &what, problems);
            }
            for field in random.iter().filter(|field| keep.contains(field)) {
                self.refuse("random", &format!("has `{field}` both in `keep` and in `random`"), problems);
            }
        }
    }

    fn guards(&self, problems: &mut Problems) {
        let Rule { on, guards, action, .. } = self.rule;
        for guard in guards {
            let home = match guard {
                Guard::NotCurrent | Guard::NoDeltaBase => "document_versions",
                Guard::Superseded => "analyses",
                Guard::NoLiveSession | Guard::SessionExpired => continue,
            };
            if on != home {
                self.refuse("guards", &format!("has a guard that is for `{home}` only, and is on `{on}`"), problems);
            }
        }
        let needs = |guard: Guard| !guards.contains(&guard);
        if *action == Action::Prune && needs(Guard::NotCurrent) {
            self.refuse("guards", "prunes, and needs the guard `not-current`: a document keeps its version", problems);
        }
        if *action == Action::ArchiveSession && needs(Guard::NoLiveSession) {
            self.refuse("guards", "archives sessions, and needs the guard `no-live-session`", problems);
        }
        let terms = self.rule.cases.iter().map(|case| case.after);
        let tenants = self.rule.tenants.values().flatten().flatten().copied();
        let at_once = terms.chain(tenants).any(|term| term.is_zero());
        if at_once && guards.is_empty() && !matches!(action, Action::Mark { .. }) {
            let what = "takes rows 0s after their date and has no guard: give it a term of at least 1s";
            self.refuse("after", what, problems);
        }
    }

    /// What was acted on is not due again.
    fn progress(&self, problems: &mut Problems) {
        let becomes = match &self.rule.action {
            Action::Mark { state } => state.as_str(),
            Action::SoftDelete => "deleted",
            Action::Archive => "archived",
            Action::Anonymize { .. } => {
                if !self.rule.cases.iter().all(|case| case.absent.iter().any(|field| field == "anonymizedAt")) {
                    let what =
                        "anonymizes, and needs `absent = [\"anonymizedAt\"]`: what is anonymous is not due again";
                    self.refuse("", what, problems);
                }
                return;
            }
            _ => return,
        };
        for case in &self.rule.cases {
            let state = case.equal.iter().find(|(name, _)| name == "state").and_then(|(_, value)| value.as_str());
            if state.is_none_or(|state| state == becomes) {
                let what = format!(
                    "gives rows the state `{becomes}`, and its `where` must ask for another `state`: what was taken is \
                     not due again"
                );
                self.refuse("", &what, problems);
            }
        }
    }

    fn tenants(&self, problems: &mut Problems) {
        for (tenant, terms) in &self.rule.tenants {
            if !self.rule.enabled && terms.iter().any(Option::is_some) {
                let path = format!("policy.tenants.{tenant}.rules.{}", self.rule.name);
                let message = format!("`{path}`: the rule is disabled for all, and a tenant cannot have it alone");
                problems.add(path, message);
            }
        }
    }

    /// Each case is scanned along an index of its own.
    fn indexes(&self, shipped: &[super::Index], problems: &mut Problems) {
        for case in &self.rule.cases {
            let index = super::Index { collection: self.rule.on.clone(), keys: case.keys() };
            if !shipped.contains(&index) && !self.policy.indexes.contains(&index) {
                let keys: Vec<String> = index.keys.iter().map(|key| format!("{key:?}")).collect();
                let what = format!(
                    "has no index that serves its query: add [policy.collections.{}] indexes = [[{}]]; `contextd migrate` \
                     makes it",
                    self.rule.on,
                    keys.join(", ")
                );
                self.refuse("", &what, problems);
            }
        }
    }
}
