//! From what is written to the policy in force: defaults filled in, regions and tenants laid over the rules.

use std::{collections::BTreeMap, time::Duration};

use humantime_serde::re::humantime;
use mongodb::bson::Bson;
use toml::{Table, Value};

use crate::engine::ACTIONS;

use super::{
    Action, Cap, Case, Guard, Index, Policy, Problem, Rule, SHIPPED,
    check::{self, Surroundings},
    file::{self, File},
    hash,
    near::did_you_mean,
};

const GUARDS: [(&str, Guard); 5] = [
    ("no-live-session", Guard::NoLiveSession),
    ("session-expired", Guard::SessionExpired),
    ("not-current", Guard::NotCurrent),
    ("no-delta-base", Guard::NoDeltaBase),
    ("superseded", Guard::Superseded),
];

/// The field whose dates are behind by what the cache answered; see `access_slack`.
pub const ACCESSED: &str = "lastAccessedAt";

/// Archives end at some time: a longer term is none.
const ENDLESS: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { path: path.into(), message: message.into() });
    }
}

/// The policy that the section `[policy]` declares, for the region that it names.
///
/// # Errors
/// Everything that is wrong with it, each with the dotted path of a setting.
pub fn load(section: Table, around: &Surroundings) -> Result<Policy, Vec<Problem>> {
    let mut problems = Problems::default();
    let Some(file) = parse(section, &mut problems) else { return Err(problems.0) };
    let mut rules = rules(&file, &mut problems);
    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    region(&file, &mut rules, &mut problems);
    tenants(&file, &mut rules, &mut problems);
    let indexes = indexes(&file, &mut problems);
    let fields = file.collections.iter().map(|(name, of)| (name.clone(), of.fields.clone())).collect();
    let keep = file.keep.iter().filter(|(_, why)| !why.is_empty()).map(|(on, why)| (on.clone(), why.clone())).collect();
    let mut policy = Policy {
        version: file.version,
        hash: String::new(),
        skew: file.skew,
        access_slack: file.access_slack,
        region: file.region,
        rules,
        keep,
        indexes,
        fields,
    };
    policy.hash = hash::hash(&policy);
    // Workers whose caches differ have one policy all the same; none of them is early.
    policy.access_slack = policy.access_slack.max(around.late);
    for rule in &mut policy.rules {
        slacken(rule, policy.access_slack);
    }
    check::check(&policy, around, &mut problems);
    if problems.0.is_empty() { Ok(policy) } else { Err(problems.0) }
}

fn parse(section: Table, problems: &mut Problems) -> Option<File> {
    match serde_path_to_error::deserialize(Value::Table(section)) {
        Ok(file) => Some(file),
        Err(e) => {
            let path = format!("policy.{}", e.path());
            problems.add(&path, sentence(&path, &e.inner().message().replace('\n', ", ")));
            None
        }
    }
}

/// The rules as they are declared, the strongest first: what is due for several ends at once gets only the last of them.
fn rules(file: &File, problems: &mut Problems) -> Vec<Rule> {
    let none = Cap { share: 0.0, floor: 0, rows: 0 };
    let default = cap("policy.cap", &file.cap, none, problems);
    let mut rules: Vec<Rule> =
        file.rules.iter().filter_map(|(name, rule)| build(name, rule, default, problems)).collect();
    rules.sort_by(|a, b| check::strength(&b.action).cmp(&check::strength(&a.action)).then(a.name.cmp(&b.name)));
    rules
}

/// The rules that contextd ships.
pub(super) fn shipped_rules() -> Vec<Rule> {
    let mut problems = Problems::default();
    let section = toml::from_str::<Table>(SHIPPED).ok().and_then(|mut table| table.remove("policy"));
    let Some(Value::Table(section)) = section else { return Vec::new() };
    parse(section, &mut problems).map(|file| rules(&file, &mut problems)).unwrap_or_default()
}

/// A message of the parser's as a sentence about a setting.
fn sentence(path: &str, message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown field"), quoted.split_first()) {
        (true, Some((unknown, known))) => {
            let section = path.strip_suffix(&format!(".{unknown}")).unwrap_or(path);
            let hint = did_you_mean(unknown, known.iter().copied());
            format!("there is no setting `{unknown}` in `{section}`{hint}; it knows {}", known.join(", "))
        }
        _ => format!("`{path}`: {message}"),
    }
}

fn cap(path: &str, given: &file::Cap, default: Cap, problems: &mut Problems) -> Cap {
    let cap = Cap {
        share: given.share.unwrap_or(default.share),
        floor: given.floor.unwrap_or(default.floor),
        rows: given.rows.unwrap_or(default.rows),
    };
    if !(0.0..=1.0).contains(&cap.share) {
        problems.add(format!("{path}.share"), format!("`{path}.share` must be from 0 to 1"));
    }
    if cap.rows == 0 {
        let message = format!("`{path}.rows` must be at least 1; a rule that shall take nothing has `enabled = false`");
        problems.add(format!("{path}.rows"), message);
    }
    cap
}

fn build(name: &str, rule: &file::Rule, default: Cap, problems: &mut Problems) -> Option<Rule> {
    let path = format!("policy.rules.{name}");
    let before = problems.0.len();
    let mut need = |key: &str, value: &Option<String>| {
        if value.is_none() {
            problems.add(&path, format!("the rule `{name}` needs `{key}`"));
        }
        value.clone().unwrap_or_default()
    };
    let (job, on) = (need("job", &rule.job), need("on", &rule.on));
    let wanted = need("action", &rule.action);
    let cases = cases(&path, name, rule, problems);
    let mut guards = Vec::new();
    for guard in &rule.guards {
        match GUARDS.iter().find(|(known, _)| known == guard) {
            Some((_, guard)) => guards.push(*guard),
            None => {
                let hint = did_you_mean(guard, GUARDS.iter().map(|(name, _)| *name));
                problems
                    .add(format!("{path}.guards"), format!("the rule `{name}` has an unknown guard `{guard}`{hint}"));
            }
        }
    }
    let action = rule.action.is_some().then(|| action(&path, name, &wanted, rule, problems)).flatten();
    let cap = cap(&format!("{path}.cap"), &rule.cap, default, problems);
    if problems.0.len() > before {
        return None;
    }
    Some(Rule {
        name: name.to_owned(),
        job,
        enabled: rule.enabled.unwrap_or(true),
        on,
        cases,
        guards,
        action: action?,
        cap,
        tenants: BTreeMap::new(),
    })
}

fn cases(path: &str, name: &str, rule: &file::Rule, problems: &mut Problems) -> Vec<Case> {
    let own = file::Case {
        equal: rule.equal.clone(),
        present: rule.present.clone(),
        absent: rule.absent.clone(),
        date: rule.date.clone(),
        after: rule.after,
    };
    if rule.cases.is_empty() {
        return case(path, name, "", &own, problems).into_iter().collect();
    }
    let has_own = !own.equal.is_empty() || !own.present.is_empty() || !own.absent.is_empty();
    if has_own || own.date.is_some() || own.after.is_some() {
        let message = format!(
            "the rule `{name}` has `cases`, so `where`, `present`, `absent`, `date` and `after` belong in each of them"
        );
        problems.add(path, message);
    }
    let of = |(case_name, given): (&String, &file::Case)| {
        case(&format!("{path}.cases.{case_name}"), name, case_name, given, problems)
    };
    rule.cases.iter().filter_map(of).collect()
}

fn case(path: &str, rule: &str, name: &str, given: &file::Case, problems: &mut Problems) -> Option<Case> {
    let of = if name.is_empty() { String::new() } else { format!(", case `{name}`,") };
    let mut equal = Vec::new();
    for (field, value) in &given.equal {
        let value = match value {
            Value::String(text) => Bson::String(text.clone()),
            Value::Boolean(is) => Bson::Boolean(*is),
            Value::Integer(n) => Bson::Int64(*n),
            _ => {
                let message = format!("`{path}.where.{field}` must be a text, a whole number, true or false");
                problems.add(format!("{path}.where.{field}"), message);
                continue;
            }
        };
        equal.push((field.clone(), value));
    }
    let Some(date) = given.date.clone() else {
        problems.add(path, format!("the rule `{rule}`{of} needs `date`, the field whose date counts"));
        return None;
    };
    let Some(after) = given.after else {
        problems.add(path, format!("the rule `{rule}`{of} needs `after`, how long after `{date}` a row is due"));
        return None;
    };
    let (absent, present) = (given.absent.clone(), given.present.clone());
    Some(Case { name: name.to_owned(), equal, absent, present, date, after })
}

fn action(path: &str, rule: &str, wanted: &str, given: &file::Rule, problems: &mut Problems) -> Option<Action> {
    let before = problems.0.len();
    let extras = [
        ("state", given.state.is_some(), "mark"),
        ("keep", given.keep.is_some(), "anonymize"),
        ("random", given.random.is_some(), "anonymize"),
        ("archive_for", given.archive_for.is_some(), "archive-rows"),
    ];
    for (key, there, of) in extras {
        if there && wanted != of && ACTIONS.contains(&wanted) {
            let message =
                format!("the rule `{rule}` has `{key}`, which belongs to the action `{of}`, not to `{wanted}`");
            problems.add(format!("{path}.{key}"), message);
        }
    }
    let action = match wanted {
        "archive-session" => Action::ArchiveSession,
        "prune" => Action::Prune,
        "mark" => match given.state.as_deref() {
            Some(state) if !state.is_empty() && state != "purging" => Action::Mark { state: state.to_owned() },
            _ => {
                let message = format!("the rule `{rule}` marks, and needs the `state` that rows get (not \"purging\")");
                problems.add(path, message);
                return None;
            }
        },
        "archive" => Action::Archive,
        "soft-delete" => Action::SoftDelete,
        "purge" => Action::Purge,
        "anonymize" => match &given.keep {
            Some(keep) => Action::Anonymize { keep: keep.clone(), random: given.random.clone().unwrap_or_default() },
            None => {
                problems.add(path, format!("the rule `{rule}` anonymizes, and needs `keep`, the fields that stay"));
                return None;
            }
        },
        "archive-rows" => {
            Action::ArchiveRows { archive_for: archive_for(path, rule, given.archive_for.as_deref(), problems)? }
        }
        unknown => {
            let hint = did_you_mean(unknown, ACTIONS.into_iter());
            problems.add(
                format!("{path}.action"),
                format!("the rule `{rule}` has an unknown action `{unknown}`{hint}; there are {}", ACTIONS.join(", ")),
            );
            return None;
        }
    };
    (problems.0.len() == before).then_some(action)
}

/// The term of an archive, which has an end.
fn archive_for(path: &str, rule: &str, given: Option<&str>, problems: &mut Problems) -> Option<Duration> {
    let term = given.and_then(|text| humantime::parse_duration(text).ok());
    match term {
        Some(term) if !term.is_zero() && term <= ENDLESS => Some(term),
        _ => {
            let message = format!(
                "the rule `{rule}` archives rows, and `archive_for` must say for how long, such as \"2555d\": more than \
                 nothing and at most 100 years, since an archive without an end is not allowed"
            );
            problems.add(format!("{path}.archive_for"), message);
            None
        }
    }
}

fn region(file: &File, rules: &mut [Rule], problems: &mut Problems) {
    for (region, overrides) in &file.regions {
        let at = format!("policy.regions.{region}");
        // Every region is checked, the chosen one is taken.
        let mut tried = rules.to_vec();
        for (name, over) in &overrides.rules {
            let path = format!("{at}.rules.{name}");
            let Some(rule) = find(&mut tried, name, &path, problems) else { continue };
            if let Some(enabled) = over.enabled {
                rule.enabled = enabled;
            }
            for (case, after) in terms(rule, over, &path, problems).into_iter().enumerate() {
                rule.cases[case].after = after;
            }
            match (&mut rule.action, &over.archive_for) {
                (_, None) => {}
                (Action::ArchiveRows { archive_for: term }, Some(_)) => {
                    if let Some(given) = archive_for(&path, name, over.archive_for.as_deref(), problems) {
                        *term = given;
                    }
                }
                _ => problems.add(&path, format!("`{path}.archive_for`: the rule `{name}` archives no rows")),
            }
        }
        if *region == file.region {
            rules.clone_from_slice(&tried);
        }
    }
    if !file.region.is_empty() && !file.regions.contains_key(&file.region) {
        let hint = did_you_mean(&file.region, file.regions.keys().map(String::as_str));
        let message = format!("`policy.region` names `{0}`, and there is no [policy.regions.{0}]{hint}", file.region);
        problems.add("policy.region", message);
    }
}

fn tenants(file: &File, rules: &mut [Rule], problems: &mut Problems) {
    for (tenant, overrides) in &file.tenants {
        for (name, over) in &overrides.rules {
            let path = format!("policy.tenants.{tenant}.rules.{name}");
            let Some(rule) = find(rules, name, &path, problems) else { continue };
            if over.archive_for.is_some() {
                let message = format!(
                    "`{path}.archive_for`: one file of an archive holds rows of several tenants; only regions can have it"
                );
                problems.add(format!("{path}.archive_for"), message);
            }
            let enabled = over.enabled.unwrap_or(true);
            let terms = terms(rule, over, &path, problems);
            rule.tenants.insert(tenant.clone(), terms.into_iter().map(|term| enabled.then_some(term)).collect());
        }
    }
}

fn find<'r>(rules: &'r mut [Rule], name: &str, path: &str, problems: &mut Problems) -> Option<&'r mut Rule> {
    let Some(at) = rules.iter().position(|rule| rule.name == name) else {
        let hint = did_you_mean(name, rules.iter().map(|rule| rule.name.as_str()));
        problems.add(path, format!("`{path}`: there is no rule `{name}`{hint}"));
        return None;
    };
    rules.get_mut(at)
}

/// The rule's terms, case by case, with those of `over`.
fn terms(rule: &Rule, over: &file::Override, path: &str, problems: &mut Problems) -> Vec<Duration> {
    if over.after.is_some() && rule.cases.len() > 1 {
        let names: Vec<&str> = rule.cases.iter().map(|case| case.name.as_str()).collect();
        let message = format!(
            "`{path}.after`: the rule `{}` has the cases {}; say which, as in [{path}.cases.{}]",
            rule.name,
            names.join(", "),
            names[0]
        );
        problems.add(format!("{path}.after"), message);
    }
    for name in over.cases.keys() {
        if !rule.cases.iter().any(|case| case.name == *name) {
            let hint = did_you_mean(name, rule.cases.iter().map(|case| case.name.as_str()));
            let at = format!("{path}.cases.{name}");
            problems.add(&at, format!("`{at}`: the rule `{}` has no case `{name}`{hint}", rule.name));
        }
    }
    let own = |case: &Case| over.cases.get(&case.name).and_then(|over| over.after);
    rule.cases.iter().map(|case| own(case).or(over.after).unwrap_or(case.after)).collect()
}

/// Adds the slack of access times, see [`Policy::slack`].
fn slacken(rule: &mut Rule, slack: Duration) {
    if matches!(rule.action, Action::Mark { .. }) {
        return;
    }
    for (at, case) in rule.cases.iter_mut().enumerate().filter(|(_, case)| case.date == ACCESSED) {
        case.after = case.after.saturating_add(slack);
        for terms in rule.tenants.values_mut() {
            if let Some(Some(term)) = terms.get_mut(at) {
                *term = term.saturating_add(slack);
            }
        }
    }
}

fn indexes(file: &File, problems: &mut Problems) -> Vec<Index> {
    let mut indexes = Vec::new();
    for (collection, given) in &file.collections {
        let path = format!("policy.collections.{collection}");
        for keys in &given.indexes {
            let is_field = |key: &String| !key.is_empty() && !key.starts_with('$') && !key.contains('\0');
            if keys.is_empty() || !keys.iter().all(is_field) || (1..keys.len()).any(|at| keys[..at].contains(&keys[at]))
            {
                let message = format!(
                    "`{path}.indexes` must be lists of fields, each named once, such as [[\"state\", \"closedAt\", \"_id\"]]"
                );
                problems.add(format!("{path}.indexes"), message);
                continue;
            }
            indexes.push(Index { collection: collection.clone(), keys: keys.clone() });
        }
    }
    indexes
}
