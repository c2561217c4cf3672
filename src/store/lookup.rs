//! Single records for readers and for the caches.

use std::collections::HashMap;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use super::{Store, StoreFault};

impl Store {
    /// The record whose `field` (`_id` where it is empty) is `id`; of several under a field the one changed last.
    pub async fn record_of(&self, collection: &str, field: &str, id: &str) -> Result<Option<Document>, StoreFault> {
        let records = self.db.collection::<Document>(collection);
        let find = match field {
            "" => records.find_one(doc! { "_id": id }),
            field => records.find_one(doc! { field: id }).sort(doc! { "_sync.order": -1 }),
        };
        self.bounded("find", find.into_future()).await
    }

    /// The records with these ids, as [`Store::record_of`] finds each. Those that are not there are left out.
    pub async fn records_of(
        &self,
        collection: &str,
        field: &str,
        ids: &[&str],
    ) -> Result<HashMap<String, Document>, StoreFault> {
        let name = if field.is_empty() { "_id" } else { field };
        let find = async {
            let records = self.db.collection::<Document>(collection);
            let mut find = records.find(doc! { name: { "$in": ids } });
            if !field.is_empty() {
                // The last one in a map wins.
                find = find.sort(doc! { "_sync.order": 1 });
            }
            find.await?.try_collect::<Vec<Document>>().await
        };
        let found = self.bounded("find", find).await?;
        Ok(found.into_iter().filter_map(|d| Some((d.get_str(name).ok()?.to_owned(), d))).collect())
    }

    /// How many interactions each of these sessions has, from an index. A session without any is left out.
    pub async fn interaction_counts(&self, sessions: &[&str]) -> Result<HashMap<String, i64>, StoreFault> {
        let count = async {
            let interactions = self.db.collection::<Document>("interactions");
            let pipeline = [
                doc! { "$match": { "sessionId": { "$in": sessions } } },
                doc! { "$group": { "_id": "$sessionId", "n": { "$sum": 1_i64 } } },
            ];
            interactions.aggregate(pipeline).await?.try_collect::<Vec<Document>>().await
        };
        let counts = self.bounded("aggregate", count).await?;
        let read = |d: Document| {
            let n = match d.get("n")? {
                Bson::Int64(n) => *n,
                Bson::Int32(n) => i64::from(*n),
                _ => return None,
            };
            Some((d.get_str("_id").ok()?.to_owned(), n))
        };
        Ok(counts.into_iter().filter_map(read).collect())
    }
}
