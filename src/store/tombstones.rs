//! What the lifecycle purged, and what is taken back because of it.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Document, doc};

use super::{Store, StoreFault, TOMBSTONES};
use crate::record;

impl Store {
    /// Those of `keys` that the lifecycle purged: nothing brings them back.
    pub async fn purged(&self, collection: &str, keys: &[&str]) -> Result<HashSet<String>, StoreFault> {
        let found = self.tombstones(keys.iter().map(|key| record::tombstone(collection, key))).await?;
        let key = |id: String| id.split_once('/').map_or(id.clone(), |(_, key)| key.to_owned());
        Ok(found.into_iter().map(key).collect())
    }

    /// Those of the tombstones `ids` (`COLLECTION/KEY`) that are there. Nothing is asked where none are wanted.
    pub async fn tombstones(&self, ids: impl IntoIterator<Item = String>) -> Result<HashSet<String>, StoreFault> {
        let ids: HashSet<String> = ids.into_iter().collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let ids: Vec<String> = ids.into_iter().collect();
        let find = async {
            let tombstones = self.db.collection::<Document>(TOMBSTONES);
            // Answered from the index alone.
            let find = tombstones.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 });
            let mut cursor = find.batch_size(10_000).await?;
            let mut found = HashSet::new();
            while cursor.advance().await? {
                found.insert(cursor.current().get_str("_id").unwrap_or_default().to_owned());
            }
            Ok(found)
        };
        self.bounded("find", find).await
    }

    /// Removes records that were just made, unless others have changed them since: what they are about was purged while
    /// they were written. Looked at after the write, one of two finds the other: the purge these records, or who made
    /// them the tombstone, which is there before the purge looks for records.
    pub async fn unmake(&self, collection: &str, keys: &[&str]) -> Result<(), StoreFault> {
        let records = self.db.collection::<Document>(collection);
        let delete = records.delete_many(doc! { "_id": { "$in": keys }, "_sync.rev": 1_i64 });
        self.bounded("delete", delete.into_future()).await.map(drop)
    }

    /// Removes documents of `collection` whatever they are by now.
    pub async fn remove(&self, collection: &str, ids: &[&str]) -> Result<(), StoreFault> {
        let documents = self.db.collection::<Document>(collection);
        let delete = documents.delete_many(doc! { "_id": { "$in": ids } });
        self.bounded("delete", delete.into_future()).await.map(drop)
    }

    /// Those of the records `keys` that are deleted, or on their way out.
    pub async fn over(&self, collection: &str, keys: &[&str]) -> Result<HashMap<String, Document>, StoreFault> {
        let find = async {
            let records = self.db.collection::<Document>(collection);
            let states = ["deleted", "purging", "anonymized"];
            let filter = doc! { "_id": { "$in": keys }, "state": { "$in": &states[..] } };
            let fields = doc! { "state": 1, "deletedAt": 1, record::SYNC: 1 };
            let mut cursor = records.find(filter).projection(fields).await?;
            let mut found = HashMap::new();
            while cursor.advance().await? {
                let row = cursor.deserialize_current()?;
                found.insert(row.get_str("_id").unwrap_or_default().to_owned(), row);
            }
            Ok(found)
        };
        self.bounded("find", find).await
    }
}
