//! What a row says of somebody is removed for good: it is replaced by the fields that the rule keeps.
//!
//! No value that went is kept anywhere, nor a hash of one: a placeholder is random. The row itself stays, fenced, so that
//! a late task brings nothing back. A user takes more than a row: that is in [`super::person`].

use mongodb::bson::{Bson, Document, doc};

use super::{
    Acted, Engine,
    judge::Due,
    mark::forget,
    person,
    take::{self, Take},
};
use crate::{
    kit::{JobError, Run},
    policy::Rule,
};

/// The state of a row that was anonymized: no task changes it any more.
pub const ANONYMIZED: &str = "anonymized";
/// When it was.
pub const AT: &str = "anonymizedAt";
/// Kept without being named: whose terms a row is under, which says nothing of a person.
const TENANT: &str = "tenant";
const SYNC: &str = "_sync";

pub async fn act(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: Vec<Due>,
    keep: &[String],
    random: &[String],
) -> Result<Acted, JobError> {
    if rule.on == person::USERS {
        return person::act(engine, run, rule, due).await;
    }
    forget(engine, run, rule, &due).await?;
    forget_by(engine, run, &rule.on, due.iter().map(|item| &item.row)).await?;
    let at = take::now(run);
    let how = Take { set: Some(Document::new()), unset: &[], tombstone: None, audit: true, also: Document::new() };
    let each = || remains(keep, random, at);
    Ok(take::take_by(engine, run, rule, due, &how, Some(&each)).await?.into())
}

/// Goes on with users whose anonymization did not come to its end.
pub async fn resume(engine: &Engine<'_>, run: &mut Run, rule: &Rule) -> Result<(), JobError> {
    if rule.on == person::USERS { person::resume(engine, run, rule).await } else { Ok(()) }
}

/// Drops what is cached of these rows under other values than their ids.
pub async fn forget_by<'r>(
    engine: &Engine<'_>,
    run: &Run,
    collection: &str,
    rows: impl Iterator<Item = &'r Document>,
) -> Result<(), JobError> {
    if engine.world.caches.cached_by(collection).is_empty() {
        return Ok(());
    }
    // As after the write, whose revision keeps what is as old as the row from coming back.
    let rows: Vec<Document> = rows.map(after).collect();
    run.call("forget by", engine.world.caches.forget_by(collection, &rows)).await
}

fn after(row: &Document) -> Document {
    let mut row = row.clone();
    if let Ok(sync) = row.get_document_mut(SYNC) {
        let rev = sync.get_i64("rev").unwrap_or(0);
        sync.insert("rev", rev + 1);
    }
    row
}

/// The update (a pipeline) that leaves of a row: its id, the fields of `keep`, random values in those of `random`, and
/// what fences it. Of contextd's own bookkeeping the revision and the order stay, so that what is older stays moot.
pub fn remains(keep: &[impl AsRef<str>], random: &[String], at: mongodb::bson::DateTime) -> Vec<Document> {
    let mut kept = doc! { "_id": 1, TENANT: 1, SYNC: 1 };
    kept.extend(keep.iter().map(|name| (name.as_ref().to_owned(), Bson::Int32(1))));
    let missing = doc! { "$eq": [{ "$type": "$_sync" }, "missing"] };
    let sync = doc! { "rev": { "$add": [{ "$ifNull": ["$_sync.rev", 0_i64] }, 1_i64] }, "order": "$_sync.order" };
    // An expression replaces the field; a plain document would be merged into it.
    let sync = doc! { "$cond": [missing, "$$REMOVE", sync] };
    let mut set = doc! { "state": ANONYMIZED, AT: at, SYNC: sync };
    set.extend(random.iter().map(|name| (name.clone(), Bson::from(placeholder(name)))));
    vec![doc! { "$project": kept }, doc! { "$set": set }]
}

/// A value that nobody can guess or lead back: 128 random bits, of which no copy is kept. An address cannot be written
/// to: nobody can have one under `.invalid` (RFC 2606).
fn placeholder(field: &str) -> String {
    let random = format!("{:032x}", rand::random::<u128>());
    if field.to_ascii_lowercase().contains("mail") { format!("anonymized-{random}@contextd.invalid") } else { random }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_differ_and_are_no_addresses() {
        let (a, b) = (placeholder("email"), placeholder("email"));
        assert!(a != b && a.ends_with("@contextd.invalid") && a.len() > 40, "{a}");
        assert!(!placeholder("name").contains('@'));
    }

    #[test]
    fn what_is_kept_is_named_and_the_rest_goes() {
        let stages = remains(&["timestamp"], &["email".to_owned()], mongodb::bson::DateTime::from_millis(5));
        assert_eq!(stages[0], doc! { "$project": { "_id": 1, "tenant": 1, "_sync": 1, "timestamp": 1 } });
        let set = stages.last().and_then(|stage| stage.get_document("$set").ok()).unwrap();
        assert_eq!(set.keys().collect::<Vec<_>>(), ["state", "anonymizedAt", "_sync", "email"]);
    }
}
