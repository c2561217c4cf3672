//! The two tiers of the object store.

use std::sync::OnceLock;

use contextd_jobs::kit::{self, Object, OutsideError, Tier};
use futures::{FutureExt, future::BoxFuture};

use super::of_objects;
use crate::{
    config::Content as Settings,
    content::{Objects, key},
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

impl kit::Objects for Tiers {
    fn list<'a>(&'a self, tier: Tier, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Object>, OutsideError>> {
        async move {
            let listed = self.tier(tier)?.list(prefix).await.map_err(of_objects)?;
            Ok(listed.into_iter().map(|l| Object { key: l.key, size: l.size, modified: l.modified }).collect())
        }
        .boxed()
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
