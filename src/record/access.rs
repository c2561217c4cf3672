//! What an access undoes of the lifecycle. Pure.
//!
//! Only an access that is newer than the last one known counts, by its clock: whatever order accesses come in, the record
//! ends the same. When a record was marked or archived is not compared: it was done for want of the access.

use chrono::{DateTime, Utc};
use mongodb::bson::{DateTime as BsonDate, Document};

use super::{Clock, SYNC, Sync};

/// When a record was last used.
pub const ACCESSED: &str = "lastAccessedAt";
/// States that the lifecycle gives to what is not used, and that an access undoes.
const UNUSED: [&str; 2] = ["pending_cleanup", ARCHIVED];
const ARCHIVED: &str = "archived";

/// Fields of documents that only the lifecycle sets.
pub(super) const OWN: [&str; 5] = ["markedAt", "archivedAt", "unarchive", "moveLeft", "movedAt"];

/// Undoes that a record was marked or archived for not being used. All other states stay: what is deleted, or being
/// purged, does not come back by being used.
pub fn wake(row: &mut Document) {
    if is_unused(row) {
        revive(row);
    }
}

/// Whether the lifecycle has marked or archived it.
pub(super) fn is_unused(row: &Document) -> bool {
    row.get_str("state").is_ok_and(|state| UNUSED.contains(&state))
}

/// Makes a record active. What was archived is noted as such: its contents are to come back.
pub(super) fn revive(row: &mut Document) {
    let archived = row.get_str("state").is_ok_and(|state| state == ARCHIVED);
    row.insert("state", "active");
    row.remove("markedAt");
    if row.remove("archivedAt").is_some() || archived {
        row.insert("unarchive", true);
    }
}

/// Notes an access in a row that is changed outside of a fold.
pub fn access(row: &mut Document, at: DateTime<Utc>, clock: Clock) {
    let mut sync = Sync::of(row);
    if sync.clock(ACCESSED).is_none_or(|known| known < clock.0) {
        row.insert(ACCESSED, BsonDate::from_millis(at.timestamp_millis()));
        sync.set_clock(ACCESSED, clock);
        row.insert(SYNC, sync.to_document());
        wake(row);
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn after(state: &str, at: i64) -> Document {
        let mut row = doc! {
            "_id": "d", "state": state, "archivedAt": 1, "markedAt": 1,
            "_sync": { "rev": 3_i64, "fields": { ACCESSED: Clock::new(50, "t@/s").unwrap().0 } },
        };
        access(&mut row, DateTime::from_timestamp_millis(at).unwrap(), Clock::new(at, "u@/s").unwrap());
        row
    }

    #[test]
    fn an_access_undoes_only_what_follows_from_disuse() {
        for (state, becomes) in
            [("pending_cleanup", "active"), ("archived", "active"), ("deleted", "deleted"), ("purging", "purging")]
        {
            let row = after(state, 60);
            let woken = becomes == "active";
            assert_eq!(row.get_str("state").unwrap(), becomes);
            assert_eq!((row.contains_key("archivedAt"), row.contains_key("markedAt")), (!woken, !woken), "{state}");
            assert_eq!(row.get_bool("unarchive").is_ok(), woken, "{state}");
            assert_eq!(row.get_datetime(ACCESSED).unwrap().timestamp_millis(), 60);
        }
    }

    #[test]
    fn an_older_access_undoes_nothing() {
        let row = after("archived", 40);
        assert_eq!(row.get_str("state").unwrap(), "archived");
        assert!(!row.contains_key(ACCESSED) && row.contains_key("archivedAt"));
    }
}
