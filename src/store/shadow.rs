//! `kvshadow`: which cached records are not in step with MongoDB, and since when. A row is
//! `{ _id: "KIND:ID", collection, rev, since, attempts }`; whoever has brought the record in step removes it.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime as BsonDate, Document, doc};

use super::{KVSHADOW, Store, StoreFault};

/// MongoDB takes 100,000 statements in one command; smaller ones let others in between.
const CHUNK: usize = 1_000;

/// A cached record that may be out of step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    pub kind: String,
    /// The id in the cache key.
    pub id: String,
    pub collection: String,
    /// The record's revision that the cache has to reach at least.
    pub rev: i64,
    /// Since when the cache may be behind.
    pub since: DateTime<Utc>,
}

impl Shadow {
    fn row(&self) -> String {
        format!("{}:{}", self.kind, self.id)
    }

    fn read(document: &Document) -> Option<Self> {
        let (kind, id) = document.get_str("_id").ok()?.split_once(':')?;
        let since = document.get_datetime("since").ok()?.timestamp_millis();
        Some(Self {
            kind: kind.into(),
            id: id.into(),
            collection: document.get_str("collection").ok()?.into(),
            rev: document.get_i64("rev").ok()?,
            since: DateTime::from_timestamp_millis(since)?,
        })
    }
}

impl Store {
    /// Notes records; of one that is noted already the earlier time and the higher revision stay.
    pub async fn shadow_note(&self, shadows: &[Shadow]) -> Result<(), StoreFault> {
        for chunk in shadows.chunks(CHUNK) {
            let update = |shadow: &Shadow| {
                let since = BsonDate::from_millis(shadow.since.timestamp_millis());
                let change = doc! {
                    "$max": { "rev": shadow.rev },
                    "$min": { "since": since },
                    "$setOnInsert": { "collection": &shadow.collection, "attempts": 0_i64 },
                };
                Bson::Document(doc! { "q": { "_id": shadow.row() }, "u": change, "upsert": true })
            };
            let updates: Vec<Bson> = chunk.iter().map(update).collect();
            self.shadow_command(doc! { "update": KVSHADOW, "updates": updates, "ordered": false }).await?;
        }
        Ok(())
    }

    /// Removes the rows of records that are in step at `rev` or above; a row noted anew meanwhile stays.
    pub async fn shadow_done(&self, shadows: &[Shadow]) -> Result<(), StoreFault> {
        for chunk in shadows.chunks(CHUNK) {
            let delete = |shadow: &Shadow| {
                Bson::Document(doc! { "q": { "_id": shadow.row(), "rev": { "$lte": shadow.rev } }, "limit": 1 })
            };
            let deletes: Vec<Bson> = chunk.iter().map(delete).collect();
            self.shadow_command(doc! { "delete": KVSHADOW, "deletes": deletes, "ordered": false }).await?;
        }
        Ok(())
    }

    /// Counts an attempt that did not bring them in step.
    pub async fn shadow_failed(&self, shadows: &[Shadow]) -> Result<(), StoreFault> {
        let ids: Vec<String> = shadows.iter().map(Shadow::row).collect();
        let rows = self.db.collection::<Document>(KVSHADOW);
        let update = rows.update_many(doc! { "_id": { "$in": ids } }, doc! { "$inc": { "attempts": 1_i64 } });
        self.bounded("update", update.into_future()).await.map(|_| ())
    }

    /// Up to `limit` rows after `after`, those first that wait longest.
    pub async fn shadow_page(&self, after: Option<&Shadow>, limit: i64) -> Result<Vec<Shadow>, StoreFault> {
        let filter = after.map_or_else(Document::new, |last| {
            let since = BsonDate::from_millis(last.since.timestamp_millis());
            doc! { "$or": [{ "since": { "$gt": since } }, { "since": since, "_id": { "$gt": last.row() } }] }
        });
        let find = async {
            let rows = self.db.collection::<Document>(KVSHADOW);
            let found = rows.find(filter).sort(doc! { "since": 1, "_id": 1 }).limit(limit).await?;
            found.try_collect::<Vec<Document>>().await
        };
        let rows = self.bounded("find", find).await?;
        Ok(rows.iter().filter_map(Shadow::read).collect())
    }

    /// How many rows there are, and since when the first of them waits.
    pub async fn shadow_state(&self) -> Result<(u64, Option<DateTime<Utc>>), StoreFault> {
        let oldest = self.shadow_page(None, 1).await?.first().map(|shadow| shadow.since);
        let rows = if oldest.is_some() { self.size(KVSHADOW).await? } else { 0 };
        Ok((rows, oldest))
    }

    /// Upserts of one row from two sides may collide on its `_id`: the row is there then, and once more does it.
    async fn shadow_command(&self, command: Document) -> Result<(), StoreFault> {
        for last in [false, true] {
            let reply = self.bounded("write", self.write_command(command.clone())).await?;
            let errors = reply.get_array("writeErrors").map_or(0, Vec::len);
            let concern = reply.get_document("writeConcernError").ok();
            if errors == 0 && concern.is_none() {
                break;
            }
            if last {
                let message = format!("{errors} rows of {KVSHADOW} were not written");
                return Err(StoreFault::answer(crate::metrics::ErrorClass::Timeout, message));
            }
        }
        Ok(())
    }

    async fn write_command(&self, mut command: Document) -> Result<Document, mongodb::error::Error> {
        command
            .insert("writeConcern", doc! { "w": "majority", "j": true, "wtimeout": self.timeout.as_millis() as i64 });
        self.db.run_command(command).await
    }
}
