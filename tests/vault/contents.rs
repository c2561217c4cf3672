//! Contents of documents and versions, sealed before the object store sees them.

use std::{fs, path::Path, sync::Arc};

use contextd::{
    config,
    content::{Content, ContentRef, FaultKind, Seal, Sealing, key},
    vault::Vault,
};

use crate::harness::{K1, K2, LONG, NOT_K1, World};

const SECRET: &str = "the-very-secret-passage";

fn content(dir: &Path, vault: Arc<Vault>) -> Content {
    let settings = config::load(None, std::iter::empty()).expect("valid settings").content;
    let settings = config::Content {
        url: dir.join("hot").display().to_string(),
        archive_url: dir.join("archive").display().to_string(),
        ..settings
    };
    Content::new(&settings, Some(vault as Arc<dyn Seal>)).expect("a directory")
}

/// Noise, so that compression keeps the secret in one piece.
fn text(version: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for i in 0..400_u64 {
        text.extend_from_slice(blake3::hash(&i.to_le_bytes()).as_bytes());
    }
    text.extend_from_slice(format!("{SECRET} {version}").as_bytes());
    text
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    fs::read_dir(dir)
        .expect("a directory")
        .flat_map(|entry| {
            let path = entry.expect("an entry").path();
            if path.is_dir() { files(&path) } else { vec![fs::read(path).expect("a file")] }
        })
        .collect()
}

fn tells(dir: &Path) -> bool {
    files(dir).iter().any(|bytes| bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()))
}

#[tokio::test]
async fn contents_and_their_differences_are_sealed_move_with_their_owner_and_open_with_the_key_alone() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let vault = world.vault(&[K1], LONG).await;
    let sealing = Sealing::For(Some("acme"));
    let store = content(dir.path(), vault.clone());
    let plain = store.save_full(&key::document("s1", "d0", "t0@/it"), &text(0), Sealing::Off).await.unwrap();
    assert!(tells(dir.path()), "what is plain is found");
    store.delete(&plain).await.unwrap();

    let full = store.save_full(&key::document("s1", "d1", "t1@/it"), &text(0), sealing).await.unwrap();
    let base = store.save_version(&key::version("s1", "d1", "v1"), &text(1), None, sealing).await.unwrap();
    let delta =
        store.save_version(&key::version("s1", "d1", "v2"), &text(2), Some(("v1", &base)), sealing).await.unwrap();
    assert!(full.sealed && base.sealed && delta.sealed && !delta.is_full(), "{delta:?}");
    assert!(!tells(dir.path()) && files(dir.path()).len() == 3);

    // A claim moves objects: they open under their new owner, after a rotation and in another process, too.
    let moved = [store.give(&base, "u1").await.unwrap(), store.give(&delta, "u1").await.unwrap()];
    world.vault(&[K2, K1], LONG).await.rotate(true, None, contextd::clock::now()).await.unwrap();
    let reader = content(dir.path(), world.vault(&[K2], LONG).await);
    assert_eq!(reader.load(&full, None).await.unwrap(), text(0));
    assert_eq!(reader.load(&moved[0], None).await.unwrap(), text(1));
    assert_eq!(reader.load(&moved[1], Some(&moved[0])).await.unwrap(), text(2));

    // An object that is passed off as another document's, and one with a flipped byte.
    let hot = dir.path().join("hot");
    let stranger = ContentRef { key: key::document("s1", "d2", "t1@/it"), ..full.clone() };
    fs::create_dir_all(hot.join(&stranger.key).parent().unwrap()).unwrap();
    fs::copy(hot.join(&full.key), hot.join(&stranger.key)).unwrap();
    assert_eq!(reader.load(&stranger, None).await.unwrap_err().kind, FaultKind::Corrupt);
    let path = hot.join(&full.key);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(reader.load(&full, None).await.unwrap_err().kind, FaultKind::Corrupt);

    // Without the right key it is a matter of settings, which can be mended: nothing is called damaged.
    for keys in [&[][..], &[K1][..], &[NOT_K1][..]] {
        let fault = content(dir.path(), world.vault(keys, LONG).await).load(&base, None).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Configuration, "{fault}");
        assert!(fault.message.contains("encryption.keys"), "{fault}");
    }
    world.end().await;
}

#[tokio::test]
async fn only_declared_contents_are_sealed_and_only_with_keys() {
    let world = World::new().await;
    let sensitive = ["title".to_owned(), "content".to_owned()];
    let (on, off) = (world.vault(&[K1], LONG).await, world.vault(&[], LONG).await);
    assert_eq!(on.sealing(&sensitive, Some("acme")), Sealing::For(Some("acme")));
    assert_eq!(on.sealing(&sensitive[..1], None), Sealing::Off);
    assert_eq!(off.sealing(&sensitive, None), Sealing::Off);
    world.end().await;
}
