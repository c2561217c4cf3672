//! Reads that answer a task.

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
}
