//! `contextd policy`: the declared lifecycle policy.

use std::{fmt::Write, time::Duration};

use contextd_jobs::policy::{Action, Case, Policy, Rule};
use humantime_serde::re::humantime;
use mongodb::bson::Bson;
use serde_json::{Value, json};

use super::{
    failure::{Failure, Printed},
    plan, replay, table,
};
use crate::config::Config;

#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Lists the rules in force, and what is kept.
    Show {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Says what the rules would do now; changes nothing.
    Plan(plan::PlanArgs),
    /// Does what a plan says, or less.
    Apply(plan::ApplyArgs),
    /// Says which rules will act on one item, when and why, or what keeps it.
    Explain(plan::ExplainArgs),
    /// After a restore from a backup: destroys again what was destroyed since.
    Replay(replay::ReplayArgs),
}

pub fn show(policy: &Policy, json: bool) -> Result<Printed, Failure> {
    if json {
        return Printed::json(&as_json(policy));
    }
    let mut text = head(policy);
    let mut rules = table::new(&["rule", "job", "on", "due when", "after", "action", "cap", "tenants"]);
    for rule in by_name(policy) {
        for (at, case) in rule.cases.iter().enumerate() {
            let first = |text: String| if at == 0 { text } else { String::new() };
            rules.add_row([
                match (at, case.name.as_str()) {
                    (0, "") => named(rule),
                    (0, name) => format!("{}: {name}", named(rule)),
                    (_, name) => format!("  {name}"),
                },
                first(rule.job.clone()),
                first(rule.on.clone()),
                when(case),
                after(policy, rule, case),
                first(action(&rule.action)),
                first(cap(rule)),
                tenants(rule, at),
            ]);
        }
    }
    let _ = writeln!(text, "{rules}");
    let mut kept = table::new(&["kept for ever", "why"]);
    for (collection, why) in &policy.keep {
        kept.add_row([collection, why]);
    }
    let _ = write!(text, "{kept}");
    Ok(Printed::text(text))
}

/// What `contextd check` says.
pub fn summary(config: &Config) -> String {
    let policy = &config.policy;
    let mut text = head(policy);
    let mut rules = table::new(&["rule", "job", "on", "after", "action"]);
    for rule in by_name(policy) {
        let terms: Vec<String> = rule.cases.iter().map(|case| time(case.after)).collect();
        let terms = terms.join(", ");
        rules.add_row([named(rule), rule.job.clone(), rule.on.clone(), terms, action(&rule.action)]);
    }
    let _ = writeln!(text, "{rules}");
    let undecided = policy.undecided(config.records.values().map(|record| record.collection.as_str()));
    if !undecided.is_empty() {
        let _ = writeln!(
            text,
            "policy: nothing says what becomes of {}; it is kept. Declare a rule, or a reason in [policy.keep]",
            undecided.join(", ")
        );
    }
    text
}

fn head(policy: &Policy) -> String {
    let region = if policy.region.is_empty() { String::new() } else { format!(", region {}", policy.region) };
    let enabled = policy.rules.iter().filter(|rule| rule.enabled).count();
    format!("policy: version {}{region}, {enabled} rules in force, hash {}\n", policy.version, policy.hash)
}

fn by_name(policy: &Policy) -> Vec<&Rule> {
    let mut rules: Vec<&Rule> = policy.rules.iter().collect();
    rules.sort_by(|a, b| (&a.on, &a.name).cmp(&(&b.on, &b.name)));
    rules
}

fn named(rule: &Rule) -> String {
    if rule.enabled { rule.name.clone() } else { format!("{} (disabled)", rule.name) }
}

/// The condition as the policy writes it: `state = "active", userId is there, since lastActivityAt`.
fn when(case: &Case) -> String {
    let equal = case.equal.iter().map(|(name, value)| format!("{name} = {value}"));
    let present = case.present.iter().map(|name| format!("{name} is there"));
    let absent = case.absent.iter().map(|name| format!("no {name}"));
    let all: Vec<String> = equal.chain(present).chain(absent).chain([format!("since {}", case.date)]).collect();
    all.join(", ")
}

fn after(policy: &Policy, rule: &Rule, case: &Case) -> String {
    let slack = policy.slack(rule, case);
    if slack.is_zero() {
        return time(case.after);
    }
    format!("{} + {} slack", time(case.after.saturating_sub(slack)), time(slack))
}

fn action(action: &Action) -> String {
    match action {
        Action::Mark { state } => format!("mark {state}"),
        Action::ArchiveRows { archive_for } => format!("archive-rows for {}", time(*archive_for)),
        other => other.name().to_owned(),
    }
}

fn cap(rule: &Rule) -> String {
    let cap = rule.cap;
    if cap.share >= 1.0 {
        return format!("{} rows", cap.rows);
    }
    format!("{:.0} % or {} rows, {} at most", cap.share * 100.0, cap.floor, cap.rows)
}

/// The terms that tenants have of their own.
fn tenants(rule: &Rule, case: usize) -> String {
    let of = |(tenant, terms): (&String, &Vec<Option<Duration>>)| match terms.get(case).copied().flatten() {
        Some(term) => format!("{tenant}: {}", time(term)),
        None => format!("{tenant}: never"),
    };
    rule.tenants.iter().map(of).collect::<Vec<_>>().join(", ")
}

/// Days as days: a term of 90 days is not "2months 29days 3h".
fn time(term: Duration) -> String {
    let days = term.as_secs() / 86_400;
    let rest = term - Duration::from_secs(days * 86_400);
    match (days, rest.is_zero()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (_, true) => format!("{days}d"),
        (_, false) => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

fn as_json(policy: &Policy) -> Value {
    let rule = |rule: &Rule| {
        let cases = rule.cases.iter().enumerate().map(|(at, case)| case_json(policy, rule, at, case));
        let mut json = json!({
            "name": rule.name,
            "job": rule.job,
            "enabled": rule.enabled,
            "on": rule.on,
            "cases": cases.collect::<Vec<_>>(),
            "guards": rule.guards,
            "action": rule.action.name(),
            "cap": { "share": rule.cap.share, "floor": rule.cap.floor, "rows": rule.cap.rows },
        });
        let own = match &rule.action {
            Action::Mark { state } => json!({ "state": state }),
            Action::Anonymize { keep, random } => json!({ "keep": keep, "random": random }),
            Action::ArchiveRows { archive_for } => json!({ "archiveForSeconds": archive_for.as_secs() }),
            _ => json!({}),
        };
        if let (Some(json), Value::Object(own)) = (json.as_object_mut(), own) {
            json.extend(own);
        }
        json
    };
    json!({
        "version": policy.version,
        "hash": policy.hash,
        "region": policy.region,
        "skewSeconds": policy.skew.as_secs_f64(),
        "accessSlackSeconds": policy.access_slack.as_secs_f64(),
        "rules": by_name(policy).into_iter().map(rule).collect::<Vec<_>>(),
        "keep": policy.keep,
    })
}

fn case_json(policy: &Policy, rule: &Rule, at: usize, case: &Case) -> Value {
    let equal = |value: &Bson| match value {
        Bson::String(text) => json!(text),
        Bson::Boolean(is) => json!(is),
        other => json!(other.as_i64()),
    };
    let tenants = rule.tenants.iter().map(|(tenant, terms)| {
        let term = terms.get(at).copied().flatten().map(|term| term.as_secs());
        (tenant.clone(), json!(term))
    });
    json!({
        "name": case.name,
        "where": case.equal.iter().map(|(name, value)| (name.clone(), equal(value))).collect::<serde_json::Map<_, _>>(),
        "present": case.present,
        "absent": case.absent,
        "date": case.date,
        "afterSeconds": case.after.as_secs_f64(),
        "slackSeconds": policy.slack(rule, case).as_secs_f64(),
        "tenantsAfterSeconds": tenants.collect::<serde_json::Map<_, _>>(),
    })
}
