//! Which fields are sealed: those that a declaration names, in every type that writes to its collection. Pure.

use std::collections::BTreeMap;

use super::{
    declare::{Check, RecordType},
    stored::RESERVED,
};
use crate::config::WriteMode;

/// What contextd itself looks records up by, or decides by: never sealed.
const LOOKED_UP: [&str; 13] = [
    "userId",
    "sessionId",
    "documentId",
    "cacheStrategy",
    "status",
    "kind",
    "type",
    "tags",
    "importance",
    "cacheKey",
    "createdAt",
    "updatedAt",
    "deletedAt",
];

/// A field that one type seals is sealed by all types that write to the collection: otherwise it would be as readable as
/// the least careful of them leaves it.
pub(super) fn seal_alike(types: &mut BTreeMap<String, (&String, RecordType)>, problems: &mut Vec<(String, String)>) {
    let mut sealed: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (name, declared) in types.values() {
        for field in &declared.sensitive {
            let alike = types.values().map(|(_, other)| other).filter(|other| other.collection == declared.collection);
            let own = LOOKED_UP.contains(&field.as_str()) || RESERVED.contains(&field.as_str());
            let readable = own || alike.clone().any(|other| has_to_read(other, field));
            let mut check = Check { at: format!("records.{name}"), problems };
            let must = format!(
                "not name {field:?}: keys, orders, stamps, arrays that are appended to, and what records are looked up \
                 by have to be readable, in every type that writes to `{}`",
                declared.collection
            );
            check.must("sensitive", !readable, &must);
            sealed.entry(declared.collection).or_default().push(field.clone());
        }
    }
    for (_, declared) in types.values_mut() {
        for field in sealed.get(declared.collection).into_iter().flatten() {
            if !declared.sensitive.contains(field) {
                declared.sensitive.push(field.clone());
            }
        }
    }
}

fn has_to_read(declared: &RecordType, field: &String) -> bool {
    declared.key.contains(field)
        || declared.order.as_ref() == Some(field)
        || declared.array == *field
        || declared.stamp.contains(field)
}

/// A field's name in the record that it is written to.
pub(super) fn name_in_record(write: WriteMode, name: &str) -> String {
    let renamed = write == WriteMode::Evaluation && name == "evaluationData";
    if renamed { "evaluation".to_owned() } else { name.to_owned() }
}
