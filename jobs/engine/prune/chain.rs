//! Each version names the one before it; what names a pruned one gets the nearest that stays. Pure.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, Document, doc};

use crate::engine::guards::key;

const PREVIOUS: &str = "previousVersionId";

/// The versions that follow these.
pub fn after(ids: &[&Bson]) -> Document {
    doc! { PREVIOUS: { "$in": ids } }
}

/// What a version names as the one before it.
fn previous(row: &Document) -> Option<&Bson> {
    row.get(PREVIOUS).filter(|id| **id != Bson::Null)
}

/// Updates that link `next`, the versions behind pruned ones, to what stays. `pruned`: their rows.
pub fn relinks(pruned: &[&Document], next: &[Document]) -> Vec<Document> {
    let before: HashMap<String, Option<&Bson>> =
        pruned.iter().filter_map(|row| Some((key(row.get("_id")?), previous(row)))).collect();
    let stays = |row: &&Document| row.get("_id").is_some_and(|id| !before.contains_key(&key(id)));
    next.iter()
        .filter(stays)
        .map(|row| {
            let change = match nearest(previous(row), &before) {
                Some(id) => doc! { "$set": { PREVIOUS: id } },
                None => doc! { "$unset": { PREVIOUS: "" } },
            };
            let mut update = change;
            if row.contains_key("_sync") {
                update.insert("$inc", doc! { "_sync.rev": 1_i64 });
            }
            doc! { "q": { "_id": row.get("_id") }, "u": update }
        })
        .collect()
}

/// The first one that stays, going back from `from`. Links in a circle lead nowhere.
fn nearest<'b>(from: Option<&'b Bson>, before: &HashMap<String, Option<&'b Bson>>) -> Option<&'b Bson> {
    let (mut at, mut seen) = (from?, HashSet::new());
    while let Some(further) = before.get(&key(at)) {
        if !seen.insert(key(at)) {
            return None;
        }
        at = (*further)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: &str, previous: Option<&str>) -> Document {
        let mut row = doc! { "_id": id, "_sync": { "rev": 1_i64 } };
        if let Some(previous) = previous {
            row.insert(PREVIOUS, previous);
        }
        row
    }

    fn linked(pruned: &[Document], next: &[Document]) -> Vec<(String, Option<String>)> {
        let of = |update: &Document| {
            let id = update.get_document("q").unwrap().get_str("_id").unwrap().to_owned();
            let set = update.get_document("u").unwrap().get_document("$set").ok();
            (id, set.map(|set| set.get_str(PREVIOUS).unwrap().to_owned()))
        };
        relinks(&pruned.iter().collect::<Vec<_>>(), next).iter().map(of).collect()
    }

    #[test]
    fn what_follows_pruned_versions_is_linked_to_what_stays() {
        let [v2, v3, v5] = [("2", "1"), ("3", "2"), ("5", "4")].map(|(id, p)| version(id, Some(p)));
        let next = [v3.clone(), version("4", Some("3")), version("6", Some("5"))];
        let expected = [("4".to_owned(), Some("1".to_owned())), ("6".to_owned(), Some("4".to_owned()))];
        assert_eq!(linked(&[v2, v3, v5], &next), expected);
    }

    #[test]
    fn the_first_that_stays_has_none_before_it() {
        let pruned = [version("1", None), version("2", Some("1"))];
        assert_eq!(linked(&pruned, &[version("2", Some("1")), version("3", Some("2"))]), [("3".to_owned(), None)]);
    }

    #[test]
    fn a_circle_is_cut() {
        let pruned = [version("1", Some("2")), version("2", Some("1"))];
        assert_eq!(linked(&pruned, &[version("3", Some("2"))]), [("3".to_owned(), None)]);
    }
}
