//! The two tiers of the object store.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use contextd_jobs::kit::{self, Object, OutsideError, Tier};
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use super::of_objects;
use crate::{
    config::Content as Settings,
    content::{Listed, Objects, key},
};

/// Both tiers, each opened by its first use.
pub struct Tiers {
    settings: Settings,
    hot: OnceLock<Objects>,
    archive: OnceLock<Objects>,
}

impl Tiers {
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), hot: OnceLock::new(), archive: OnceLock::new() }
    }

    fn tier(&self, tier: Tier) -> Result<&Objects, OutsideError> {
        let place = match tier {
            Tier::Hot => &self.hot,
            Tier::Archive => &self.archive,
        };
        if let Some(open) = place.get() {
            return Ok(open);
        }
        // Opened twice at once, one of them is used.
        let opened = Objects::open(&self.settings, tier).map_err(of_objects)?;
        Ok(place.get_or_init(|| opened))
    }
}

fn object(listed: Listed) -> Object {
    Object { key: listed.key, size: listed.size, modified: listed.modified }
}

impl kit::Objects for Tiers {
    fn list<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Object>, OutsideError>> {
        async move {
            let listed = self.tier(tier)?.list(prefix).await.map_err(of_objects)?;
            Ok(listed.into_iter().map(object).collect())
        }
        .boxed()
    }

    fn walk<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxStream<'a, Result<Object, OutsideError>> {
        match self.tier(tier) {
            Ok(place) => place.walk(prefix).map(|found| found.map(object).map_err(of_objects)).boxed(),
            Err(e) => stream::iter([Err(e)]).boxed(),
        }
    }

    fn stat<'a>(&'a self, tier: Tier, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, OutsideError>> {
        async move { Ok(self.tier(tier)?.stat(key).await.map_err(of_objects)?.map(object)) }.boxed()
    }

    fn remove_staging(&self, tier: Tier, before: DateTime<Utc>) -> BoxFuture<'_, Result<u64, OutsideError>> {
        async move { self.tier(tier)?.remove_staging(before).await.map_err(of_objects) }.boxed()
    }

    fn delete<'a>(&'a self, tier: Tier, key: &'a str) -> BoxFuture<'a, Result<(), OutsideError>> {
        async move { self.tier(tier)?.delete(key).await.map_err(of_objects) }.boxed()
    }

    fn get<'a>(&'a self, tier: Tier, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        async move { Ok(self.tier(tier)?.get(key, limit).await.map_err(of_objects)?.to_vec()) }.boxed()
    }

    fn put<'a>(&'a self, tier: Tier, key: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), OutsideError>> {
        async move { self.tier(tier)?.put(key, bytes).await.map_err(of_objects) }.boxed()
    }

    fn prefixes(&self, owner: &str, document: &str) -> Vec<String> {
        key::of_document(owner, document).into()
    }
}
