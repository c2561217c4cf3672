//! Contents in both tiers: read, given and removed where the row says they are, and found where they were moved to.

use super::{
    tests::{TEXT, settings},
    *,
};

/// Hot and archive, in directories of their own.
fn stores(dir: &std::path::Path) -> Content {
    let url = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    Content::new(&Settings { archive_url: url("archive"), ..settings(&url("hot")) }, None).unwrap()
}

/// Moves the object, as archiving does, and answers what the row says then.
pub(super) async fn moved_to(content: &Content, saved: &ContentRef, tier: Tier) -> ContentRef {
    let bytes = content.objects(tier.other()).get(&saved.key, saved.stored).await.unwrap();
    content.objects(tier).put(&saved.key, bytes.to_vec()).await.unwrap();
    content.objects(tier.other()).delete(&saved.key).await.unwrap();
    ContentRef { tier, ..saved.clone() }
}

async fn has(content: &Content, tier: Tier, key: &str) -> bool {
    match content.objects(tier).get(key, u64::MAX).await {
        Ok(_) => true,
        Err(fault) if fault.kind == FaultKind::Missing => false,
        Err(fault) => panic!("{fault}"),
    }
}

#[tokio::test]
async fn an_archived_content_is_read_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let content = stores(dir.path());
    let hot = content.save_full(&key::document("u", "d", "t"), TEXT.as_bytes(), Sealing::Off).await.unwrap();
    assert!(hot.tier.is_hot() && has(&content, Tier::Hot, &hot.key).await, "new contents are hot");
    let archived = moved_to(&content, &hot, Tier::Archive).await;
    assert_eq!(content.load(&archived, None).await.unwrap(), TEXT.as_bytes());
    // A reader that has read its row before the move, and one before the move back.
    assert_eq!(content.load(&hot, None).await.unwrap(), TEXT.as_bytes());
    let again = moved_to(&content, &archived, Tier::Hot).await;
    assert_eq!(again, hot);
    assert_eq!(content.load(&archived, None).await.unwrap(), TEXT.as_bytes());
    // Only the tier that the row names is removed from.
    content.delete(&archived).await.unwrap();
    assert!(has(&content, Tier::Hot, &hot.key).await);
    let archived = moved_to(&content, &hot, Tier::Archive).await;
    content.delete(&hot).await.unwrap();
    assert!(has(&content, Tier::Archive, &hot.key).await);
    content.delete(&archived).await.unwrap();
    assert!(!has(&content, Tier::Archive, &hot.key).await);
    // In neither: missing where the row says that it is.
    let fault = content.load(&archived, None).await.unwrap_err();
    assert!(fault.kind == FaultKind::Missing && fault.message.contains("archive has no object"), "{fault}");
}

#[tokio::test]
async fn versions_and_their_bases_may_lie_in_different_tiers() {
    let dir = tempfile::tempdir().unwrap();
    let content = stores(dir.path());
    let edited = TEXT.replace("trees", "parks");
    let prefix = |id| key::version("u", "d", id);
    let base = content.save_version(&prefix("v1"), TEXT.as_bytes(), None, Sealing::Off).await.unwrap();
    let base = moved_to(&content, &base, Tier::Archive).await;
    // A new version of an archived document is a difference to what lies in the archive.
    let delta =
        content.save_version(&prefix("v2"), edited.as_bytes(), Some(("v1", &base)), Sealing::Off).await.unwrap();
    assert!(!delta.is_full() && delta.tier.is_hot());
    for base in [base.clone(), moved_to(&content, &base, Tier::Hot).await] {
        // Where the row of the difference is right, and where it was moved since.
        for tier in [Tier::Hot, Tier::Archive] {
            let delta = ContentRef { tier, ..delta.clone() };
            assert_eq!(content.load(&delta, Some(&base)).await.unwrap(), edited.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_content_is_given_to_its_new_owner_where_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let content = stores(dir.path());
    let hot = content.save_full(&key::document("s1", "d", "t"), TEXT.as_bytes(), Sealing::Off).await.unwrap();
    let archived = moved_to(&content, &hot, Tier::Archive).await;
    let given = content.give(&archived, "u1").await.unwrap();
    assert_eq!((given.tier, has(&content, Tier::Hot, &given.key).await), (Tier::Archive, false));
    // Moved since its row was read: the copy is where the content is, and the row says so.
    let given = content.give(&hot, "u2").await.unwrap();
    assert_eq!((given.tier, content.load(&given, None).await.unwrap()), (Tier::Archive, TEXT.as_bytes().to_vec()));
    content.delete(&archived).await.unwrap();
    assert_eq!(content.give(&archived, "u3").await.unwrap_err().kind, FaultKind::Missing);
}

#[tokio::test]
async fn a_content_is_not_missing_while_the_other_tier_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let content = stores(dir.path());
    let hot = content.save_full(&key::document("u", "d", "t"), TEXT.as_bytes(), Sealing::Off).await.unwrap();
    let archived = moved_to(&content, &hot, Tier::Archive).await;
    std::fs::rename(dir.path().join("archive"), dir.path().join("away")).unwrap();
    for row in [&hot, &archived] {
        for fault in [content.load(row, None).await.unwrap_err(), content.give(row, "u1").await.unwrap_err()] {
            assert!(fault.kind == FaultKind::Unavailable && fault.message.contains("archive is gone"), "{fault}");
        }
    }
    // What is hot needs no archive.
    let other = content.save_full(&key::document("u", "e", "t"), TEXT.as_bytes(), Sealing::Off).await.unwrap();
    assert_eq!(content.load(&other, None).await.unwrap(), TEXT.as_bytes());
    std::fs::rename(dir.path().join("away"), dir.path().join("archive")).unwrap();
    assert_eq!(content.load(&hot, None).await.unwrap(), TEXT.as_bytes());
}

#[tokio::test]
async fn no_directory_of_a_removed_content_stays() {
    let dir = tempfile::tempdir().unwrap();
    let content = stores(dir.path());
    let one = content.save_full(&key::document("u", "secret-id", "t"), b"Hello", Sealing::Off).await.unwrap();
    let two = content.save_full(&key::document("u", "other", "t"), b"Hello", Sealing::Off).await.unwrap();
    content.delete(&one).await.unwrap();
    let documents = dir.path().join("hot/documents/u");
    assert!(!documents.join("secret-id").exists() && documents.join("other").is_dir());
    content.delete(&two).await.unwrap();
    assert!(!documents.exists() && dir.path().join("hot").is_dir(), "the store itself stays");
}
