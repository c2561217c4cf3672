//! What goes with a deleted record: a user's documents and sessions.
//!
//! Page by page along the index of the field; the changes carry the deleting task's clock, so that a redelivery after
//! a crash goes on where it was and changes nothing twice.

use mongodb::bson::{Bson, Document, doc};

use super::{Patience, caches, patiently};
use crate::{
    record::{Action, Cascade, Change, RecordType},
    store::RecordSet,
};

const PAGE: i64 = 500;

/// Gives every record that goes with `key` its state. `None`: the worker stops before it is done.
pub async fn run(
    records: &super::Records,
    declared: &RecordType,
    key: &str,
    cause: &Change,
    patience: &Patience<'_>,
) -> Option<()> {
    for cascade in &declared.cascade {
        let mut after: Option<Bson> = None;
        loop {
            let filter = page_filter(cascade, key, after.as_ref());
            let find = patiently!(patience, "mongodb", records.store.page(cascade.collection, filter.clone(), PAGE));
            let page = find?;
            let Some(last) = page.last() else { break };
            after = last.get("_id").cloned();
            let mut set = RecordSet::default();
            for id in page.iter().filter_map(|d| d.get_str("_id").ok()) {
                set.push(cascade.collection, id.to_owned(), 0, change(cascade, cause));
            }
            patiently!(patience, "mongodb", records.store.apply(&mut set))?;
        }
        // All of them, not only those that were changed just now: the worker may have died after changing them.
        caches::refresh(records, cascade.collection, &cascade.field, vec![key.to_owned()], patience).await?;
    }
    Some(())
}

fn page_filter(cascade: &Cascade, key: &str, after: Option<&Bson>) -> Document {
    let mut filter = doc! { &cascade.field: key, "state": { "$ne": &cascade.state } };
    if let Some(after) = after {
        filter.insert("_id", doc! { "$gt": after });
    }
    filter
}

/// What a record that goes with another one gets.
pub(super) fn change(cascade: &Cascade, cause: &Change) -> Change {
    let at = mongodb::bson::DateTime::from_millis(cause.at.timestamp_millis());
    let action = match cascade.state.as_str() {
        "deleted" => Action::Delete(doc! { "deletedAt": at, "deletedBy": &cause.task }),
        state => Action::Merge(doc! { "state": state, format!("{state}At"): at }),
    };
    Change {
        clock: cause.clock,
        at: cause.at,
        task: cause.task.clone(),
        action,
        create: Document::new(),
        required: true,
    }
}
