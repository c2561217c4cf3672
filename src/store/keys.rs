//! Wrapped data keys.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use mongodb::{
    bson::{Binary, DateTime as BsonDate, Document, doc, spec::BinarySubtype},
    error::{Error, ErrorKind, WriteFailure},
};

use super::{Store, StoreFault};
use crate::metrics::ErrorClass;

pub const DATA_KEYS: &str = "data_keys";

/// Marks a rotation of data keys that has begun. No data key has such an id: theirs hold a slash.
const ROTATION: &str = "rotation";

/// A stored data key. Its id is "TENANT/NUMBER"; of a tenant's keys the one with the highest number is current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    pub tenant: String,
    pub number: u32,
    /// The key-encryption key that wraps it.
    pub kek: String,
    pub wrapped: Vec<u8>,
    pub created_at: DateTime<Utc>,
}

impl StoredKey {
    pub fn id(&self) -> String {
        format!("{}/{}", self.tenant, self.number)
    }

    fn read(row: &Document) -> Result<Self, StoreFault> {
        let whole = || {
            let (tenant, number) = row.get_str("_id").ok()?.rsplit_once('/')?;
            Some(Self {
                tenant: tenant.to_owned(),
                number: number.parse().ok()?,
                kek: row.get_str("kek").ok()?.to_owned(),
                wrapped: row.get_binary_generic("wrapped").ok()?.clone(),
                created_at: DateTime::from_timestamp_millis(row.get_datetime("createdAt").ok()?.timestamp_millis())?,
            })
        };
        whole().ok_or_else(|| {
            let id = row.get_str("_id").unwrap_or("(no text)");
            let text = format!("the row {id:?} of `{DATA_KEYS}` is not whole: restore it from a backup");
            StoreFault::answer(ErrorClass::Rejected, text)
        })
    }
}

fn binary(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

fn date(at: DateTime<Utc>) -> BsonDate {
    BsonDate::from_millis(at.timestamp_millis())
}

/// The row is there already.
fn is_duplicate(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Write(WriteFailure::WriteError(e)) if e.code == 11000)
}

impl Store {
    async fn find_data_keys(&self, filter: Document) -> Result<Vec<StoredKey>, StoreFault> {
        let find = async {
            let keys = self.db.collection::<Document>(DATA_KEYS);
            keys.find(filter).await?.try_collect::<Vec<Document>>().await
        };
        let rows = self.bounded("find", find).await?;
        let mut keys = rows.iter().map(StoredKey::read).collect::<Result<Vec<_>, _>>()?;
        keys.sort_by(|a, b| (&a.tenant, a.number).cmp(&(&b.tenant, b.number)));
        Ok(keys)
    }

    /// All of them, by tenant and number.
    pub async fn data_keys(&self) -> Result<Vec<StoredKey>, StoreFault> {
        self.find_data_keys(doc! { "_id": { "$ne": ROTATION } }).await
    }

    /// Those of one tenant, the current one last.
    pub async fn data_keys_of(&self, tenant: &str) -> Result<Vec<StoredKey>, StoreFault> {
        // `0` comes right after `/`.
        self.find_data_keys(doc! { "_id": { "$gt": format!("{tenant}/"), "$lt": format!("{tenant}0") } }).await
    }

    /// Those that another key-encryption key than `kek` wraps.
    pub async fn data_keys_not_under(&self, kek: &str) -> Result<Vec<StoredKey>, StoreFault> {
        self.find_data_keys(doc! { "_id": { "$ne": ROTATION }, "kek": { "$ne": kek } }).await
    }

    pub async fn data_key(&self, id: &str) -> Result<Option<StoredKey>, StoreFault> {
        Ok(self.find_data_keys(doc! { "_id": id }).await?.pop())
    }

    /// Whether it is new: `false` when a key of this id is there, or is just being written by another process.
    pub async fn insert_data_key(&self, key: &StoredKey) -> Result<bool, StoreFault> {
        let row = doc! {
            "_id": key.id(), "kek": &key.kek, "wrapped": binary(&key.wrapped), "createdAt": date(key.created_at),
        };
        let insert = async {
            match self.db.collection(DATA_KEYS).insert_one(row).await {
                Ok(_) => Ok(true),
                Err(e) if is_duplicate(&e) => Ok(false),
                Err(e) => Err(e),
            }
        };
        self.bounded("insert", insert).await
    }

    /// Replaces how a key is wrapped. `false` when it is wrapped otherwise than in `seen` by now.
    pub async fn rewrap_data_key(&self, seen: &StoredKey, kek: &str, wrapped: &[u8]) -> Result<bool, StoreFault> {
        let filter = doc! { "_id": seen.id(), "wrapped": binary(&seen.wrapped) };
        let change = doc! { "$set": { "kek": kek, "wrapped": binary(wrapped) } };
        let keys = self.db.collection::<Document>(DATA_KEYS);
        let update = keys.update_one(filter, change);
        Ok(self.bounded("update", update.into_future()).await?.matched_count == 1)
    }

    /// Notes that new data keys are being made, and answers since when: an unfinished earlier run that began after
    /// `forgotten` is gone on with.
    pub async fn begin_key_rotation(
        &self,
        now: DateTime<Utc>,
        forgotten: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, StoreFault> {
        let marks = self.db.collection::<Document>(DATA_KEYS);
        let old = marks.delete_one(doc! { "_id": ROTATION, "startedAt": { "$lte": date(forgotten) } });
        self.bounded("delete", old.into_future()).await?;
        let set = doc! { "$setOnInsert": { "startedAt": date(now) } };
        let begin = async {
            match marks.find_one_and_update(doc! { "_id": ROTATION }, set).upsert(true).await {
                // Two at once: the other one's mark is there.
                Err(e) if e.to_string().contains("E11000") => marks.find_one(doc! { "_id": ROTATION }).await,
                other => other,
            }
        };
        let found = self.bounded("findAndModify", begin).await?;
        let since = found.and_then(|mark| mark.get_datetime("startedAt").ok().map(|at| at.timestamp_millis()));
        Ok(since.and_then(DateTime::from_timestamp_millis).unwrap_or(now))
    }

    /// Every tenant has its new data key.
    pub async fn end_key_rotation(&self) -> Result<(), StoreFault> {
        let marks = self.db.collection::<Document>(DATA_KEYS);
        self.bounded("delete", marks.delete_one(doc! { "_id": ROTATION }).into_future()).await.map(drop)
    }
}
