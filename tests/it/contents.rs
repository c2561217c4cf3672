//! Documents and versions: the metadata in MongoDB, the contents in the object store, read back here by other means.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
};

use futures::future::join_all;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use mongodb::bson::{Document, doc};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::{Env, Event, Metrics, eventually, ports, when};

trait Fields {
    /// A text; empty when it is not there.
    fn str(&self, name: &str) -> &str;
    fn num(&self, name: &str) -> i64;
}

impl Fields for Document {
    fn str(&self, name: &str) -> &str {
        self.get_str(name).unwrap_or_default()
    }

    fn num(&self, name: &str) -> i64 {
        self.get_i64(name).unwrap()
    }
}

/// Event time number `n`, in the past.
fn at(n: usize) -> String {
    let time = chrono::DateTime::from_timestamp(1_700_000_000 + n as i64, 0).unwrap();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn document(id: &str, n: usize, content: &str) -> Event {
    let data = json!({ "documentId": id, "userId": "u1", "content": content, "updatedAt": at(n) });
    Event::new("document.save.v1", &format!("{id}-{n}").replace(' ', "_"), data)
}

fn version(document: &str, n: usize, kind: &str, content: &str) -> Event {
    let id = format!("{document}-v{n}");
    let data = json!({ "documentId": document, "versionId": id, "kind": kind, "content": content, "createdAt": at(n) });
    Event::new("version.save.v1", &id.replace(' ', "_"), data)
}

fn decide(version: &str, n: usize, decision: &str) -> Event {
    let data = json!({ "versionId": version, "decision": decision, "decidedBy": "u1", "decidedAt": at(n) });
    Event::new("version.decide.v1", &format!("decide-{version}-{n}"), data)
}

fn restore(document: &str, version: &str, new: &str, n: usize) -> Event {
    let data = json!({ "documentId": document, "versionId": version, "newVersionId": new, "restoredBy": "u1",
        "restoredAt": at(n) });
    Event::new("version.restore.v1", &format!("restore-{new}"), data)
}

/// A text like people write, edited `n` times.
fn text(n: usize) -> String {
    let start = include_str!("../../samples/documents/handbook.md");
    (0..n).fold(start.to_owned(), |text, i| {
        let at = text.floor_char_boundary((i * 7919) % text.len());
        let at = text[at..].find(' ').map_or(at, |space| at + space);
        format!("{} edit {i}{}", &text[..at], &text[at..])
    })
}

/// A directory of objects of the test's own, and a world that uses it.
async fn world() -> (Env, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::new().await.set("content.url", dir.path().join("objects").display());
    (env.set("retry.base", "20ms").set("retry.max", "100ms"), dir)
}

fn root(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("objects")
}

/// All objects, by key.
fn objects(root: &Path) -> BTreeSet<String> {
    fn walk(dir: &Path, root: &Path, out: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, root, out);
            } else {
                out.insert(entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(root, root, &mut out);
    out
}

fn key(row: &Document) -> String {
    row.get_document("content").unwrap().str("key").to_owned()
}

/// The content of a row, decoded and checked without contextd's code.
fn content(root: &Path, row: &Document, versions: &BTreeMap<String, Document>) -> String {
    let of = row.get_document("content").unwrap();
    let stored = std::fs::read(root.join(key(row))).unwrap();
    assert_eq!(stored.len() as i64, of.num("stored"));
    let base = of.get_str("base").ok().map(|id| content(root, &versions[id], versions));
    let mut plain = Vec::new();
    match (of.str("codec"), &base) {
        ("raw", None) => plain = stored,
        ("zstd", None) => plain = zstd::stream::decode_all(&stored[..]).unwrap(),
        ("zstd-delta", Some(base)) => {
            assert_ne!(versions[of.str("base")].get_document("content").unwrap().str("codec"), "zstd-delta");
            let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(&stored[..], base.as_bytes()).unwrap();
            decoder.read_to_end(&mut plain).unwrap();
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(blake3::hash(&plain).to_hex().as_str(), of.str("hash"));
    String::from_utf8(plain).unwrap()
}

async fn versions(env: &Env, document: &str) -> BTreeMap<String, Document> {
    let all = env.all("document_versions").await.into_iter();
    let of = all.filter(|row| row.str("documentId") == document);
    of.map(|row| (row.str("_id").to_owned(), row)).collect()
}

/// Works until these events are dead letters and nothing is left.
async fn drain(env: &Env, dead: &[&str]) -> Metrics {
    let worker = env.worker("records").ready().await;
    for id in dead {
        env.dead(id).await;
    }
    env.drained("records").await;
    let metrics = worker.at_rest().await;
    worker.stop().await;
    metrics
}

fn ended(metrics: &Metrics, outcome: &str) -> f64 {
    metrics.sum("tasks_finished_total", &[("outcome", outcome)])
}

#[tokio::test]
async fn a_documents_newest_content_is_kept_and_no_other() {
    let (env, dir) = world().await;
    env.push("records", "normal", &[document("d", 2, "second")]).await;
    drain(&env, &[]).await;
    let retitled =
        Event::new("document.save.v1", "title", json!({ "documentId": "d", "title": "T", "updatedAt": at(9) }));
    // An older one comes late, a newer one, one of the metadata only, and everything twice.
    let mut tasks = vec![document("d", 1, "first"), document("d", 3, &text(0)), retitled, document("d", 2, "second")];
    env.push("records", "normal", &tasks).await;
    drain(&env, &[]).await;
    tasks.reverse();
    env.push("records", "normal", &tasks).await;
    let metrics = drain(&env, &[]).await;
    let row = env.one("documents", "d").await.unwrap();
    assert_eq!(content(&root(&dir), &row, &BTreeMap::new()), text(0));
    assert_eq!((row.str("title"), row.str("userId"), row.str("state")), ("T", "u1", "active"));
    assert!(key(&row).starts_with("documents/u1/d/"), "{row}");
    assert_eq!(objects(&root(&dir)), BTreeSet::from([key(&row)]), "what no row describes is removed");
    assert_eq!(ended(&metrics, "superseded"), 2.0);
    // Nobody's document: it waits for the task that makes it, and then is dead.
    let unowned = json!({ "documentId": "x", "content": "y", "updatedAt": at(1) });
    env.push("records", "normal", &[Event::new("document.save.v1", "unowned", unowned)]).await;
    let metrics = drain(&env, &["unowned"]).await;
    let dead = env.dead("unowned").await;
    assert_eq!((dead.str("reason"), ended(&metrics, "dead")), ("missing", 1.0));
    assert!(dead.str("error").contains("a new document needs `userId` or `sessionId`"), "{dead}");
}

#[tokio::test]
async fn numbers_have_no_gaps_whoever_saves_and_dies() {
    const DOCUMENTS: usize = 6;
    const EACH: usize = 40;
    let (env, dir) = world().await;
    let env = env.short_lease().set("content.full_every", 7).set("queues.records.batch", "{ tasks = 25 }");
    let ids: Vec<String> = (0..DOCUMENTS).map(|d| format!("doc {d}")).collect();
    env.push("records", "normal", &ids.iter().map(|id| document(id, 0, "")).collect::<Vec<_>>()).await;
    drain(&env, &[]).await;
    let texts: Vec<String> = (0..EACH).map(|n| text(n + 1)).collect();
    let kind = |n: usize| ["major", "minor", "ai", "minor"][n % 4];
    let mut tasks: Vec<Event> = (0..EACH)
        .flat_map(|n| ids.iter().map(move |id| (id, n)))
        .map(|(id, n)| version(id, n, kind(n), &texts[n]))
        .collect();
    // Some come twice, some late.
    tasks.extend(tasks.clone().into_iter().step_by(3));
    tasks.rotate_left(17);
    env.push("records", "normal", &tasks).await;
    let mut workers = join_all((0..3).map(|_| env.worker("records").ready())).await;
    eventually("work is under way", || async { when(env.size("document_versions").await > 20) }).await;
    workers.pop().unwrap().kill();
    env.drained("records").await;
    for worker in workers {
        worker.at_rest().await;
        worker.stop().await;
    }
    assert_eq!(env.all("dead_letters").await, Vec::<Document>::new());
    let mut keys = BTreeSet::new();
    for id in &ids {
        let row = env.one("documents", id).await.unwrap();
        let versions = versions(&env, id).await;
        assert_eq!((versions.len(), row.num("versionCounter")), (EACH, EACH as i64));
        let by_number: BTreeMap<i64, &Document> = versions.values().map(|v| (v.num("versionNumber"), v)).collect();
        assert!(by_number.keys().copied().eq(1..=EACH as i64), "{:?}", by_number.keys());
        let mut since_full = 0;
        for (number, version) in &by_number {
            let before = by_number.get(&(number - 1)).map(|v| v.str("_id"));
            assert_eq!(version.get_str("previousVersionId").ok(), before);
            let is_delta = version.get_document("content").unwrap().contains_key("base");
            since_full = if is_delta { since_full + 1 } else { 0 };
            assert!(since_full < 7, "a full copy comes in time");
            keys.insert(key(version));
        }
        for (n, text) in texts.iter().enumerate() {
            assert!(content(&root(&dir), &versions[&format!("{id}-v{n}")], &versions) == *text, "{id} {n}");
        }
        // The last that is no suggestion, by its time.
        assert_eq!(row.str("currentVersionId"), &*format!("{id}-v{}", EACH - 1));
        keys.insert(key(&row));
    }
    // A worker that was killed may leave an object without a row, never a row without an object.
    let stored = objects(&root(&dir));
    assert!(stored.is_superset(&keys));
    let deltas = env
        .all("document_versions")
        .await
        .iter()
        .filter(|v| v.get_document("content").unwrap().contains_key("base"))
        .count();
    assert!(deltas > DOCUMENTS * EACH / 2, "{deltas}");
}

#[tokio::test]
async fn versions_of_one_batch_are_numbered_in_its_order() {
    let (env, dir) = world().await;
    let mut tasks = vec![document("d", 0, "start")];
    // All of one time: the later one in the batch is the newer.
    let same = |n: usize| version("d", n, "major", &text(n)).data("createdAt", at(5));
    tasks.extend((0..9).map(same));
    env.push("records", "normal", &tasks).await;
    drain(&env, &[]).await;
    let versions = versions(&env, "d").await;
    for n in 0..9 {
        assert_eq!(versions[&format!("d-v{n}")].num("versionNumber"), n + 1);
    }
    assert_eq!(env.one("documents", "d").await.unwrap().str("currentVersionId"), "d-v8");
    let keys: BTreeSet<String> = versions.values().map(key).collect();
    assert_eq!(objects(&root(&dir).join("versions")).len(), keys.len(), "no object without a row");
}

#[tokio::test]
async fn suggestions_are_accepted_or_rejected() {
    let (env, _dir) = world().await;
    let saves = [document("d", 0, "start"), version("d", 1, "major", "one")];
    let saves = saves.into_iter().chain((2..6).map(|n| version("d", n, "ai", &format!("suggestion {n}"))));
    env.push("records", "normal", &saves.collect::<Vec<_>>()).await;
    drain(&env, &[]).await;
    assert_eq!(env.one("documents", "d").await.unwrap().str("currentVersionId"), "d-v1");
    let decisions = [
        decide("d-v2", 20, "accepted"),
        decide("d-v3", 30, "rejected"),
        // Accepted before the other, and told later: not the current one.
        decide("d-v4", 10, "accepted"),
        decide("d-v2", 20, "accepted"),
        decide("d-v2", 40, "rejected"),
        decide("d-v1", 40, "accepted"),
        decide("nothing", 40, "accepted"),
    ];
    env.push("records", "normal", &decisions).await;
    drain(&env, &["decide-d-v1-40", "decide-nothing-40"]).await;
    let versions = versions(&env, "d").await;
    let state = |id: &str| {
        let of = |name: &str| versions[id].str(name).to_owned();
        (of("kind"), of("decision"), of("decidedBy"))
    };
    let decided = |kind: &str, decision: &str| (kind.to_owned(), decision.to_owned(), "u1".to_owned());
    assert_eq!(state("d-v2"), decided("major", "accepted"));
    assert_eq!(state("d-v3"), decided("ai", "rejected"));
    assert_eq!(state("d-v4"), decided("major", "accepted"));
    assert_eq!(state("d-v5"), ("ai".to_owned(), String::new(), String::new()));
    assert_eq!(env.one("documents", "d").await.unwrap().str("currentVersionId"), "d-v2");
    let refused = env.dead("decide-d-v1-40").await;
    assert_eq!(refused.str("reason"), "rejected");
    assert!(refused.str("error").contains("only suggestions"), "{refused}");
    assert_eq!(env.dead("decide-nothing-40").await.str("reason"), "missing");
    assert_eq!(env.size("dead_letters").await, 2);
    let audit = env.one("audit_log", "decide-d-v2-20@/it").await.unwrap();
    assert_eq!((audit.str("action"), audit.str("actor")), ("version.decide", "u1"));
}

#[tokio::test]
async fn an_earlier_version_comes_back() {
    let (env, dir) = world().await;
    let mut tasks = vec![document("d", 0, "start"), document("e", 0, "other")];
    tasks.extend((1..5).map(|n| version("d", n, "minor", &text(n))));
    tasks.push(version("e", 1, "major", "of e"));
    // In one batch with what it restores, and with what comes after it.
    tasks.push(restore("d", "d-v2", "back", 10));
    tasks.push(version("d", 5, "minor", &text(5)));
    tasks.push(restore("d", "e-v1", "stolen", 11));
    tasks.push(restore("d", "no-such", "never", 11));
    tasks.push(restore("d", "purged", "late", 11));
    tasks.push(version("gone", 1, "major", "late"));
    tasks.push(version("unknown", 1, "major", "early"));
    for id in ["document_versions/purged", "documents/gone"] {
        env.coll("tombstones").insert_one(doc! { "_id": id }).await.unwrap();
    }
    env.push("records", "normal", &tasks).await;
    let metrics = drain(&env, &["restore-stolen", "restore-never", "unknown-v1"]).await;
    let versions = versions(&env, "d").await;
    let back = &versions["back"];
    assert_eq!(content(&root(&dir), back, &versions), text(2));
    assert_eq!((back.str("kind"), back.str("restoredFrom")), ("major", "d-v2"));
    assert_eq!((back.str("createdBy"), back.num("versionNumber")), ("u1", 5));
    assert_eq!(back.str("previousVersionId"), "d-v4");
    assert_eq!(versions["d-v5"].num("versionNumber"), 6);
    assert_eq!(env.one("documents", "d").await.unwrap().str("currentVersionId"), "back");
    let stolen = env.dead("restore-stolen").await;
    assert!(stolen.str("error").contains("of another document"), "{stolen}");
    assert_eq!(env.dead("restore-never").await.str("reason"), "missing");
    assert_eq!(env.dead("unknown-v1").await.str("reason"), "missing");
    assert_eq!((ended(&metrics, "expired"), env.size("dead_letters").await), (2.0, 3));
    // Again, after the restored one was purged: it has had its effect.
    env.coll("document_versions").delete_one(doc! { "_id": "d-v2" }).await.unwrap();
    env.push("records", "normal", &[restore("d", "d-v2", "back", 10)]).await;
    let metrics = drain(&env, &[]).await;
    assert_eq!(ended(&metrics, "duplicate"), 1.0);
    assert!(env.one("audit_log", "restore-back@/it").await.is_some());
}

#[tokio::test]
async fn a_damaged_object_is_reported_and_not_restored() {
    let (env, dir) = world().await;
    let tasks = [document("d", 0, "start"), version("d", 1, "major", &text(1)), version("d", 2, "major", "two")];
    env.push("records", "normal", &tasks).await;
    drain(&env, &[]).await;
    let first = env.one("document_versions", "d-v1").await.unwrap();
    let other = zstd::bulk::compress(text(1).replace('a', "b").as_bytes(), 3).unwrap();
    std::fs::write(root(&dir).join(key(&first)), &other).unwrap();
    let stored = doc! { "$set": { "content.stored": other.len() as i64 } };
    env.coll("document_versions").update_one(doc! { "_id": "d-v1" }, stored).await.unwrap();
    // Its successor is stored whole; what is asked of it fails, with what is wrong.
    env.push("records", "normal", &[restore("d", "d-v1", "back", 9), version("d", 3, "major", &text(3))]).await;
    drain(&env, &["restore-back"]).await;
    let dead = env.dead("restore-back").await;
    assert_eq!(dead.str("reason"), "failed");
    let error = dead.str("error");
    let hash = first.get_document("content").unwrap().str("hash");
    let found = blake3::hash(text(1).replace('a', "b").as_bytes()).to_hex();
    assert!(error.contains(&key(&first)) && error.contains(hash) && error.contains(found.as_str()), "{error}");
    let versions = versions(&env, "d").await;
    assert!(!versions.contains_key("back"));
    assert_eq!(content(&root(&dir), &versions["d-v3"], &versions), text(3));
}

#[tokio::test]
async fn contents_are_shown_and_compared() {
    let (env, dir) = world().await;
    let mut tasks = vec![document("d", 0, "no line break at the end"), version("d", 1, "major", "one\ntwo\nthree\n")];
    tasks.push(version("d", 2, "major", "one\n2\nthree\n"));
    tasks.push(Event::new(
        "document.save.v1",
        "bare",
        json!({ "documentId": "bare", "userId": "u", "updatedAt": at(1) }),
    ));
    env.push("records", "normal", &tasks).await;
    drain(&env, &[]).await;
    let get = |args: &[&str]| env.command(&[&["get"], args].concat()).end();
    assert_eq!(get(&["document", "d", "--content"]).await.code(0).out, "no line break at the end");
    let shown = get(&["version", "d-v2", "--content", "--diff", "d-v1"]).await.code(0);
    assert_eq!(shown.out, "--- d-v1\n+++ d-v2\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
    let shown = get(&["version", "d-v1", "--content", "--json"]).await.code(0).json();
    assert_eq!(shown, json!({ "kind": "version", "id": "d-v1", "content": "one\ntwo\nthree\n" }));
    for (args, code, said) in [
        (["version", "none", "--content"], 1, "there is no version \"none\""),
        (["document", "bare", "--content"], 1, "has no content yet"),
        (["session", "d", "--content"], 64, "goes with `document` and `version`"),
    ] {
        let ended = get(&args).await.code(code);
        assert!(ended.err.contains(said) && ended.out.is_empty(), "{ended:?}");
    }
    let row = env.one("document_versions", "d-v2").await.unwrap();
    std::fs::write(root(&dir).join(key(&row)), "x").unwrap();
    let ended = get(&["version", "d-v2", "--content"]).await.code(1);
    assert!(ended.err.contains("is damaged") && ended.out.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn contents_of_a_sensitive_type_are_sealed() {
    let (env, dir) = world().await;
    let env = env
        .set("encryption.keys", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
        .set("records.version_save.sensitive", "[\"content\"]");
    let secret = format!("{} the secret of the text", text(0));
    let tasks = [
        document("d", 0, "open"),
        version("d", 1, "major", &secret).with("tenant", "acme"),
        version("d", 2, "major", &format!("{secret}!")).with("tenant", "acme"),
        restore("d", "d-v2", "back", 9).with("tenant", "acme"),
    ];
    env.push("records", "normal", &tasks).await;
    drain(&env, &[]).await;
    let versions = versions(&env, "d").await;
    assert_eq!(versions["d-v2"].get_document("content").unwrap().str("base"), "d-v1");
    for id in ["d-v1", "d-v2", "back"] {
        let content = versions[id].get_document("content").unwrap();
        assert!(content.get_bool("sealed").unwrap(), "{id}");
        let stored = std::fs::read(root(&dir).join(content.str("key"))).unwrap();
        assert!(zstd::stream::decode_all(&stored[..]).is_err(), "no plain frame");
    }
    let shown = env.command(&["get", "version", "back", "--content"]).end().await.code(0);
    assert!(shown.out == format!("{secret}!"));
    let without = env.command(&["get", "version", "back", "--content"]).set("encryption.keys", "").end().await;
    assert!(without.code != 0 && without.out.is_empty(), "{without:?}");
}

/// An S3 server on this port, with buckets in `root`.
async fn serve(root: &Path, port: u16) {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single("contextd", "secret of the test"));
    let service = builder.build();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
}

#[tokio::test]
async fn an_object_store_that_is_away_is_waited_for() {
    let (env, dir) = world().await;
    let port = ports::free();
    std::fs::create_dir(dir.path().join("contents")).unwrap();
    let env = env
        .set("content.url", "s3://contents/some/prefix")
        .set("content.timeout", "1s")
        .set("content.s3.endpoint", format!("http://127.0.0.1:{port}"))
        .set("content.s3.allow_http", true)
        .set("content.s3.access_key_id", "contextd")
        .set("content.s3.secret_access_key", "secret of the test");
    let mut tasks = vec![document("d", 0, &text(0))];
    tasks.extend((1..30).map(|n| version("d", n, "minor", &text(n))));
    env.push("records", "normal", &tasks).await;
    let mut worker = env.worker("records").ready().await;
    let reasons = worker.becomes_unready().await;
    assert!(reasons.contains("the S3 bucket contents"), "the reason is given: {reasons}");
    assert!(!reasons.contains("secret of the test"));
    assert_eq!(worker.get("/live").await.unwrap().0, 200, "waiting is progress: it must not be restarted");
    serve(dir.path(), port).await;
    worker.becomes_ready().await;
    env.drained("records").await;
    let metrics = worker.at_rest().await;
    worker.stop().await;
    assert_eq!((metrics.sum("task_retries_total", &[]), ended(&metrics, "written")), (0.0, 30.0));
    let versions = versions(&env, "d").await;
    let root = dir.path().join("contents/some/prefix");
    assert!((1..30).all(|n| content(&root, &versions[&format!("d-v{n}")], &versions) == text(n)));
    assert_eq!(content(&root, &env.one("documents", "d").await.unwrap(), &versions), text(0));
}
