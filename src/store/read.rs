//! Reads that answer a task, and those that show people what is there.

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::{ANALYSES, Store, StoreFault};

impl Store {
    /// Earlier analyses by their cache keys: one finished result for each key that has one.
    pub async fn analyses_by_key(&self, keys: &[String]) -> Result<Vec<(String, Document)>, StoreFault> {
        let find = async {
            let analyses = self.db.collection::<Document>(ANALYSES);
            let found = analyses.find(doc! { "cacheKey": { "$in": keys } });
            let fields = doc! { "_id": 0, "cacheKey": 1, "language": 1, "engine": 1, "grammar": 1, "readability": 1, "statistics": 1, "timings": 1 };
            found.projection(fields).limit((keys.len() * 4) as i64).await?.try_collect::<Vec<Document>>().await
        };
        let found = self.bounded("find", find).await?;
        let key = |d: &Document| d.get_str("cacheKey").ok().map(str::to_string);
        Ok(found.into_iter().filter_map(|d| Some((key(&d)?, d))).collect())
    }

    /// Those of `ids` that `collection` has, in no order.
    pub async fn by_ids(&self, collection: &str, ids: &[String]) -> Result<Vec<Document>, StoreFault> {
        let find = async {
            let documents = self.db.collection::<Document>(collection);
            documents.find(doc! { "_id": { "$in": ids } }).batch_size(10_000).await?.try_collect().await
        };
        self.bounded("find", find).await
    }

    /// The ids of the next records that match, in their order.
    pub async fn page(&self, collection: &str, filter: Document, limit: i64) -> Result<Vec<Document>, StoreFault> {
        let find = async {
            let documents = self.db.collection::<Document>(collection);
            let found = documents.find(filter).sort(doc! { "_id": 1 }).projection(doc! { "_id": 1 }).limit(limit);
            found.await?.try_collect().await
        };
        self.bounded("find", find).await
    }

    /// Records that match, at most `limit`.
    pub async fn records(&self, collection: &str, filter: Document, limit: i64) -> Result<Vec<Document>, StoreFault> {
        let find = async {
            let documents = self.db.collection::<Document>(collection);
            documents.find(filter).limit(limit).await?.try_collect().await
        };
        self.bounded("find", find).await
    }

    /// The newest analysis of a document.
    pub async fn newest_analysis(&self, document: &str) -> Result<Option<Document>, StoreFault> {
        let analyses = self.db.collection::<Document>(ANALYSES);
        let find = analyses.find_one(doc! { "documentId": document }).sort(doc! { "createdAt": -1 });
        self.bounded("find", find.into_future()).await
    }

    /// How many documents `collection` has, by its metadata.
    pub async fn size(&self, collection: &str) -> Result<u64, StoreFault> {
        let documents = self.db.collection::<Document>(collection);
        self.bounded("count", documents.estimated_document_count().into_future()).await
    }
}
