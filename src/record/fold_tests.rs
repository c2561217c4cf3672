//! The order of arrival, repetition and grouping must not matter.

use chrono::DateTime;
use mongodb::bson::{Bson, Document, doc};
use proptest::prelude::*;

use super::{Action, Change, Clock, End, fold, inserted, into_inserted, is_deleted, stored::SYNC};

fn change(order: i64, id: usize, action: Action) -> Change {
    let task = format!("t{id}@/test");
    let at = DateTime::from_timestamp_millis(order).unwrap();
    let create = doc! { "state": "active", "createdAt": "fixed" };
    Change { clock: Clock::new(order, &task).unwrap(), at, task, action, create, required: false }
}

/// Applies the changes in groups of the given sizes.
fn apply(changes: &[Change], groups: &[usize]) -> (Option<Document>, Vec<End>) {
    let (mut stored, mut ends, mut rest) = (None, Vec::new(), changes);
    let mut sizes = groups.iter().copied().cycle();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        let folded = fold("k", stored.as_ref(), &now.iter().collect::<Vec<_>>());
        stored = folded.document.or(stored);
        ends.extend(folded.ends);
        rest = later;
    }
    (stored, ends)
}

/// What a reader sees.
fn seen(document: Option<Document>) -> Option<Vec<(String, Bson)>> {
    let mut fields: Vec<(String, Bson)> = document?.into_iter().filter(|(name, _)| name != SYNC).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Some(fields)
}

fn merge_or_replace(i: usize) -> impl Strategy<Value = Change> {
    let fields = proptest::collection::btree_map("[a-d]", 0i64..100, 1..4);
    (0i64..100_000, any::<bool>(), fields).prop_map(move |(order, replace, fields)| {
        let fields: Document = fields.into_iter().map(|(name, v)| (name, Bson::Int64(v))).collect();
        change(order, i, if replace { Action::Replace(fields) } else { Action::Merge(fields) })
    })
}

fn append(i: usize) -> impl Strategy<Value = Change> {
    (0i64..100_000, 0i64..100).prop_map(move |(order, v)| {
        change(order, i, Action::Append { array: "list".into(), keep: 5, element: doc! { "v": v } })
    })
}

/// Several of one kind, in an order of arrival with repetitions, and the sizes of the batches.
fn history<S: Strategy<Value = Change>>(
    make: impl Fn(usize) -> S,
) -> impl Strategy<Value = (Vec<Change>, Vec<usize>, Vec<usize>)> {
    let changes: Vec<S> = (0..12).map(make).collect();
    (changes, proptest::collection::vec(0usize..12, 0..30), proptest::collection::vec(1usize..6, 1..6))
}

/// Each once, in its order; and all of them in another order, some twice.
fn arrivals(changes: &[Change], order: &[usize]) -> Vec<Change> {
    let mut arrived: Vec<Change> = order.iter().map(|i| changes[*i].clone()).collect();
    arrived.extend(changes.iter().rev().cloned());
    arrived
}

/// The same task at one of few orders, so that several share one.
fn tied(change: &Change) -> Clock {
    Clock::new(change.clock.order() % 3, &change.task).unwrap()
}

proptest! {
    #[test]
    fn merges_and_replacements_converge((changes, order, groups) in history(merge_or_replace)) {
        // Of one order the later in a batch wins, which is another winner than across batches: one order, one task.
        let mut seen_orders = std::collections::BTreeSet::new();
        prop_assume!(changes.iter().all(|c| seen_orders.insert(c.clock.order())));
        let (straight, _) = apply(&changes, &[1]);
        let (mixed, _) = apply(&arrivals(&changes, &order), &groups);
        prop_assert_eq!(seen(straight), seen(mixed));
    }

    #[test]
    fn appends_converge((changes, order, groups) in history(append)) {
        let mut seen_orders = std::collections::BTreeSet::new();
        prop_assume!(changes.iter().all(|c| seen_orders.insert(c.clock.order())));
        let (straight, _) = apply(&changes, &[1]);
        let (mixed, _) = apply(&arrivals(&changes, &order), &groups);
        prop_assert_eq!(seen(straight), seen(mixed));
    }

    #[test]
    fn ties_converge_when_each_comes_alone((changes, order, _) in history(merge_or_replace)) {
        let mut seen_clocks = std::collections::BTreeSet::new();
        let changes: Vec<Change> = changes.into_iter().map(|c| Change { clock: tied(&c), ..c }).collect();
        prop_assume!(changes.iter().all(|c| seen_clocks.insert(c.clock)));
        let (straight, _) = apply(&changes, &[1]);
        let (mixed, _) = apply(&arrivals(&changes, &order), &[1]);
        prop_assert_eq!(seen(straight), seen(mixed));
    }

    #[test]
    fn applying_again_changes_nothing((changes, _, groups) in history(merge_or_replace)) {
        let mut seen_orders = std::collections::BTreeSet::new();
        prop_assume!(changes.iter().all(|c| seen_orders.insert(c.clock.order())));
        let (stored, _) = apply(&changes, &groups);
        let again = fold("k", stored.as_ref(), &changes.iter().collect::<Vec<_>>());
        prop_assert_eq!(again.document, None);
        prop_assert!(again.ends.iter().all(|e| matches!(e, End::Duplicate | End::Superseded)));
    }

    #[test]
    fn what_is_older_than_a_deletion_brings_nothing_back(
        (changes, order, groups) in history(merge_or_replace),
        at in 0i64..100_000,
    ) {
        let deletion = change(at, 99, Action::Delete(doc! { "deletedAt": "then" }));
        let older: Vec<Change> = changes.into_iter().filter(|c| c.clock.order() < at).collect();
        let mut arrived: Vec<Change> = order.iter().filter_map(|i| older.get(*i).cloned()).collect();
        let place = groups[0].min(arrived.len());
        arrived.insert(place, deletion);
        arrived.extend(older);
        let (stored, _) = apply(&arrived, &groups);
        prop_assert!(is_deleted(&stored.unwrap()));
    }

    #[test]
    fn deletions_and_restorations_converge(orders in proptest::collection::btree_set(0i64..100, 1..12), seed in any::<u64>()) {
        let actions = |i: usize| if (seed >> i) & 1 == 0 { Action::Delete(doc! {}) } else { Action::Restore };
        let changes: Vec<Change> = orders.iter().enumerate().map(|(i, o)| change(*o, i, actions(i))).collect();
        let first = change(0, 100, Action::Merge(doc! { "a": 1 }));
        let state = |changes: Vec<Change>| {
            let (stored, _) = apply(&[vec![first.clone()], changes].concat(), &[1]);
            is_deleted(&stored.unwrap())
        };
        let mut back = changes.clone();
        back.reverse();
        prop_assert_eq!(state(changes), state(back));
    }
}

#[test]
fn each_change_says_how_it_ended() {
    let changes = [
        change(5, 1, Action::Merge(doc! { "a": 1 })),
        change(4, 2, Action::Merge(doc! { "a": 0 })),
        change(4, 2, Action::Merge(doc! { "b": 0 })),
        change(5, 1, Action::Merge(doc! { "a": 1 })),
        change(6, 3, Action::Delete(doc! {})),
        change(5, 4, Action::Merge(doc! { "c": 1 })),
        change(7, 5, Action::Merge(doc! { "c": 1 })),
        change(7, 6, Action::Insert(doc! { "c": 2 })),
    ];
    let (stored, ends) = apply(&changes, &[1]);
    use End::*;
    assert_eq!(ends, [Created, Superseded, Written, Duplicate, Written, Superseded, Written, Duplicate]);
    assert!(is_deleted(&stored.unwrap()), "a newer merge does not bring it back");
    let (stored, _) = apply(&[&changes[..], &[change(8, 7, Action::Replace(doc! { "c": 3 }))]].concat(), &[1]);
    assert!(!is_deleted(&stored.unwrap()), "a newer replacement makes it anew");
}

#[test]
fn what_needs_the_record_waits_for_it() {
    let mut touch = change(5, 1, Action::Merge(doc! { "at": 5 }));
    touch.required = true;
    assert_eq!(fold("k", None, &[&touch]).ends, [End::Missing]);
    let save = change(9, 2, Action::Merge(doc! { "a": 1 }));
    let folded = fold("k", None, &[&touch, &save]);
    assert!(!folded.ends.contains(&End::Missing), "{:?}", folded.ends);
}

#[test]
fn a_record_that_grows_too_large_refuses_only_what_does_not_fit() {
    let big = |i: usize| {
        let element = doc! { "text": "x".repeat(6 * 1024 * 1024) };
        change(i as i64, i, Action::Append { array: "list".into(), keep: 10, element })
    };
    let (a, b, c, d) = (big(1), big(2), big(3), change(4, 4, Action::Merge(doc! { "small": 1 })));
    let folded = fold("k", None, &[&a, &b, &c, &d]);
    assert!(matches!(folded.ends[2], End::Refused(_)), "{:?}", &folded.ends[2]);
    assert_eq!(folded.ends[3], End::Written);
    assert_eq!(folded.document.unwrap().get_array("list").unwrap().len(), 2);
}

#[test]
fn a_record_that_is_being_purged_stays_as_it_is() {
    let stored = doc! { "_id": "k", "state": "purging", "_sync": { "rev": 3_i64 } };
    let changes = [change(9, 1, Action::Merge(doc! { "a": 1 })), change(9, 2, Action::Restore)];
    let folded = fold("k", Some(&stored), &changes.iter().collect::<Vec<_>>());
    assert_eq!((folded.document, folded.ends), (None, vec![End::Expired, End::Expired]));
}

#[test]
fn a_record_that_is_inserted_without_a_fold_is_the_same() {
    for fields in [doc! {}, doc! { "a": { "b": [1, "x"] }, "z": 1_i64 }, doc! { "createdAt": "given", "b": Bson::Null }]
    {
        let mut insert = change(7, 1, Action::Insert(fields));
        let folded = fold("k", None, &[&insert]).document.unwrap();
        let raw = inserted("k", &insert).unwrap();
        assert_eq!(Document::try_from(raw).unwrap(), folded);
        assert_eq!(into_inserted("k", &mut insert), folded);
    }
    let mut waits = change(7, 1, Action::Insert(doc! { "a": 1 }));
    waits.required = true;
    assert_eq!(inserted("k", &waits), None);
    assert_eq!(inserted("k", &change(7, 1, Action::Merge(doc! { "a": 1 }))), None);
}
