//! `make scale`: purging documents with their versions against the bare driver's bulk deletes of the same rows, on the
//! services that the environment names; and what a foreign writer feels of it.
//!
//! The rows have no objects: what is measured is the database's part, and the listings that find none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use contextd::{config, lifecycle, store::Store};
use contextd_jobs::{
    engine::Engine,
    kit::{Run, to_bson},
    policy::Rule,
};
use mongodb::{
    Database,
    bson::{Bson, Document, doc},
    options::{Acknowledgment, InsertManyOptions, WriteConcern},
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of one insert, and of one of the bare driver's deletes.
const PAGE: usize = 1_000;

#[derive(Parser)]
struct Options {
    /// Documents that are due
    #[arg(long, default_value_t = 100_000)]
    documents: usize,
    /// Versions of each
    #[arg(long, default_value_t = 10)]
    versions: usize,
    /// cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    contextd::install_tls();
    let options = Options::parse();
    tokio::runtime::Runtime::new()?.block_on(measure(&options))
}

async fn measure(options: &Options) -> Result<()> {
    let place = tempfile::tempdir()?;
    let mut settings = config::load(None, config::environment()).map_err(|e| anyhow::anyhow!("{e}"))?;
    settings.mongodb.database = "contextd_scale".into();
    settings.content.url = place.path().join("objects").display().to_string();
    settings.content.archive_url = place.path().join("archive").display().to_string();
    settings.audit.url = place.path().join("audit").display().to_string();
    let store = Store::new(&settings.mongodb).await.map_err(anyhow::Error::msg)?;
    let db = store.database().clone();
    db.drop().await?;
    let now = now(&db).await?;
    store.migrate(now).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    let rows = options.documents * (options.versions + 1);
    println!("{} documents with {} versions each: {rows} rows", options.documents, options.versions);

    let loaded = Instant::now();
    load(&db, "bare_", options, now).await?;
    load(&db, "", options, now).await?;
    println!("loaded twice in {:.0} s", loaded.elapsed().as_secs_f64());

    let bare = bare(&db, options).await?;
    println!("bare driver, bulk deletes by id, majority and journal: {:.0} rows/s", rows as f64 / bare.as_secs_f64());

    let world = lifecycle::world(&settings).map_err(anyhow::Error::msg)?;
    let rule = settings.policy.rule("deleted-document").context("the shipped rule")?.clone();
    scans(&db, &rule, now).await?;

    let alone = foreign(&db, Duration::from_secs(5), &CancellationToken::new()).await?;
    let (before, stop) = (resident(), CancellationToken::new());
    let writer = tokio::spawn({
        let (db, stop) = (db.clone(), stop.clone());
        async move { foreign(&db, Duration::from_secs(86_400), &stop).await }
    });
    let mut run = Run::new(&db, "retention", now, now, CancellationToken::new(), None);
    (run.dry_run, run.over_cap) = (false, true);
    let began = Instant::now();
    Engine { world: &world, settings: &settings.jobs.retention.settings }
        .run_rules(&mut run, std::slice::from_ref(&rule))
        .await?;
    let took = began.elapsed();
    stop.cancel();
    let beside = writer.await??;
    let rate = rows as f64 / took.as_secs_f64();
    println!(
        "contextd, with a writer beside it: {rate:.0} rows/s, {:.2} of the bare driver",
        rate * bare.as_secs_f64() / rows as f64
    );
    println!(
        "purged {} documents, left {:?}",
        run.outcome.changed,
        run.outcome.rules.get("deleted-document").map(|r| &r.left)
    );
    println!(
        "foreign writer p99: {:.2} ms alone, {:.2} ms beside the purge ({:.2})",
        alone.1,
        beside.1,
        beside.1 / alone.1
    );
    println!("foreign writer p50: {:.2} ms alone, {:.2} ms beside the purge", alone.0, beside.0);
    println!("resident memory: {before} MB before, {} MB after", resident());
    let left = db.collection::<Document>("documents").count_documents(doc! { "state": "deleted" }).await?;
    anyhow::ensure!(left == 0, "{left} due documents are left");
    db.drop().await?;
    Ok(())
}

async fn now(db: &Database) -> Result<DateTime<Utc>> {
    let hello = db.run_command(doc! { "hello": 1 }).await?;
    Ok(contextd_jobs::kit::from_bson(*hello.get_datetime("localTime")?))
}

/// Documents that were deleted 31 to 60 days ago, and their versions.
async fn load(db: &Database, prefix: &str, options: &Options, now: DateTime<Utc>) -> Result<()> {
    let fast = InsertManyOptions::builder()
        .ordered(false)
        .write_concern(WriteConcern::builder().w(Acknowledgment::Nodes(1)).build())
        .build();
    let documents = db.collection::<Document>(&format!("{prefix}documents"));
    let versions = db.collection::<Document>(&format!("{prefix}document_versions"));
    let ids: Vec<usize> = (0..options.documents).collect();
    for page in ids.chunks(PAGE) {
        let deleted = |n: usize| now - TimeDelta::days(31) - TimeDelta::seconds((n % 2_500_000) as i64);
        let rows = page.iter().map(|n| {
            doc! { "_id": format!("d{n:08}"), "userId": format!("u{}", n % 5_000), "ownerType": "user", "state": "deleted",
            "title": "A document of the scale test", "deletedAt": to_bson(deleted(*n)), "versionCounter": 10_i64,
            "_sync": { "rev": 3_i64, "order": 1_i64, "task": "t" } }
        });
        documents.insert_many(rows).with_options(fast.clone()).await?;
        let rows: Vec<Document> = page
            .iter()
            .flat_map(|n| (0..options.versions).map(move |v| (n, v)))
            .map(|(n, v)| {
                doc! { "_id": format!("d{n:08}-v{v}"), "documentId": format!("d{n:08}"), "versionNumber": v as i64,
                "kind": "major", "createdAt": to_bson(now - TimeDelta::days(90)), "_sync": { "rev": 1_i64 } }
            })
            .collect();
        for part in rows.chunks(5 * PAGE) {
            versions.insert_many(part).with_options(fast.clone()).await?;
        }
    }
    if !prefix.is_empty() {
        // The same indexes cost the same.
        for name in ["documents", "document_versions"] {
            let listed = db.collection::<Document>(name).list_index_names().await?;
            anyhow::ensure!(listed.len() > 1, "{name} has its indexes");
            let mut models = db.collection::<Document>(name).list_indexes().await?;
            while models.advance().await? {
                let model: mongodb::IndexModel = models.deserialize_current()?;
                if model.keys != doc! { "_id": 1 } {
                    db.collection::<Document>(&format!("{prefix}{name}")).create_index(model).await?;
                }
            }
        }
    }
    Ok(())
}

/// What the driver can do at most: deletes of known ids, page by page.
async fn bare(db: &Database, options: &Options) -> Result<Duration> {
    let began = Instant::now();
    let durable = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let delete = async |collection: &str, ids: Vec<Bson>| {
        let rows = db.collection::<Document>(collection);
        rows.delete_many(doc! { "_id": { "$in": ids } }).write_concern(durable.clone()).await
    };
    let ids: Vec<usize> = (0..options.documents).collect();
    for page in ids.chunks(PAGE) {
        let versions = page.iter().flat_map(|n| (0..options.versions).map(move |v| format!("d{n:08}-v{v}")));
        let versions: Vec<Bson> = versions.map(Bson::from).collect();
        for part in versions.chunks(PAGE) {
            delete("bare_document_versions", part.to_vec()).await?;
        }
        delete("bare_documents", page.iter().map(|n| format!("d{n:08}").into()).collect()).await?;
    }
    Ok(began.elapsed())
}

/// How many keys a scan looks at for each row that it returns.
async fn scans(db: &Database, rule: &Rule, now: DateTime<Utc>) -> Result<()> {
    for case in &rule.cases {
        let mut filter: Document = case.equal.iter().cloned().collect();
        filter.insert(case.date.clone(), doc! { "$lte": to_bson(case.cutoff(now)) });
        let find = doc! { "find": &rule.on, "filter": filter, "hint": case.hint(), "sort": case.hint(), "limit": 1_000,
        "min": case.bound(mongodb::bson::DateTime::MIN.into(), Bson::MinKey) };
        let explained = db.run_command(doc! { "explain": find, "verbosity": "executionStats" }).await?;
        let stats = explained.get_document("executionStats")?;
        let of = |name: &str| stats.get(name).and_then(|n| n.as_i64().or(n.as_i32().map(i64::from))).unwrap_or(-1);
        println!("scan of {}: {} keys examined for {} rows", rule.name, of("totalKeysExamined"), of("nReturned"));
    }
    Ok(())
}

/// Single majority inserts, one after the other: the median and the 99th percentile, in ms.
async fn foreign(db: &Database, time: Duration, stop: &CancellationToken) -> Result<(f64, f64)> {
    let rows = db.collection::<Document>("foreign");
    let durable = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < time && !stop.is_cancelled() {
        let one = Instant::now();
        rows.insert_one(doc! { "text": "a foreign writer's row" }).write_concern(durable.clone()).await?;
        took.push(one.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1))).copied();
    Ok((at(0.5).unwrap_or(0.0), at(0.99).unwrap_or(0.0)))
}

/// Of this process, in MB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) / 1_024
}
