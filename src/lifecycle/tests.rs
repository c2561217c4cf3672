//! What needs no services; Redis is used in `tests/it`.

use contextd_jobs::kit::Tier;

use super::*;
use crate::config;

fn config(dir: &std::path::Path) -> Config {
    let vars = [
        ("CONTEXTD_CONTENT__URL", "hot"),
        ("CONTEXTD_CONTENT__ARCHIVE_URL", "archive"),
        ("CONTEXTD_AUDIT__URL", "audit"),
    ];
    let vars = vars.map(|(name, path)| (name.to_owned(), dir.join(path).display().to_string()));
    // Nothing listens there.
    let redis = ("CONTEXTD_REDIS__URL".to_owned(), "redis://127.0.0.1:1/0".to_owned());
    config::load(None, vars.into_iter().chain([redis])).unwrap()
}

#[tokio::test]
async fn nothing_is_opened_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(&config(dir.path())).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(world.objects.list(Tier::Hot, "documents").await.unwrap(), []);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // Without Redis nobody knows whether a session is live.
    let sessions = ["s1".to_owned()];
    let fault = world.caches.live(&sessions).await.unwrap_err();
    assert!(fault.passes, "{fault}");
    assert!(world.caches.forget(&[("documents".into(), "d1".into(), 1)]).await.unwrap_err().passes);
    assert!(world.caches.end_sessions(&sessions).await.unwrap_err().passes);
    assert!(world.caches.forget_typing(&[("d1".into(), "s1".into())]).await.unwrap_err().passes);
    // What is cached nowhere needs no answer.
    world.caches.forget(&[("auth_logs".into(), "a1".into(), 1)]).await.unwrap();
    assert_eq!(world.caches.cached_by("ai_interactions"), ["cacheKey"]);
    assert_eq!(world.caches.cached_by("analyses"), ["cacheKey"]);
    assert!(world.caches.cached_by("documents").is_empty());
}

#[tokio::test]
async fn both_tiers_are_written_listed_read_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(&config(dir.path())).unwrap();
    let objects = &world.objects;
    let [documents, versions] = objects.prefixes("u 1", "d1").try_into().unwrap();
    assert_eq!((&*documents, &*versions), ("documents/u%201/d1", "versions/u%201/d1"));
    for tier in [Tier::Hot, Tier::Archive] {
        let key = format!("{documents}/0123");
        objects.put(tier, &key, b"Hello".to_vec()).await.unwrap();
        // A neighbour whose name begins alike is another document.
        objects.put(tier, &format!("{documents}0/0123"), b"x".to_vec()).await.unwrap();
        let listed = objects.list(tier, &documents).await.unwrap();
        assert_eq!(listed.iter().map(|o| (o.key.as_str(), o.size)).collect::<Vec<_>>(), [(key.as_str(), 5)]);
        assert_eq!(objects.get(tier, &key, 5).await.unwrap(), b"Hello");
        assert!(dir.path().join(if tier.is_hot() { "hot" } else { "archive" }).join(&key).is_file());
        let fault = objects.get(tier, &key, 4).await.unwrap_err();
        assert!(!fault.passes && fault.message.contains("has 5 bytes"), "{fault}");
        objects.delete(tier, &key).await.unwrap();
        objects.delete(tier, &key).await.unwrap();
        assert_eq!(objects.list(tier, &documents).await.unwrap(), []);
        assert!(!objects.get(tier, &key, 5).await.unwrap_err().passes);
    }
    std::fs::rename(dir.path().join("archive"), dir.path().join("away")).unwrap();
    let fault = objects.list(Tier::Archive, &documents).await.unwrap_err();
    assert!(fault.passes && fault.message.contains("archive is gone"), "an outage is no empty listing: {fault}");
}

#[tokio::test]
async fn segments_of_the_chain_are_listed_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let anchors = world(&config(dir.path())).unwrap().anchors;
    assert_eq!(anchors.list().await.unwrap(), [""; 0]);
    for n in [10, 2, 1] {
        anchors.create(&format!("anchor-{n:012}.json"), format!("{n}").into_bytes()).await.unwrap();
    }
    let names = anchors.list().await.unwrap();
    assert_eq!(names, ["anchor-000000000001.json", "anchor-000000000002.json", "anchor-000000000010.json"]);
    assert_eq!(anchors.get(&names[2]).await.unwrap(), b"10");
    assert!(!anchors.get("anchor-000000000003.json").await.unwrap_err().passes);
}

#[tokio::test]
async fn what_the_sweep_asks_of_a_directory() {
    use chrono::TimeDelta;
    use futures::TryStreamExt;

    let dir = tempfile::tempdir().unwrap();
    let world = world(&config(dir.path())).unwrap();
    let objects = &world.objects;
    for n in 0..3 {
        objects.put(Tier::Hot, &format!("documents/u/d{n}/0"), b"Hello".to_vec()).await.unwrap();
    }
    let mut walked: Vec<_> = objects.walk(Tier::Hot, "documents").try_collect().await.unwrap();
    let mut listed = objects.list(Tier::Hot, "documents").await.unwrap();
    walked.sort_by(|a, b| a.key.cmp(&b.key));
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(walked, listed);
    assert_eq!(objects.stat(Tier::Hot, "documents/u/d1/0").await.unwrap().as_ref(), Some(&listed[1]));
    assert_eq!(objects.stat(Tier::Hot, "documents/u/d9/0").await.unwrap(), None);
    assert_eq!(objects.walk(Tier::Archive, "documents").try_collect::<Vec<_>>().await.unwrap(), []);

    // A writer that was cut off left this, and no listing shows it.
    std::fs::write(dir.path().join("hot/documents/u/d1/0#1"), "Hel").unwrap();
    assert_eq!(objects.list(Tier::Hot, "documents").await.unwrap().len(), 3);
    let modified = listed[1].modified;
    assert_eq!(objects.remove_staging(Tier::Hot, modified - TimeDelta::hours(1)).await.unwrap(), 0);
    assert_eq!(objects.remove_staging(Tier::Hot, modified + TimeDelta::hours(1)).await.unwrap(), 1);
    assert!(!dir.path().join("hot/documents/u/d1/0#1").exists());
    assert_eq!(objects.list(Tier::Hot, "documents").await.unwrap().len(), 3);
    // Without the directory nothing is known: no object is missing.
    std::fs::rename(dir.path().join("hot"), dir.path().join("away")).unwrap();
    assert!(objects.stat(Tier::Hot, "documents/u/d1/0").await.unwrap_err().passes);
    assert!(objects.walk(Tier::Hot, "documents").try_collect::<Vec<_>>().await.unwrap_err().passes);
    assert!(objects.remove_staging(Tier::Hot, modified).await.unwrap_err().passes);
}
