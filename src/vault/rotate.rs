//! Rotation: every data key under the current key-encryption key, and new data keys on request.
//!
//! Beside running workers it is safe as long as they all have the new key: those who had it before open the same data keys
//! with it. It can be ended anywhere and run again.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::doc;
use uuid::Uuid;

use super::{Vault, VaultFault, VaultFaultKind, off, tenants};
use crate::store::{AuditEntry, DATA_KEYS, StoredKey};

/// Passes over the data keys at most: workers that still wrap new ones with an old key make more of them necessary.
const PASSES: usize = 20;

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key-encryption key that wraps all data keys now.
    pub kek: String,
    /// Data keys that another one had wrapped.
    pub rewrapped: u64,
    /// Data keys that this run made.
    pub created: u64,
    /// Data keys in all.
    pub data_keys: u64,
}

impl Vault {
    /// Rewraps every data key under the current key-encryption key; with `new_data_keys` each tenant gets a new data key
    /// for its new values first. Leaves an entry in `audit_log`.
    ///
    /// # Errors
    /// Encryption is off; a data key cannot be unwrapped (nothing is changed then); or MongoDB cannot be asked (running
    /// it again does the rest).
    pub async fn rotate(
        &self,
        new_data_keys: bool,
        actor: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Rotation, VaultFault> {
        let Some(kek) = self.keyring.current() else { return Err(off()) };
        self.check().await?;
        let created = if new_data_keys { self.new_data_keys(now).await? } else { 0 };
        let rewrapped = self.rewrap().await?;
        let store = self.tenants.store();
        let data_keys = store.data_keys().await?.len() as u64;
        let rotation = Rotation { kek: kek.id.clone(), rewrapped, created, data_keys };
        let entry = AuditEntry {
            id: Uuid::now_v7().to_string(),
            at: now,
            action: "keys.rotate".to_owned(),
            entity: (DATA_KEYS.to_owned(), rotation.kek.clone()),
            actor: actor.map(str::to_owned),
            detail: doc! { "rewrapped": rewrapped as i64, "created": created as i64, "dataKeys": data_keys as i64 },
        };
        store.audit(&[entry]).await?;
        if new_data_keys {
            store.end_key_rotation().await?;
        }
        Ok(rotation)
    }

    /// One more data key for each tenant that has got none since this rotation began.
    async fn new_data_keys(&self, now: DateTime<Utc>) -> Result<u64, VaultFault> {
        let store = self.tenants.store();
        let since = store.begin_key_rotation(now, now - TimeDelta::hours(1)).await?;
        let mut newest: BTreeMap<String, StoredKey> = BTreeMap::new();
        for key in store.data_keys().await? {
            newest.insert(key.tenant.clone(), key);
        }
        let mut created = 0;
        for (tenant, key) in newest.into_iter().filter(|(_, key)| key.created_at < since) {
            let (key, _) = tenants::new_key(&self.keyring, &tenant, key.number.saturating_add(1), now.max(since))?;
            // One that is there by now is as new.
            created += u64::from(store.insert_data_key(&key).await?);
        }
        Ok(created)
    }

    async fn rewrap(&self) -> Result<u64, VaultFault> {
        let Some(kek) = self.keyring.current() else { return Err(off()) };
        let store = self.tenants.store();
        let mut rewrapped = 0;
        for _ in 0..PASSES {
            let others = store.data_keys_not_under(&kek.id).await?;
            if others.is_empty() {
                return Ok(rewrapped);
            }
            for key in others {
                let secret = tenants::unwrap(&self.keyring, &key)?;
                let wrapped = kek.wrap(&secret, &key.id(), rand::random());
                rewrapped += u64::from(store.rewrap_data_key(&key, &kek.id, &wrapped).await?);
            }
        }
        let text = format!(
            "other processes keep wrapping data keys with other keys than {:?}: give all workers the same \
             `encryption.keys`, then run it again",
            kek.id
        );
        Err(VaultFault::new(VaultFaultKind::Unavailable, text))
    }
}
