//! The indexes that serve the lifecycle's rules.

use std::collections::{BTreeMap, BTreeSet};

use contextd_jobs::policy::{self, Index};
use futures::TryStreamExt;
use mongodb::{
    IndexModel,
    bson::{Bson, Document},
    error::ErrorKind,
    options::IndexOptions,
};

use super::{Store, StoreFault};

/// MongoDB's code for a collection that is not there.
const NO_COLLECTION: i32 = 26;

impl Store {
    /// Makes those of the indexes that are missing. Can be repeated.
    pub async fn index(&self, indexes: &[Index]) -> Result<(), StoreFault> {
        let mut of: BTreeMap<&str, Vec<IndexModel>> = BTreeMap::new();
        for index in indexes {
            of.entry(&index.collection).or_default().push(IndexModel::builder().keys(keys(index)).build());
        }
        for (collection, models) in of {
            // Building an index takes as long as it takes: no time limit of ours.
            self.db.collection::<Document>(collection).create_indexes(models).await?;
        }
        Ok(())
    }

    /// Those of the indexes that are not there.
    pub async fn missing_indexes(&self, indexes: &[Index]) -> Result<Vec<Index>, StoreFault> {
        let mut missing = Vec::new();
        let collections: BTreeSet<&str> = indexes.iter().map(|index| index.collection.as_str()).collect();
        for collection in collections {
            let list = async {
                let listed = self.db.collection::<Document>(collection).list_indexes().await;
                match listed {
                    Ok(models) => models.try_collect::<Vec<_>>().await,
                    Err(e) if matches!(&*e.kind, ErrorKind::Command(c) if c.code == NO_COLLECTION) => Ok(Vec::new()),
                    Err(e) => Err(e),
                }
            };
            let there: Vec<Document> = self.bounded("listIndexes", list).await?.into_iter().map(|m| m.keys).collect();
            let is_there = |index: &Index| there.iter().any(|keys| named(keys) == index.keys);
            let of = indexes.iter().filter(|index| index.collection == collection);
            missing.extend(of.filter(|index| !is_there(index)).cloned());
        }
        Ok(missing)
    }
}

fn keys(index: &Index) -> Document {
    index.keys.iter().map(|key| (key.clone(), Bson::Int32(1))).collect()
}

/// The keys' names, if all ascend.
fn named(keys: &Document) -> Vec<String> {
    let ascends = |value: &Bson| value.as_i32() == Some(1) || value.as_i64() == Some(1) || value.as_f64() == Some(1.0);
    if keys.values().all(ascends) { keys.keys().cloned().collect() } else { Vec::new() }
}

/// As a step of the schema.
pub(super) fn step() -> Vec<(&'static str, IndexModel)> {
    let rules = policy::shipped_indexes().into_iter().filter_map(|index| {
        let model = IndexModel::builder().keys(keys(&index)).build();
        Some((policy::shipped_collection(&index.collection)?, model))
    });
    let lookups = policy::lookup_indexes().into_iter().map(|(collection, keys, sparse)| {
        let options = IndexOptions::builder().sparse(sparse.then_some(true)).build();
        (collection, IndexModel::builder().keys(keys).options(options).build())
    });
    rules.chain(lookups).collect()
}
