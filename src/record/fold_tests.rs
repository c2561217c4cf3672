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
        let actions = |i: usize| if (seed >> i) & 1 == 0 { Action::Delete(doc! {}) } else { Action::Restore(doc! {}) };
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
    let changes = [change(9, 1, Action::Merge(doc! { "a": 1 })), change(9, 2, Action::Restore(doc! {}))];
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

/// Not used for long: archived, or marked. Its last access was at 50 000.
fn unused(state: &str) -> Document {
    let clock = Clock::new(50_000, "first@/test").unwrap().0;
    doc! {
        "_id": "k", "state": state, "archivedAt": "then", "lastAccessedAt": 50_000,
        SYNC: { "rev": 1_i64, "order": clock, "fields": { "lastAccessedAt": clock } },
    }
}

fn folded_from(stored: Document, changes: &[Change], groups: &[usize]) -> Document {
    let (mut stored, mut rest, mut sizes) = (stored, changes, groups.iter().copied().cycle());
    while !rest.is_empty() {
        let (now, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        let folded = fold("k", Some(&stored), &now.iter().collect::<Vec<_>>());
        stored = folded.document.unwrap_or(stored);
        rest = later;
    }
    stored
}

fn touch(order: i64, i: usize) -> Change {
    let mut touch = change(order, i, Action::Merge(doc! { "lastAccessedAt": order }));
    touch.required = true;
    touch
}

proptest! {
    #[test]
    fn whatever_the_order_of_accesses_the_newest_decides(
        orders in proptest::collection::btree_set(0i64..100_000, 1..12),
        order in proptest::collection::vec(0usize..12, 0..20),
        groups in proptest::collection::vec(1usize..5, 1..4),
        marked in any::<bool>(),
    ) {
        let state = if marked { "pending_cleanup" } else { "archived" };
        let changes: Vec<Change> = orders.iter().enumerate().map(|(i, at)| touch(*at, i)).collect();
        let mixed: Vec<Change> = order.iter().filter_map(|i| changes.get(*i).cloned()).chain(changes.iter().rev().cloned()).collect();
        let straight = folded_from(unused(state), &changes, &[1]);
        let mixed = folded_from(unused(state), &mixed, &groups);
        let is_newer = orders.last().is_some_and(|at| *at > 50_000);
        prop_assert_eq!(straight.get_str("state").unwrap(), if is_newer { "active" } else { state });
        prop_assert_eq!(straight.get_bool("unarchive").is_ok(), is_newer);
        prop_assert_eq!(straight.contains_key("archivedAt"), !is_newer);
        prop_assert_eq!(seen(Some(straight)), seen(Some(mixed)));
    }

    #[test]
    fn accesses_deletions_and_restorations_converge(
        orders in proptest::collection::btree_set(0i64..100_000, 1..12),
        kinds in proptest::collection::vec(0u8..4, 12),
        turns in proptest::collection::vec(0usize..12, 0..20),
        groups in proptest::collection::vec(1usize..5, 1..4),
    ) {
        let changes: Vec<Change> = orders.iter().zip(&kinds).enumerate().map(|(i, (at, kind))| match kind {
            0 => change(*at, i, Action::Delete(doc! { "deletedAt": *at })),
            1 => change(*at, i, Action::Restore(doc! { "lastAccessedAt": *at })),
            _ => touch(*at, i),
        }).collect();
        let mixed: Vec<Change> = turns.iter().filter_map(|i| changes.get(*i).cloned()).chain(changes.iter().rev().cloned()).collect();
        let straight = folded_from(unused("archived"), &changes, &[1]);
        let mixed = folded_from(unused("archived"), &mixed, &groups);
        prop_assert_eq!(straight.get_str("state").unwrap(), mixed.get_str("state").unwrap());
    }
}

#[test]
fn an_access_undoes_archiving_but_neither_deletion_nor_fence() {
    let ends = |state: &str, changes: &[Change]| folded_from(unused(state), changes, &[9]);
    let used = touch(60_000, 1);
    for state in ["deleted", "purging", "anonymized"] {
        assert_eq!(ends(state, std::slice::from_ref(&used)).get_str("state").unwrap(), state);
    }
    // Deleted while archived: restoring brings the contents back, too, and counts as an access.
    let restored = ends("deleted", &[change(70_000, 2, Action::Restore(doc! { "lastAccessedAt": 70_000_i64 }))]);
    assert_eq!((restored.get_str("state").unwrap(), restored.get_bool("unarchive").unwrap()), ("active", true));
    assert_eq!(restored.get_i64("lastAccessedAt").unwrap(), 70_000);
    assert!(!restored.contains_key("archivedAt"));
    // A save that says nothing newer of the access undoes nothing, whatever else it changes.
    let late = change(40_000, 3, Action::Merge(doc! { "lastAccessedAt": 40_000, "title": "t" }));
    let saved = ends("archived", &[late]);
    assert_eq!((saved.get_str("state").unwrap(), saved.get_str("title").unwrap()), ("archived", "t"));
}

#[test]
fn a_record_keeps_the_tenant_of_its_first_task() {
    let of = |tenant: &str, order, action| {
        let mut change = change(order, 1, action);
        change.create.insert("tenant", tenant);
        change
    };
    let (a, b) = (of("a", 1, Action::Merge(doc! { "x": 1 })), of("b", 2, Action::Replace(doc! { "x": 2 })));
    let folded = fold("k", None, &[&a, &b]).document.unwrap();
    assert_eq!((folded.get_str("tenant").unwrap(), folded.get_i32("x").unwrap()), ("a", 2));
    assert_eq!(fold("k", None, &[&b]).document.unwrap().get_str("tenant").unwrap(), "b");
}
