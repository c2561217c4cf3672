//! Contents in a local directory.

use std::{fs, path::Path, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::config::Content as Settings;

pub(super) fn settings(url: &str) -> Settings {
    Settings { url: url.to_owned(), archive_url: format!("{url}/archive"), ..defaults() }
}

fn defaults() -> Settings {
    crate::config::load(None, std::iter::empty()).unwrap().content
}

fn local(dir: &Path) -> Content {
    Content::new(&settings(dir.to_str().unwrap()), None).unwrap()
}

pub(super) const TEXT: &str = include_str!("../../samples/documents/essay-city-trees.txt");

/// A vault for tests: the "ciphertext" is the context, then every byte turned over.
struct Turned;

impl Seal for Turned {
    fn seal<'a>(
        &'a self,
        tenant: Option<&'a str>,
        context: &'a str,
        plain: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, ContentFault>> {
        assert_eq!(tenant, Some("acme"));
        let sealed = context.bytes().chain(plain.into_iter().map(|b| !b)).collect();
        async { Ok(sealed) }.boxed()
    }

    fn open<'a>(&'a self, context: &'a str, sealed: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, ContentFault>> {
        let opened = sealed.strip_prefix(context.as_bytes()).map(|rest| rest.iter().map(|b| !b).collect());
        async { opened.ok_or_else(|| ContentFault::new(FaultKind::Corrupt, "not what was sealed")) }.boxed()
    }
}

#[tokio::test]
async fn contents_come_back_from_a_directory_that_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let content = local(&dir.path().join("new/objects"));
    content.objects(Tier::Hot).check().await.unwrap();
    let key = key::document("u/1", "..", "t1@/editor");
    let saved = content.save_full(&key, TEXT.as_bytes(), Sealing::Off).await.unwrap();
    assert_eq!((saved.size, saved.codec, saved.sealed), (TEXT.len() as u64, Codec::Zstd, false));
    assert_eq!(content.load(&saved, None).await.unwrap(), TEXT.as_bytes());
    let file = dir.path().join("new/objects").join(&saved.key);
    assert_eq!(fs::metadata(file).unwrap().len(), saved.stored, "the object is a file of its key's name");
    // Only what was stored is there, without the object of the check.
    let listed = content.objects(Tier::Hot).list("documents").await.unwrap();
    assert_eq!(listed.iter().map(|l| (l.key.as_str(), l.size)).collect::<Vec<_>>(), [(&*saved.key, saved.stored)]);
    assert!(content.objects(Tier::Hot).list("check").await.unwrap().is_empty());
    let given = content.give(&saved, "user 2").await.unwrap();
    assert!(given.key.starts_with("documents/user%202/%2E./"), "{}", given.key);
    content.delete(&saved).await.unwrap();
    content.delete(&saved).await.unwrap();
    assert_eq!(content.load(&given, None).await.unwrap(), TEXT.as_bytes());
    let fault = content.load(&saved, None).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
    assert!(fault.message.contains(&saved.key) && fault.message.contains("restore it from a backup"), "{fault}");
}

#[tokio::test]
async fn a_row_keeps_what_reading_needs() {
    let content = ContentRef {
        key: "versions/u/d/v2.ab".into(),
        codec: Codec::ZstdDelta,
        base: Some("v1".into()),
        hash: "cd".into(),
        size: 20_000,
        stored: 99,
        sealed: false,
        tier: Tier::Hot,
    };
    let row = mongodb::bson::serialize_to_document(&content).unwrap();
    let expected = mongodb::bson::doc! {
        "key": "versions/u/d/v2.ab", "codec": "zstd-delta", "base": "v1", "hash": "cd", "size": 20_000_i64,
        "stored": 99_i64, "sealed": false
    };
    assert_eq!(row, expected);
    assert_eq!(mongodb::bson::deserialize_from_document::<ContentRef>(row.clone()).unwrap(), content);
    let archived = ContentRef { tier: Tier::Archive, ..content };
    let mut expected = expected;
    expected.insert("tier", "archive");
    let row = mongodb::bson::serialize_to_document(&archived).unwrap();
    assert_eq!(row, expected);
    assert_eq!(mongodb::bson::deserialize_from_document::<ContentRef>(row).unwrap(), archived);
}

#[tokio::test]
async fn versions_are_differences_where_that_pays() {
    let dir = tempfile::tempdir().unwrap();
    let content = local(dir.path());
    let save = async |id: &str, text: &str, base: Option<(&str, &ContentRef)>| {
        content.save_version(&key::version("u", "d", id), text.as_bytes(), base, Sealing::Off).await.unwrap()
    };
    let first = save("v1", TEXT, None).await;
    let edited = TEXT.replace("trees", "parks");
    let second = save("v2", &edited, Some(("v1", &first))).await;
    assert_eq!((second.codec, second.base.as_deref()), (Codec::ZstdDelta, Some("v1")));
    assert_eq!(content.load(&second, Some(&first)).await.unwrap(), edited.as_bytes());
    // The same again is the same object; the same id with another content is not.
    assert_eq!(save("v2", &edited, Some(("v1", &first))).await, second);
    assert_ne!(save("v2", TEXT, Some(("v1", &first))).await.key, second.key);
    // A difference is never the base of another; and what has little in common is stored whole.
    assert_eq!(save("v3", &edited, Some(("v2", &second))).await.codec, Codec::Zstd);
    let other = include_str!("../../samples/documents/bug-report.md");
    assert_eq!(save("v4", other, Some(("v1", &first))).await.base, None);
    let fault = content.load(&second, None).await.unwrap_err();
    assert!(fault.kind == FaultKind::Missing && fault.message.contains("version v1"), "{fault}");
    // The wrong base gives no wrong content.
    let fault = content.load(&second, Some(&save("v5", other, None).await)).await.unwrap_err();
    assert!(fault.kind == FaultKind::Corrupt && fault.message.contains(&second.hash), "{fault}");
}

#[tokio::test]
async fn a_damaged_object_is_reported_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let content = local(dir.path());
    for (name, text) in [("small", "Hello"), ("text", TEXT)] {
        let saved = content.save_full(&key::document("u", name, "t"), text.as_bytes(), Sealing::Off).await.unwrap();
        let file = dir.path().join(&saved.key);
        let good = fs::read(&file).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let (short, long) = (good[..good.len() - 1].to_vec(), [good.clone(), good.clone()].concat());
        for bad in [flipped, short, long, Vec::new()] {
            fs::write(&file, bad).unwrap();
            let fault = content.load(&saved, None).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Corrupt, "{fault}");
            assert!(fault.message.contains(&saved.key), "{fault}");
        }
        // Both hashes are told where both are known.
        let changed = if name == "small" { b"Jello".to_vec() } else { encode(&[b'x'; 2078], None).bytes };
        let row = ContentRef { size: if name == "small" { 5 } else { 2078 }, stored: 4096, ..saved.clone() };
        fs::write(&file, changed).unwrap();
        let fault = content.load(&row, None).await.unwrap_err();
        let found = if name == "small" { hash(b"Jello") } else { hash(&[b'x'; 2078]) };
        assert!(fault.message.contains(&saved.hash) && fault.message.contains(&found), "{fault}");
    }
    // A version whose base is damaged is stored whole.
    let prefix = key::version("u", "d", "v1");
    let base = content.save_version(&prefix, TEXT.as_bytes(), None, Sealing::Off).await.unwrap();
    fs::write(dir.path().join(&base.key), "x").unwrap();
    let prefix = key::version("u", "d", "v2");
    let saved = content.save_version(&prefix, TEXT.as_bytes(), Some(("v1", &base)), Sealing::Off).await.unwrap();
    assert_eq!((saved.codec, content.load(&saved, None).await.unwrap()), (Codec::Zstd, TEXT.as_bytes().to_vec()));
}

#[tokio::test]
async fn a_directory_that_is_gone_is_an_outage() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("objects");
    let content = local(&root);
    let key = key::document("u", "d", "t");
    let saved = content.save_full(&key, b"Hello", Sealing::Off).await.unwrap();
    fs::rename(&root, dir.path().join("away")).unwrap();
    for fault in [
        content.load(&saved, None).await.unwrap_err(),
        content.save_full(&key, b"Hello", Sealing::Off).await.unwrap_err(),
        content.objects(Tier::Hot).list("documents").await.unwrap_err(),
        content.objects(Tier::Hot).check().await.unwrap_err(),
    ] {
        assert!(fault.kind == FaultKind::Unavailable && fault.message.contains("is gone: mount it"), "{fault}");
    }
    assert!(!root.exists(), "it is not made again under the objects' feet");
    fs::rename(dir.path().join("away"), &root).unwrap();
    assert_eq!(content.load(&saved, None).await.unwrap(), b"Hello");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let fault = Objects::open(&settings(file.join("x").to_str().unwrap()), Tier::Hot).unwrap_err();
    assert!(fault.kind == FaultKind::Configuration && fault.message.contains("content.url"), "{fault}");
}

#[tokio::test]
async fn sealed_contents_are_bound_to_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().to_str().unwrap();
    let content = Content::new(&settings(url), Some(Arc::new(Turned))).unwrap();
    let sealing = Sealing::For(Some("acme"));
    let saved = content.save_full(&key::document("s1", "d", "t"), TEXT.as_bytes(), sealing).await.unwrap();
    assert!(saved.sealed);
    assert_eq!(content.load(&saved, None).await.unwrap(), TEXT.as_bytes());
    let edited = TEXT.replace("trees", "parks");
    let prefix = key::version("s1", "d", "v2");
    let delta = content.save_version(&prefix, edited.as_bytes(), Some(("v1", &saved)), sealing).await.unwrap();
    assert_eq!(content.load(&delta, Some(&saved)).await.unwrap(), edited.as_bytes());
    // A new owner reads it; another document does not.
    let given = content.give(&saved, "u1").await.unwrap();
    assert_eq!(content.load(&given, None).await.unwrap(), TEXT.as_bytes());
    let other = ContentRef { key: key::document("s1", "other", "t"), ..saved.clone() };
    content.objects(Tier::Hot).copy(&saved.key, &other.key).await.unwrap();
    assert_eq!(content.load(&other, None).await.unwrap_err().kind, FaultKind::Corrupt);
    let without = local(dir.path());
    let fault = without.load(&saved, None).await.unwrap_err();
    assert!(fault.kind == FaultKind::Configuration && fault.message.contains("encryption.keys"), "{fault}");
    let open = without.save_full(&key::document("s1", "d", "u"), b"x", sealing).await.unwrap();
    assert!(!open.sealed, "without keys nothing is encrypted, and the row says so");
}

/// 20 kB of English, as people write it.
fn document() -> String {
    [
        include_str!("../../samples/documents/handbook.md"),
        TEXT,
        include_str!("../../samples/documents/incident-review.md"),
        include_str!("../../samples/documents/fiction-ferry.txt"),
        include_str!("../../samples/documents/essay-letters.txt"),
        include_str!("../../samples/documents/essay-phones-in-school.txt"),
        include_str!("../../samples/documents/lab-report.txt"),
        include_str!("../../samples/documents/press-release.txt"),
    ]
    .concat()
}

/// A small edit: some words of one line are replaced by other words, dropped or added.
fn edit(text: &str, words: &[&str], rng: &mut StdRng) -> String {
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let long: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].len() > 60).collect();
    let line = long[rng.random_range(0..long.len())];
    let mut parts: Vec<&str> = lines[line].split(' ').collect();
    let at = rng.random_range(0..parts.len());
    let gone = rng.random_range(0..3).min(parts.len() - at);
    let new: Vec<&str> = (0..rng.random_range(0..5)).map(|_| words[rng.random_range(0..words.len())]).collect();
    parts.splice(at..at + gone, new);
    lines[line] = parts.join(" ");
    lines.join("\n")
}

#[tokio::test]
async fn a_thousand_versions_take_little_room_and_are_read_fast() {
    let dir = tempfile::tempdir().unwrap();
    let content = local(dir.path());
    let full_every = defaults().full_every as usize;
    let mut rng = StdRng::seed_from_u64(1);
    let start = document();
    let words: Vec<&str> = start.split_whitespace().collect();
    let mut text = start.clone();
    let (mut rows, mut texts, mut last_full): (Vec<ContentRef>, Vec<String>, usize) = (Vec::new(), Vec::new(), 0);
    for i in 0..1000 {
        text = edit(&text, &words, &mut rng);
        let base_id = last_full.to_string();
        let base = (!rows.is_empty() && i - last_full < full_every).then(|| (base_id.as_str(), &rows[last_full]));
        let prefix = key::version("u", "d", &i.to_string());
        let row = content.save_version(&prefix, text.as_bytes(), base, Sealing::Off).await.unwrap();
        if row.is_full() {
            last_full = i;
        }
        rows.push(row);
        texts.push(text.clone());
    }
    assert!((19_000..25_000).contains(&start.len()) && text.len() > 19_000, "{} {}", start.len(), text.len());
    let (plain, stored) = rows.iter().fold((0, 0), |(p, s), row| (p + row.size, s + row.stored));
    let copies = texts.iter().map(|t| encode(t.as_bytes(), None).bytes.len() as u64).sum::<u64>();
    let listed = content.objects(Tier::Hot).list("versions").await.unwrap();
    assert_eq!(listed.iter().map(|l| l.size).sum::<u64>(), stored, "the rows say what is stored");
    assert!(stored * 10 < plain, "{stored} of {plain} bytes");
    assert!(stored * 5 < copies, "{stored} of {copies} bytes, were each compressed by itself");
    let by_id = |row: &ContentRef| row.base.as_ref().map(|id| rows[id.parse::<usize>().unwrap()].clone());
    let mut slowest = Duration::ZERO;
    for (row, text) in rows.iter().zip(&texts) {
        let begun = std::time::Instant::now();
        let read = content.load(row, by_id(row).as_ref()).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        assert!(read == text.as_bytes());
    }
    println!("plain {plain}, compressed copies {copies}, stored {stored}, slowest read {slowest:?}");
    // 0.3 ms on a quiet machine; this one may be busy with other tests.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

/// What no row names yet has to be young, or the orphan sweep takes it.
#[tokio::test]
async fn a_copy_is_as_old_as_its_making() {
    let dir = tempfile::tempdir().unwrap();
    let content = local(dir.path());
    let objects = content.objects(Tier::Hot);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(90 * 86_400);
    let keys = ["documents/s1/d/0", "documents/u1/d/0"];
    objects.put(keys[0], TEXT.into()).await.unwrap();
    for _ in 0..2 {
        for key in keys {
            // The copy is there the second time, and is made anew.
            if let Some(path) = find(dir.path(), key) {
                std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
            }
        }
        objects.copy(keys[0], keys[1]).await.unwrap();
        let copy = objects.stat(keys[1]).await.unwrap().unwrap();
        assert!(std::time::SystemTime::from(copy.modified) > old + std::time::Duration::from_secs(86_400));
        assert_eq!(objects.get(keys[1], 1 << 20).await.unwrap(), TEXT.as_bytes());
        assert_eq!(objects.list("documents").await.unwrap().len(), 2);
    }
}

/// The file of a key, in whichever directory below `root` the tier is.
fn find(root: &std::path::Path, key: &str) -> Option<std::path::PathBuf> {
    let folders = std::fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    folders.chain([root.to_path_buf()]).map(|folder| folder.join(key)).find(|path| path.is_file())
}
