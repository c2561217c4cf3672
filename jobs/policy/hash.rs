//! One number for everything that decides what is destroyed.

use super::Policy;

/// BLAKE3 over a canonical form of the policy, hexadecimal: rules, terms as they are declared, caps and what is kept; not the
/// version, and not the regions that are not in force.
pub(super) fn hash(policy: &Policy) -> String {
    let mut hasher = blake3::Hasher::new();
    // Each part with its length before it: no two policies read the same.
    let mut part = |text: String| {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    };
    part("contextd policy 1".to_owned());
    part(format!("skew {:?} slack {:?}", policy.skew, policy.access_slack));
    for rule in &policy.rules {
        part(format!("rule {} {} {} {:?}", rule.name, rule.enabled, rule.on, rule.action));
        let mut guards = rule.guards.clone();
        guards.sort_unstable();
        part(format!("{} {:?} {} {} {}", rule.job, guards, rule.cap.share, rule.cap.floor, rule.cap.rows));
        for case in &rule.cases {
            let (mut equal, mut absent, mut present) = (case.equal.clone(), case.absent.clone(), case.present.clone());
            equal.sort_by(|a, b| a.0.cmp(&b.0));
            absent.sort_unstable();
            present.sort_unstable();
            part(format!("case {} {equal:?} {absent:?} {present:?} {} {:?}", case.name, case.date, case.after));
        }
        for (tenant, terms) in &rule.tenants {
            part(format!("tenant {tenant} {terms:?}"));
        }
    }
    for collection in policy.keep.keys() {
        part(format!("keep {collection}"));
    }
    hasher.finalize().to_hex().to_string()
}
