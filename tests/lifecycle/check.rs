//! Runs a job and holds what it left against the model.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use contextd_jobs::{Job, Outcome};

use crate::{
    model::{RULES, Stores, opted_in},
    place::Place,
};

/// The rules of a job; with `all`, those that are off by default, too.
pub fn rules_of(job: &str, all: bool) -> Vec<&'static str> {
    RULES.iter().filter(|(rule, of)| *of == job && (all || !opted_in(rule))).map(|(rule, _)| *rule).collect()
}

/// What the stores hold after these rules did their work once at `now`. What becomes free by that (a base whose last
/// difference went) may go in the same run: `to_the_end`.
pub fn predicted(before: &Stores, rules: &[&str], now: DateTime<Utc>, to_the_end: bool) -> Stores {
    let mut after = before.clone();
    loop {
        let mut changed = false;
        for rule in rules {
            let due = after.due(rule, now);
            changed |= !due.is_empty();
            after.apply(rule, &due, now);
        }
        if !changed || !to_the_end {
            return after;
        }
    }
}

/// Every difference, a line each: `-` is missing, `+` should not be there.
pub fn differences(expected: &BTreeSet<String>, found: &BTreeSet<String>) -> Vec<String> {
    let missing = expected.difference(found).map(|line| format!("- {line}"));
    missing.chain(found.difference(expected).map(|line| format!("+ {line}"))).collect()
}

/// Runs a job; what it did and what is wrong after it, in words.
pub async fn checked(place: &Place, job: &dyn Job, now: DateTime<Utc>, all: bool) -> (Outcome, Vec<String>) {
    let before = place.stores().await;
    let mut run = place.at(job, now);
    let mut wrong = match job.run(&mut run).await {
        Ok(()) => Vec::new(),
        Err(e) => vec![format!("{} at {now}: {e}", job.name())],
    };
    let after = place.stores().await;
    wrong.extend(compare(&before, &after, &rules_of(job.name(), all), now));
    (run.outcome, wrong)
}

/// What is wrong with `after`, when these rules were applied to `before`: in any order, and with or without what became
/// free by what others of them did.
pub fn compare(before: &Stores, after: &Stores, rules: &[&str], now: DateTime<Utc>) -> Vec<String> {
    let found = after.view();
    let backwards: Vec<&str> = rules.iter().rev().copied().collect();
    let orders = [(rules, false), (&backwards[..], false), (rules, true)];
    let right = orders.iter().any(|(rules, to_the_end)| predicted(before, rules, now, *to_the_end).view() == found);
    let mut wrong = Vec::new();
    if !right {
        wrong = differences(&predicted(before, rules, now, false).view(), &found);
    }
    wrong.extend(after.misplaced());
    wrong
}

/// Fails with all that is wrong.
pub fn right(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}
