//! What jobs reach besides MongoDB, and contents that a job has moved to the archive: read through by everybody.

use std::path::{Path, PathBuf};

use contextd::{
    config,
    lifecycle::world,
    read::Ask,
    record::cached::{Plan, parse},
};
use contextd_jobs::kit::World;
use mongodb::bson::{DateTime, Document, doc};
use redis::AsyncCommands;
use serde_json::json;

use crate::{
    harness::{Env, Event, ports, services},
    tiers::{Tiers, session},
};

fn reach(env: &Env) -> World {
    world(&config::load(None, env.variables().into_iter()).expect("valid settings")).expect("a usable world")
}

#[tokio::test]
async fn jobs_know_which_sessions_are_live_and_end_them() {
    let env = Env::new().await;
    let world = reach(&env);
    let key = |id: &str| format!("{}:session:{id}", env.namespace);
    // More than one pipeline takes.
    let sessions: Vec<String> = (0..1200).map(|n| format!("s{n}")).collect();
    for id in ["s0", "s700", "s1199"] {
        let _: () = env.redis().set_ex(key(id), "1", 60).await.unwrap();
    }
    let mut live: Vec<String> = world.caches.live(&sessions).await.unwrap().into_iter().collect();
    live.sort();
    assert_eq!(live, ["s0", "s1199", "s700"]);
    assert!(world.caches.live(&[]).await.unwrap().is_empty());
    world.caches.end_sessions(&sessions[..701]).await.unwrap();
    assert_eq!(world.caches.live(&sessions).await.unwrap().into_iter().collect::<Vec<_>>(), ["s1199"]);
    let typing = |session: &str| format!("{}:typing:d1:{session}", env.namespace);
    for session in ["s0", "s1"] {
        let _: () = env.redis().set_ex(typing(session), "{}", 60).await.unwrap();
    }
    world.caches.forget_typing(&[("d1".into(), "s0".into()), ("d2".into(), "s1".into())]).await.unwrap();
    let left = env.keys("typing:*").await;
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [typing("s1")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jobs_forget_does_not_come_back() {
    let env = Env::new().await;
    let (world, tiers) = (reach(&env), Tiers::new(&env).await);
    tiers.cache.put(&[tiers.entry("session", &session("s0", 3)), tiers.entry("session", &session("s1", 9))]).await;
    let forgotten = |rev| ["s0", "s1"].map(|id| ("sessions".to_owned(), id.to_owned(), rev));
    world.caches.forget(&forgotten(4)).await.unwrap();
    // A value that is newer than the removal stays; an older one is not put there by a reader that comes late.
    assert_eq!((tiers.rev("session", "s0").await, tiers.rev("session", "s1").await), (None, Some(9)));
    tiers.cache.put(&[tiers.entry("session", &session("s0", 4))]).await;
    assert_eq!(tiers.rev("session", "s0").await, None);
    tiers.cache.put(&[tiers.entry("session", &session("s0", 5))]).await;
    assert_eq!(tiers.rev("session", "s0").await, Some(5), "a newer one is");
    // Of something purged nothing comes back, of whatever revision.
    world.caches.forget(&forgotten(i64::MAX)).await.unwrap();
    tiers.cache.put(&[tiers.entry("session", &session("s1", i64::MAX))]).await;
    assert_eq!(tiers.rev("session", "s1").await, None);
    assert!(tiers.reader.get("session", "s1", Ask::default()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cached_under_another_field_is_forgotten_too() {
    let env = Env::new().await;
    let (world, tiers) = (reach(&env), Tiers::new(&env).await);
    let answer = |id: &str, key: &str, order: i64| -> Document {
        doc! {
            "_id": id, "cacheKey": key, "aiResponse": "Use the ferry.", "timestamp": DateTime::from_millis(1),
            "_sync": { "rev": 1_i64, "order": order << 20, "task": "t@/it" },
        }
    };
    let rows = [answer("a1", "k1", 5), answer("a2", "k2", 5)];
    // Under k2 lies a newer record's answer.
    tiers.cache.put(&[tiers.entry("ai", &rows[0]), tiers.entry("ai", &answer("a3", "k2", 6))]).await;
    world.caches.forget_by("ai_interactions", &rows).await.unwrap();
    assert_eq!(tiers.rev("ai", "k1").await, None);
    assert_eq!(tiers.rev("ai", "k2").await, Some(tiers.kinds.get("ai").unwrap().rev(&answer("a3", "k2", 6))));
    // A reader that has read the row before does not bring it back.
    let Plan::Put(late) = tiers.kinds.get("ai").unwrap().plan(&rows[0], 1) else { panic!("cached") };
    assert!(parse(&late.bytes).is_ok());
    tiers.cache.put(&[tiers.entry("ai", &rows[0])]).await;
    assert_eq!(tiers.rev("ai", "k1").await, None);

    let key = |hash: &str| format!("{}:cache:analysis:{hash}", env.namespace);
    for hash in ["h1", "h2"] {
        let _: () = env.redis().set_ex(key(hash), "a result", 60).await.unwrap();
    }
    let rows = [doc! { "_id": "x", "cacheKey": "h1" }, doc! { "_id": "not cacheable" }];
    world.caches.forget_by("analyses", &rows).await.unwrap();
    let left = env.keys("cache:analysis:*").await;
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [key("h2")]);
}

#[tokio::test]
async fn jobs_are_listed_and_run_dry_without_redis_and_stores() {
    let nowhere = format!("redis://127.0.0.1:{}/0", ports::free());
    let dir = services::scratch();
    let (hot, archive, audit) = (dir.path().join("hot"), dir.path().join("archive"), dir.path().join("audit"));
    let env = Env::new().await.set("content.url", hot.display()).set("content.archive_url", archive.display());
    let env = env.set("audit.url", audit.display());
    env.command(&["migrate"]).end().await.code(0);
    let listed = env.command(&["jobs", "list", "--json"]).set("redis.url", &nowhere).end().await.code(0);
    assert!(listed.out.contains("retention"), "{}", listed.out);
    assert!(!hot.exists() && !archive.exists() && !audit.exists(), "nothing is made by looking");
}

#[tokio::test]
async fn both_tiers_are_checked() {
    let dir = services::scratch();
    let archive = dir.path().join("archive");
    let env = Env::new().await.set("content.archive_url", archive.display());
    env.command(&["migrate"]).end().await.code(0);
    let checked = env.command(&["check"]).end().await.code(0);
    assert!(checked.out.contains(&format!("archive: the directory {}", archive.display())), "{}", checked.out);
    std::fs::remove_dir_all(&archive).unwrap();
    std::fs::write(&archive, "no directory").unwrap();
    env.command(&["check"]).end().await.code(78).says(&["content.archive_url"]);
    let same = env.command(&["check"]).set("content.url", archive.display()).end().await.code(78);
    same.says(&["`content.archive_url` must be another place than `content.url`"]);
}

/// The objects of a directory, by key.
fn keys(root: &Path) -> Vec<String> {
    let mut dirs = vec![PathBuf::from(root)];
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => dirs.push(path),
                false => found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// Moves an object to the archive, and says so in its row.
async fn archive(env: &Env, dir: &Path, collection: &str, id: &str) {
    let row = env.one(collection, id).await.unwrap();
    let key = row.get_document("content").unwrap().get_str("key").unwrap();
    let (from, to) = (dir.join("hot").join(key), dir.join("archive").join(key));
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(from, to).unwrap();
    let change = doc! { "$set": { "content.tier": "archive" }, "$inc": { "_sync.rev": 1_i64 } };
    env.coll(collection).update_one(doc! { "_id": id }, change).await.unwrap();
}

/// Event time number `n`, in the past.
fn at(n: i64) -> String {
    chrono::DateTime::from_timestamp(1_700_000_000 + n, 0).unwrap().to_rfc3339()
}

#[tokio::test]
async fn an_archived_document_is_read_edited_and_saved_through() {
    let dir = services::scratch();
    let dir = dir.path();
    let env = Env::new().await.set("content.url", dir.join("hot").display());
    let env = env.set("content.archive_url", dir.join("archive").display());
    let text = include_str!("../../samples/documents/handbook.md");
    let edited = text.replacen("the", "the edited", 1);
    let saved = json!({ "documentId": "d1", "userId": "u1", "title": "Handbook", "content": text, "updatedAt": at(0) });
    let version = |id: &str, content: &str| {
        let data =
            json!({ "documentId": "d1", "versionId": id, "kind": "minor", "content": content, "createdAt": at(1) });
        Event::new("version.save.v1", &format!("save-{id}"), data)
    };
    env.push("records", "normal", &[Event::new("document.save.v1", "save", saved), version("v1", text)]).await;
    env.drain("records").await;
    archive(&env, dir, "documents", "d1").await;
    archive(&env, dir, "document_versions", "v1").await;
    env.coll("documents").update_one(doc! { "_id": "d1" }, doc! { "$set": { "state": "archived" } }).await.unwrap();

    let shown = env.command(&["get", "document", "d1", "--full", "--json"]).end().await.code(0);
    assert_eq!(shown.json()["record"]["title"], "Handbook");
    for args in [["get", "document", "d1", "--content"], ["get", "version", "v1", "--content"]] {
        assert_eq!(env.command(&args).end().await.code(0).out, text);
    }
    // A new version is a difference to the archived one, and hot itself.
    env.push("records", "normal", &[version("v2", &edited)]).await;
    env.drain("records").await;
    let row = env.one("document_versions", "v2").await.unwrap();
    let content = row.get_document("content").unwrap();
    assert_eq!((content.get_str("codec").unwrap(), content.get("tier")), ("zstd-delta", None));
    let diff = ["get", "version", "v2", "--content", "--diff", "v1"];
    assert!(env.command(&diff).end().await.code(0).out.contains("the edited"));
    assert_eq!(env.command(&["get", "version", "v2", "--content"]).end().await.code(0).out, edited);
    // Saved anew it is hot, and nothing of it stays in the archive.
    let again = json!({ "documentId": "d1", "userId": "u1", "content": edited, "updatedAt": at(2) });
    env.push("records", "normal", &[Event::new("document.save.v1", "save-again", again)]).await;
    env.drain("records").await;
    let row = env.one("documents", "d1").await.unwrap();
    assert_eq!(row.get_document("content").unwrap().get("tier"), None, "{row}");
    assert_eq!(env.command(&["get", "document", "d1", "--content"]).end().await.code(0).out, edited);
    let archived = keys(&dir.join("archive"));
    assert!(archived.len() == 1 && archived[0].starts_with("versions/u1/d1/v1."), "{archived:?}");
    // An archive that does not answer is no missing content.
    std::fs::rename(dir.join("archive"), dir.join("away")).unwrap();
    std::fs::write(dir.join("archive"), "").unwrap();
    let failed = env.command(&["get", "version", "v1", "--content"]).end().await;
    failed.code(78).says(&["content.archive_url"]);
}
