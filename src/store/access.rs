//! How often cached kinds are read and written, summed over the whole fleet by the hour.

use std::{
    collections::BTreeMap,
    ops::{Index, IndexMut},
};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use futures::TryStreamExt;
use mongodb::{
    bson::{DateTime as BsonDate, Document, doc},
    options::{Acknowledgment, CollectionOptions, WriteConcern},
};

use super::{Store, StoreFault};

/// One document per kind and hour; MongoDB removes them after [`KEPT_DAYS`].
pub const ACCESS_STATS: &str = "access_stats";
pub(super) const KEPT_DAYS: u64 = 8;

/// What is counted of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A read that the process's memory answered.
    Memory,
    /// A read that Redis answered.
    Redis,
    /// A read that only MongoDB could answer.
    MongoDb,
    /// A read of a record that is not there.
    Absent,
    /// Of all reads, those that asked for the whole record.
    Whole,
    /// A reader put a record into the cache.
    Fill,
    /// A record changed.
    Write,
}

impl Access {
    pub const ALL: [Self; 7] =
        [Self::Memory, Self::Redis, Self::MongoDb, Self::Absent, Self::Whole, Self::Fill, Self::Write];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::MongoDb => "mongodb",
            Self::Absent => "absent",
            Self::Whole => "whole",
            Self::Fill => "fills",
            Self::Write => "writes",
        }
    }
}

/// Counts of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; Access::ALL.len()]);

impl Index<Access> for Counts {
    type Output = u64;

    fn index(&self, access: Access) -> &u64 {
        &self.0[access as usize]
    }
}

impl IndexMut<Access> for Counts {
    fn index_mut(&mut self, access: Access) -> &mut u64 {
        &mut self.0[access as usize]
    }
}

impl Counts {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|n| *n == 0)
    }

    pub fn reads(&self) -> u64 {
        [Access::Memory, Access::Redis, Access::MongoDb, Access::Absent].into_iter().map(|a| self[a]).sum()
    }

    pub fn add(&mut self, other: &Self) {
        for access in Access::ALL {
            self[access] = self[access].saturating_add(other[access]);
        }
    }
}

/// The counts of one kind over several hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub counts: Counts,
    /// The first hour that was counted.
    pub since: DateTime<Utc>,
}

impl Store {
    /// Adds to the counts of the hour that `now` lies in. They are figures to judge by, not records: one member's
    /// acknowledgment will do, and a call without an answer may have counted.
    pub async fn add_access(&self, now: DateTime<Utc>, counted: &[(&str, Counts)]) -> Result<(), StoreFault> {
        let hour = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
        let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        let options = CollectionOptions::builder().write_concern(one).build();
        let stats = self.db.collection_with_options::<Document>(ACCESS_STATS, options);
        for (kind, counts) in counted {
            let mut increments = Document::new();
            for access in Access::ALL.into_iter().filter(|a| counts[*a] > 0) {
                increments.insert(access.as_str(), i64::try_from(counts[access]).unwrap_or(i64::MAX));
            }
            let id = format!("{kind}/{}", hour.format("%Y-%m-%dT%H"));
            let fields = doc! { "kind": *kind, "hour": BsonDate::from_millis(hour.timestamp_millis()) };
            let update = doc! { "$inc": increments, "$setOnInsert": fields };
            let upsert = stats.update_one(doc! { "_id": id }, update).upsert(true);
            self.bounded("update", upsert.into_future()).await?;
        }
        Ok(())
    }

    /// What the fleet has counted since `since`, by kind.
    pub async fn access(&self, since: DateTime<Utc>) -> Result<BTreeMap<String, Counted>, StoreFault> {
        let since = since.duration_trunc(TimeDelta::hours(1)).unwrap_or(since);
        let find = async {
            let stats = self.db.collection::<Document>(ACCESS_STATS);
            let found = stats.find(doc! { "hour": { "$gte": BsonDate::from_millis(since.timestamp_millis()) } });
            found.await?.try_collect::<Vec<_>>().await
        };
        let mut all: BTreeMap<String, Counted> = BTreeMap::new();
        for document in self.bounded("find", find).await? {
            let (Ok(kind), Ok(hour)) = (document.get_str("kind"), document.get_datetime("hour")) else { continue };
            let hour = DateTime::from_timestamp_millis(hour.timestamp_millis()).unwrap_or(since);
            let mut counts = Counts::default();
            for access in Access::ALL {
                counts[access] = document.get_i64(access.as_str()).unwrap_or(0).max(0) as u64;
            }
            let sum = all.entry(kind.to_owned()).or_insert(Counted { counts: Counts::default(), since: hour });
            sum.counts.add(&counts);
            sum.since = sum.since.min(hour);
        }
        Ok(all)
    }

    /// At most `size` records of a collection, picked at random.
    pub async fn sample(&self, collection: &str, size: u32) -> Result<Vec<Document>, StoreFault> {
        let pick = async {
            let records = self.db.collection::<Document>(collection);
            let picked = records.aggregate(vec![doc! { "$sample": { "size": i64::from(size) } }]);
            picked.max_time(self.timeout).await?.try_collect::<Vec<_>>().await
        };
        self.bounded("aggregate", pick).await
    }
}
