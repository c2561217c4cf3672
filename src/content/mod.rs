//! Contents of documents and versions: objects in an object store, and what the row in MongoDB says of each.
//!
//! An object is stored before its row and deleted after the row has moved on, so a crash leaves at most an object
//! without a row. What is read is checked against the row; a damaged object is reported, never served.
//!
//! There are two stores, the hot one and the archive, with the same keys. New contents are hot; jobs move those of
//! archived documents, and the row's `tier` says where each is.

mod codec;
#[cfg(test)]
mod codec_tests;
pub mod diff;
mod fault;
pub mod key;
mod objects;
mod read;
#[cfg(test)]
mod s3_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tier_tests;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use contextd_jobs::kit::Tier;

pub use codec::{Codec, CodecError, Encoded, MAX_SIZE, decode, encode, hash};
pub use fault::{ContentFault, FaultKind};
pub use objects::{Listed, Objects};
pub use read::{ReadError, described, read};

use crate::config::Content as Settings;

/// What a row says of its content. The names of the fields in MongoDB are these in camelCase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentRef {
    /// The object's key.
    pub key: String,
    pub codec: Codec,
    /// With [`Codec::ZstdDelta`]: the id of the version whose content the difference was made against, a full copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// BLAKE3 of the plain bytes, hexadecimal.
    pub hash: String,
    /// Plain bytes.
    pub size: u64,
    /// Bytes in the object store.
    pub stored: u64,
    /// Whether the stored bytes are encrypted.
    pub sealed: bool,
    /// The store that has it.
    #[serde(default, skip_serializing_if = "Tier::is_hot")]
    pub tier: Tier,
}

impl ContentRef {
    /// Whether it can be read by itself, and so serve as a base of others.
    pub fn is_full(&self) -> bool {
        self.codec != Codec::ZstdDelta
    }
}

/// Encrypts what is stored. `context` is bound to the ciphertext: what was sealed for one object opens for no other.
///
/// A fault says by its kind what helps: `Unavailable` (keys cannot be read now), `Configuration` (a key is missing),
/// `Corrupt` (not what was sealed).
pub trait Seal: Send + Sync {
    fn seal<'a>(
        &'a self,
        tenant: Option<&'a str>,
        context: &'a str,
        plain: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, ContentFault>>;

    fn open<'a>(&'a self, context: &'a str, sealed: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, ContentFault>>;
}

/// Whether a content is encrypted, provided that there are keys at all, and with whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing<'a> {
    Off,
    /// With the keys of the tenant, or of those without one.
    For(Option<&'a str>),
}

/// Contents of documents and versions. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    hot: Objects,
    archive: Objects,
    vault: Option<Arc<dyn Seal>>,
    full_every: i64,
}

impl Content {
    pub fn new(settings: &Settings, vault: Option<Arc<dyn Seal>>) -> Result<Self, ContentFault> {
        let (hot, archive) = (Objects::open(settings, Tier::Hot)?, Objects::open(settings, Tier::Archive)?);
        Ok(Self { hot, archive, vault, full_every: settings.full_every.into() })
    }

    /// Whether a version may be stored as a difference to the full copy that came `after` versions before it.
    pub fn may_differ(&self, after: i64) -> bool {
        (1..self.full_every).contains(&after)
    }

    pub fn objects(&self, tier: Tier) -> &Objects {
        match tier {
            Tier::Hot => &self.hot,
            Tier::Archive => &self.archive,
        }
    }

    /// Stores a full copy under `key` ([`key::document`]).
    pub async fn save_full(&self, key: &str, plain: &[u8], sealing: Sealing<'_>) -> Result<ContentRef, ContentFault> {
        let encoded = encoded(plain, None).await?;
        self.store(key.to_owned(), plain, encoded, None, sealing).await
    }

    /// Stores a version under `prefix` ([`key::version`]) and what completes it: as a difference to `base`, the id and
    /// the content of a version that is a full copy, or as a full copy itself where that is not much larger.
    ///
    /// A base that is damaged or gone costs no version: it is logged, and a full copy is stored.
    pub async fn save_version(
        &self,
        prefix: &str,
        plain: &[u8],
        base: Option<(&str, &ContentRef)>,
        sealing: Sealing<'_>,
    ) -> Result<ContentRef, ContentFault> {
        let base = match base.filter(|(_, content)| content.is_full()) {
            None => None,
            Some((id, content)) => match self.load(content, None).await {
                Ok(bytes) => Some((id, bytes)),
                Err(fault) if fault.kind.passes() => return Err(fault),
                Err(fault) => {
                    tracing::error!(%fault, "the base of a version cannot be read; a full copy is stored instead");
                    None
                }
            },
        };
        let (base, against) = base.unzip();
        let encoded = encoded(plain, against).await?;
        let base = base.filter(|_| encoded.codec == Codec::ZstdDelta);
        let key = key::of_content(prefix, &hash(plain), encoded.codec.name(), base);
        self.store(key, plain, encoded, base, sealing).await
    }

    /// The plain bytes. `base`: the content of the version that `content.base` names.
    pub async fn load(&self, content: &ContentRef, base: Option<&ContentRef>) -> Result<Vec<u8>, ContentFault> {
        match (&content.base, base) {
            (None, _) => {
                let stored = self.stored(content).await?;
                open(content, stored, None).await
            }
            (Some(_), Some(base)) if base.is_full() => {
                let (stored, base_stored) = tokio::try_join!(self.stored(content), self.stored(base))?;
                let base = open(base, base_stored, None).await?;
                open(content, stored, Some(base)).await
            }
            (Some(id), _) => Err(ContentFault::new(
                FaultKind::Missing,
                format!(
                    "the object {} is a difference to the version {id}, of which there is no full copy: restore that \
                     version from a backup",
                    content.key
                ),
            )),
        }
    }

    /// Removes a content's object from its tier; one that is not there is removed already.
    pub async fn delete(&self, content: &ContentRef) -> Result<(), ContentFault> {
        self.objects(content.tier).delete(&content.key).await
    }

    /// The same content under its new owner, by a copy in its tier; the old object stays until the row has moved on.
    pub async fn give(&self, content: &ContentRef, owner: &str) -> Result<ContentRef, ContentFault> {
        let key = key::with_owner(&content.key, owner).ok_or_else(|| {
            ContentFault::new(FaultKind::Corrupt, format!("{:?} is not the key of a content", content.key))
        })?;
        if key == content.key {
            return Ok(content.clone());
        }
        let copied = self.objects(content.tier).copy(&content.key, &key).await;
        let tier = match copied.map_err(|fault| (fault.kind, fault)) {
            Ok(()) => content.tier,
            Err((FaultKind::Missing, fault)) => {
                let other = content.tier.other();
                moved(self.objects(other).copy(&content.key, &key).await, fault)?;
                other
            }
            Err((_, fault)) => return Err(fault),
        };
        Ok(ContentRef { key, tier, ..content.clone() })
    }

    async fn store(
        &self,
        key: String,
        plain: &[u8],
        encoded: Encoded,
        base: Option<&str>,
        sealing: Sealing<'_>,
    ) -> Result<ContentRef, ContentFault> {
        // Without a vault nothing is encrypted.
        let (bytes, sealed) = match (sealing, &self.vault) {
            (Sealing::For(tenant), Some(vault)) => {
                (vault.seal(tenant, &key::identity(&key), encoded.bytes).await?, true)
            }
            _ => (encoded.bytes, false),
        };
        let content = ContentRef {
            codec: encoded.codec,
            base: base.map(str::to_owned),
            hash: hash(plain),
            size: plain.len() as u64,
            stored: bytes.len() as u64,
            sealed,
            tier: Tier::Hot,
            key,
        };
        self.hot.put(&content.key, bytes).await?;
        Ok(content)
    }

    /// The bytes that [`Codec`] reads: whole, and opened when they are sealed.
    async fn stored(&self, content: &ContentRef) -> Result<Bytes, ContentFault> {
        let bytes = match self.objects(content.tier).get(&content.key, content.stored).await {
            Err(fault) if fault.kind == FaultKind::Missing => {
                let other = self.objects(content.tier.other());
                moved(other.get(&content.key, content.stored).await, fault)?
            }
            got => got?,
        };
        if !content.sealed {
            return Ok(bytes);
        }
        let Some(vault) = &self.vault else {
            let text = "the content is encrypted and there is no key: set `encryption.keys`";
            return Err(ContentFault::new(FaultKind::Configuration, text));
        };
        vault.open(&key::identity(&content.key), &bytes).await.map(Bytes::from)
    }
}

/// What the other tier said about a content that is not where its row says, with `missing`: it was moved since the row
/// was read. In neither it is missing where it should be; while the other one does not answer nobody knows.
fn moved<T>(other: Result<T, ContentFault>, missing: ContentFault) -> Result<T, ContentFault> {
    other.map_err(|fault| if fault.kind == FaultKind::Missing { missing } else { fault })
}

/// Contents up to this many bytes are coded in place, in under a millisecond or two; larger ones on a thread where
/// they hold nothing else up.
const IN_PLACE: usize = 128 << 10;

async fn encoded(plain: &[u8], base: Option<Vec<u8>>) -> Result<Encoded, ContentFault> {
    if plain.len() <= IN_PLACE {
        return Ok(encode(plain, base.as_deref()));
    }
    let plain = plain.to_vec();
    aside(move || encode(&plain, base.as_deref())).await
}

async fn open(content: &ContentRef, stored: Bytes, base: Option<Vec<u8>>) -> Result<Vec<u8>, ContentFault> {
    let (codec, size, hash) = (content.codec, content.size, content.hash.clone());
    let work = move || decode(codec, &stored, base.as_deref(), size, &hash);
    let decoded = if size <= IN_PLACE as u64 { work() } else { aside(work).await? };
    decoded.map_err(|e| {
        let ContentRef { key, hash, .. } = content;
        ContentFault::new(
            FaultKind::Corrupt,
            format!(
                "the object {key} is damaged: {e} (its row says: hash {hash}); restore it from a backup of the object \
                 store"
            ),
        )
    })
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ContentFault> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        ContentFault::new(FaultKind::Unavailable, format!("the content was not worked on, the process is ending: {e}"))
    })
}
