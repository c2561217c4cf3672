//! 520 days on a simulated clock, hour by hour, over a leap day and three changes of summer time: what people do goes on
//! at random, the jobs run at their slots, and after each of their runs the stores are those of the model.

mod clock;
mod events;

use chrono::{DateTime, TimeDelta, Utc};
use contextd::schedule::Timetable;

use crate::{
    check::{compare, right, rules_of},
    model::{HOUR, Stores, text},
    place::Place,
};

/// Nothing to wait for: the database is the test's own. Slots that summer time skips or repeats are among them.
const SETTINGS: &str = r#"
[policy.rules.archive-end]
enabled = true

[jobs.session_archival]
cron = "20 * * * *"
zone = "Europe/Berlin"
lag = "0s"
latency = "0s"
yield_share = 1.0
[jobs.version_pruning]
cron = "40 * * * *"
zone = "Europe/Berlin"
lag = "0s"
latency = "0s"
yield_share = 1.0
[jobs.anonymous_cleanup]
cron = "50 * * * *"
zone = "Europe/Berlin"
lag = "0s"
latency = "0s"
yield_share = 1.0
[jobs.retention]
cron = "30 2 * * *"
zone = "Europe/Berlin"
lag = "0s"
latency = "0s"
yield_share = 1.0
[jobs.document_archival]
cron = "5 3 * * *"
zone = "Europe/Berlin"
lag = "0s"
latency = "0s"
yield_share = 1.0
[jobs.anonymization]
cron = "59 1 * * *"
zone = "Europe/Berlin"
lag = "0s"
latency = "0s"
yield_share = 1.0
[jobs.auth_log_archival]
cron = "0 0 * * *"
zone = "Europe/Berlin"
lag = "0s"
latency = "0s"
yield_share = 1.0
"#;

const JOBS: [(&str, i64); 7] = [
    ("session-archival", 1),
    ("version-pruning", 1),
    ("anonymous-cleanup", 1),
    ("retention", 25),
    ("document-archival", 25),
    ("anonymization", 25),
    ("auth-log-archival", 25),
];

pub struct Simulation {
    pub place: Place,
    pub random: fastrand::Rng,
    /// What is in the stores, as far as anybody knows.
    pub stores: Stores,
    /// Rows that were changed in this step, and not written yet.
    pub dirty: std::collections::BTreeSet<(String, String)>,
    pub names: u64,
    /// When a live key of a session ends.
    pub live_until: std::collections::BTreeMap<String, DateTime<Utc>>,
}

impl Simulation {
    /// All that is known of what a line of differences is about.
    fn about(&self, line: &str) -> String {
        let place = line.trim_start_matches(['-', '+', ' ']).split(' ').next().unwrap_or_default();
        let Some(row) = place.split_once('/').and_then(|(collection, id)| self.stores.row(collection, id)) else {
            return String::new();
        };
        let mut told = format!("\n  {place} was {row}");
        for (collection, field) in [("documents", "documentId"), ("users", "userId"), ("sessions", "sessionId")] {
            if let Some(owner) = text(row, field).and_then(|id| self.stores.row(collection, id)) {
                told.push_str(&format!("\n    of {collection} {owner}"));
            }
        }
        told
    }
}

struct Due {
    job: &'static str,
    at: DateTime<Utc>,
}

/// The slots of all jobs after `from`, up to `to`, in their order.
fn slots(table: &[(&'static str, Timetable)], from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Due> {
    let mut due = Vec::new();
    for (job, table) in table {
        let mut at = from;
        while let Some(next) = table.next(at).filter(|next| *next <= to) {
            due.push(Due { job, at: next });
            at = next;
        }
    }
    due.sort_by_key(|due| due.at);
    due
}

async fn simulate(seed: u64, days: i64, busy: f64, stride: u64) {
    println!("seed {seed}");
    let mut place = Place::with(SETTINGS).await;
    place.evidence = false;
    let table: Vec<_> = JOBS.iter().map(|(name, _)| (*name, place.table(name))).collect();
    let mut sim = Simulation {
        place,
        random: fastrand::Rng::with_seed(seed),
        stores: Stores::default(),
        dirty: Default::default(),
        names: 0,
        live_until: Default::default(),
    };
    let start = DateTime::parse_from_rfc3339("2023-11-01T00:00:00Z").expect("a time").to_utc();
    let mut last: std::collections::BTreeMap<&str, DateTime<Utc>> = JOBS.iter().map(|(job, _)| (*job, start)).collect();
    let (mut runs, mut acted, mut skipped) = (0_u64, std::collections::BTreeMap::<String, u64>::new(), 0_u64);
    for hour in 0..days * 24 {
        let from = start + TimeDelta::hours(hour);
        if hour % 720 == 0 {
            println!("{from}: {runs} runs, {skipped} with nothing near");
        }
        let to = from + TimeDelta::hours(1);
        for due in slots(&table, from - TimeDelta::milliseconds(1), to - TimeDelta::milliseconds(1)) {
            let hours = JOBS.iter().find(|(job, _)| *job == due.job).expect("known").1;
            let gap = due.at - last.insert(due.job, due.at).expect("known");
            assert!(gap.num_milliseconds() <= hours * HOUR, "{} waited {gap} for {}", due.job, due.at);
            sim.live_until_now(due.at).await;
            let rules = rules_of(due.job, true);
            let expected: usize = rules.iter().map(|rule| sim.stores.due(rule, due.at).len()).sum();
            // What comes due within two hours is looked at for being early; of the rest every so manieth run.
            let soon = rules.iter().any(|rule| !sim.stores.due(rule, due.at + TimeDelta::hours(2)).is_empty());
            if expected == 0 && !soon && sim.random.u64(0..stride) > 0 {
                skipped += 1;
                continue;
            }
            let outcome = sim.place.run(due.job, due.at).await;
            runs += 1;
            if expected == 0 && outcome.changed == 0 && sim.random.u8(0..24) > 0 {
                continue;
            }
            let after = sim.place.stores().await;
            let wrong = compare(&sim.stores, &after, &rules, due.at);
            let mut what = format!("seed {seed}, {} at {}: {outcome:?}", due.job, due.at);
            for line in wrong.iter().take(3) {
                what.push_str(&sim.about(line));
            }
            right(&what, &wrong);
            for (action, rows) in &outcome.by_action {
                *acted.entry(action.clone()).or_default() += rows;
            }
            sim.stores = after;
        }
        if sim.random.f64() < busy {
            sim.something_happens(to).await;
        }
    }
    println!("{runs} runs, {skipped} with nothing near; {acted:?}");
    let kinds = ["archive-session", "prune", "mark", "archive", "soft-delete", "purge", "anonymize", "archive-rows"];
    println!(
        "tombstones: {}, history: {}",
        sim.stores.of("tombstones").count(),
        sim.stores.of("session_history").count()
    );
    if days >= 520 {
        let idle: Vec<&&str> = kinds.iter().filter(|kind| !acted.keys().any(|key| key.contains(**kind))).collect();
        println!("actions without a run: {idle:?}");
    }
    sim.place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_and_twenty_days_are_those_of_the_model() {
    simulate(20_240_229, 520, 0.30, 12).await;
}

/// Another seed each time, every slot run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long: cargo test --test lifecycle -- --ignored many_days"]
async fn many_days_at_random() {
    simulate(fastrand::u64(..), 1_100, 0.8, 1).await;
}
