//! The lifecycle at work: a few people's data, made by tasks in a database of its own, and then the clock is moved.

use std::{path::PathBuf, sync::Arc};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use contextd_jobs::kit::chain;
use serde::Serialize;
use serde_json::{Value, json};

use super::page::{Page, bad, good};
use crate::{
    cli::{failure::Failure, queues, table},
    clock,
    config::Config,
    intake::Link,
    lifecycle,
    metrics::Metrics,
    pipeline::{self, RunOptions, Signals},
    schedule::{self, Outcome},
    store::Store,
    task::Priority,
};

/// The queue of records.
const RECORDS_QUEUE: &str = "records";
/// How far the clock is moved, step by step, and what comes due by then.
const MOVES: [(i64, &str); 4] = [
    (2, "two days on: sessions are over, minor versions have had their day"),
    (32, "a month on: what was deleted is due, and what nobody came back for"),
    (100, "three months on: what nobody has opened is archived"),
    (370, "a year on: logs of logins are archived"),
];

/// What one job did at one moved time.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub moved_to: DateTime<Utc>,
    pub job: &'static str,
    pub done: Vec<(String, u64)>,
    /// Rows that were due and stayed, by rule and reason.
    pub stayed: Vec<(String, String, u64)>,
}

/// The lifecycle's part of the account.
#[derive(Debug, Clone, Serialize)]
pub struct Aged {
    /// Tasks that made the data.
    pub tasks: usize,
    pub steps: Vec<Step>,
    /// Entries of the audit log, and whether the chain over them is sound.
    pub entries: u64,
    pub is_sound: bool,
    pub problems: Vec<String>,
}

/// Makes the data, moves the clock, runs every job of the lifecycle each time.
///
/// # Errors
/// A service cannot be reached, or a run fails.
pub async fn age(config: &Config, metrics: Arc<Metrics>) -> Result<Aged, Failure> {
    let place = std::env::temp_dir().join(format!("contextd-demo-{}", uuid::Uuid::now_v7()));
    let own = apart(config, &place);
    let store = Store::new(&own.mongodb).await.map_err(Failure::Configuration)?;
    store.database().drop().await.map_err(|e| Failure::Unavailable(format!("MongoDB: {}", e.kind)))?;
    let started = clock::now();
    let tasks = tasks(started);
    let aged = async {
        work(&own, &tasks, metrics).await?;
        run_all(&own, &store, started, tasks.len()).await
    };
    let aged = aged.await;
    store.database().drop().await.map_err(|e| Failure::Unavailable(format!("MongoDB: {}", e.kind)))?;
    let _ = std::fs::remove_dir_all(&place);
    aged
}

/// The settings with everything in a place of its own: nothing of the user's is ever under a moved clock.
fn apart(config: &Config, place: &std::path::Path) -> Config {
    let mut own = config.clone();
    own.mongodb.database = format!("{}_demo_lifecycle", own.mongodb.database);
    own.namespace = format!("{}_demo_{}", own.namespace, uuid::Uuid::now_v7().simple());
    let below = |name: &str| -> String { PathBuf::from(place).join(name).display().to_string() };
    own.content.url = below("objects");
    own.content.archive_url = below("archive");
    own.audit.url = below("audit");
    own.http.listen = "127.0.0.1:0".into();
    own
}

/// Two users, an anonymous visitor, and what they made; in the order in which it happened.
fn tasks(now: DateTime<Utc>) -> Vec<String> {
    let deleted = now.to_rfc3339_opts(SecondsFormat::Millis, true);
    let all = [
        ("user.save.v1", json!({"userId": "ada", "email": "ada@example.org", "firstName": "Ada"})),
        ("user.save.v1", json!({"userId": "bo", "email": "bo@example.org", "firstName": "Bo"})),
        ("session.persist.v1", json!({"sessionId": "visit", "status": "active"})),
        ("session.persist.v1", json!({"sessionId": "morning", "userId": "ada", "status": "active"})),
        (
            "document.save.v1",
            json!({"documentId": "draft", "sessionId": "visit", "title": "A visitor's draft", "content": "Never claimed."}),
        ),
        (
            "document.save.v1",
            json!({"documentId": "novel", "userId": "ada", "title": "A novel", "content": "It was a dark and stormy night."}),
        ),
        (
            "document.save.v1",
            json!({"documentId": "recipe", "userId": "ada", "title": "A recipe", "content": "Take three eggs."}),
        ),
        (
            "document.save.v1",
            json!({"documentId": "contract", "userId": "ada", "title": "A contract", "content": "Between A and B."}),
        ),
        (
            "document.save.v1",
            json!({"documentId": "diary", "userId": "bo", "title": "A diary", "content": "Dear diary."}),
        ),
        (
            "version.save.v1",
            json!({"documentId": "novel", "versionId": "novel-1", "kind": "minor", "content": "It was a night."}),
        ),
        (
            "version.save.v1",
            json!({"documentId": "novel", "versionId": "novel-2", "kind": "major", "content": "It was a dark night."}),
        ),
        (
            "version.save.v1",
            json!({"documentId": "novel", "versionId": "novel-3", "kind": "ai", "content": "It was a night like no other."}),
        ),
        ("version.decide.v1", json!({"versionId": "novel-3", "decision": "rejected", "decidedBy": "ada"})),
        (
            "interaction.persist.v1",
            json!({"interactionId": "talk", "sessionId": "morning", "documentId": "novel", "role": "user", "request": "A better opening?", "response": "Try a storm."}),
        ),
        (
            "ai_interaction.log.v1",
            json!({"aiInteractionId": "asked", "userId": "ada", "documentId": "novel", "aiResponse": "Try a storm."}),
        ),
        ("auth.log.v1", json!({"userId": "ada", "event": "login", "success": true})),
        (
            "hold.place.v1",
            json!({"holdId": "case-1", "entityType": "document", "entityId": "contract", "reason": "A dispute", "placedBy": "legal"}),
        ),
        ("document.delete.v1", json!({"documentId": "recipe", "deletedAt": deleted, "actor": "ada"})),
        ("document.delete.v1", json!({"documentId": "contract", "deletedAt": deleted, "actor": "ada"})),
        ("user.delete.v1", json!({"userId": "bo", "deletedAt": deleted, "actor": "bo"})),
    ];
    let event = |(at, (kind, data)): (usize, &(&str, Value))| {
        json!({"specversion": "1.0", "id": format!("aged-{at:02}"), "source": "/demo", "type": kind,
            "time": deleted, "data": data})
        .to_string()
    };
    all.iter().enumerate().map(event).collect()
}

/// Pushes the tasks and works on them until nothing is left.
async fn work(own: &Config, tasks: &[String], metrics: Arc<Metrics>) -> Result<(), Failure> {
    let link = Link::new(&own.redis).map_err(Failure::Configuration)?;
    let admin = queues::admin(own, &link, RECORDS_QUEUE)?;
    let bodies: Vec<(Priority, &[u8])> = tasks.iter().map(|task| (Priority::Normal, task.as_bytes())).collect();
    // Each waits for the ones before it: they are sent as they happened.
    for body in bodies {
        admin.push(&[body]).await?;
    }
    let options = RunOptions {
        queues: vec![RECORDS_QUEUE.to_owned()],
        no_scheduler: true,
        until_drained: true,
        no_migrate: false,
        links: false,
    };
    Ok(pipeline::run(own.clone(), options, metrics, Signals::default()).await?)
}

async fn run_all(own: &Config, store: &Store, started: DateTime<Utc>, tasks: usize) -> Result<Aged, Failure> {
    let world = lifecycle::world(own).map_err(Failure::Configuration)?;
    let jobs = schedule::jobs(&own.jobs, &world)?;
    let mut aged = Aged { tasks, steps: Vec::new(), entries: 0, is_sound: false, problems: Vec::new() };
    for (days, _) in MOVES {
        let now = started + TimeDelta::days(days);
        // Redis has a clock of its own: what would have expired by now is dropped.
        let sessions = ["visit".to_owned(), "morning".to_owned()];
        world.caches.end_sessions(&sessions).await.map_err(|e| Failure::Unavailable(e.to_string()))?;
        for job in &jobs {
            let outcome = schedule::simulate(store.database(), job, now).await;
            let outcome = outcome.map_err(|e| Failure::Wrong(format!("job `{}`: {e}", job.name())))?;
            aged.steps.extend(step(now, job.name(), &outcome));
        }
    }
    let key = world.audit_key.as_ref();
    chain::link(store.database(), key).await.map_err(|e| Failure::Wrong(e.to_string()))?;
    let checked = chain::verify(store.database(), key, Some(world.anchors.as_ref()), started).await;
    let verdict = checked.map_err(|e| Failure::Wrong(e.to_string()))?;
    (aged.entries, aged.is_sound) = (verdict.entries, verdict.is_sound());
    if !aged.is_sound {
        aged.problems.push("the audit chain is damaged".into());
    }
    for (job, action) in [
        ("session-archival", "archive-session"),
        ("version-pruning", "prune"),
        ("anonymous-cleanup", "purge"),
        ("retention", "purge"),
        ("anonymization", "anonymize"),
        ("document-archival", "archive"),
        ("auth-log-archival", "archive-rows"),
    ] {
        let did = aged.steps.iter().any(|step| step.job == job && step.done.iter().any(|(name, _)| name == action));
        if !did {
            aged.problems.push(format!("the job {job} had nothing to {action}"));
        }
    }
    Ok(aged)
}

/// None: it had nothing to do.
fn step(moved_to: DateTime<Utc>, job: &'static str, outcome: &Outcome) -> Option<Step> {
    let done: Vec<(String, u64)> =
        outcome.by_action.iter().filter(|(_, n)| **n > 0).map(|(name, n)| (name.clone(), *n)).collect();
    let stayed = outcome
        .rules
        .iter()
        .flat_map(|(rule, counts)| counts.left.iter().map(move |(why, n)| (rule.clone(), why.clone(), *n)));
    let stayed: Vec<_> = stayed.collect();
    (!done.is_empty() || stayed.iter().any(|(_, why, _)| why == "held")).then_some(Step { moved_to, job, done, stayed })
}

/// The account as text.
pub fn render(page: &mut Page, aged: &Aged) {
    page.heading("The data lifecycle, with the clock moved ahead");
    page.para(
        "",
        &format!(
            "{} more tasks made two users and an anonymous visitor in a database of their own, which is removed again. \
             Then its clock (and no other) was moved, and every job ran.",
            aged.tasks
        ),
    );
    let mut rows = table::new(&["clock at", "job", "did", "stayed"]);
    let mut last = None;
    for step in &aged.steps {
        let at = if last == Some(step.moved_to) { String::new() } else { step.moved_to.format("%Y-%m-%d").to_string() };
        last = Some(step.moved_to);
        let did: Vec<String> = step.done.iter().map(|(action, n)| format!("{action} {n}")).collect();
        let stayed: Vec<String> = step.stayed.iter().map(|(_, why, n)| format!("{n} {why}")).collect();
        rows.add_row([at, step.job.to_owned(), did.join(", "), stayed.join(", ")]);
    }
    page.table(&mut rows);
    for (days, what) in MOVES {
        page.line(&format!("  +{days} days  {what}"));
    }
    page.line("The contract stayed: a legal hold is on it. `contextd policy show` lists the rules.");
    let chain = format!("{} entries of evidence in the audit log, the chain over them is", aged.entries);
    page.line(&if aged.is_sound {
        format!("{chain} {}", good("sound"))
    } else {
        format!("{chain} {}", bad("damaged"))
    });
}
