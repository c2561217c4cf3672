//! One test's own stores: a database, a namespace in Redis, directories for objects; and jobs that run there at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use contextd::{
    config::{self, Config},
    lifecycle,
    schedule::Timetable,
    store::Store,
};
use contextd_jobs::{
    Job, Outcome, Run, anonymization, anonymous_cleanup, auth_log_archival, document_archival, kit::World,
    orphan_sweep, policy::Policy, reconciliation, retention, session_archival, version_pruning,
};
use futures::TryStreamExt;
use mongodb::{
    Collection, Database,
    bson::{Document, doc},
    options::{Acknowledgment, WriteConcern},
};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use tokio_util::sync::CancellationToken;

use crate::{model::Stores, rows::Item, services};

pub struct Place {
    pub db: Database,
    pub world: World,
    pub config: Config,
    pub namespace: String,
    pub redis: MultiplexedConnection,
    /// Everything that is given to processes.
    pub variables: Vec<(String, String)>,
    pub file: PathBuf,
    /// `stores` reads tombstones and the audit log, too, which only grow.
    pub evidence: bool,
    dir: tempfile::TempDir,
}

impl Place {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With these settings.
    pub async fn with(toml: &str) -> Self {
        contextd::install_tls();
        let servers = tokio::task::spawn_blocking(services::shared).await.expect("the services are up");
        let tag = uuid::Uuid::now_v7().simple().to_string()[18..].to_owned();
        let parent = if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("contextd-lc-").tempdir_in(parent).expect("a directory");
        let file = dir.path().join("settings.toml");
        std::fs::write(&file, toml).expect("written");
        let namespace = format!("lc{tag}");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let variables: Vec<(String, String)> = [
            ("NAMESPACE", namespace.clone()),
            ("REDIS__URL", servers.redis.clone()),
            ("MONGODB__URI", servers.mongodb.clone()),
            ("MONGODB__DATABASE", format!("lc_{tag}")),
            ("CONTENT__URL", path("hot")),
            ("CONTENT__ARCHIVE_URL", path("archive")),
            ("AUDIT__URL", path("audit")),
            ("ANALYSIS__THREADS", "1".into()),
        ]
        .map(|(name, value)| (format!("CONTEXTD_{name}"), value))
        .into();
        let config = config::load(Some(&file), variables.iter().cloned()).expect("valid settings");
        let store = Store::new(&config.mongodb).await.expect("a usable URI");
        store.migrate(contextd::clock::now()).await.expect("indexes are made");
        let client = mongodb::Client::with_uri_str(&servers.mongodb).await.expect("MongoDB answers");
        let redis = redis::Client::open(servers.redis.as_str()).expect("a URL");
        let redis = redis.get_multiplexed_async_connection().await.expect("Redis answers");
        let world = lifecycle::world(&config).expect("a world");
        let db = client.database(&format!("lc_{tag}"));
        for rule in &config.policy.rules {
            for case in &rule.cases {
                let index = mongodb::IndexModel::builder().keys(case.hint()).build();
                db.collection::<Document>(&rule.on).create_index(index).await.expect("an index");
            }
        }
        Self { db, world, config, namespace, redis, variables, file, evidence: true, dir }
    }

    // Runs.

    /// The job under another policy than the configured one.
    pub fn job_under(&self, name: &str, policy: Policy) -> Arc<dyn Job> {
        let world = World { policy: Arc::new(policy), ..self.world.clone() };
        self.job_in(name, &world)
    }

    pub fn job(&self, name: &str) -> Arc<dyn Job> {
        self.job_in(name, &self.world)
    }

    pub fn job_in(&self, name: &str, world: &World) -> Arc<dyn Job> {
        let world = world.clone();
        let jobs = &self.config.jobs;
        match name {
            "session-archival" => Arc::new(session_archival::job(jobs.session_archival.settings.clone(), world)),
            "version-pruning" => Arc::new(version_pruning::job(jobs.version_pruning.settings.clone(), world)),
            "anonymous-cleanup" => Arc::new(anonymous_cleanup::job(jobs.anonymous_cleanup.settings.clone(), world)),
            "document-archival" => Arc::new(document_archival::job(jobs.document_archival.settings.clone(), world)),
            "anonymization" => Arc::new(anonymization::job(jobs.anonymization.settings.clone(), world)),
            "auth-log-archival" => Arc::new(auth_log_archival::job(jobs.auth_log_archival.settings.clone(), world)),
            "retention" => Arc::new(retention::job(jobs.retention.settings.clone(), world)),
            "orphan-sweep" => Arc::new(orphan_sweep::job(jobs.orphan_sweep.settings.clone(), world)),
            "reconciliation" => Arc::new(reconciliation::job(jobs.reconciliation.settings.clone(), world)),
            other => panic!("no job {other}"),
        }
    }

    /// When it runs.
    pub fn table(&self, name: &str) -> Timetable {
        let jobs = &self.config.jobs;
        let timing = match name {
            "session-archival" => &jobs.session_archival.timing,
            "version-pruning" => &jobs.version_pruning.timing,
            "anonymous-cleanup" => &jobs.anonymous_cleanup.timing,
            "document-archival" => &jobs.document_archival.timing,
            "anonymization" => &jobs.anonymization.timing,
            "auth-log-archival" => &jobs.auth_log_archival.timing,
            "retention" => &jobs.retention.timing,
            other => panic!("no job {other}"),
        };
        Timetable::new(&timing.cron, timing.zone).expect("a usable timetable")
    }

    /// A run that may write, at a time of the test's choice.
    pub fn at(&self, job: &dyn Job, now: DateTime<Utc>) -> Run {
        let mut run = Run::new(&self.db, job.name(), now, now, CancellationToken::new(), None).simulated(now);
        run.dry_run = false;
        run
    }

    pub async fn run(&self, name: &str, now: DateTime<Utc>) -> Outcome {
        let job = self.job(name);
        let mut run = self.at(&*job, now);
        let done = job.run(&mut run).await;
        done.unwrap_or_else(|e| panic!("{name} at {now}: {e:?}; {:?}", run.outcome));
        run.outcome
    }

    // Rows.

    /// Not yet seen by majority reads before `settled`.
    pub fn coll(&self, name: &str) -> Collection<Document> {
        let quick = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        let options = mongodb::options::CollectionOptions::builder().write_concern(quick).build();
        self.db.collection_with_options(name, options)
    }

    /// All earlier writes are seen by majority reads from now on.
    pub async fn settled(&self) {
        let sure = WriteConcern::builder().w(Acknowledgment::Majority).build();
        let one = doc! { "$inc": { "n": 1 } };
        let coll = self.db.collection::<Document>("settled");
        coll.update_one(doc! { "_id": "here" }, one).upsert(true).write_concern(sure).await.expect("written");
    }

    pub async fn put(&self, items: &[Item]) {
        let mut rows: BTreeMap<&str, Vec<&Document>> = BTreeMap::new();
        for item in items {
            for (collection, row) in &item.rows {
                rows.entry(collection).or_default().push(row);
            }
            for (key, bytes) in &item.objects {
                self.object(key, bytes);
            }
            for (key, value) in &item.keys {
                self.set_key(key, value).await;
            }
        }
        for (collection, rows) in rows {
            self.coll(collection).insert_many(rows).await.expect("inserted");
        }
        self.settled().await;
    }

    pub async fn set_key(&self, key: &str, value: &str) {
        let _: () = self.redis.clone().set(format!("{}:{key}", self.namespace), value).await.expect("SET");
    }

    pub async fn drop_key(&self, key: &str) {
        let _: () = self.redis.clone().del(format!("{}:{key}", self.namespace)).await.expect("DEL");
    }

    pub async fn all(&self, collection: &str) -> Vec<Document> {
        let found = self.db.collection::<Document>(collection).find(doc! {}).await.expect("found");
        found.try_collect().await.expect("found")
    }

    pub async fn one(&self, collection: &str, id: &str) -> Option<Document> {
        self.db.collection::<Document>(collection).find_one(doc! { "_id": id }).await.expect("found")
    }

    // Objects.

    pub fn hot(&self) -> PathBuf {
        self.dir.path().join("hot")
    }

    pub fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    pub fn object(&self, key: &str, bytes: &[u8]) {
        let path = self.hot().join(key);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, bytes).expect("written");
    }

    // Everything.

    /// As it is now.
    pub async fn stores(&self) -> Stores {
        let mut stores = Stores::default();
        let evidence = |name: &&&str| self.evidence || !["tombstones", "audit_log"].contains(*name);
        let read = SEEN.iter().filter(evidence).map(|name| async {
            let rows = self.all(name).await.into_iter().map(|row| (id_of(&row), row)).collect();
            ((*name).to_owned(), rows)
        });
        stores.rows.extend(futures::future::join_all(read).await);
        stores.hot = files(&self.hot()).into_iter().filter(|key| is_content(key)).collect();
        stores.archive = files(&self.archive()).into_iter().filter(|key| is_content(key)).collect();
        let keys = self.keys().await;
        let cached = |key: &&String| key.starts_with("cache:") || key.starts_with("typing:");
        let cached: Vec<&String> = keys.iter().filter(cached).collect();
        if !cached.is_empty() {
            let full: Vec<String> = cached.iter().map(|key| format!("{}:{key}", self.namespace)).collect();
            let values: Vec<Option<Vec<u8>>> = self.redis.clone().mget(full).await.expect("MGET");
            let there =
                cached.into_iter().zip(values).filter(|(_, value)| value.as_deref().is_some_and(|v| !is_marker(v)));
            stores.keys.extend(there.map(|(key, _)| key.clone()));
        }
        stores.live.extend(keys.iter().filter_map(|key| key.strip_prefix("session:")).map(str::to_owned));
        stores
    }

    /// Files in the archive tier that hold rows.
    pub fn row_files(&self) -> Vec<PathBuf> {
        let root = self.archive();
        files(&root).into_iter().filter(|key| !is_content(key)).map(|key| root.join(key)).collect()
    }

    pub async fn keys(&self) -> Vec<String> {
        let mut redis = self.redis.clone();
        let (mut cursor, mut all) = (0_u64, Vec::new());
        let prefix = format!("{}:", self.namespace);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(10_000);
            let (next, page): (u64, Vec<String>) = scan.query_async(&mut redis).await.expect("SCAN");
            all.extend(page.iter().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned));
            cursor = next;
            if cursor == 0 {
                return all;
            }
        }
    }

    /// Nothing is left but the indexes.
    pub async fn clear(&self) {
        let names = self.db.list_collection_names().await.expect("names");
        let ours = |name: &&String| *name != "schema_migrations" && !name.starts_with("system.");
        let gone = names.iter().filter(ours).map(|name| async {
            self.coll(name).delete_many(doc! {}).await.expect("deleted");
        });
        futures::future::join_all(gone).await;
        // The directories stay: one that is gone is no empty one.
        for dir in ["hot", "archive", "audit"] {
            for entry in std::fs::read_dir(self.dir.path().join(dir)).into_iter().flatten() {
                std::fs::remove_dir_all(entry.expect("an entry").path()).expect("removed");
            }
        }
        let keys = self.keys().await;
        if !keys.is_empty() {
            let full: Vec<String> = keys.iter().map(|key| format!("{}:{key}", self.namespace)).collect();
            let _: () = self.redis.clone().del(full).await.expect("DEL");
        }
        self.settled().await;
    }

    // Commands.

    /// A command of the binary: exit status, stdout, stderr.
    pub async fn command(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contextd"));
        command.env_clear().envs(self.variables.clone()).arg("--config").arg(&self.file).args(args);
        command.stdin(Stdio::null());
        let out = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
    }

    pub async fn end(self) {
        self.clear().await;
        self.db.drop().await.expect("dropped");
    }
}

/// Collections that are looked at.
const SEEN: [&str; 17] = [
    "sessions",
    "session_history",
    "documents",
    "document_versions",
    "users",
    "ai_interactions",
    "auth_logs",
    "dead_letters",
    "analyses",
    "typing_contexts",
    "interactions",
    "context_links",
    "job_runs",
    "tombstones",
    "audit_log",
    "holds",
    "user_preferences",
];

fn id_of(row: &Document) -> String {
    row.get("_id").map_or_else(String::new, |id| id.as_str().map_or_else(|| id.to_string(), str::to_owned))
}

/// A marker that a record is gone, which stays for a minute.
fn is_marker(value: &[u8]) -> bool {
    String::from_utf8_lossy(value).lines().next().unwrap_or_default().contains("\"gone\":true")
}

fn is_content(key: &str) -> bool {
    key.starts_with("documents/") || key.starts_with("versions/")
}

fn files(root: &Path) -> BTreeSet<String> {
    let (mut found, mut dirs) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(key) = path.strip_prefix(root) {
                found.insert(key.to_string_lossy().into_owned());
            }
        }
    }
    found
}
