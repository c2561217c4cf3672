//! The place of the audit chain's copy: a directory or a bucket.

use std::sync::OnceLock;

use contextd_jobs::kit::{OutsideError, Vaulted};
use futures::{FutureExt, future::BoxFuture};

use super::of_objects;
use crate::{config::Content as Settings, content::Objects};

/// Below this all names lie, so that the place can be listed.
const FOLDER: &str = "anchors";
/// A segment holds some thousand entries of ids and counts; larger ones are not ours.
const LARGEST: u64 = 256 << 20;

/// Opened by its first use.
pub struct Anchors {
    url: String,
    access: Settings,
    place: OnceLock<Objects>,
}

impl Anchors {
    /// `access`: how buckets are reached, and how long an answer may take.
    pub fn new(url: &str, access: &Settings) -> Self {
        Self { url: url.to_owned(), access: access.clone(), place: OnceLock::new() }
    }

    fn place(&self) -> Result<&Objects, OutsideError> {
        if let Some(open) = self.place.get() {
            return Ok(open);
        }
        let opened = Objects::at(&self.url, "audit.url", &self.access).map_err(of_objects)?;
        Ok(self.place.get_or_init(|| opened))
    }
}

impl Vaulted for Anchors {
    fn create<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<bool, OutsideError>> {
        async move { self.place()?.create(&format!("{FOLDER}/{name}"), bytes).await.map_err(of_objects) }.boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u8>, OutsideError>> {
        async move {
            let bytes = self.place()?.get(&format!("{FOLDER}/{name}"), LARGEST).await.map_err(of_objects)?;
            Ok(bytes.to_vec())
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, OutsideError>> {
        async move {
            let listed = self.place()?.list(FOLDER).await.map_err(of_objects)?;
            let name = |key: &str| key.strip_prefix(FOLDER)?.strip_prefix('/').map(str::to_owned);
            let mut names: Vec<String> = listed.iter().filter_map(|object| name(&object.key)).collect();
            names.sort_unstable();
            Ok(names)
        }
        .boxed()
    }
}
