//! A dry run names exactly what a run takes from frozen data, and changes nothing.

use std::collections::BTreeMap;

use crate::{
    boundaries::at,
    check::{compare, differences, right, rules_of},
    model::collection,
    place::Place,
    terms::population,
};

async fn plan_is_run(job: &str) {
    let now = at();
    let place = Place::with(crate::rows::OPTED_IN).await;
    let policy = (*place.world.policy).clone();
    place.put(&population(now, job, &policy)).await;
    let before = place.stores().await;

    let work = place.job(job);
    let mut dry = place.at(&*work, now);
    dry.dry_run = true;
    dry.keep_notes();
    work.run(&mut dry).await.expect("a dry run");
    let mut noted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for note in dry.notes() {
        noted.entry(note.rule).or_default().push(note.id.as_str().expect("a text").to_owned());
    }
    let after = place.stores().await;
    let mut wrong = differences(&before.view(), &after.view());
    wrong.extend(differences_of_counts(&before.rows, &after.rows));

    let mut run = place.at(&*work, now);
    work.run(&mut run).await.expect("a run");
    let found = place.stores().await;
    for rule in rules_of(job, true) {
        let mut told = noted.remove(rule).unwrap_or_default();
        told.sort();
        let expected: Vec<String> = before.due(rule, now).into_iter().collect();
        if told != expected {
            wrong.push(format!("{rule}: planned {told:?}, due are {expected:?}"));
        }
        let done = run.outcome.rules.get(rule).map(|counts| counts.done).unwrap_or_default();
        let counted = dry.outcome.rules.get(rule).map(|counts| counts.done).unwrap_or_default();
        if done != expected.len() as u64 || counted != done {
            wrong.push(format!(
                "{rule}: {counted} planned, {done} done, {} due in {}",
                expected.len(),
                collection(rule)
            ));
        }
    }
    wrong.extend(compare(&before, &found, &rules_of(job, true), now));
    place.end().await;
    right(job, &wrong);
}

/// Collections with more or fewer rows than before.
fn differences_of_counts<V>(
    before: &BTreeMap<String, BTreeMap<String, V>>,
    after: &BTreeMap<String, BTreeMap<String, V>>,
) -> Vec<String> {
    let len = |of: &BTreeMap<String, BTreeMap<String, V>>, name: &str| of.get(name).map_or(0, BTreeMap::len);
    let differs = |name: &&String| len(before, name) != len(after, name);
    after.keys().filter(differs).map(|name| format!("a dry run changed {name}")).collect()
}

macro_rules! plans {
    ($($name:ident: $job:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            plan_is_run($job).await;
        }
    )*};
}

plans! {
    sessions_go_as_planned: "session-archival",
    versions_go_as_planned: "version-pruning",
    anonymous_documents_go_as_planned: "anonymous-cleanup",
    documents_are_archived_as_planned: "document-archival",
    people_are_anonymized_as_planned: "anonymization",
    logins_are_archived_as_planned: "auth-log-archival",
    what_was_retained_goes_as_planned: "retention",
}
