//! The objects themselves: a local directory, or a bucket of S3.
//!
//! An answer of `put` means that the object survives a power cut: S3 promises it, and the directory is told to sync the
//! file and the directories that lead to it, which its client does not do by default.

use std::{
    fs::{self, File},
    future::Future,
    io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, RetryConfig, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path, prefix::PrefixStore,
};

use super::{
    Tier,
    fault::{ContentFault, FaultKind},
};
use crate::config::{Content as Settings, S3};

/// The object store of the settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The local directory, when it is one.
    root: Option<PathBuf>,
    /// How messages call it.
    place: String,
    /// The setting that names it.
    setting: &'static str,
    timeout: Duration,
}

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    pub modified: DateTime<Utc>,
}

impl Objects {
    /// The store of a tier. Makes a missing directory; a bucket is not asked yet, [`Objects::check`] does that.
    pub fn open(settings: &Settings, tier: Tier) -> Result<Self, ContentFault> {
        match tier {
            Tier::Hot => Self::at(&settings.url, "content.url", settings),
            Tier::Archive => Self::at(&settings.archive_url, "content.archive_url", settings),
        }
    }

    /// The store at `url`, which the setting `setting` names, with the access and the time-out of `settings`.
    pub fn at(url: &str, setting: &'static str, settings: &Settings) -> Result<Self, ContentFault> {
        let timeout = settings.timeout;
        if let Some(address) = url.strip_prefix("s3://") {
            let (bucket, prefix) = address.split_once('/').unwrap_or((address, ""));
            let place = format!("the S3 bucket {bucket}");
            let wrong = |e: String| {
                ContentFault::new(
                    FaultKind::Configuration,
                    format!("{place} cannot be used: check `{setting}` and `content.s3`: {e}"),
                )
            };
            let prefix = Path::parse(prefix).map_err(|e| wrong(e.to_string()))?;
            let bucket = s3(bucket, &settings.s3, timeout).build().map_err(|e| wrong(e.to_string()))?;
            return Ok(Self { store: Arc::new(PrefixStore::new(bucket, prefix)), root: None, place, setting, timeout });
        }
        let root = FilePath::new(url);
        let place = format!("the directory {}", root.display());
        let wrong = |e: &dyn std::fmt::Display| {
            ContentFault::new(
                FaultKind::Configuration,
                format!("{place} cannot be made or used: check `{setting}` and its permissions: {e}"),
            )
        };
        make_directory(root).map_err(|e| wrong(&e))?;
        let root = root.canonicalize().map_err(|e| wrong(&e))?;
        let store = LocalFileSystem::new_with_prefix(&root).map_err(|e| wrong(&e))?.with_fsync(true);
        // The names of directories hold ids: what is purged does not leave them behind.
        let store = store.with_automatic_cleanup(true);
        Ok(Self { store: Arc::new(store), root: Some(root), place, setting, timeout })
    }

    /// How messages call it: "the directory /srv/objects".
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Stores an object durably, in place of one with the same key.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), ContentFault> {
        let path = path(key)?;
        self.is_there().await?;
        self.call("store", key, self.store.put(&path, bytes.into())).await.map(|_| ())
    }

    /// Stores an object durably, unless there is one with the same key, which stays: then `false`.
    pub async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<bool, ContentFault> {
        let path = path(key)?;
        self.is_there().await?;
        let put = async {
            match self.store.put_opts(&path, bytes.into(), PutMode::Create.into()).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                Err(e) => Err(e),
            }
        };
        self.call("store", key, put).await
    }

    /// An object of at most `limit` bytes; a larger one is `Corrupt` and not read.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ContentFault> {
        let path = path(key)?;
        let read = async {
            let found = self.store.get(&path).await?;
            let size = found.meta.size;
            if size > limit { Ok(Err(size)) } else { found.bytes().await.map(Ok) }
        };
        match self.call("read", key, read).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(size)) => Err(ContentFault::new(
                FaultKind::Corrupt,
                format!(
                    "the object {key} has {size} bytes and should have at most {limit}: restore it from a backup of \
                     the object store"
                ),
            )),
            Err(fault) if fault.kind == FaultKind::Missing => {
                // Without its directory every object would seem to be missing.
                self.is_there().await?;
                Err(fault)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Removes an object; one that is not there is removed already.
    pub async fn delete(&self, key: &str) -> Result<(), ContentFault> {
        let path = path(key)?;
        match self.call("delete", key, self.store.delete(&path)).await {
            Err(fault) if fault.kind == FaultKind::Missing => Ok(()),
            other => other,
        }
    }

    /// Copies an object under another key, durably. The copy is as old as this call, whatever was there before: what no
    /// row names yet is safe from the orphan sweep for so long.
    pub async fn copy(&self, from: &str, to: &str) -> Result<(), ContentFault> {
        if self.root.is_some() {
            // A directory's own copy is a link, as old as the original.
            let bytes = self.get(from, u64::MAX).await?;
            return self.put(to, bytes.to_vec()).await;
        }
        let paths = (path(from)?, path(to)?);
        self.call("copy", from, self.store.copy(&paths.0, &paths.1)).await
    }

    /// All objects below `prefix`, which stands for whole segments of keys. The time-out holds for the whole listing.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ContentFault> {
        let path = path(prefix)?;
        self.is_there().await?;
        let listed = self.store.list(Some(&path)).map_ok(listed);
        self.call("list", prefix, listed.try_collect()).await
    }

    /// The same, one after the other. The time-out holds for each.
    pub fn walk<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed, ContentFault>> {
        let begin = async move {
            let path = path(prefix)?;
            self.is_there().await?;
            Ok::<_, ContentFault>(self.store.list(Some(&path)))
        };
        let walk = async move |mut found: BoxStream<'static, object_store::Result<ObjectMeta>>| {
            let next = self.call("list", prefix, async { found.next().await.transpose() }).await;
            Ok::<_, ContentFault>(next?.map(|meta| (listed(meta), found)))
        };
        stream::once(begin).map_ok(move |found| stream::try_unfold(found, walk)).try_flatten().boxed()
    }

    /// What a listing would say of one object.
    pub async fn stat(&self, key: &str) -> Result<Option<Listed>, ContentFault> {
        let path = path(key)?;
        match self.call("look for", key, self.store.head(&path)).await {
            Ok(meta) => Ok(Some(listed(meta))),
            Err(fault) if fault.kind == FaultKind::Missing => {
                self.is_there().await?;
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Removes files that were to become objects and are older than `before`; a writer that was cut off leaves them in a
    /// directory. Listings do not show them. Answers how many.
    pub async fn remove_staging(&self, before: DateTime<Utc>) -> Result<u64, ContentFault> {
        let Some(root) = self.root.clone() else { return Ok(0) };
        self.is_there().await?;
        let removed = tokio::task::spawn_blocking(move || staging(&root, before.into())).await;
        match removed.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(removed) => Ok(removed),
            Err(e) => {
                let message = format!("files that writers left in {} cannot be removed: {e}", self.place);
                Err(ContentFault::new(FaultKind::Unavailable, message))
            }
        }
    }

    /// Stores, reads and removes a small object, so that wrong addresses, names and rights show before tasks do.
    pub async fn check(&self) -> Result<(), ContentFault> {
        let key = format!("check/{}", uuid::Uuid::now_v7());
        self.put(&key, b"contextd check".to_vec()).await?;
        let found = self.get(&key, 100).await?;
        self.delete(&key).await?;
        if found.as_ref() != b"contextd check" {
            let message = format!("{} gave back something else than was stored: do not use it", self.place);
            return Err(ContentFault::new(FaultKind::Corrupt, message));
        }
        Ok(())
    }

    async fn call<T>(
        &self,
        action: &str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ContentFault> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result.map_err(|e| ContentFault::of_store(&e, action, key, &self.place, self.setting)),
            Err(_) => Err(ContentFault::new(
                FaultKind::Unavailable,
                format!(
                    "{} did not {action} {key} within {:?}: check that it runs, or raise `content.timeout`",
                    self.place, self.timeout
                ),
            )),
        }
    }

    /// A directory that was unmounted or removed is an outage: it is not made again, and its objects are not missing.
    async fn is_there(&self) -> Result<(), ContentFault> {
        let Some(root) = &self.root else { return Ok(()) };
        match tokio::time::timeout(self.timeout, tokio::fs::metadata(root)).await {
            Ok(Ok(found)) if found.is_dir() => Ok(()),
            _ => Err(ContentFault::new(
                FaultKind::Unavailable,
                format!("{} is gone: mount it, or restore it from a backup", self.place),
            )),
        }
    }
}

fn listed(meta: ObjectMeta) -> Listed {
    Listed { key: meta.location.to_string(), size: meta.size, modified: meta.last_modified }
}

/// Staging files are called as their objects, with `#` and a number behind; no key of ours has a `#`.
fn staging(root: &FilePath, before: SystemTime) -> io::Result<u64> {
    let (mut removed, mut folders) = (0, vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                match entry.metadata().and_then(|about| about.modified()) {
                    Ok(modified) if modified < before => {
                        fs::remove_file(entry.path())?;
                        removed += 1;
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(removed)
}

fn path(key: &str) -> Result<Path, ContentFault> {
    Path::parse(key)
        .map_err(|e| ContentFault::new(FaultKind::Corrupt, format!("{key:?} is not the key of an object: {e}")))
}

/// Time-outs and repetitions are short: the worker waits and asks again by itself.
fn s3(bucket: &str, settings: &S3, timeout: Duration) -> AmazonS3Builder {
    // Without keys here, the usual variables and instance roles of AWS serve.
    let builder = match settings.access_key_id.as_str() {
        "" => AmazonS3Builder::from_env(),
        id => AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(&settings.secret_access_key),
    };
    let builder = match settings.endpoint.as_str() {
        "" => builder,
        endpoint => builder.with_endpoint(endpoint),
    };
    builder
        .with_bucket_name(bucket)
        .with_region(&settings.region)
        .with_allow_http(settings.allow_http)
        .with_client_options(
            // [`Objects::call`] has the time-out, over all repetitions.
            ClientOptions::new().with_allow_http(settings.allow_http).with_timeout_disabled(),
        )
        .with_retry(RetryConfig { max_retries: 2, retry_timeout: timeout, ..RetryConfig::default() })
        // One object at a time is deleted, by the request that every server has.
        .with_disable_bulk_delete(true)
}

/// Makes `dir` and what leads to it, and syncs every directory that got an entry.
fn make_directory(dir: &FilePath) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = Some(dir).filter(|dir| !dir.as_os_str().is_empty());
    while let Some(dir) = at.filter(|dir| !dir.exists()) {
        missing.push(dir);
        at = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    }
    fs::create_dir_all(dir)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(FilePath::new("."));
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}
