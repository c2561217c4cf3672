//! Rules that want different things of the same rows.

use std::time::Duration;

use super::{Case, Policy, Rule, check::strength, load::Problems};

/// Two enabled rules on one collection may meet the same rows only as steps: the stronger one later, by the same date.
pub(super) fn check(policy: &Policy, problems: &mut Problems) {
    let rules: Vec<&Rule> = policy.rules.iter().filter(|rule| rule.enabled).collect();
    for (at, a) in rules.iter().enumerate() {
        for b in rules[at + 1..].iter().filter(|b| b.on == a.on) {
            let met = a.cases.iter().enumerate().flat_map(|(i, _)| (0..b.cases.len()).map(move |j| (i, j)));
            if let Some(why) = met.into_iter().find_map(|(i, j)| fight(a, i, b, j)) {
                let message = format!(
                    "the rules `{}` and `{}` fight over the same rows of `{}`: {why}. Let their `where` differ, or let the \
                     stronger action follow later by the same `date`",
                    a.name, b.name, a.on
                );
                problems.add(format!("policy.rules.{}", b.name), message);
            }
        }
    }
}

/// Why these two cases fight, if they do.
fn fight(a: &Rule, i: usize, b: &Rule, j: usize) -> Option<String> {
    let (case_a, case_b) = (a.cases.get(i)?, b.cases.get(j)?);
    if disjoint(case_a, case_b) || disjoint(case_b, case_a) {
        return None;
    }
    let (weak, strong) = (strength(&a.action), strength(&b.action));
    if weak == strong {
        return Some(format!("`{}` and `{}` both take all of a row", a.action.name(), b.action.name()));
    }
    if case_a.date != case_b.date {
        return Some(format!("one counts from `{}`, the other from `{}`", case_a.date, case_b.date));
    }
    let ((first, i), (last, j)) = if weak < strong { ((a, i), (b, j)) } else { ((b, j), (a, i)) };
    let tenants = first.tenants.keys().chain(last.tenants.keys()).map(Some);
    tenants.chain([None]).find_map(|tenant| {
        let of = |rule: &Rule, case| rule.term(case, tenant.map(String::as_str));
        let (early, late): (Duration, Duration) = (of(first, i)?, of(last, j)?);
        let whose = tenant.map(|name| format!(" for the tenant `{name}`")).unwrap_or_default();
        (early >= late).then(|| {
            format!("`{}` comes{whose} no later than `{}`, which is weaker", last.action.name(), first.action.name())
        })
    })
}

/// Whether no row meets both, by what `a` has to be and `b` must not.
fn disjoint(a: &Case, b: &Case) -> bool {
    let differ = |name: &String, value| b.equal.iter().any(|(other, theirs)| other == name && theirs != value);
    let lacks = |name: &String| b.absent.contains(name);
    a.equal.iter().any(|(name, value)| differ(name, value) || lacks(name))
        || a.present.iter().any(lacks)
        || lacks(&a.date)
}
