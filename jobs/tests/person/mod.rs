//! A world for the erasure of users: a database of its own, objects in a directory, and caches that remember.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use contextd_jobs::{
    engine::Settings,
    kit::{Caches, Faults, JobError, Object, Objects, OutsideError, Run, Tier, Vaulted, WorkerClock, World},
    policy::{Action, Cap, Case, Policy, Rule},
};
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use mongodb::{
    Client, Database,
    bson::{Bson, Document, doc},
};
use tokio_util::sync::CancellationToken;

pub const DAY: u64 = 24 * 3_600;
/// Stands in every field that says something of the user.
pub const MARK: &str = "Maren Holt of 12 Elm Street";
pub const USER: &str = "usr-1";
pub const OTHER: &str = "usr-2";

pub fn now() -> DateTime<Utc> {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

pub fn at(days_ago: i64) -> mongodb::bson::DateTime {
    mongodb::bson::DateTime::from_millis((now() - chrono::TimeDelta::days(days_ago)).timestamp_millis())
}

pub struct Place {
    pub db: Database,
    pub dir: PathBuf,
    pub caches: Arc<Remembered>,
    pub world: World,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Place {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration to read it from")]
    pub async fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let uri = std::env::var("CONTEXTD_MONGODB__URI")
            .expect("CONTEXTD_MONGODB__URI names a replica set: eval \"$(scripts/services env)\"");
        let name = format!("erase_{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let db = Client::with_uri_str(uri).await.unwrap().database(&name);
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let caches = Arc::new(Remembered::default());
        let world = World {
            policy: Arc::new(policy()),
            objects: Arc::new(Files(dir.join("objects"))),
            caches: caches.clone(),
            anchors: Arc::new(Vault(dir.join("audit"))),
            audit_key: None,
        };
        Self { db, dir, caches, world }
    }

    pub fn run(&self) -> Run {
        self.run_at(now())
    }

    pub fn run_at(&self, now: DateTime<Utc>) -> Run {
        let clock: WorkerClock = Arc::new(move || now);
        let run = Run::new(&self.db, "anonymization", now, now, CancellationToken::new(), None);
        let mut run = run.simulated(now).on_clock(clock, chrono::TimeDelta::zero());
        run.dry_run = false;
        run
    }

    pub async fn all(&self, collection: &str) -> Vec<Document> {
        let rows = self.db.collection::<Document>(collection);
        rows.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap().try_collect().await.unwrap()
    }

    pub async fn one(&self, collection: &str, id: &str) -> Option<Document> {
        self.db.collection::<Document>(collection).find_one(doc! { "_id": id }).await.unwrap()
    }

    pub async fn put(&self, collection: &str, rows: Vec<Document>) {
        self.db.collection::<Document>(collection).insert_many(rows).await.unwrap();
    }

    /// Every row of every collection, as text.
    pub async fn everything(&self) -> BTreeMap<String, Vec<Document>> {
        let mut all = BTreeMap::new();
        for name in self.db.list_collection_names().await.unwrap() {
            let rows = self.all(&name).await;
            all.insert(name, rows);
        }
        all
    }

    /// What an erasure ends in, without what may differ between one that was cut off and one that was not.
    pub async fn end(&self) -> BTreeMap<String, Vec<Document>> {
        let mut all = self.everything().await;
        for name in ["audit_head", "lifecycle_state", "job_runs"] {
            all.remove(name);
        }
        for (name, rows) in &mut all {
            for row in rows {
                for field in ["fences", "lifecycle", "seq", "prev", "hash", "audit"] {
                    row.remove(field);
                }
                if let Ok(sync) = row.get_document_mut("_sync") {
                    sync.remove("rev");
                }
                if name == "users" && row.get_str("email").is_ok_and(|email| email.starts_with("anonymized-")) {
                    row.insert("email", "random");
                }
            }
        }
        all
    }

    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        walk(&self.dir, &mut |path| {
            let name = path.strip_prefix(&self.dir).unwrap().display().to_string();
            all.insert(name, std::fs::read(path).unwrap());
        });
        all
    }

    /// Where the mark is found, in all stores.
    pub async fn marked(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, rows) in self.everything().await {
            found.extend(rows.iter().filter(|row| row.to_string().contains(MARK)).map(|row| format!("{name}: {row}")));
        }
        let has = |bytes: &[u8]| bytes.windows(MARK.len()).any(|part| part == MARK.as_bytes());
        found.extend(self.files().into_iter().filter(|(_, bytes)| has(bytes)).map(|(name, _)| name));
        found.extend(self.caches.keys().into_iter().filter(|key| key.contains("usr-1") || key.contains("mine")));
        found
    }
}

fn walk(dir: &Path, each: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { walk(&entry.path(), each) } else { each(&entry.path()) }
    }
}

/// Every sixth place is cut off; all of them with CONTEXTD_TEST_POINTS=all (`make kills`).
#[expect(clippy::disallowed_methods, reason = "a test has no configuration to read it from")]
pub fn is_tried(place: usize) -> bool {
    std::env::var("CONTEXTD_TEST_POINTS").is_ok_and(|points| points == "all") || place.is_multiple_of(6)
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

fn rule(
    name: &str,
    on: &str,
    days: u64,
    date: &str,
    equal: Vec<(String, Bson)>,
    absent: &[&str],
    action: Action,
) -> Rule {
    let case = Case {
        name: String::new(),
        equal,
        absent: absent.iter().map(|name| (*name).to_owned()).collect(),
        present: Vec::new(),
        date: date.to_owned(),
        after: Duration::from_secs(days * DAY),
    };
    Rule {
        name: name.to_owned(),
        job: "anonymization".to_owned(),
        enabled: true,
        on: on.to_owned(),
        cases: vec![case],
        guards: Vec::new(),
        action,
        cap: Cap { share: 1.0, floor: 1_000, rows: 1_000_000 },
        tenants: BTreeMap::new(),
    }
}

fn policy() -> Policy {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let users = Action::Anonymize { keep: names(&["createdAt", "deletedAt"]), random: names(&["email"]) };
    let ai = Action::Anonymize { keep: names(&["timestamp", "model", "acceptedSuggestions"]), random: Vec::new() };
    let deleted = vec![("state".to_owned(), Bson::from("deleted"))];
    Policy {
        version: 1,
        hash: "0123456789abcdef".repeat(4),
        skew: Duration::from_secs(60),
        rules: vec![
            rule("deleted-user", "users", 30, "deletedAt", deleted, &["anonymizedAt"], users),
            rule("ai-interaction-30", "ai_interactions", 30, "timestamp", Vec::new(), &["anonymizedAt"], ai),
        ],
        ..Policy::default()
    }
}

/// Objects as files.
struct Files(PathBuf);

impl Files {
    fn path(&self, tier: Tier, key: &str) -> PathBuf {
        self.0.join(if tier == Tier::Hot { "hot" } else { "archive" }).join(key)
    }
}

fn outside(error: std::io::Error) -> OutsideError {
    OutsideError { message: error.to_string(), passes: true }
}

impl Objects for Files {
    fn list<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Object>, OutsideError>> {
        let root = self.path(tier, "");
        let mut found = Vec::new();
        walk(&self.path(tier, prefix), &mut |path| {
            let key = path.strip_prefix(&root).unwrap().display().to_string();
            found.push(Object { key, size: 0, modified: now() });
        });
        async move { Ok(found) }.boxed()
    }

    fn delete<'a>(&'a self, tier: Tier, key: &'a str) -> BoxFuture<'a, Result<(), OutsideError>> {
        let _ = std::fs::remove_file(self.path(tier, key));
        async { Ok(()) }.boxed()
    }

    fn get<'a>(&'a self, tier: Tier, key: &'a str, _: u64) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        async move { std::fs::read(self.path(tier, key)).map_err(outside) }.boxed()
    }

    fn put<'a>(&'a self, tier: Tier, key: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), OutsideError>> {
        async move {
            let path = self.path(tier, key);
            std::fs::create_dir_all(path.parent().unwrap()).map_err(outside)?;
            std::fs::write(path, bytes).map_err(outside)
        }
        .boxed()
    }

    fn prefixes(&self, owner: &str, document: &str) -> Vec<String> {
        vec![format!("documents/{owner}/{document}"), format!("versions/{owner}/{document}")]
    }
}

struct Vault(PathBuf);

impl Vaulted for Vault {
    fn create<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<bool, OutsideError>> {
        async move {
            std::fs::create_dir_all(&self.0).map_err(outside)?;
            let path = self.0.join(name);
            if path.exists() {
                return Ok(false);
            }
            std::fs::write(path, bytes).map_err(outside).map(|()| true)
        }
        .boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        async move { std::fs::read(self.0.join(name)).map_err(outside) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, OutsideError>> {
        let mut names = BTreeSet::new();
        walk(&self.0, &mut |path| {
            names.insert(path.file_name().unwrap().to_string_lossy().into_owned());
        });
        async move { Ok(names.into_iter().collect()) }.boxed()
    }
}

/// Caches that know which keys there are.
#[derive(Default)]
pub struct Remembered(Mutex<HashSet<String>>);

impl Remembered {
    pub fn put(&self, keys: &[&str]) {
        self.0.lock().unwrap().extend(keys.iter().map(|key| (*key).to_owned()));
    }

    pub fn keys(&self) -> HashSet<String> {
        self.0.lock().unwrap().clone()
    }

    fn drop_all(&self, keys: impl Iterator<Item = String>) -> BoxFuture<'static, Result<(), OutsideError>> {
        let mut known = self.0.lock().unwrap();
        keys.for_each(|key| {
            known.remove(&key);
        });
        async { Ok(()) }.boxed()
    }
}

impl Caches for Remembered {
    fn live<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<HashSet<String>, OutsideError>> {
        let keys = self.keys();
        let live = sessions.iter().filter(|id| keys.contains(&format!("session:{id}"))).cloned().collect();
        async move { Ok(live) }.boxed()
    }

    fn forget<'a>(&'a self, records: &'a [(String, String, i64)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.drop_all(records.iter().map(|(collection, id, _)| format!("cache:{collection}:{id}")))
    }

    fn cached_by(&self, collection: &str) -> Vec<String> {
        let is_by = ["ai_interactions", "analyses"].contains(&collection);
        is_by.then(|| "cacheKey".to_owned()).into_iter().collect()
    }

    fn forget_by<'a>(&'a self, collection: &'a str, rows: &'a [Document]) -> BoxFuture<'a, Result<(), OutsideError>> {
        let key = |row: &Document| Some(format!("cache:{collection}:{}", row.get_str("cacheKey").ok()?));
        self.drop_all(rows.iter().filter_map(key))
    }

    fn forget_typing<'a>(&'a self, of: &'a [(String, String)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.drop_all(of.iter().map(|(document, session)| format!("typing:{document}:{session}")))
    }

    fn end_sessions<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.drop_all(sessions.iter().map(|id| format!("session:{id}")))
    }
}

/// Cuts a run off at one call, before it or after it.
pub struct CutAt {
    pub call: u64,
    pub after: bool,
    seen: AtomicU64,
    pub calls: Mutex<Vec<String>>,
}

impl CutAt {
    pub fn new(call: u64, after: bool) -> Arc<Self> {
        Arc::new(Self { call, after, seen: AtomicU64::new(0), calls: Mutex::default() })
    }

    fn cut(&self) -> Result<(), JobError> {
        Err(JobError::Unconfirmed("cut off".into()))
    }

    pub fn count(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Faults for CutAt {
    fn before(&self, call: &str) -> Result<(), JobError> {
        let n = self.seen.fetch_add(1, Ordering::Relaxed);
        self.calls.lock().unwrap().push(call.to_owned());
        if n > self.call || (n == self.call && !self.after) { self.cut() } else { Ok(()) }
    }

    fn after(&self, _: &str) -> Result<(), JobError> {
        if self.after && self.count() > self.call { self.cut() } else { Ok(()) }
    }
}

/// Everything that a user can leave, and the same of somebody else.
pub async fn seed(place: &Place) {
    let sync = doc! { "rev": 3_i64, "order": 77_i64, "fields": { "x": 5_i64 }, "task": format!("{MARK}@/s") };
    for (user, own, mark) in [(USER, "mine", MARK), (OTHER, "theirs", "somebody else")] {
        let id = |name: &str| format!("{own}-{name}");
        let row = |name: &str, more: Document| {
            let mut row = doc! { "_id": id(name), "note": mark, "createdAt": at(40), "_sync": sync.clone() };
            if own == "theirs" {
                row.insert("_sync", doc! { "rev": 3_i64, "order": 77_i64 });
            }
            row.extend(more);
            row
        };
        let mut account = row(
            "user",
            doc! { "userId": user, "email": format!("{mark}@example.org"), "emailHash": format!("{mark} hash"),
            "firstName": mark, "lastName": mark, "metadata": { "a": [mark] }, "state": "deleted", "deletedAt": at(31) },
        );
        account.insert("_id", user);
        place.put("users", vec![account]).await;
        let mut preference = row("p", doc! { "userId": user, "theme": mark });
        preference.insert("_id", user);
        place.put("user_preferences", vec![preference]).await;
        place
            .put(
                "sessions",
                vec![
                    row("s1", doc! { "userId": user, "state": "ended", "context": { "t": mark }, "interactionCount": 2_i64, "startedAt": at(40), "evaluation": { "why": mark } }),
                    row("s2", doc! { "userId": user, "claimedBy": user, "state": "active", "metadata": mark }),
                ],
            )
            .await;
        place
            .put("session_history", vec![row("s0", doc! { "userId": user, "summary": mark, "durationMs": 5_i64 })])
            .await;
        let mut interactions = vec![row(
            "i1",
            doc! { "userId": user, "sessionId": id("s1"), "role": "user", "request": mark, "timestamp": at(40) },
        )];
        // Without a user: it is the session's.
        interactions.push(row(
            "i2",
            doc! { "sessionId": id("s0"), "response": { "text": mark }, "timestamp": at(40), "evaluation": mark },
        ));
        place.put("interactions", interactions).await;
        place
            .put(
                "ai_interactions",
                vec![
                    row("a1", doc! { "userId": user, "customPrompt": mark, "aiResponse": mark, "cacheKey": id("key"), "timestamp": at(3), "model": "m" }),
                    row("a2", doc! { "sessionId": id("s2"), "aiResponse": mark, "timestamp": at(3), "acceptedSuggestions": 4 }),
                ],
            )
            .await;
        place
            .put(
                "auth_logs",
                vec![
                    row("l1", doc! { "userId": user, "ip": mark, "userAgent": mark, "event": "login", "success": true, "timestamp": at(3) }),
                    row("l2", doc! { "sessionId": id("s1"), "event": "logout", "ip": mark, "timestamp": at(3) }),
                ],
            )
            .await;
        place
            .put(
                "contexts",
                vec![
                    row("c1", doc! { "userId": user, "content": mark }),
                    row("c2", doc! { "sessionId": id("s0"), "content": mark }),
                ],
            )
            .await;
        let link = |from: &str, to: &str| {
            let mut link = row(&format!("{from}|RELATES_TO|{to}"), doc! { "from": id(from), "to": id(to) });
            link.insert("_id", format!("{}|RELATES_TO|{}", id(from), id(to)));
            link
        };
        place.put("context_links", vec![link("c1", "c2"), link("d1", "c1"), link("d1", "d2")]).await;
        let typing = |document: &str, session: &str, more: Document| {
            let mut row = doc! { "_id": format!("{}:{}", id(document), id(session)), "documentId": id(document), "sessionId": id(session), "recentText": mark };
            row.extend(more);
            row
        };
        place
            .put(
                "typing_contexts",
                vec![
                    typing("d1", "s1", doc! { "userId": user }),
                    typing("dx", "s2", doc! {}),
                    typing("dy", "sx", doc! { "userId": user }),
                ],
            )
            .await;
        let analysis = |name: &str, more: Document| {
            let mut row =
                doc! { "_id": id(name), "cacheKey": id(&format!("{name}key")), "grammar": mark, "createdAt": at(9) };
            row.extend(more);
            row
        };
        place
            .put(
                "analyses",
                vec![
                    analysis("n1", doc! { "documentId": id("d1") }),
                    analysis("n2", doc! { "documentId": id("dx"), "userId": user }),
                    analysis("n3", doc! { "documentId": id("dz"), "sessionId": id("s1") }),
                ],
            )
            .await;
        let mut documents = Vec::new();
        let mut versions = Vec::new();
        let owned = [
            ("d1", doc! { "userId": user, "state": "deleted", "deletedAt": at(31) }),
            ("d2", doc! { "userId": user, "state": "active", "sessionId": id("s1") }),
            ("d3", doc! { "sessionId": id("s2"), "ownerType": "anon", "state": "active" }),
        ];
        for (name, more) in owned {
            let owner = more.get_str("userId").or(more.get_str("sessionId")).unwrap().to_owned();
            let key = |kind: &str, last: &str| format!("{kind}/{owner}/{}/{last}", id(name));
            for key in [key("documents", "one"), key("versions", "v1"), key("versions", "without-row")] {
                place.world.objects.put(Tier::Hot, &key, mark.as_bytes().to_vec()).await.unwrap();
            }
            let mut document = row(name, more);
            document.extend(doc! { "title": mark, "content": { "key": key("documents", "one") } });
            documents.push(document);
            versions.push(row(&format!("{name}v1"), doc! { "documentId": id(name), "content": { "key": key("versions", "v1") }, "changeDescription": mark, "createdBy": user }));
        }
        place.put("documents", documents).await;
        place.put("document_versions", versions).await;
        let hold = |name: &str, kind: &str, of: String| {
            row(
                name,
                doc! { "entityType": kind, "entityId": of, "state": "lifted", "reason": mark, "liftReason": mark },
            )
        };
        place
            .put(
                "holds",
                vec![
                    hold("h1", "user", user.into()),
                    hold("h2", "document", id("d1")),
                    hold("h3", "session", id("s1")),
                ],
            )
            .await;
        place
            .put(
                "ai_prompt_templates",
                vec![
                    row("t1", doc! { "createdBy": user, "promptText": mark }),
                    doc! { "_id": id("t2"), "createdBy": user, "isSystem": true, "promptText": "Correct it." },
                ],
            )
            .await;
        place.caches.put(&[]);
        for key in [
            format!("cache:users:{user}"),
            format!("cache:user_preferences:{user}"),
            format!("cache:ai_interactions:{}", id("key")),
        ] {
            place.caches.put(&[&key]);
        }
        for name in [
            "cache:sessions:%s1",
            "cache:sessions:%s2",
            "session:%s2",
            "session:%s0",
            "cache:interactions:%i1",
            "cache:interactions:%i2",
            "cache:contexts:%c1",
            "cache:documents:%d1",
            "cache:documents:%d3",
            "typing:%d1:%s1",
            "typing:%dx:%s2",
            "cache:analyses:%n1key",
            "cache:analyses:%n2key",
        ] {
            place.caches.put(&[&name.replace('%', &format!("{own}-"))]);
        }
    }
    // A version of somebody else's document that the user made: it is the document's, and forgets the name.
    place
        .put(
            "document_versions",
            vec![doc! { "_id": "guest", "documentId": "theirs-d1", "createdBy": USER, "decidedBy": USER, "n": 1 }],
        )
        .await;
}

/// Where the user's id is still named, by collection.
pub async fn named(place: &Place) -> BTreeMap<String, usize> {
    let mut named = BTreeMap::new();
    for (name, rows) in place.everything().await {
        let n = rows.iter().filter(|row| row.to_string().contains("usr-1")).count();
        if n > 0 {
            named.insert(name, n);
        }
    }
    named
}
