//! What tests of the engine share: a database of their own, contents in a directory, and a Redis that is only as much as
//! the lifecycle sees of it.

#![allow(dead_code, reason = "each test target uses its part")]

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use contextd_jobs::{
    engine::{Engine, Settings},
    kit::{Caches, JobError, Object, Objects, OutsideError, Run, Tier, Vaulted, World, to_bson},
    policy::{Action, Cap, Case, Policy, Rule},
};
use futures::{FutureExt, future::BoxFuture};
use mongodb::{
    Client, Database, IndexModel,
    bson::{Bson, Document, doc},
};
use tokio_util::sync::CancellationToken;

/// A database that is dropped by the next run of the tests, and what is beside it.
pub struct Place {
    pub db: Database,
    pub objects: Arc<Directory>,
    pub caches: Arc<Seen>,
    pub anchors: Arc<Outside>,
}

impl Place {
    pub async fn new(name: &str) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test has no configuration to read it from")]
        let uri = std::env::var("CONTEXTD_MONGODB__URI")
            .expect("CONTEXTD_MONGODB__URI is set: `eval \"$(scripts/services env)\"`, or `make test`");
        let client = Client::with_uri_str(uri).await.expect("a MongoDB URI");
        let db = client.database(&format!("engine_{name}_{}", std::process::id()));
        db.drop().await.expect("MongoDB answers");
        let root = std::env::temp_dir().join(db.name());
        let _ = std::fs::remove_dir_all(&root);
        Self {
            db,
            objects: Arc::new(Directory { root, down: Mutex::default() }),
            caches: Arc::default(),
            anchors: Arc::default(),
        }
    }

    pub fn world(&self, rules: Vec<Rule>) -> World {
        let policy =
            Policy { version: 1, hash: "test".into(), skew: Duration::from_secs(60), rules, ..Policy::default() };
        World {
            policy: Arc::new(policy),
            objects: self.objects.clone(),
            caches: self.caches.clone(),
            anchors: self.anchors.clone(),
            audit_key: None,
        }
    }

    /// The rules' indexes, and that on tombstones.
    pub async fn index(&self, rules: &[Rule]) {
        for rule in rules {
            for case in &rule.cases {
                let index = IndexModel::builder().keys(case.hint()).build();
                self.db.collection::<Document>(&rule.on).create_index(index).await.expect("an index");
            }
        }
    }

    pub async fn insert(&self, collection: &str, rows: impl IntoIterator<Item = Document>) {
        let rows: Vec<Document> = rows.into_iter().collect();
        self.db.collection::<Document>(collection).insert_many(rows).await.expect("rows");
    }

    pub async fn row(&self, collection: &str, id: &str) -> Option<Document> {
        self.db.collection(collection).find_one(doc! { "_id": id }).await.expect("MongoDB answers")
    }

    pub async fn count(&self, collection: &str, filter: Document) -> u64 {
        self.db.collection::<Document>(collection).count_documents(filter).await.expect("MongoDB answers")
    }

    /// Runs these rules at `now`, by simulated clocks.
    pub async fn run(&self, rules: &[Rule], now: DateTime<Utc>) -> Result<Run, (Run, JobError)> {
        self.run_with(rules, now, |run| run).await
    }

    /// The same, with something done to the run first.
    pub async fn run_with(
        &self,
        rules: &[Rule],
        now: DateTime<Utc>,
        with: impl FnOnce(Run) -> Run,
    ) -> Result<Run, (Run, JobError)> {
        let world = self.world(rules.to_vec());
        let run = Run::new(&self.db, "test", now, now, CancellationToken::new(), None).simulated(now);
        let mut run = with(run);
        run.dry_run = false;
        match (Engine { world: &world, settings: &settings() }).run_rules(&mut run, rules).await {
            Ok(()) => Ok(run),
            Err(e) => Err((run, e)),
        }
    }
}

pub fn settings() -> Settings {
    Settings {
        page: 100,
        page_time: Duration::from_millis(200),
        lag: Duration::ZERO,
        latency: Duration::ZERO,
        yield_share: 1.0,
    }
}

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a date")
}

pub fn date(at: DateTime<Utc>) -> Bson {
    to_bson(at).into()
}

/// A rule with one case.
pub fn rule(name: &str, on: &str, equal: &[(&str, &str)], date: &str, after: Duration, action: Action) -> Rule {
    let equal = equal.iter().map(|(name, value)| ((*name).to_owned(), Bson::from(*value))).collect();
    let case = Case { name: String::new(), equal, absent: vec![], present: vec![], date: date.into(), after };
    Rule {
        name: name.into(),
        job: "test".into(),
        enabled: true,
        on: on.into(),
        cases: vec![case],
        guards: vec![],
        action,
        cap: Cap { share: 0.25, floor: 1_000, rows: 1_000_000 },
        tenants: BTreeMap::new(),
    }
}

/// Which of so many calls are cut off: about ten; all of them with CONTEXTD_TEST_POINTS=all (`make kills`).
#[expect(clippy::disallowed_methods, reason = "a test has no configuration to read it from")]
pub fn is_tried(call: usize, of: usize) -> bool {
    let all = std::env::var("CONTEXTD_TEST_POINTS").is_ok_and(|points| points == "all");
    all || call.is_multiple_of((of / 10).max(1))
}

/// Cuts a run off at its `at`-th call: before it, or after it with the answer lost.
#[derive(Debug)]
pub struct Cut {
    at: usize,
    after: bool,
    count: Mutex<usize>,
}

impl Cut {
    pub fn new(at: usize, after: bool) -> Arc<Self> {
        Arc::new(Self { at, after, count: Mutex::default() })
    }

    /// Never cuts; counts.
    pub fn never() -> Arc<Self> {
        Self::new(usize::MAX, false)
    }

    pub fn calls(&self) -> usize {
        *self.count.lock().expect("no panic")
    }

    fn cut() -> JobError {
        JobError::Failed(anyhow::anyhow!("cut off"))
    }
}

impl Cut {
    /// Calls are made at once, too: beginnings or ends are counted, whichever it is that cuts.
    fn step(&self) -> Result<(), JobError> {
        let mut count = self.count.lock().expect("no panic");
        *count += 1;
        if *count == self.at { Err(Self::cut()) } else { Ok(()) }
    }
}

impl contextd_jobs::kit::Faults for Cut {
    fn before(&self, _: &str) -> Result<(), JobError> {
        if self.after { Ok(()) } else { self.step() }
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        if self.after { self.step() } else { Ok(()) }
    }
}

/// Contents in a directory: `hot/KEY` and `archive/KEY`.
#[derive(Debug)]
pub struct Directory {
    pub root: PathBuf,
    /// Says that the store is away, when set.
    pub down: Mutex<bool>,
}

impl Directory {
    pub fn path(&self, tier: Tier, key: &str) -> PathBuf {
        self.root.join(if tier == Tier::Hot { "hot" } else { "archive" }).join(key)
    }

    pub fn write(&self, tier: Tier, key: &str, bytes: &[u8]) {
        let path = self.path(tier, key);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, bytes).expect("a file");
    }

    pub fn all(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.root.clone()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path.strip_prefix(&self.root).expect("below").display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    fn there(&self) -> Result<(), OutsideError> {
        match *self.down.lock().expect("no panic") {
            true => Err(OutsideError { message: "the object store is away".into(), passes: true }),
            false => Ok(()),
        }
    }
}

fn io(e: std::io::Error) -> OutsideError {
    OutsideError { message: e.to_string(), passes: false }
}

impl Objects for Directory {
    fn list<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Object>, OutsideError>> {
        async move {
            self.there()?;
            let tier = if tier == Tier::Hot { "hot/" } else { "archive/" };
            let below = format!("{}/", prefix.trim_end_matches('/'));
            let all = self.all();
            let keys = all.iter().filter_map(|path| path.strip_prefix(tier)).filter(|key| key.starts_with(&below));
            let object = |key: &str| {
                let meta = std::fs::metadata(self.root.join(tier).join(key)).map_err(io)?;
                let modified = DateTime::<Utc>::from(meta.modified().map_err(io)?);
                Ok(Object { key: key.to_owned(), size: meta.len(), modified })
            };
            keys.map(object).collect()
        }
        .boxed()
    }

    fn delete<'a>(&'a self, tier: Tier, key: &'a str) -> BoxFuture<'a, Result<(), OutsideError>> {
        async move {
            self.there()?;
            match std::fs::remove_file(self.path(tier, key)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(e)),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn get<'a>(&'a self, tier: Tier, key: &'a str, _: u64) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        async move {
            self.there()?;
            std::fs::read(self.path(tier, key)).map_err(io)
        }
        .boxed()
    }

    fn put<'a>(&'a self, tier: Tier, key: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), OutsideError>> {
        async move {
            self.there()?;
            self.write(tier, key, &bytes);
            Ok(())
        }
        .boxed()
    }

    fn prefixes(&self, owner: &str, document: &str) -> Vec<String> {
        ["documents", "versions"].map(|kind| format!("{kind}/{owner}/{document}")).to_vec()
    }
}

/// What the lifecycle told Redis, and the sessions that are live there.
#[derive(Debug, Default)]
pub struct Seen {
    pub live: Mutex<HashSet<String>>,
    pub forgotten: Mutex<Vec<(String, String, i64)>>,
    pub typing: Mutex<Vec<(String, String)>>,
    pub ended: Mutex<Vec<String>>,
}

impl Caches for Seen {
    fn live<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<HashSet<String>, OutsideError>> {
        let live = self.live.lock().expect("no panic");
        let found = sessions.iter().filter(|id| live.contains(*id)).cloned().collect();
        async move { Ok(found) }.boxed()
    }

    fn forget<'a>(&'a self, records: &'a [(String, String, i64)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.forgotten.lock().expect("no panic").extend_from_slice(records);
        async { Ok(()) }.boxed()
    }

    fn cached_by(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn forget_by<'a>(&'a self, _: &'a str, _: &'a [Document]) -> BoxFuture<'a, Result<(), OutsideError>> {
        async { Ok(()) }.boxed()
    }

    fn forget_typing<'a>(&'a self, of: &'a [(String, String)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.typing.lock().expect("no panic").extend_from_slice(of);
        async { Ok(()) }.boxed()
    }

    fn end_sessions<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.ended.lock().expect("no panic").extend_from_slice(sessions);
        async { Ok(()) }.boxed()
    }
}

/// The place of the audit chain's copy.
#[derive(Debug, Default)]
pub struct Outside(pub Mutex<BTreeMap<String, Vec<u8>>>);

impl Vaulted for Outside {
    fn create<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<bool, OutsideError>> {
        let mut files = self.0.lock().expect("no panic");
        let is_new = !files.contains_key(name);
        files.entry(name.to_owned()).or_insert(bytes);
        async move { Ok(is_new) }.boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        let found = self.0.lock().expect("no panic").get(name).cloned();
        let missing = move || OutsideError { message: format!("there is no {name}"), passes: false };
        async move { found.ok_or_else(missing) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, OutsideError>> {
        let names = self.0.lock().expect("no panic").keys().cloned().collect();
        async move { Ok(names) }.boxed()
    }
}
