//! What a job reaches besides MongoDB. The worker gives it; jobs know the traits.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use mongodb::bson::Document;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// A failure outside of MongoDB. `passes`: the same again may succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct OutsideError {
    pub message: String,
    pub passes: bool,
}

/// Where a content lies; rows say it in `content.tier`, and nothing for [`Tier::Hot`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    #[default]
    Hot,
    Archive,
}

impl Tier {
    /// As rows write it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Hot => "hot",
            Tier::Archive => "archive",
        }
    }

    pub fn is_hot(&self) -> bool {
        *self == Tier::Hot
    }

    /// Where a content lies that is not here any more.
    pub fn other(self) -> Self {
        match self {
            Tier::Hot => Tier::Archive,
            Tier::Archive => Tier::Hot,
        }
    }
}

/// An object as a listing tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    pub modified: DateTime<Utc>,
}

/// The object store's two tiers.
pub trait Objects: Send + Sync {
    /// All objects below `prefix`, which stands for whole segments of keys.
    fn list<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Object>, OutsideError>>;

    /// One that is not there is removed already.
    fn delete<'a>(&'a self, tier: Tier, key: &'a str) -> BoxFuture<'a, Result<(), OutsideError>>;

    fn get<'a>(&'a self, tier: Tier, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>>;

    /// Durable when it returns.
    fn put<'a>(&'a self, tier: Tier, key: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), OutsideError>>;

    /// The same as [`Objects::list`], in memory that does not grow with their number.
    fn walk<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxStream<'a, Result<Object, OutsideError>> {
        let all = self.list(tier, prefix).map_ok(|all| futures::stream::iter(all.into_iter().map(Ok)));
        all.into_stream().try_flatten().boxed()
    }

    /// What a listing would say of one object.
    fn stat<'a>(&'a self, tier: Tier, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, OutsideError>> {
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.list(tier, folder).map_ok(move |all| all.into_iter().find(|object| object.key == key)).boxed()
    }

    /// Removes what writers that were cut off left of objects that never came to be, if it is older; no listing shows
    /// it. Answers how many. Buckets have no such files.
    fn remove_staging(&self, _tier: Tier, _before: DateTime<Utc>) -> BoxFuture<'_, Result<u64, OutsideError>> {
        futures::future::ready(Ok(0)).boxed()
    }

    /// The prefixes below which contents of a document lie under an owner.
    fn prefixes(&self, owner: &str, document: &str) -> Vec<String>;
}

/// Redis, as far as the lifecycle goes.
pub trait Caches: Send + Sync {
    /// Which of these sessions have a live key. No answer is an error, never "none".
    fn live<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<HashSet<String>, OutsideError>>;

    /// Removes every key about these records: (collection, id, revision of the removal). Values of that revision and
    /// older ones do not come back.
    fn forget<'a>(&'a self, records: &'a [(String, String, i64)]) -> BoxFuture<'a, Result<(), OutsideError>>;

    /// Fields of a collection's rows whose values are keys of caches, too: [`Caches::forget_by`] wants them and `_sync`.
    fn cached_by(&self, collection: &str) -> Vec<String>;

    /// Removes what is cached of these rows of a collection under a value of [`Caches::cached_by`]. A newer row's value
    /// under the same key stays.
    fn forget_by<'a>(&'a self, collection: &'a str, rows: &'a [Document]) -> BoxFuture<'a, Result<(), OutsideError>>;

    /// Removes the latest typing contexts of (document, session).
    fn forget_typing<'a>(&'a self, of: &'a [(String, String)]) -> BoxFuture<'a, Result<(), OutsideError>>;

    /// Removes what says that these sessions are live.
    fn end_sessions<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<(), OutsideError>>;
}

/// A place outside of the database, for the copy of the audit chain. What was put there once is never changed.
pub trait Vaulted: Send + Sync {
    /// Durable when it returns. `false`: there is something of this name, which stays as it is.
    fn create<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<bool, OutsideError>>;

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>>;

    /// Names, in their order.
    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, OutsideError>>;
}

/// Everything beside MongoDB.
#[derive(Clone)]
pub struct World {
    pub policy: Arc<Policy>,
    pub objects: Arc<dyn Objects>,
    pub caches: Arc<dyn Caches>,
    pub anchors: Arc<dyn Vaulted>,
    /// Keys the digests of audit entries, when set.
    pub audit_key: Option<[u8; 32]>,
}
