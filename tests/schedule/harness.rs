use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use contextd::{
    clock,
    config::{JobTiming, Misfire, Overlap},
    schedule::{Handle, Identity, RunReport, ScheduleEvents, ScheduledJob, Scheduler},
};
use contextd_jobs::{
    Job, JobError, Run,
    kit::{from_bson, to_bson},
};
use futures::{TryStreamExt, future::BoxFuture};
use mongodb::{
    Client, Database,
    bson::{Document, doc},
};

/// A database of its own; the test drops it.
pub async fn db() -> Database {
    // Shown when a test fails.
    let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("contextd=debug").try_init();
    let client = Client::with_uri_str(uri()).await.expect("MongoDB answers");
    client.database(&format!("schedule_{}", uuid::Uuid::now_v7().simple()))
}

pub use crate::services::uri;

type Body = Box<dyn for<'a> Fn(&'a mut Run) -> BoxFuture<'a, Result<(), JobError>> + Send + Sync>;

/// A job that does what the test says.
pub struct Probe(pub Body);

impl Job for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn actions(&self) -> &'static [&'static str] {
        &["probe"]
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<(), JobError>> {
        (self.0)(run)
    }
}

pub fn timing(cron: &str) -> JobTiming {
    JobTiming {
        enabled: true,
        cron: cron.into(),
        zone: chrono_tz::UTC,
        misfire: Misfire::Once,
        catch_up: Duration::from_secs(7 * 86_400),
        overlap: Overlap::Skip,
    }
}

pub fn probe(
    timing: JobTiming,
    body: impl for<'a> Fn(&'a mut Run) -> BoxFuture<'a, Result<(), JobError>> + Send + Sync + 'static,
) -> ScheduledJob {
    ScheduledJob::new(timing, Arc::new(Probe(Box::new(body)))).expect("a valid timetable")
}

/// A worker whose clock is off by `skew` seconds.
pub fn identity(name: &str, skew: i64, lease: Duration) -> Identity {
    Identity {
        worker: name.into(),
        clock: Arc::new(move || clock::now() + TimeDelta::seconds(skew)),
        lease,
        timeout: Duration::from_secs(10),
    }
}

/// What a scheduler told.
#[derive(Default)]
pub struct Heard {
    pub started: AtomicU64,
    pub missed: AtomicU64,
    pub overlaps: AtomicU64,
    pub leads: AtomicU64,
    pub reports: Mutex<Vec<RunReport>>,
}

impl Heard {
    pub fn reports(&self) -> Vec<RunReport> {
        self.reports.lock().expect("not poisoned").clone()
    }
}

impl ScheduleEvents for Heard {
    fn on_start(&self, _: &'static str, _: DateTime<Utc>) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }
    fn on_finish(&self, report: &RunReport) {
        self.reports.lock().expect("not poisoned").push(report.clone());
    }
    fn on_missed(&self, _: &'static str, slots: u64) {
        self.missed.fetch_add(slots, Ordering::SeqCst);
    }
    fn on_overlap(&self, _: &'static str, slots: u64) {
        self.overlaps.fetch_add(slots, Ordering::SeqCst);
    }
    fn on_leader(&self, leads: bool) {
        self.leads.store(leads.into(), Ordering::SeqCst);
    }
}

pub async fn start(db: &Database, me: Identity, job: &ScheduledJob) -> (Handle, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let handle = Scheduler::start(db, me, vec![job.clone()], heard.clone()).await.expect("it starts");
    (handle, heard)
}

/// The job's document, as if it had been made long ago: its next slot is the first from `ago` before now.
pub async fn overdue(db: &Database, job: &ScheduledJob, ago: TimeDelta) -> DateTime<Utc> {
    let me = identity("test", 0, Duration::from_secs(2));
    Scheduler::start(db, me, vec![job.clone()], Arc::new(contextd::schedule::NoEvents))
        .await
        .expect("it starts")
        .kill()
        .await;
    let table = contextd::schedule::Timetable::new(job.cron(), chrono_tz::UTC).expect("valid");
    let next = table.next(server_now(db).await - ago).expect("a slot");
    set(db, doc! { "nextAt": to_bson(next), "leaseUntil": mongodb::bson::DateTime::from_millis(0), "owner": null, "running": null })
        .await;
    db.collection::<Document>("job_schedules").delete_one(doc! { "_id": "(leader)" }).await.expect("deleted");
    db.collection::<Document>("job_runs").delete_many(doc! {}).await.expect("deleted");
    next
}

pub async fn set(db: &Database, fields: Document) {
    let schedules = db.collection::<Document>("job_schedules");
    schedules.update_one(doc! { "_id": "probe" }, doc! { "$set": fields }).await.expect("updated");
}

pub async fn schedule(db: &Database) -> Document {
    let found = db.collection::<Document>("job_schedules").find_one(doc! { "_id": "probe" }).await.expect("read");
    found.expect("the job has a document")
}

pub async fn server_now(db: &Database) -> DateTime<Utc> {
    let hello = db.run_command(doc! { "hello": 1 }).await.expect("answers");
    from_bson(*hello.get_datetime("localTime").expect("the server's time"))
}

pub async fn all(db: &Database, collection: &str) -> Vec<Document> {
    let found = db.collection::<Document>(collection).find(doc! {}).sort(doc! { "_id": 1 }).await.expect("read");
    found.try_collect().await.expect("read")
}

pub fn time(document: &Document, field: &str) -> DateTime<Utc> {
    from_bson(*document.get_datetime(field).unwrap_or_else(|e| panic!("{field}: {e} in {document}")))
}

/// Waits until `probe` gives something; fails after 30 s.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    for _ in 0..600 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in 30 s: {what}")
}

/// Waits until `count` runs have ended, and gives all records.
pub async fn ended(db: &Database, count: usize) -> Vec<Document> {
    until(&format!("{count} runs end"), || async {
        let runs = all(db, "job_runs").await;
        (runs.iter().filter(|r| r.get_datetime("finishedAt").is_ok()).count() >= count).then_some(runs)
    })
    .await
}

pub trait Fields {
    /// "" if it is no text.
    fn text(&self, field: &str) -> &str;
    fn number(&self, field: &str) -> i64;
}

impl Fields for Document {
    fn text(&self, field: &str) -> &str {
        self.get_str(field).unwrap_or_default()
    }

    fn number(&self, field: &str) -> i64 {
        self.get_i64(field).unwrap_or_else(|e| panic!("{field}: {e} in {self}"))
    }
}
