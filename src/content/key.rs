//! Keys of objects. Pure.
//!
//! An object never changes once a row points to it, so a key holds, besides the ids, what makes its content one of a
//! kind: of a document the task that saved it, of a version its content and how it is stored. Two workers that do the
//! same task at once, or two tasks that claim one id, then never write over each other's objects.

/// Longer ids are shortened: file systems allow names of 255 bytes, S3 keys of 1,024.
const LONGEST: usize = 150;

/// The key of a document's content. `owner`: the user's id, else the session's. `task`: the identity of the task that
/// saves it, `id@source`.
pub fn document(owner: &str, document: &str, task: &str) -> String {
    format!("documents/{}/{}/{}", segment(owner), segment(document), digest(&[task]))
}

/// The beginning of the key of a version's content; [`of_content`] completes it.
pub fn version(owner: &str, document: &str, version: &str) -> String {
    format!("versions/{}/{}/{}", segment(owner), segment(document), segment(version))
}

/// Completes the key of a version. `hash`: of the plain bytes. `codec` and `base`: how they are stored.
pub fn of_content(prefix: &str, hash: &str, codec: &str, base: Option<&str>) -> String {
    format!("{prefix}.{}", digest(&[hash, codec, base.unwrap_or_default()]))
}

/// The same object's key under another owner; none when `key` is not one of ours.
pub fn with_owner(key: &str, owner: &str) -> Option<String> {
    let (kind, rest) = key.split_once('/')?;
    let (_, rest) = rest.split_once('/')?;
    Some(format!("{kind}/{}/{rest}", segment(owner)))
}

/// What stays of a key when the owner changes. A sealed content is bound to it, so it cannot be passed off as another
/// document's, and opens after a move.
pub fn identity(key: &str) -> String {
    match key.split_once('/').and_then(|(kind, rest)| Some((kind, rest.split_once('/')?.1))) {
        Some((kind, rest)) => format!("{kind}/{rest}"),
        None => key.to_owned(),
    }
}

/// All keys of the contents of a document under an owner begin with one of these.
pub fn of_document(owner: &str, document: &str) -> [String; 2] {
    ["documents", "versions"].map(|kind| format!("{kind}/{}/{}", segment(owner), segment(document)))
}

/// An id as one segment of a key: never empty, never `.` or `..`, no separator, and different ids stay different.
fn segment(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for (at, byte) in id.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => out.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    // `~` is always encoded, so a shortened id is not what another id looks like.
    if out.is_empty() || out.len() > LONGEST {
        out.truncate(LONGEST);
        out.push('~');
        out.push_str(&blake3::hash(id.as_bytes()).to_hex()[..32]);
    }
    out
}

/// 16 hexadecimal digits that stand for all the parts.
fn digest(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_have_the_ids_in_their_places() {
        let key = document("u1", "d1", "t1@/editor");
        assert!(key.starts_with("documents/u1/d1/") && key.len() == "documents/u1/d1/".len() + 16, "{key}");
        assert_ne!(key, document("u1", "d1", "t2@/editor"));
        assert_eq!(version("u1", "d1", "v1"), "versions/u1/d1/v1");
        let full = of_content("versions/u1/d1/v1", "ab", "zstd", None);
        assert!(full.starts_with("versions/u1/d1/v1.") && full.len() == "versions/u1/d1/v1.".len() + 16, "{full}");
        assert_ne!(full, of_content("versions/u1/d1/v1", "ab", "zstd-delta", Some("v0")));
        assert_eq!(of_document("a b", "d1"), ["documents/a%20b/d1", "versions/a%20b/d1"]);
    }

    #[test]
    fn no_id_leaves_its_place() {
        for id in ["..", ".", "", "../../etc/passwd", "a/b", "a\\b", "\0", "%2E%2E", "~", "#1", "ä", "/"] {
            let made = segment(id);
            assert!(!made.is_empty() && !made.contains('/') && made != "." && made != "..", "{id:?} -> {made}");
            assert!(object_store::path::Path::parse(&made).is_ok(), "{id:?} -> {made}");
        }
        assert_eq!(segment("../x"), "%2E.%2Fx");
        assert_eq!(segment(".."), "%2E.");
    }

    #[test]
    fn a_new_owner_changes_the_owner_only() {
        let key = document("s/1", "d1", "t");
        assert_eq!(with_owner(&key, "u1"), Some(document("u1", "d1", "t")));
        assert_eq!(identity(&key), identity(&document("u1", "d1", "t")));
        assert_ne!(identity(&key), identity(&document("s/1", "d2", "t")));
        assert_eq!(with_owner("odd", "u1"), None);
    }

    proptest! {
        #[test]
        fn different_ids_have_different_segments(a in ".{0,256}", b in ".{0,256}") {
            prop_assert_eq!(a == b, segment(&a) == segment(&b));
            prop_assert!(segment(&a).len() <= LONGEST + 33);
        }
    }
}
