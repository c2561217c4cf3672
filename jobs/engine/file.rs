//! Files of archived rows: names and lines. Pure.

use chrono::NaiveDate;
use mongodb::bson::{Bson, Document, RawDocumentBuf};

use crate::kit::{JobError, OutsideError, chain::line};

const SUFFIX: &str = ".jsonl.zst";
/// Archived rows are read by people seldom, and stored for long.
const LEVEL: i32 = 9;
/// No page of rows is larger, plain.
const LARGEST: usize = 1 << 30;
/// What says who somebody is, or was; a row keeps what happened and when.
const IDENTITY: [&str; 5] = ["userId", "sessionId", "ip", "userAgent", "metadata"];
/// Of an archived row's bookkeeping, the name of the task says who sent it.
const TASK: &str = "task";

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: String,
    /// BLAKE3 of the lines, hexadecimal.
    pub hash: String,
    pub rows: usize,
    lines: Vec<u8>,
}

impl File {
    /// `folder`: the collection. `end`: the last day on which it is kept. `maker`: digits of whoever makes it and nobody
    /// else, so that nobody removes another's file.
    pub fn of<'r>(
        folder: &str,
        rule: &str,
        end: NaiveDate,
        maker: &str,
        rows: impl Iterator<Item = &'r Document>,
    ) -> Result<Self, JobError> {
        let (mut lines, mut count) = (Vec::new(), 0);
        for row in rows {
            let raw = RawDocumentBuf::try_from(row).map_err(|e| JobError::Failed(e.into()))?;
            lines.extend(line(&raw).map_err(|e| JobError::Failed(e.into()))?.as_bytes());
            lines.push(b'\n');
            count += 1;
        }
        let hash = hash(&lines);
        let name = format!("{folder}/{end}/{rule}-{}-{maker}{SUFFIX}", short(&hash));
        Ok(Self { name, hash, rows: count, lines })
    }

    /// As they are stored; always the same for the same lines.
    pub fn bytes(&self) -> Result<Vec<u8>, JobError> {
        zstd::bulk::compress(&self.lines, LEVEL).map_err(|e| JobError::Failed(e.into()))
    }
}

pub fn hash(lines: &[u8]) -> String {
    blake3::hash(lines).to_hex().to_string()
}

/// The part of a hash that names hold.
pub fn short(hash: &str) -> &str {
    hash.get(..32).unwrap_or(hash)
}

/// The lines of stored bytes.
pub fn lines(name: &str, bytes: &[u8]) -> Result<Vec<u8>, JobError> {
    let size = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= LARGEST);
    let lines = size.and_then(|size| zstd::bulk::decompress(bytes, size).ok());
    lines.ok_or_else(|| damaged(name, "it does not decompress"))
}

pub fn rows(name: &str, lines: &[u8]) -> Result<Vec<Document>, JobError> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|_| damaged(name, "a line is no row"))).collect()
}

fn damaged(name: &str, why: &str) -> JobError {
    let message = format!("the file {name} is damaged, {why}: restore it from a backup of the archive tier");
    JobError::Outside(OutsideError { message, passes: false })
}

/// The last day on which a file is kept; none: it is not one of these files.
pub fn end_of(folder: &str, name: &str) -> Option<NaiveDate> {
    let (date, file) = name.strip_prefix(folder)?.strip_prefix('/')?.split_once('/')?;
    file.strip_suffix(SUFFIX)?;
    date.parse().ok()
}

/// The rule and the maker of a file.
pub fn made_by(name: &str) -> Option<(&str, &str)> {
    let (rest, maker) = name.rsplit('/').next()?.strip_suffix(SUFFIX)?.rsplit_once('-')?;
    Some((rest.rsplit_once('-')?.0, maker))
}

/// Makes a row of the user nobody's; false: it is somebody else's.
pub fn erase(row: &mut Document, user: &str) -> bool {
    if !row.get_str("userId").is_ok_and(|of| of == user) {
        return false;
    }
    for name in IDENTITY {
        if row.contains_key(name) {
            row.insert(name, Bson::Null);
        }
    }
    if let Ok(sync) = row.get_document_mut("_sync") {
        sync.remove(TASK);
    }
    true
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, doc};

    use super::*;

    #[test]
    fn a_file_reads_back_as_what_it_was_made_of() {
        let rows = [
            doc! { "_id": "a", "userId": "u", "n": 3_i64, "at": DateTime::from_millis(5), "ip": "::1" },
            doc! { "_id": "b", "text": "a\nb" },
        ];
        let end = NaiveDate::from_ymd_opt(2030, 1, 31).expect("a day");
        let file = File::of("auth_logs", "auth-log", end, "0af", rows.iter()).expect("made");
        assert!(file.name.starts_with("auth_logs/2030-01-31/auth-log-"), "{}", file.name);
        assert_eq!(end_of("auth_logs", &file.name), Some(end));
        assert_eq!(made_by(&file.name), Some(("auth-log", "0af")));
        let bytes = file.bytes().expect("compressed");
        let lines = lines(&file.name, &bytes).expect("read");
        assert_eq!((hash(&lines), file.rows), (file.hash.clone(), 2));
        assert_eq!(super::rows(&file.name, &lines).expect("rows"), rows);
        assert_eq!(File::of("auth_logs", "auth-log", end, "0af", rows.iter()).expect("made"), file);
    }

    #[test]
    fn what_is_damaged_is_said_to_be() {
        assert!(matches!(lines("f", b"nothing"), Err(JobError::Outside(e)) if !e.passes));
        assert!(rows("f", b"{\"a\":1}\nnothing\n").is_err());
        assert_eq!(end_of("auth_logs", "auth_logs/soon/x.jsonl.zst"), None);
        assert_eq!(end_of("auth_logs", "documents/u/d/x"), None);
    }

    #[test]
    fn an_erased_row_says_what_happened_and_to_nobody() {
        let mut row = doc! {
            "_id": "a", "userId": "u", "ip": "::1", "event": "login", "_sync": { "rev": 1_i64, "task": "t@u" },
        };
        assert!(!erase(&mut row.clone(), "v"));
        assert!(erase(&mut row, "u"));
        assert_eq!(row, doc! { "_id": "a", "userId": null, "ip": null, "event": "login", "_sync": { "rev": 1_i64 } });
        assert!(!erase(&mut row, "u"));
    }
}
