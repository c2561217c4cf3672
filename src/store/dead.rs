//! Dead letters: what could not be done, with its original bytes and the reason.

use chrono::{DateTime, Utc};
use futures::{AsyncReadExt, AsyncWriteExt, TryStreamExt};
use mongodb::{
    bson::{Binary, Bson, DateTime as BsonDate, Document, RawBson, cstr, doc, rawdoc, spec::BinarySubtype},
    error::{ErrorKind, GridFsErrorKind},
    gridfs::GridFsBucket,
    options::GridFsBucketOptions,
};
use serde::Serialize;

use super::{DEAD_LETTERS, Store, StoreFault};
use crate::{
    batch::{Mode, Write},
    metrics::ErrorClass,
    task::{Priority, Reason},
};

/// Larger bodies lie in a GridFS bucket, under the dead letter's own id: MongoDB takes no document of more than 16 MiB.
pub const INLINE_BODY: usize = 8 * 1024 * 1024;

/// The bucket's name.
const BODIES: &str = "dead_letter_bodies";

/// A task that is given up.
pub struct NewDeadLetter<'a> {
    pub queue: &'a str,
    pub priority: Priority,
    /// Tells equal elements apart; together with the queue the document's `_id`.
    pub identity: &'a str,
    pub event_id: Option<&'a str>,
    pub source: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub reason: Reason,
    pub error: &'a str,
    pub attempts: u32,
    pub crashes: u32,
    pub body: &'a [u8],
    pub dead_at: DateTime<Utc>,
}

impl NewDeadLetter<'_> {
    /// The write that makes it durable; `task` is its position in the batch.
    pub fn write(&self, task: usize) -> Write {
        let id = format!("{}:{}", self.queue, self.identity);
        let text = |t: Option<&str>| t.map_or(RawBson::Null, RawBson::from);
        let mut document = rawdoc! {
            "_id": id.as_str(),
            "queue": self.queue,
            "priority": self.priority.as_str(),
            "eventId": text(self.event_id),
            "source": text(self.source),
            "type": text(self.kind),
            "reason": self.reason.as_str(),
            "error": self.error,
            "attempts": self.attempts as i32,
            "crashes": self.crashes as i32,
            "deadAt": BsonDate::from_millis(self.dead_at.timestamp_millis()),
            "bytes": self.body.len() as i64,
        };
        if self.body.len() > INLINE_BODY {
            document.append(cstr!("bodyFile"), id.as_str());
        } else {
            let body = Binary { subtype: BinarySubtype::Generic, bytes: self.body.to_vec() };
            document.append(cstr!("body"), body);
        }
        Write { collection: DEAD_LETTERS, mode: Mode::Insert, id, document, task }
    }
}

/// A stored dead letter.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub id: String,
    pub queue: String,
    pub priority: Priority,
    pub event_id: Option<String>,
    pub source: Option<String>,
    pub r#type: Option<String>,
    pub reason: String,
    pub error: String,
    pub attempts: i64,
    pub crashes: i64,
    pub dead_at: DateTime<Utc>,
    pub bytes: u64,
    /// The original bytes; empty in listings.
    #[serde(skip)]
    pub body: Vec<u8>,
    /// Whether the body lies in the bucket.
    #[serde(skip)]
    is_filed: bool,
}

impl DeadLetter {
    fn read(d: &Document) -> Self {
        let text = |k: &str| d.get_str(k).ok().map(str::to_string);
        let number = |k: &str| match d.get(k) {
            Some(Bson::Int32(n)) => i64::from(*n),
            Some(Bson::Int64(n)) => *n,
            _ => 0,
        };
        let name = d.get_str("priority").unwrap_or_default();
        Self {
            id: text("_id").unwrap_or_default(),
            queue: text("queue").unwrap_or_default(),
            priority: Priority::ALL.into_iter().find(|p| p.as_str() == name).unwrap_or(Priority::Normal),
            event_id: text("eventId"),
            source: text("source"),
            r#type: text("type"),
            reason: text("reason").unwrap_or_default(),
            error: text("error").unwrap_or_default(),
            attempts: number("attempts"),
            crashes: number("crashes"),
            dead_at: d
                .get_datetime("deadAt")
                .ok()
                .and_then(|t| DateTime::from_timestamp_millis(t.timestamp_millis()))
                .unwrap_or_default(),
            bytes: number("bytes").max(0) as u64,
            body: d.get_binary_generic("body").ok().cloned().unwrap_or_default(),
            is_filed: d.contains_key("bodyFile"),
        }
    }
}

/// Which dead letters; every field that is set must match.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    pub queue: Option<String>,
    pub reason: Option<String>,
    /// The dead letter's own id, or the event's.
    pub id: Option<String>,
    /// Those that died at this time or before.
    pub until: Option<DateTime<Utc>>,
}

impl DeadFilter {
    fn document(&self) -> Document {
        let mut filter = Document::new();
        if let Some(queue) = &self.queue {
            filter.insert("queue", queue);
        }
        if let Some(reason) = &self.reason {
            filter.insert("reason", reason);
        }
        if let Some(id) = &self.id {
            filter.insert("$or", vec![doc! { "_id": id }, doc! { "eventId": id }]);
        }
        if let Some(until) = self.until {
            filter.insert("deadAt", doc! { "$lte": BsonDate::from_millis(until.timestamp_millis()) });
        }
        filter
    }
}

impl Store {
    /// The newest dead letters first, without their bodies.
    pub async fn dead_list(&self, filter: &DeadFilter, skip: u64, limit: i64) -> Result<Vec<DeadLetter>, StoreFault> {
        let find = async {
            let dead = self.db.collection::<Document>(DEAD_LETTERS);
            let found = dead.find(filter.document());
            let found = found.sort(doc! { "deadAt": -1, "_id": 1 }).skip(skip).limit(limit);
            found.projection(doc! { "body": 0 }).await?.try_collect::<Vec<_>>().await
        };
        Ok(self.bounded("find", find).await?.iter().map(DeadLetter::read).collect())
    }

    /// A page in the order of `_id` after `after`, with bodies; at most `limit` (bodies can be large).
    pub async fn dead_page(
        &self,
        filter: &DeadFilter,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<DeadLetter>, StoreFault> {
        let mut conditions = vec![filter.document()];
        if let Some(after) = after {
            conditions.push(doc! { "_id": { "$gt": after } });
        }
        let find = async {
            let dead = self.db.collection::<Document>(DEAD_LETTERS);
            let found = dead.find(doc! { "$and": conditions });
            found.sort(doc! { "_id": 1 }).limit(limit).await?.try_collect::<Vec<_>>().await
        };
        let mut page: Vec<DeadLetter> = self.bounded("find", find).await?.iter().map(DeadLetter::read).collect();
        for letter in page.iter_mut().filter(|l| l.is_filed) {
            letter.body = self.dead_body(&letter.id).await?;
        }
        Ok(page)
    }

    fn bodies(&self) -> GridFsBucket {
        self.db.gridfs_bucket(GridFsBucketOptions::builder().bucket_name(BODIES.to_string()).build())
    }

    async fn dead_body(&self, id: &str) -> Result<Vec<u8>, StoreFault> {
        let mut body = Vec::new();
        let mut stream = self.bodies().open_download_stream(id.into()).await?;
        stream.read_to_end(&mut body).await.map_err(|e| StoreFault::answer(ErrorClass::Network, e.to_string()))?;
        Ok(body)
    }

    /// Stores the body of a dead letter to come. An earlier attempt under this id is replaced: its end is unknown.
    pub async fn dead_put_body(&self, id: &str, body: &[u8]) -> Result<(), StoreFault> {
        self.dead_drop_body(id).await?;
        let mut stream = self.bodies().open_upload_stream(id).id(id.into()).await?;
        let broken = |e: std::io::Error| StoreFault::answer(ErrorClass::Network, e.to_string());
        stream.write_all(body).await.map_err(broken)?;
        stream.close().await.map_err(broken)
    }

    async fn dead_drop_body(&self, id: &str) -> Result<(), StoreFault> {
        match self.bodies().delete(id.into()).await {
            Err(e) if !matches!(*e.kind, ErrorKind::GridFs(GridFsErrorKind::FileNotFound { .. })) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// How many match.
    pub async fn dead_count(&self, filter: &DeadFilter) -> Result<u64, StoreFault> {
        let dead = self.db.collection::<Document>(DEAD_LETTERS);
        self.bounded("count", dead.count_documents(filter.document()).into_future()).await
    }

    /// Dead letters per queue.
    pub async fn dead_by_queue(&self) -> Result<Vec<(String, u64)>, StoreFault> {
        let count = async {
            // In the order of an index that begins with the queue: the documents themselves are not read.
            let group = vec![
                doc! { "$sort": { "queue": 1, "reason": 1, "deadAt": -1 } },
                doc! { "$group": { "_id": "$queue", "n": { "$sum": 1_i64 } } },
            ];
            self.db.collection::<Document>(DEAD_LETTERS).aggregate(group).await?.try_collect::<Vec<_>>().await
        };
        let rows = self.bounded("aggregate", count).await?;
        let row = |d: &Document| Some((d.get_str("_id").ok()?.to_string(), d.get_i64("n").ok()?.max(0) as u64));
        Ok(rows.iter().filter_map(row).collect())
    }

    /// Deletes these; answers how many were there.
    pub async fn dead_delete_all(&self, ids: &[String]) -> Result<u64, StoreFault> {
        let dead = self.db.collection::<Document>(DEAD_LETTERS);
        let filed = doc! { "_id": { "$in": ids }, "bodyFile": { "$exists": true } };
        let find = async { dead.find(filed).projection(doc! { "_id": 1 }).await?.try_collect::<Vec<_>>().await };
        for letter in self.bounded("find", find).await? {
            self.dead_drop_body(letter.get_str("_id").unwrap_or_default()).await?;
        }
        let delete = dead.delete_many(doc! { "_id": { "$in": ids } });
        Ok(self.bounded("delete", delete.into_future()).await?.deleted_count)
    }
}
