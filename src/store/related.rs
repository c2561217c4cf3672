//! How contexts, memories and documents hang together.

use std::collections::{HashMap, HashSet, VecDeque};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::{CONTEXTS, Store, StoreFault, search::HIDDEN};

/// Relations, `_id` = `FROM:RELATION:TO`.
pub const CONTEXT_LINKS: &str = "context_links";
/// Relations are followed over at most this many steps.
pub const MAX_DEPTH: u32 = 8;
/// Most relations of one answer; the nearest ones.
pub const MAX_LINKS: usize = 1_000;

/// Which way relations are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From `from` to `to`.
    #[default]
    Out,
    /// From `to` to `from`.
    In,
    /// What it leads to, and what leads to it.
    Both,
}

/// One relation on a way from the record that was asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    pub from: String,
    pub to: String,
    pub relation: String,
    /// `Out` or `In`.
    pub direction: Direction,
    /// Steps from the record that was asked about; its own relations have 1.
    pub depth: u32,
    /// The relation as it is stored.
    pub document: Document,
}

impl Link {
    /// The end that lies further away.
    pub fn far(&self) -> &str {
        if self.direction == Direction::In { &self.from } else { &self.to }
    }

    fn near(&self) -> &str {
        if self.direction == Direction::In { &self.to } else { &self.from }
    }

    fn read(mut document: Document, direction: Direction) -> Option<Self> {
        document.remove("_depth");
        let text = |name: &str| document.get_str(name).ok().map(str::to_owned);
        let (from, to, relation) = (text("from")?, text("to")?, text("relation")?);
        Some(Self { from, to, relation, direction, depth: 0, document })
    }
}

/// What a record is related to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Related {
    /// The nearest first.
    pub links: Vec<Link>,
    /// What is at their ends, as far as it is there: the collection, and `_id`, `kind`, `type`, `title` as they are stored.
    pub ends: Vec<(&'static str, Document)>,
    /// Whether there was more than [`MAX_LINKS`].
    pub is_cut: bool,
}

impl Store {
    /// The relations that lead from (or to) `id`, over at most `depth` steps (up to [`MAX_DEPTH`]). Only these `relations`,
    /// or all when empty. Circles end by themselves; what is deleted is not shown, nor what only it leads to.
    pub async fn related(
        &self,
        id: &str,
        relations: &[String],
        depth: u32,
        direction: Direction,
    ) -> Result<Related, StoreFault> {
        let ways = match direction {
            Direction::Both => vec![Direction::Out, Direction::In],
            one => vec![one],
        };
        let mut links = Vec::new();
        let mut is_cut = false;
        for way in ways {
            let find = async {
                let pipeline = pipeline(id, relations, depth, way);
                self.db.aggregate(pipeline).max_time(self.timeout).await?.try_collect::<Vec<_>>().await
            };
            let mut found = self.bounded("aggregate", find).await?;
            is_cut |= found.len() > MAX_LINKS;
            found.truncate(MAX_LINKS);
            links.extend(found.into_iter().filter_map(|d| Link::read(d, way)));
        }
        let mut ids: Vec<String> = links.iter().map(|l| l.far().to_owned()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut ends = Vec::new();
        for collection in [CONTEXTS, "documents"] {
            ends.extend(self.ends(collection, &ids).await?.into_iter().map(|end| (collection, end)));
        }
        let (gone, ends): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(_, end)| is_hidden(end));
        let gone: HashSet<&str> = gone.iter().filter_map(|(_, end)| end.get_str("_id").ok()).collect();
        let links = reachable(id, links, &gone);
        let shown: HashSet<&str> = links.iter().map(Link::far).collect();
        let ends = ends.into_iter().filter(|(_, end)| end.get_str("_id").is_ok_and(|id| shown.contains(id))).collect();
        Ok(Related { links, ends, is_cut })
    }

    async fn ends(&self, collection: &str, ids: &[String]) -> Result<Vec<Document>, StoreFault> {
        let find = async {
            let records = self.db.collection::<Document>(collection);
            let found = records.find(doc! { "_id": { "$in": ids } });
            found.projection(doc! { "kind": 1, "type": 1, "title": 1, "state": 1 }).await?.try_collect().await
        };
        self.bounded("find", find).await
    }
}

fn is_hidden(document: &Document) -> bool {
    document.get_str("state").is_ok_and(|state| HIDDEN.contains(&state))
}

fn pipeline(id: &str, relations: &[String], depth: u32, way: Direction) -> Vec<Document> {
    let (near, far) = if way == Direction::In { ("to", "from") } else { ("from", "to") };
    let mut only = doc! { "state": { "$nin": HIDDEN.to_vec() } };
    if !relations.is_empty() {
        only.insert("relation", doc! { "$in": relations });
    }
    let lookup = doc! {
        "from": CONTEXT_LINKS,
        "startWith": "$start",
        "connectFromField": far,
        "connectToField": near,
        "maxDepth": Bson::Int64(i64::from(depth.clamp(1, MAX_DEPTH)) - 1),
        "depthField": "_depth",
        "restrictSearchWithMatch": only,
        "as": "link",
    };
    vec![
        doc! { "$documents": [{ "start": { "$literal": id } }] },
        // Unwound at once, the relations are never one document, which would end at 16 MiB.
        doc! { "$graphLookup": lookup },
        doc! { "$unwind": "$link" },
        doc! { "$replaceRoot": { "newRoot": "$link" } },
        doc! { "$sort": { "_depth": 1, "_id": 1 } },
        doc! { "$limit": MAX_LINKS as i64 + 1 },
    ]
}

/// The links that still lead away from `start` when everything in `gone` is taken out, the nearest first, with their depths.
fn reachable(start: &str, links: Vec<Link>, gone: &HashSet<&str>) -> Vec<Link> {
    let mut by_near: HashMap<(String, bool), Vec<Link>> = HashMap::new();
    for link in links.into_iter().filter(|l| !gone.contains(l.far())) {
        by_near.entry((link.near().to_owned(), link.direction == Direction::In)).or_default().push(link);
    }
    let mut found = Vec::new();
    let mut queue = VecDeque::from([(start.to_owned(), false, 1), (start.to_owned(), true, 1)]);
    while let Some((near, inward, depth)) = queue.pop_front() {
        for mut link in by_near.remove(&(near, inward)).unwrap_or_default() {
            link.depth = depth;
            queue.push_back((link.far().to_owned(), inward, depth + 1));
            found.push(link);
        }
    }
    found.sort_by_key(|link| link.depth);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: &str, to: &str, direction: Direction) -> Link {
        Link::read(doc! { "from": from, "to": to, "relation": "RELATES_TO" }, direction).unwrap()
    }

    fn ways(links: &[Link]) -> Vec<(String, u32)> {
        links.iter().map(|l| (format!("{}>{}", l.from, l.to), l.depth)).collect()
    }

    #[test]
    fn circles_end_and_depths_are_the_shortest() {
        let out = |a, b| link(a, b, Direction::Out);
        let links = vec![out("a", "b"), out("b", "c"), out("c", "a"), out("a", "c"), out("x", "y")];
        let found = reachable("a", links, &HashSet::new());
        let expected = [("a>b", 1), ("a>c", 1), ("b>c", 2), ("c>a", 2)];
        assert_eq!(ways(&found), expected.map(|(way, depth)| (way.to_owned(), depth)));
    }

    #[test]
    fn what_only_a_deleted_record_leads_to_is_not_there() {
        let out = |a, b| link(a, b, Direction::Out);
        let links = vec![out("a", "gone"), out("gone", "c"), out("a", "d")];
        let found = reachable("a", links, &HashSet::from(["gone"]));
        assert_eq!(ways(&found), [("a>d".to_owned(), 1)]);
    }

    #[test]
    fn both_ways_do_not_mix() {
        // Towards `a` and away from it; a sibling is neither.
        let links = vec![link("a", "b", Direction::Out), link("p", "a", Direction::In), link("q", "p", Direction::In)];
        let found = reachable("a", links, &HashSet::new());
        assert_eq!(found.iter().map(|l| (l.far(), l.depth)).collect::<Vec<_>>(), [("b", 1), ("p", 1), ("q", 2)]);
    }

    #[test]
    fn depth_is_bounded() {
        let depth = |depth| {
            let lookup = pipeline("a", &[], depth, Direction::In)[1].get_document("$graphLookup").cloned().unwrap();
            (lookup.get_i64("maxDepth").unwrap(), lookup.get_str("connectToField").unwrap().to_owned())
        };
        assert_eq!((depth(0).0, depth(3).0, depth(1_000).0), (0, 2, 7));
        assert_eq!(depth(1).1, "to");
    }
}
