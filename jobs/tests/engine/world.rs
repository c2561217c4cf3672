//! What a run reaches, and what is there before and after it.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::{
    JobError, Outcome, Run,
    engine::{Engine, Settings},
    kit::{self, Faults, Object, Objects, OutsideError, Tier, Vaulted, World, to_bson},
    policy::{Cap, Case, Policy, Rule},
};
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use mongodb::{
    Client, Database, IndexModel,
    bson::{Document, doc, oid::ObjectId},
};
use tokio_util::sync::CancellationToken;

/// From the environment, else from services brought up for all tests of this binary.
fn uri() -> &'static str {
    static URI: OnceLock<String> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration to read it from")]
    URI.get_or_init(|| {
        std::env::var("CONTEXTD_MONGODB__URI").unwrap_or_else(|_| {
            let services = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/services");
            let run = |command: &str| {
                let out =
                    Command::new(services).args([command, "--name", "test"]).output().expect("scripts/services runs");
                assert!(out.status.success(), "scripts/services: {}", String::from_utf8_lossy(&out.stderr));
                String::from_utf8_lossy(&out.stdout).into_owned()
            };
            run("up");
            let env = run("env");
            let line = env.lines().find_map(|l| l.split_once("CONTEXTD_MONGODB__URI=")).expect("a URI");
            line.1.trim_matches(['\'', '"']).to_owned()
        })
    })
}

/// The "now" of all runs.
pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_770_000_000, 0).expect("a time")
}

/// So long before [`now`].
pub fn ago(minutes: i64) -> mongodb::bson::DateTime {
    to_bson(now() - TimeDelta::minutes(minutes))
}

/// Contents as files: `hot/KEY` and `archive/KEY`.
pub struct Files(PathBuf);

impl Files {
    fn path(&self, tier: Tier, key: &str) -> PathBuf {
        self.0.join(if tier == Tier::Hot { "hot" } else { "archive" }).join(key)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fault(e: std::io::Error) -> OutsideError {
    OutsideError { message: e.to_string(), passes: true }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { walk(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

impl Objects for Files {
    fn list<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Object>, OutsideError>> {
        async move {
            let (root, mut found) = (self.path(tier, ""), Vec::new());
            walk(&self.path(tier, prefix), &mut found).map_err(fault)?;
            let object = |path: PathBuf| {
                let key = path.strip_prefix(&root).ok()?.to_str()?.to_owned();
                Some(Object { key, size: path.metadata().ok()?.len(), modified: now() })
            };
            Ok(found.into_iter().filter_map(object).collect())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, tier: Tier, key: &'a str) -> BoxFuture<'a, Result<(), OutsideError>> {
        async move {
            if key.contains("locked") {
                return Err(OutsideError { message: "it is locked".into(), passes: false });
            }
            match std::fs::remove_file(self.path(tier, key)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(fault(e)),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn get<'a>(&'a self, tier: Tier, key: &'a str, _: u64) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        async move { std::fs::read(self.path(tier, key)).map_err(fault) }.boxed()
    }

    fn put<'a>(&'a self, tier: Tier, key: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), OutsideError>> {
        async move {
            let path = self.path(tier, key);
            std::fs::create_dir_all(path.parent().expect("a folder")).map_err(fault)?;
            std::fs::write(path, bytes).map_err(fault)
        }
        .boxed()
    }

    fn prefixes(&self, owner: &str, document: &str) -> Vec<String> {
        vec![format!("documents/{owner}/{document}"), format!("versions/{owner}/{document}")]
    }
}

/// Redis: which sessions are live, and what was asked of it.
#[derive(Default)]
pub struct Keys {
    pub live: Mutex<HashSet<String>>,
    pub forgotten: Mutex<Vec<(String, String, i64)>>,
    pub typing: Mutex<HashSet<(String, String)>>,
}

impl kit::Caches for Keys {
    fn live<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<HashSet<String>, OutsideError>> {
        let live = self.live.lock().expect("not poisoned");
        let found = sessions.iter().filter(|id| live.contains(*id)).cloned().collect();
        futures::future::ready(Ok(found)).boxed()
    }

    fn forget<'a>(&'a self, records: &'a [(String, String, i64)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.forgotten.lock().expect("not poisoned").extend_from_slice(records);
        futures::future::ready(Ok(())).boxed()
    }

    fn cached_by(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn forget_by<'a>(&'a self, _: &'a str, _: &'a [Document]) -> BoxFuture<'a, Result<(), OutsideError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn forget_typing<'a>(&'a self, of: &'a [(String, String)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.typing.lock().expect("not poisoned").extend(of.iter().cloned());
        futures::future::ready(Ok(())).boxed()
    }

    fn end_sessions<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.live.lock().expect("not poisoned").retain(|id| !sessions.contains(id));
        futures::future::ready(Ok(())).boxed()
    }
}

/// Rules of this file never look at the copies of the audit log.
struct NoAnchors;

impl Vaulted for NoAnchors {
    fn create<'a>(&'a self, _: &'a str, _: Vec<u8>) -> BoxFuture<'a, Result<bool, OutsideError>> {
        unreachable!("no rule copies the audit log")
    }

    fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        unreachable!("no rule copies the audit log")
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, OutsideError>> {
        unreachable!("no rule copies the audit log")
    }
}

/// A database with the rules' world.
pub struct Place {
    pub db: Database,
    pub keys: Arc<Keys>,
    pub files: Arc<Files>,
    world: World,
    page: u32,
}

impl Place {
    pub async fn new(rules: Vec<Rule>) -> Self {
        let client = Client::with_uri_str(uri()).await.expect("MongoDB answers");
        let name = format!("engine_{}", ObjectId::new().to_hex());
        let db = client.database(&name);
        for rule in &rules {
            for case in &rule.cases {
                let keys: Document = case.keys().into_iter().map(|name| (name, 1.into())).collect();
                let index = IndexModel::builder().keys(keys).build();
                db.collection::<Document>(&rule.on).create_index(index).await.expect("an index");
            }
        }
        let (keys, files) = (Arc::new(Keys::default()), Arc::new(Files(std::env::temp_dir().join(name))));
        let skew = Duration::from_secs(60);
        let policy = Policy { version: 1, hash: "hash".into(), skew, rules, ..Policy::default() };
        let world = World {
            policy: Arc::new(policy),
            objects: files.clone(),
            caches: keys.clone(),
            anchors: Arc::new(NoAnchors),
            audit_key: None,
        };
        Self { db, keys, files, world, page: 100 }
    }

    pub fn pages_of(mut self, rows: u32) -> Self {
        self.page = rows;
        self
    }

    pub async fn put(&self, collection: &str, rows: Vec<Document>) {
        self.db.collection::<Document>(collection).insert_many(rows).await.expect("inserted");
    }

    pub async fn set(&self, collection: &str, id: &str, set: Document) {
        let update = doc! { "$set": set, "$inc": { "_sync.rev": 1_i64 } };
        self.db.collection::<Document>(collection).update_one(doc! { "_id": id }, update).await.expect("updated");
    }

    pub async fn all(&self, collection: &str) -> Vec<Document> {
        let rows = self.db.collection::<Document>(collection);
        rows.find(doc! {}).sort(doc! { "_id": 1 }).await.expect("read").try_collect().await.expect("read")
    }

    pub async fn ids(&self, collection: &str) -> Vec<String> {
        self.all(collection).await.iter().map(|row| row.get_str("_id").expect("an id").to_owned()).collect()
    }

    pub async fn row(&self, collection: &str, id: &str) -> Document {
        let found = self.db.collection::<Document>(collection).find_one(doc! { "_id": id }).await.expect("read");
        found.unwrap_or_else(|| panic!("{collection} has no {id}"))
    }

    pub async fn keys(&self, tier: Tier) -> Vec<String> {
        let mut keys: Vec<String> =
            self.files.list(tier, "").await.expect("listed").into_iter().map(|object| object.key).collect();
        keys.sort_unstable();
        keys
    }

    /// Empties the collections and the store.
    pub async fn clear(&self, collections: &[&str]) {
        for collection in collections {
            self.db.collection::<Document>(collection).delete_many(doc! {}).await.expect("emptied");
        }
        let _ = std::fs::remove_dir_all(&self.files.0);
    }

    /// Runs the rules once.
    pub async fn run(&self) -> Outcome {
        let (outcome, ended) = self.run_with(None).await;
        ended.unwrap_or_else(|e| panic!("{e}"));
        outcome
    }

    pub async fn run_with(&self, faults: Option<Arc<dyn Faults>>) -> (Outcome, Result<(), JobError>) {
        let settings = Settings {
            page: self.page,
            page_time: Duration::from_secs(1),
            lag: Duration::ZERO,
            latency: Duration::ZERO,
            yield_share: 1.0,
        };
        let mut run = Run::new(&self.db, "test", now(), now(), CancellationToken::new(), None).simulated(now());
        run.dry_run = false;
        if let Some(faults) = faults {
            run = run.with_faults(faults);
        }
        let rules = self.world.policy.rules.clone();
        let ended = Engine { world: &self.world, settings: &settings }.run_rules(&mut run, &rules).await;
        (run.outcome, ended)
    }

    pub async fn end(self) {
        self.db.drop().await.expect("dropped");
    }
}

/// A rule with these cases.
pub fn rule(name: &str, on: &str, action: contextd_jobs::policy::Action, cases: Vec<Case>) -> Rule {
    Rule {
        name: name.into(),
        job: "test".into(),
        enabled: true,
        on: on.into(),
        cases,
        guards: Vec::new(),
        action,
        cap: Cap { share: 1.0, floor: 1_000, rows: 1_000_000 },
        tenants: BTreeMap::new(),
    }
}

pub fn case(name: &str, equal: Document, date: &str, minutes: u64) -> Case {
    Case {
        name: name.into(),
        equal: equal.into_iter().collect(),
        absent: Vec::new(),
        present: Vec::new(),
        date: date.into(),
        after: Duration::from_secs(minutes * 60),
    }
}

/// Left rows of a rule, by reason.
pub fn left(outcome: &Outcome, rule: &str) -> BTreeMap<String, u64> {
    outcome.rules.get(rule).map(|counts| counts.left.clone()).unwrap_or_default()
}

/// Dies at its nth call of a store: before it, or after it with the answer lost. What is dead makes no more calls.
#[derive(Default)]
pub struct Death {
    at: usize,
    after: bool,
    calls: AtomicUsize,
    dead: AtomicBool,
}

impl Death {
    pub fn new(at: usize, after: bool) -> Arc<Self> {
        Arc::new(Self { at, after, ..Self::default() })
    }

    pub fn came(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn die(&self) -> Result<(), JobError> {
        self.dead.store(true, Ordering::SeqCst);
        Err(JobError::Failed(std::io::Error::other("the process died").into()))
    }
}

impl Faults for Death {
    fn before(&self, _: &str) -> Result<(), JobError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.came() || (call == self.at && !self.after) { self.die() } else { Ok(()) }
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        let call = self.calls.load(Ordering::SeqCst) - 1;
        if self.came() || (call == self.at && self.after) { self.die() } else { Ok(()) }
    }
}

type Deed = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Does something else once, right before the first call of a name: what comes between two steps of a run.
pub struct Between {
    call: &'static str,
    deed: Deed,
    done: AtomicBool,
}

impl Between {
    pub fn new(call: &'static str, deed: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { call, deed: Box::new(deed), done: AtomicBool::new(false) })
    }
}

impl Faults for Between {
    fn before(&self, call: &str) -> Result<(), JobError> {
        if call == self.call && !self.done.swap(true, Ordering::SeqCst) {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on((self.deed)()));
        }
        Ok(())
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        Ok(())
    }
}
