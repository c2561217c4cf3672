//! What comes late of a claimed session belongs to its user.
//!
//! The row is written first, and then the session is looked at: either the claim's last look finds the row, or this look
//! finds the claim. Arrival decides nothing.

use mongodb::bson::{Document, doc};

use super::{Patience, Records, patiently};
use crate::{
    record::{Action, Change},
    store::{RecordEntry, RecordSet},
};

/// Collections whose rows follow their session.
const FOLLOWING: [&str; 3] = ["documents", "interactions", "ai_interactions"];

/// Gives rows of this batch that are nobody's the user of their session, if it has been claimed. `None`: the worker stops
/// before that is known.
pub async fn run(records: &Records, entries: &mut [RecordEntry], patience: &Patience<'_>) -> Option<()> {
    let mut sessions: Vec<&str> = entries.iter().filter_map(orphan).collect();
    sessions.sort_unstable();
    sessions.dedup();
    if sessions.is_empty() {
        return Some(());
    }
    let claimed = patiently!(patience, "mongodb", records.store.claimed(&sessions))?;
    if claimed.is_empty() {
        return Some(());
    }
    let mut set = RecordSet::default();
    for (at, entry) in entries.iter().enumerate() {
        let user = orphan(entry).and_then(|session| claimed.get(session));
        if let (Some(user), Some(change)) = (user, entry.changes.first()) {
            set.push(entry.collection, entry.key.clone(), at, adoption(entry.collection, user, change));
        }
    }
    patiently!(patience, "mongodb", records.store.apply(&mut set))?;
    for adopted in set.entries {
        for at in adopted.tasks {
            entries[at].document.clone_from(&adopted.document);
        }
    }
    Some(())
}

/// The session of a row that is nobody's.
fn orphan(entry: &RecordEntry) -> Option<&str> {
    let row: &Document = entry.document.as_ref().filter(|_| FOLLOWING.contains(&entry.collection))?;
    let nobodys = row.get_str("userId").is_err();
    row.get_str("sessionId").ok().filter(|_| nobodys)
}

fn adoption(collection: &str, user: &str, cause: &Change) -> Change {
    let mut fields = doc! { "userId": user };
    if collection == "documents" {
        fields.insert("ownerType", "user");
    }
    // Newer than what the same task says of the owner.
    let clock = crate::record::Clock(cause.clock.0 + 1);
    Change { clock, action: Action::Merge(fields), create: Document::new(), required: true, ..cause.clone() }
}
