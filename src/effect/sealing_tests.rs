//! Sealed records hold what plain ones would, and nothing of it can be read off them.

use chrono::DateTime;
use mongodb::bson::{Bson, Document, doc, serialize_to_vec};
use proptest::{prelude::*, sample::Index};

use super::sealing::Place;
use crate::{
    record::{Action, Change, Clock, SYNC, fold},
    vault::{Vault, tests::vault},
};

/// Found nowhere by chance.
const MARK: &str = "plain-text-of-";

fn change(order: i64, id: usize, action: Action) -> Change {
    let task = format!("t{id}@/test");
    let at = DateTime::from_timestamp_millis(order).unwrap();
    Change {
        clock: Clock::new(order, &task).unwrap(),
        at,
        task,
        action,
        create: doc! { "createdAt": "x" },
        required: false,
    }
}

fn value() -> impl Strategy<Value = Bson> {
    prop_oneof![
        3 => "[a-cA-C]{1,3}".prop_map(|text| Bson::String(format!("{MARK}{text}"))),
        1 => Just(Bson::Null),
        1 => (0_i64..9).prop_map(Bson::Int64),
        1 => "[a-c]{1,3}".prop_map(|text| Bson::Document(doc! { "in": [format!("{MARK}{text}")] })),
    ]
}

fn fields() -> impl Strategy<Value = Document> {
    let pair = (prop_oneof![Just("email"), Just("name")], value());
    (prop::collection::vec(pair, 0..3), 0_i64..5).prop_map(|(pairs, n)| {
        let mut fields: Document = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        fields.insert("n", n);
        fields
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => fields().prop_map(Action::Merge),
        2 => fields().prop_map(Action::Replace),
        1 => fields().prop_map(Action::Insert),
        2 => fields().prop_map(|element| Action::Append { array: "list".into(), keep: 3, element }),
        1 => Just(Action::Delete(doc! { "deletedAt": "x" })),
        1 => Just(Action::Restore(doc! {})),
    ]
}

fn arrive(changes: &[Change], groups: &[usize]) -> Option<Document> {
    let (mut stored, mut rest) = (None, changes);
    let mut sizes = groups.iter().copied().cycle();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        stored = fold("u1", stored.as_ref(), &now.iter().collect::<Vec<_>>()).document.or(stored);
        rest = later;
    }
    stored
}

/// The record without what stands in for a sealed address.
fn without_hash(mut record: Document) -> Document {
    record.remove("emailHash");
    if let Ok(clocks) = record.get_document_mut(SYNC).and_then(|sync| sync.get_document_mut("fields")) {
        clocks.remove("emailHash");
    }
    record
}

/// Whether the bytes hold anything of the marked texts.
fn tells(record: &Document) -> bool {
    serialize_to_vec(record).unwrap().windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes())
}

async fn compare(vault: &Vault, plain: &[Change], groups: &[usize]) -> Result<(), TestCaseError> {
    let names = ["email".to_owned(), "name".to_owned()];
    let place = Place { tenant: None, collection: "users", key: "u1", fields: &names };
    let mut sealed = plain.to_vec();
    for change in &mut sealed {
        place.seal(vault, change).await.unwrap();
    }
    let (plain, sealed) = (arrive(plain, groups), arrive(&sealed, groups));
    let (Some(plain), Some(mut sealed)) = (plain.clone(), sealed.clone()) else {
        prop_assert_eq!(plain.is_some(), sealed.is_some());
        return Ok(());
    };
    prop_assert!(!tells(&sealed), "{}", sealed);
    vault.open_document("users", &mut sealed).await.unwrap();
    let hash = match plain.get("email") {
        Some(Bson::String(email)) => vault.blind(None, "users.email", &email.to_uppercase()).await.unwrap(),
        _ => None,
    };
    prop_assert_eq!(sealed.get_str("emailHash").ok(), hash.as_deref());
    prop_assert_eq!(without_hash(sealed), plain);
    Ok(())
}

proptest! {
    /// Whatever the changes, and however they arrive: sealed, folded and opened is folded.
    #[test]
    fn sealing_and_folding_go_together(
        actions in prop::collection::vec((0_i64..40, action()), 1..14),
        again in prop::collection::vec(any::<Index>(), 0..4),
        groups in prop::collection::vec(1_usize..5, 1..4),
    ) {
        let mut changes: Vec<Change> =
            actions.into_iter().enumerate().map(|(i, (order, action))| change(order, i, action)).collect();
        for index in again {
            changes.push(changes[index.index(changes.len())].clone());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        crate::install_tls();
        runtime.block_on(async { compare(&vault().await, &changes, &groups).await })?;
    }
}
