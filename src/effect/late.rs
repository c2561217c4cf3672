//! What comes late of somebody who is deleted, or about something that was purged.
//!
//! As with claims, the row is written first, and then its document and user are looked at: either the purge, or the
//! deletion, finds the row, or this look finds the tombstone, or the deletion. Arrival decides nothing.

use std::{collections::HashMap, sync::Arc};

use chrono::DateTime;
use mongodb::bson::Document;

use super::{Patience, Records, cascade, patiently};
use crate::{
    record::{Cascade, Change, Clock, End, RecordType, Sync, about, tombstone},
    store::{RecordEntry, RecordSet},
};

/// Takes back what this batch made about something that was purged meanwhile, and gives the rest the state that goes with
/// a deleted owner. `None`: the worker stops before that is known.
pub async fn run(records: &Records, entries: &mut [RecordEntry], patience: &Patience<'_>) -> Option<()> {
    let made = made(entries);
    if made.is_empty() {
        return Some(());
    }
    take_back(records, entries, &made, patience).await?;
    go_along(records, entries, &made, patience).await
}

/// Gives all that `key` owns by now the state that goes with its deletion, if it is deleted. `None`: the worker stops.
pub async fn with_owner(
    records: &Records,
    collection: &str,
    key: &str,
    change: &Change,
    patience: &Patience<'_>,
) -> Option<()> {
    let keys = [key];
    let of_it = |declared: &&Arc<RecordType>| declared.collection == collection && !declared.cascade.is_empty();
    for declared in records.registry.types().filter(of_it) {
        let over = patiently!(patience, "mongodb", records.store.over(collection, &keys))?;
        if let Some(owner) = over.get(key) {
            cascade::run(records, declared, key, &cause(owner, change), patience).await?;
        }
    }
    Some(())
}

/// Positions of entries whose records are new.
fn made(entries: &[RecordEntry]) -> Vec<usize> {
    let is_new = |entry: &RecordEntry| entry.document.is_some() && entry.ends.contains(&End::Created);
    (0..entries.len()).filter(|at| is_new(&entries[*at])).collect()
}

async fn take_back(
    records: &Records,
    entries: &mut [RecordEntry],
    made: &[usize],
    patience: &Patience<'_>,
) -> Option<()> {
    let forbidden_by: Vec<(usize, Vec<String>)> = made.iter().map(|at| (*at, forbidding(&entries[*at]))).collect();
    let ids: Vec<String> = forbidden_by.iter().flat_map(|(_, ids)| ids).cloned().collect();
    let gone = patiently!(patience, "mongodb", records.store.tombstones(ids.clone()))?;
    let mut taken: HashMap<&'static str, Vec<usize>> = HashMap::new();
    for (at, ids) in forbidden_by {
        if ids.iter().any(|id| gone.contains(id)) {
            taken.entry(entries[at].collection).or_default().push(at);
        }
    }
    for (collection, positions) in taken {
        let keys: Vec<&str> = positions.iter().map(|at| entries[*at].key.as_str()).collect();
        patiently!(patience, "mongodb", records.store.unmake(collection, &keys))?;
        for at in positions {
            entries[at].ends.fill(End::Expired);
            entries[at].document = None;
        }
    }
    Some(())
}

fn forbidding(entry: &RecordEntry) -> Vec<String> {
    let row = entry.document.as_ref();
    let named = about(entry.collection, |name| row.and_then(|row| row.get_str(name).ok()));
    named.chain([tombstone(entry.collection, &entry.key)]).collect()
}

/// A document that is saved for a deleted user is deleted with the others, a session ends.
async fn go_along(
    records: &Records,
    entries: &mut [RecordEntry],
    made: &[usize],
    patience: &Patience<'_>,
) -> Option<()> {
    for declared in records.registry.types().filter(|declared| !declared.cascade.is_empty()) {
        for rule in &declared.cascade {
            let owned: Vec<(usize, String)> = made.iter().filter_map(|at| owned(*at, &entries[*at], rule)).collect();
            if owned.is_empty() {
                continue;
            }
            let mut owners: Vec<&str> = owned.iter().map(|(_, owner)| owner.as_str()).collect();
            owners.sort_unstable();
            owners.dedup();
            let over = patiently!(patience, "mongodb", records.store.over(declared.collection, &owners))?;
            let mut set = RecordSet::default();
            for (at, owner) in &owned {
                if let (Some(owner), Some(change)) = (over.get(owner), entries[*at].changes.first()) {
                    set.push(
                        rule.collection,
                        entries[*at].key.clone(),
                        *at,
                        cascade::change(rule, &cause(owner, change)),
                    );
                }
            }
            patiently!(patience, "mongodb", records.store.apply(&mut set))?;
            for gone in set.entries {
                for at in gone.tasks {
                    entries[at].document.clone_from(&gone.document);
                }
            }
        }
    }
    Some(())
}

/// A record of the rule's, and whose it is.
fn owned(at: usize, entry: &RecordEntry, rule: &Cascade) -> Option<(usize, String)> {
    let row = entry.document.as_ref().filter(|_| entry.collection == rule.collection)?;
    Some((at, row.get_str(&rule.field).ok()?.to_owned()))
}

/// The owner's deletion, as if it came after the record.
fn cause(owner: &Document, made: &Change) -> Change {
    let deleted = Sync::of(owner).deleted.map_or(made.clock, Clock);
    let at = owner.get_datetime("deletedAt").ok().and_then(|at| DateTime::from_timestamp_millis(at.timestamp_millis()));
    let task = Sync::of(owner).task;
    Change { clock: deleted, at: at.unwrap_or(made.at), task, ..made.clone() }
}
