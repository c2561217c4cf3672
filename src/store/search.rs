//! Finding contexts and memories, by text and by what they are.

use std::str::FromStr;

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime as BsonDate, Document, doc};
use serde::{Deserialize, Serialize};

use super::{Store, StoreFault};
use crate::metrics::ErrorClass;

/// Contexts and memories; a memory is a context of its own `kind`.
pub const CONTEXTS: &str = "contexts";
/// Most hits of one page.
pub const MAX_HITS: u32 = 200;
/// Records in these states are not shown.
pub(super) const HIDDEN: [&str; 2] = ["deleted", "purging"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Context,
    Memory,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Memory => "memory",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    Low,
    Medium,
    High,
    Critical,
}

impl Importance {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Low, "low"), (Self::Medium, "medium"), (Self::High, "high"), (Self::Critical, "critical")];

    /// A record that says nothing of it is of medium importance.
    fn at_least(self) -> Vec<Bson> {
        let named = Self::ALL.into_iter().filter(|(importance, _)| *importance >= self).map(|(_, name)| name.into());
        named.chain((self <= Self::Medium).then_some(Bson::Null)).collect()
    }
}

/// What is looked for; every condition that is given must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Search {
    /// Words, of which one must occur; a `"phrase"` and every `-word` narrow it. Empty: all records, the newest first.
    pub text: String,
    pub kind: Option<Kind>,
    /// One of these.
    pub types: Vec<String>,
    /// All of these.
    pub tags: Vec<String>,
    pub user: Option<String>,
    pub session: Option<String>,
    /// At least this much.
    pub importance: Option<Importance>,
    /// Hits of a page; from 1 to [`MAX_HITS`].
    pub limit: u32,
    /// Where the page before this one ended.
    pub after: Option<After>,
}

/// The place of a hit among all hits; as text, what a caller hands back for the next page.
#[derive(Debug, Clone, PartialEq)]
pub enum After {
    Newest { updated_at: i64, id: String },
    Best { score: f64, id: String },
}

impl std::fmt::Display for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newest { updated_at, id } => write!(f, "n{updated_at:x}:{id}"),
            // The bits: the score is compared with the very same number again.
            Self::Best { score, id } => write!(f, "b{:x}:{id}", score.to_bits()),
        }
    }
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (place, id) = text.split_once(':')?;
            let (order, number) = place.split_at_checked(1)?;
            let (number, id) = (u64::from_str_radix(number, 16).ok()?, id.to_owned());
            match order {
                "n" => Some(Self::Newest { updated_at: i64::try_from(number).ok()?, id }),
                "b" => Some(Self::Best { score: f64::from_bits(number), id }),
                _ => None,
            }
        };
        parse().ok_or_else(|| "this is not a place in a search: give the `next` of the page before".to_owned())
    }
}

/// One record that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// How well it fits the text; without a text there is none.
    pub score: Option<f64>,
    /// The record as it is stored; sensitive fields are still sealed.
    pub document: Document,
}

/// One page of hits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    pub hits: Vec<Hit>,
    /// Where the next page goes on; `None` when this was the last one.
    pub next: Option<After>,
}

impl Search {
    /// The aggregation that finds one hit more than asked for.
    ///
    /// # Errors
    /// `after` is of another search.
    fn pipeline(&self) -> Result<Vec<Document>, String> {
        let text = self.text.trim();
        let mut stages = vec![doc! { "$match": self.filter() }];
        match (&self.after, text.is_empty()) {
            (None, _) => {}
            // Bounds the index as well, which the alternatives alone do not.
            (Some(After::Newest { updated_at, id }), true) => {
                let at = BsonDate::from_millis(*updated_at);
                let after = vec![doc! { "updatedAt": { "$lt": at } }, doc! { "_id": { "$gt": id } }];
                stages.push(doc! { "$match": { "updatedAt": { "$lte": at }, "$or": after } });
            }
            (Some(After::Best { .. }), false) => {}
            (Some(_), _) => return Err("`after` is of another search: begin again without it".into()),
        }
        if text.is_empty() {
            stages.push(doc! { "$sort": { "updatedAt": -1, "_id": 1 } });
        } else {
            stages.push(doc! { "$addFields": { "_score": { "$meta": "textScore" } } });
            if let Some(After::Best { score, id }) = &self.after {
                let after = vec![doc! { "_score": { "$lt": score } }, doc! { "_score": score, "_id": { "$gt": id } }];
                stages.push(doc! { "$match": { "$or": after } });
            }
            stages.push(doc! { "$sort": { "_score": -1, "_id": 1 } });
        }
        stages.push(doc! { "$limit": i64::from(self.limit.clamp(1, MAX_HITS)) + 1 });
        Ok(stages)
    }

    fn filter(&self) -> Document {
        let mut filter = Document::new();
        if !self.text.trim().is_empty() {
            filter.insert("$text", doc! { "$search": self.text.trim() });
        }
        // Every index for lists begins with an owner, a tag or the kind.
        let kinds = self.kind.map_or(vec!["context", "memory"], |kind| vec![kind.as_str()]);
        filter.insert("kind", one_of(kinds.into_iter().map(Bson::from).collect()));
        if !self.types.is_empty() {
            filter.insert("type", one_of(self.types.iter().map(Bson::from).collect()));
        }
        match self.tags.as_slice() {
            [] => {}
            [tag] => drop(filter.insert("tags", tag)),
            tags => drop(filter.insert("tags", doc! { "$all": tags })),
        }
        for (field, value) in [("userId", &self.user), ("sessionId", &self.session)] {
            if let Some(value) = value {
                filter.insert(field, value);
            }
        }
        if let Some(importance) = self.importance {
            filter.insert("importance", one_of(importance.at_least()));
        }
        filter.insert("state", doc! { "$nin": HIDDEN.to_vec() });
        filter
    }

    fn page(&self, mut found: Vec<Document>) -> Page {
        let limit = self.limit.clamp(1, MAX_HITS) as usize;
        let is_more = found.len() > limit;
        found.truncate(limit);
        let score = |document: &mut Document| document.remove("_score").as_ref().and_then(Bson::as_f64);
        let hits: Vec<Hit> = found.into_iter().map(|mut d| Hit { score: score(&mut d), document: d }).collect();
        let next = hits.last().filter(|_| is_more).map(|last| {
            let id = last.document.get_str("_id").unwrap_or_default().to_owned();
            let updated_at = last.document.get_datetime("updatedAt").map_or(0, |at| at.timestamp_millis());
            match last.score {
                Some(score) => After::Best { score, id },
                None => After::Newest { updated_at, id },
            }
        });
        Page { hits, next }
    }
}

fn one_of(values: Vec<Bson>) -> Bson {
    match values.as_slice() {
        [one] => one.clone(),
        _ => Bson::from(doc! { "$in": values }),
    }
}

impl Store {
    /// One page of the contexts and memories that `search` describes: by how well they fit the text, else the newest
    /// first. No server-side cursor is kept between pages; what changes between them moves to its new place.
    ///
    /// # Errors
    /// As every read; besides `Rejected` when `after` is of another search.
    pub async fn search(&self, search: &Search) -> Result<Page, StoreFault> {
        let pipeline = search.pipeline().map_err(|e| StoreFault::answer(ErrorClass::Rejected, e))?;
        let find = async {
            let contexts = self.db.collection::<Document>(CONTEXTS);
            contexts.aggregate(pipeline).max_time(self.timeout).await?.try_collect::<Vec<_>>().await
        };
        Ok(search.page(self.bounded("aggregate", find).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_being_text() {
        for after in [
            After::Newest { updated_at: 1_769_860_800_123, id: "a:b".into() },
            After::Best { score: 10.1 / 3.0, id: String::new() },
        ] {
            assert_eq!(after.to_string().parse(), Ok(after));
        }
        for text in ["", "n", "x1:a", "nzz:a", "é:a", "nffffffffffffffff:a"] {
            assert!(text.parse::<After>().unwrap_err().contains("`next`"), "{text}");
        }
    }

    #[test]
    fn every_condition_is_in_the_filter() {
        let all = Search {
            text: " \"exact phrase\" -not ".into(),
            kind: Some(Kind::Memory),
            types: vec!["fact".into(), "example".into()],
            tags: vec!["a".into(), "b".into()],
            user: Some("u".into()),
            session: Some("s".into()),
            importance: Some(Importance::High),
            ..Search::default()
        };
        let expected = doc! {
            "$text": { "$search": "\"exact phrase\" -not" },
            "kind": "memory",
            "type": { "$in": ["fact", "example"] },
            "tags": { "$all": ["a", "b"] },
            "userId": "u",
            "sessionId": "s",
            "importance": { "$in": ["high", "critical"] },
            "state": { "$nin": ["deleted", "purging"] },
        };
        assert_eq!(all.filter(), expected);
        let none = Search::default().filter();
        assert_eq!(none.keys().collect::<Vec<_>>(), ["kind", "state"]);
    }

    #[test]
    fn a_page_says_where_the_next_one_goes_on() {
        let found = |n: usize| {
            (0..n).map(|i| doc! { "_id": format!("c{i}"), "updatedAt": BsonDate::from_millis(9 - i as i64) }).collect()
        };
        let search = Search { limit: 2, ..Search::default() };
        assert_eq!(search.page(found(2)).next, None);
        let page = search.page(found(3));
        assert_eq!((page.hits.len(), page.next), (2, Some(After::Newest { updated_at: 8, id: "c1".into() })));
        let scored = vec![doc! { "_id": "a", "_score": 2.5 }, doc! { "_id": "b", "_score": 1.5 }];
        let page = Search { limit: 1, text: "x".into(), ..Search::default() }.page(scored);
        assert_eq!(page.next, Some(After::Best { score: 2.5, id: "a".into() }));
        assert_eq!(page.hits[0], Hit { score: Some(2.5), document: doc! { "_id": "a" } });
    }

    #[test]
    fn a_place_of_another_search_is_refused() {
        let newest = Some(After::Newest { updated_at: 1, id: "a".into() });
        let by_text = Search { text: "x".into(), after: newest.clone(), ..Search::default() };
        assert!(by_text.pipeline().unwrap_err().contains("another search"));
        assert!(Search { after: newest, ..Search::default() }.pipeline().is_ok());
    }
}
