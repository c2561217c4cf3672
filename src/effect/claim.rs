//! `user.claim`: what an anonymous session made becomes a user's.
//!
//! The contents are copied under the user's name first; then one transaction gives the session, its documents, their
//! versions and its interactions their owner, so that a reader sees either all of it or nothing; then the old copies go.
//! The session's row remembers which those are: killed anywhere, the same task goes on where it was.

use std::collections::{HashMap, hash_map::Entry};

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, DateTime as BsonDate, Document, deserialize_from_bson, doc, serialize_to_bson};

use super::{
    Patience, Planned, Records, late, patiently,
    records::{Due, given_back, missing_or_purged},
    session,
};
use crate::{
    content::{ContentFault, ContentRef},
    metrics::Outcome,
    record::{Change, SYNC, is_fenced, wake},
    store::{AuditEntry, Refusal, Rows, RowsError, SESSIONS, transact},
    task::Reason,
};

const DOCUMENTS: &str = "documents";
const VERSIONS: &str = "document_versions";
/// What else of a session gets its user.
const FOLLOWING: [&str; 2] = ["interactions", "ai_interactions"];
/// The session's list of contents that are to be removed.
const LEFT: &str = "claimLeft";
/// Rows that one transaction moves; the rest follows in the next.
const PAGE: i64 = 200;

enum Step {
    Missing,
    Expired,
    /// This many rows have moved in this transaction, and whether it was the one that claimed the session.
    Moved {
        rows: u64,
        first: bool,
    },
    /// Contents came that are not copied yet.
    Again,
}

pub async fn run(records: &Records, due: &Due<'_>, now: DateTime<Utc>, patience: &Patience<'_>) -> Planned {
    let (session, change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Planned::Dead(Reason::Schema, e.to_string()),
    };
    let (entry, user) = (due.audit(&session, &change, Outcome::Written), due.text("userId"));
    let users = [user];
    match patiently!(patience, "mongodb", records.store.purged("users", &users)) {
        None => return Planned::Released,
        Some(purged) if !purged.is_empty() => return Planned::Done(Outcome::Expired),
        Some(_) => {}
    }
    let claim = Claim { records, session: &session, user, change: &change, entry };
    let mut outcome = Outcome::Duplicate;
    let mut copied = HashMap::new();
    loop {
        let Some(()) = claim.copy(&mut copied, patience).await else { return Planned::Released };
        let step = patiently!(patience, "mongodb", async {
            let step = transact!(records.store, rows, claim.take(&mut rows, &copied));
            step.refusal()
        });
        match step {
            None => return Planned::Released,
            Some(Err(given)) => return given_back(given),
            Some(Ok(Step::Missing)) => return missing_or_purged(records, SESSIONS, &session, patience).await,
            Some(Ok(Step::Expired)) => return Planned::Done(Outcome::Expired),
            Some(Ok(Step::Again)) => {}
            // What came after the session was claimed moves, too; until nothing is left.
            Some(Ok(Step::Moved { rows, first })) => {
                if first {
                    outcome = Outcome::Written;
                }
                if rows == 0 {
                    break;
                }
            }
        }
    }
    let done = async {
        claim.clear(patience).await?;
        late::with_owner(records, "users", user, &change, patience).await
    };
    match done.await {
        Some(()) => Planned::Done(outcome),
        None => Planned::Released,
    }
}

struct Claim<'a> {
    records: &'a Records,
    session: &'a str,
    user: &'a str,
    change: &'a Change,
    /// Recorded with the transaction that claims the session.
    entry: AuditEntry,
}

impl Claim<'_> {
    /// Documents of the session that are nobody's yet.
    fn unclaimed(&self) -> Document {
        doc! { "sessionId": self.session, "userId": null }
    }

    /// Copies contents that have no copy yet. `copied`: from the old key to the copy.
    async fn copy(&self, copied: &mut HashMap<String, ContentRef>, patience: &Patience<'_>) -> Option<()> {
        let store = &self.records.store;
        let documents = patiently!(patience, "mongodb", store.records(DOCUMENTS, self.unclaimed(), PAGE))?;
        let ids: Vec<&str> = documents.iter().filter_map(|d| d.get_str("_id").ok()).collect();
        let of_them = doc! { "documentId": { "$in": ids } };
        let versions = patiently!(patience, "mongodb", store.records(VERSIONS, of_them.clone(), i64::MAX))?;
        for content in documents.iter().chain(&versions).filter_map(content) {
            if let Entry::Vacant(place) = copied.entry(content.key.clone()) {
                place.insert(patiently!(patience, "objects", self.give(&content))?);
            }
        }
        Some(())
    }

    /// A copy under the user's name. What is lost or damaged stays where it is: it does not keep the rest from its owner.
    async fn give(&self, content: &ContentRef) -> Result<ContentRef, ContentFault> {
        match self.records.content.give(content, self.user).await {
            Err(fault) if !fault.kind.passes() => {
                tracing::error!(%fault, "a claimed content cannot be moved");
                Ok(content.clone())
            }
            given => given,
        }
    }

    /// Gives the rows their owner.
    async fn take(&self, rows: &mut Rows<'_>, copied: &HashMap<String, ContentRef>) -> Result<Step, RowsError> {
        let Some((home, mut session)) = session::row(rows, self.session).await? else { return Ok(Step::Missing) };
        if is_fenced(&session) {
            return Ok(Step::Expired);
        }
        let owner = session.get_str("userId").ok().or(session.get_str("claimedBy").ok());
        if owner.is_some_and(|owner| owner != self.user) {
            let text = format!("the session {:?} belongs to another user already: it is claimed once", self.session);
            return Err(RowsError::refuse(text));
        }
        let first = session.get_str("claimedBy").is_err();
        let mut left = session.get_array(LEFT).cloned().unwrap_or_default();
        let mut moved = 0;
        for mut document in rows.find(DOCUMENTS, self.unclaimed(), PAGE).await? {
            if is_fenced(&document) {
                continue;
            }
            let id = document.get_str("_id").unwrap_or_default().to_owned();
            for mut version in rows.find(VERSIONS, doc! { "documentId": &id }, i64::MAX).await? {
                if !relocate(&mut version, copied, &mut left) {
                    return Ok(Step::Again);
                }
                rows.put(VERSIONS, version).await?;
            }
            if !relocate(&mut document, copied, &mut left) {
                return Ok(Step::Again);
            }
            self.own(&mut document);
            document.insert("ownerType", "user");
            // Marked because its session was over: it has an owner now.
            wake(&mut document);
            rows.put(DOCUMENTS, document).await?;
            moved += 1;
        }
        let set = doc! { "$set": { "userId": self.user }, "$inc": { "_sync.rev": 1_i64 } };
        let mut following = self.unclaimed();
        // What was anonymized belongs to nobody for good.
        following.insert("state", doc! { "$nin": ["purging", "anonymized"] });
        for collection in FOLLOWING {
            moved += rows.update_many(collection, following.clone(), set.clone()).await?;
        }
        if first || moved > 0 {
            session.insert("claimedBy", self.user);
            session.insert("claimedAt", BsonDate::from_millis(self.change.at.timestamp_millis()));
            if !left.is_empty() {
                session.insert(LEFT, left);
            }
            self.own(&mut session);
            rows.put(home, session).await?;
        }
        if first {
            rows.audit(&self.entry).await?;
        }
        Ok(Step::Moved { rows: moved, first })
    }

    /// Makes the row the user's; what an older task says of its owner is moot from now on.
    fn own(&self, row: &mut Document) {
        row.insert("userId", self.user);
        let mut sync = row.get_document(SYNC).cloned().unwrap_or_default();
        let mut fields = sync.get_document("fields").cloned().unwrap_or_default();
        fields.insert("userId", self.change.clock.0);
        sync.insert("fields", fields);
        row.insert(SYNC, sync);
    }

    /// Removes the contents that have moved, and forgets about them.
    async fn clear(&self, patience: &Patience<'_>) -> Option<()> {
        let store = &self.records.store;
        let row = patiently!(patience, "mongodb", session::find(store, self.session))?;
        let left = row.and_then(|row| row.get_array(LEFT).ok().cloned()).unwrap_or_default();
        if left.is_empty() {
            return Some(());
        }
        for content in left.iter().filter_map(|c| deserialize_from_bson::<ContentRef>(c.clone()).ok()) {
            patiently!(patience, "objects", self.records.content.delete(&content))?;
        }
        let forgotten = patiently!(patience, "mongodb", async {
            let done = transact!(store, rows, async {
                if let Some((home, mut session)) = session::row(&mut rows, self.session).await? {
                    session.remove(LEFT);
                    rows.put(home, session).await?;
                }
                Ok(())
            });
            done.refusal()
        });
        forgotten.map(|_| ())
    }
}

fn content(row: &Document) -> Option<ContentRef> {
    deserialize_from_bson(row.get("content")?.clone()).ok()
}

/// Points the row at the copy of its content and notes the old one. False: there is no copy yet.
fn relocate(row: &mut Document, copied: &HashMap<String, ContentRef>, left: &mut Vec<Bson>) -> bool {
    let Some(old) = content(row) else { return true };
    let Some(copy) = copied.get(&old.key) else { return false };
    if copy.key != old.key {
        let (Ok(copy), Ok(old)) = (serialize_to_bson(copy), serialize_to_bson(&old)) else { return false };
        row.insert("content", copy);
        left.push(old);
    }
    true
}
