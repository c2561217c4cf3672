//! Encryption of fields and contents, before MongoDB, Redis or the object store see them.
//!
//! Envelope keys: the operator's key-encryption keys (`encryption.keys`) wrap one random data key per tenant and rotation,
//! which lies in `data_keys`; data keys seal values. Rotating a key-encryption key rewraps data keys and touches no
//! record; new data keys seal new values, and old ones stay to open what they sealed.
//!
//! What it protects: backups, files and dumps of MongoDB, Redis and the object store. What it does not: dead letters (they
//! keep a task's original bytes), tasks waiting in Redis, the ids and the lengths of values.

mod content;
mod fault;
mod field;
mod keyring;
mod rotate;
mod seal;
mod secret;
mod tenants;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, time::Duration};

use mongodb::bson::{Bson, Document};

pub use fault::{VaultFault, VaultFaultKind};
pub use field::has_sealed;
pub use keyring::Keyring;
pub use rotate::Rotation;

use crate::{
    config::Encryption,
    store::{Store, StoredKey},
};
use field::is_sealed;
use seal::{Broken, Place};
use tenants::{DataKey, Tenants, name_of};

/// A data key is looked up again after this long: the most that a rotation or a removal takes to be seen.
pub const KEY_LIFETIME: Duration = Duration::from_secs(60);

/// Seals and opens values with the keys of their tenants. Without keys it is off: sealing changes nothing.
pub struct Vault {
    keyring: Keyring,
    tenants: Tenants,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("keys", &self.keyring.ids().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

pub(crate) fn off() -> VaultFault {
    VaultFault::new(VaultFaultKind::Configuration, "encryption is off: set `encryption.keys`")
}

impl Vault {
    /// # Errors
    /// `encryption.keys` cannot be read.
    pub fn new(settings: &Encryption, store: Store) -> Result<Self, VaultFault> {
        Self::with_lifetime(settings, store, KEY_LIFETIME)
    }

    /// As [`Vault::new`]; data keys are looked up again after `lifetime`.
    ///
    /// # Errors
    /// `encryption.keys` cannot be read.
    pub fn with_lifetime(settings: &Encryption, store: Store, lifetime: Duration) -> Result<Self, VaultFault> {
        let keyring = Keyring::parse(&settings.keys)
            .map_err(|e| VaultFault::new(VaultFaultKind::Configuration, format!("`encryption.keys`: {e}")))?;
        Ok(Self { keyring, tenants: Tenants::new(store, lifetime) })
    }

    /// Whether new values are sealed.
    pub fn is_on(&self) -> bool {
        !self.keyring.is_empty()
    }

    /// The ids of the key-encryption keys, the current one first.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keyring.ids()
    }

    /// Seals the value of a field, for this field of this record only. Off: the value as it is.
    ///
    /// # Errors
    /// The tenant's key cannot be read or made.
    pub async fn seal_field(
        &self,
        tenant: Option<&str>,
        collection: &str,
        id: &str,
        field: &str,
        value: &Bson,
    ) -> Result<Bson, VaultFault> {
        if !self.is_on() {
            return Ok(value.clone());
        }
        let key = self.tenants.current(&self.keyring, &name_of(tenant)).await?;
        field::seal(&key, Place::Field { collection, id, field }, rand::random(), value)
    }

    /// The value of a field as it was before it was sealed. One that is not sealed comes back as it is: it may have been
    /// written before encryption was turned on.
    ///
    /// # Errors
    /// The key is missing or another one, or the value was damaged or moved.
    pub async fn open_field(&self, collection: &str, id: &str, field: &str, value: &Bson) -> Result<Bson, VaultFault> {
        let Some(sealed) = is_sealed(value) else { return Ok(value.clone()) };
        let place = Place::Field { collection, id, field };
        let what = || format!("the field {field:?} of {id:?} in {collection}");
        let key = self.key_of(sealed, &what).await?;
        let plain = seal::open(&key.secret, place, sealed).map_err(|broken| corrupt(&what(), broken))?;
        field::read(&plain).ok_or_else(|| corrupt(&what(), Broken::Form))
    }

    /// Opens every sealed field of a record: those at its top, and those of the elements of its arrays.
    ///
    /// # Errors
    /// As [`Vault::open_field`]; some fields may be open by then.
    pub async fn open_document(&self, collection: &str, document: &mut Document) -> Result<(), VaultFault> {
        let id = document.get_str("_id").unwrap_or_default().to_owned();
        self.open_fields(collection, &id, document).await
    }

    /// As [`Vault::open_document`], for some fields of the record `id`.
    ///
    /// # Errors
    /// As [`Vault::open_field`]; some fields may be open by then.
    pub async fn open_fields(&self, collection: &str, id: &str, fields: &mut Document) -> Result<(), VaultFault> {
        for (name, value) in fields.iter_mut() {
            if is_sealed(value).is_some() {
                *value = self.open_field(collection, id, name, value).await?;
            } else if let Bson::Array(elements) = value {
                for element in elements.iter_mut().filter_map(Bson::as_document_mut) {
                    for (inner, value) in element.iter_mut().filter(|(_, value)| is_sealed(value).is_some()) {
                        *value = self.open_field(collection, id, &format!("{name}.{inner}"), value).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Seals bytes that lie outside MongoDB. `name` is what they are opened by and must not change while they live.
    /// `None`: encryption is off, keep the bytes as they are and note that they are not sealed.
    ///
    /// # Errors
    /// The tenant's key cannot be read or made.
    pub async fn seal_bytes(
        &self,
        tenant: Option<&str>,
        name: &str,
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, VaultFault> {
        if !self.is_on() {
            return Ok(None);
        }
        let key = self.tenants.current(&self.keyring, &name_of(tenant)).await?;
        Ok(Some(seal::seal(&key.secret, &key.id, Place::Content(name), rand::random(), bytes)))
    }

    /// Opens what [`Vault::seal_bytes`] sealed under the same name.
    ///
    /// # Errors
    /// As [`Vault::open_field`].
    pub async fn open_bytes(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, VaultFault> {
        let what = || format!("the content {name:?}");
        let key = self.key_of(sealed, &what).await?;
        let mut plain =
            seal::open(&key.secret, Place::Content(name), sealed).map_err(|broken| corrupt(&what(), broken))?;
        Ok(std::mem::take(&mut *plain))
    }

    /// A stand-in for `text` (without regard to case and outer space) that can be looked up and be unique, and tells
    /// nothing to those who lack the keys. It stays the same over every rotation. `field` keeps equal values of
    /// different fields apart. `None`: encryption is off.
    ///
    /// # Errors
    /// The tenant's key cannot be read or made.
    pub async fn blind(&self, tenant: Option<&str>, field: &str, text: &str) -> Result<Option<String>, VaultFault> {
        if !self.is_on() {
            return Ok(None);
        }
        let name = name_of(tenant);
        let first = format!("{name}/1");
        let current = self.tenants.current(&self.keyring, &name).await?;
        let key = if current.id == first { current } else { self.tenants.exact(&self.keyring, &first).await? };
        let normal = text.trim().to_lowercase();
        let derived = key.secret.derive("contextd blind index", field.as_bytes());
        Ok(Some(blake3::keyed_hash(derived.bytes(), normal.as_bytes()).to_hex().to_string()))
    }

    /// Whether every data key in MongoDB can be unwrapped: one of each key-encryption key is tried.
    ///
    /// # Errors
    /// The first that cannot, with the id of the key that is missing or wrong; or MongoDB cannot be asked.
    pub async fn check(&self) -> Result<(), VaultFault> {
        let mut tried = std::collections::BTreeSet::new();
        for key in self.tenants.store().data_keys().await? {
            if tried.insert(key.kek.clone()) {
                tenants::unwrap(&self.keyring, &key)?;
            }
        }
        Ok(())
    }

    /// Every data key with whether it can be unwrapped, by tenant and number.
    ///
    /// # Errors
    /// MongoDB cannot be asked.
    pub async fn data_keys(&self) -> Result<Vec<(StoredKey, Result<(), VaultFault>)>, VaultFault> {
        let keys = self.tenants.store().data_keys().await?;
        let open = |key: &StoredKey| tenants::unwrap(&self.keyring, key).map(drop);
        Ok(keys.into_iter().map(|key| (open(&key), key)).map(|(state, key)| (key, state)).collect())
    }

    async fn key_of(&self, sealed: &[u8], what: &impl Fn() -> String) -> Result<std::sync::Arc<DataKey>, VaultFault> {
        let id = seal::key_id(sealed).map_err(|broken| corrupt(&what(), broken))?;
        self.tenants
            .exact(&self.keyring, id)
            .await
            .map_err(|fault| VaultFault { message: format!("{} cannot be opened: {}", what(), fault.message), ..fault })
    }
}

fn corrupt(what: &str, broken: Broken) -> VaultFault {
    let why = match broken {
        Broken::Form => "it is cut off, damaged or sealed by a newer version",
        Broken::Tag => "it was damaged, or copied from another place, after it was sealed",
    };
    VaultFault::new(VaultFaultKind::Corrupt, format!("{what} cannot be opened: {why}; restore it from a backup"))
}
