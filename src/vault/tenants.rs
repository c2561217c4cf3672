//! The data keys of tenants: made when they are first needed, unwrapped, and kept in memory for a while.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::{VaultFault, VaultFaultKind, keyring::Keyring, seal::Broken, secret::Secret};
use crate::{
    clock,
    store::{Store, StoredKey},
};

/// Data keys in memory at most; about 200 bytes each.
const MOST: usize = 20_000;
/// Another process that makes the same key at the same time is waited for so long, and so often.
const WAIT: (Duration, u32) = (Duration::from_millis(20), 250);
/// Loads of different keys hardly ever wait for each other, loads of the same one do.
const SHARDS: usize = 64;

/// A tenant's key, unwrapped.
pub(super) struct DataKey {
    pub id: String,
    pub secret: Secret,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Wanted {
    /// The newest one of a tenant.
    Current(String),
    Exact(String),
}

struct Cached {
    key: Arc<DataKey>,
    until: Instant,
}

enum Found {
    Fresh(Arc<DataKey>),
    /// Its time is over, and this caller is the one who looks it up again.
    Stale(Arc<DataKey>),
    Nothing,
}

/// The part of a tenant in the ids of its keys: itself where it is short and plain, else a hash.
pub(super) fn name_of(tenant: Option<&str>) -> String {
    let tenant = tenant.unwrap_or("default");
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=128).contains(&tenant.len()) && tenant.bytes().all(plain) {
        return tenant.to_owned();
    }
    format!("~{}", &blake3::hash(tenant.as_bytes()).to_hex()[..32])
}

pub(super) struct Tenants {
    store: Store,
    /// After this long a key is looked up again, so that a rotation and a removal are seen.
    lifetime: Duration,
    cached: RwLock<HashMap<Wanted, Cached>>,
    loads: [Mutex<()>; SHARDS],
}

impl Tenants {
    pub fn new(store: Store, lifetime: Duration) -> Self {
        let loads = std::array::from_fn(|_| Mutex::default());
        Self { store, lifetime, cached: RwLock::default(), loads }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key that seals a tenant's new values; made if there is none.
    pub async fn current(&self, keyring: &Keyring, name: &str) -> Result<Arc<DataKey>, VaultFault> {
        self.get(keyring, Wanted::Current(name.to_owned())).await
    }

    /// A key by its id.
    pub async fn exact(&self, keyring: &Keyring, id: &str) -> Result<Arc<DataKey>, VaultFault> {
        self.get(keyring, Wanted::Exact(id.to_owned())).await
    }

    async fn get(&self, keyring: &Keyring, wanted: Wanted) -> Result<Arc<DataKey>, VaultFault> {
        let stale = match self.cached(&wanted) {
            Found::Fresh(key) => return Ok(key),
            Found::Stale(key) => Some(key),
            Found::Nothing => None,
        };
        let mut hasher = DefaultHasher::new();
        wanted.hash(&mut hasher);
        let _one_load = self.loads[hasher.finish() as usize % SHARDS].lock().await;
        if stale.is_none()
            && let Found::Fresh(key) = self.cached(&wanted)
        {
            return Ok(key);
        }
        let loaded = match &wanted {
            Wanted::Current(name) => self.load_current(keyring, name).await,
            Wanted::Exact(id) => self.load(keyring, id).await,
        };
        match (loaded, stale) {
            (Ok(Some(key)), _) => {
                self.keep(Wanted::Exact(key.id.clone()), &key);
                self.keep(wanted, &key);
                Ok(key)
            }
            (Ok(None), _) => {
                self.write().remove(&wanted);
                let id = match wanted {
                    Wanted::Current(id) | Wanted::Exact(id) => id,
                };
                Err(VaultFault::new(
                    VaultFaultKind::NoKey,
                    format!("there is no data key {id:?} in MongoDB: what it sealed is lost unless a backup has it"),
                ))
            }
            // What a key's id stands for never changes: an outage, or a new key-encryption key that this process has
            // not been given yet, does not take it away.
            (Err(_), Some(key)) => Ok(key),
            (Err(fault), None) => Err(fault),
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Wanted, Cached>> {
        self.cached.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, wanted: &Wanted) -> Found {
        let now = Instant::now();
        match self.cached.read().unwrap_or_else(PoisonError::into_inner).get(wanted) {
            None => return Found::Nothing,
            Some(cached) if now < cached.until => return Found::Fresh(cached.key.clone()),
            Some(_) => {}
        }
        // Others go on with the old one meanwhile.
        match self.write().get_mut(wanted) {
            None => Found::Nothing,
            Some(cached) if now < cached.until => Found::Fresh(cached.key.clone()),
            Some(cached) => {
                cached.until = now + self.lifetime;
                Found::Stale(cached.key.clone())
            }
        }
    }

    /// As if the tenant's first key had just been looked up.
    #[cfg(test)]
    pub fn put(&self, name: &str, secret: Secret) {
        let key = Arc::new(DataKey { id: format!("{name}/1"), secret });
        self.keep(Wanted::Exact(key.id.clone()), &key);
        self.keep(Wanted::Current(name.to_owned()), &key);
    }

    fn keep(&self, wanted: Wanted, key: &Arc<DataKey>) {
        let now = Instant::now();
        let mut cached = self.write();
        if cached.len() >= MOST {
            cached.retain(|_, cached| now < cached.until);
            if cached.len() >= MOST {
                cached.clear();
            }
        }
        cached.insert(wanted, Cached { key: key.clone(), until: now + self.lifetime });
    }

    async fn load(&self, keyring: &Keyring, id: &str) -> Result<Option<Arc<DataKey>>, VaultFault> {
        let Some(stored) = self.store.data_key(id).await? else { return Ok(None) };
        unwrap(keyring, &stored).map(|secret| Some(Arc::new(DataKey { id: stored.id(), secret })))
    }

    /// The newest key. A tenant without one gets one; of several processes that try, one wins.
    async fn load_current(&self, keyring: &Keyring, name: &str) -> Result<Option<Arc<DataKey>>, VaultFault> {
        let mut waits = 0;
        loop {
            if let Some(stored) = self.store.data_keys_of(name).await?.last() {
                let secret = unwrap(keyring, stored)?;
                return Ok(Some(Arc::new(DataKey { id: stored.id(), secret })));
            }
            let (stored, secret) = new_key(keyring, name, 1, clock::now())?;
            if self.store.insert_data_key(&stored).await? {
                return Ok(Some(Arc::new(DataKey { id: stored.id(), secret })));
            }
            // It is another process's, and may not be acknowledged by a majority yet: until then it can vanish.
            waits += 1;
            if waits > WAIT.1 {
                let text = format!("the first data key of {name:?} is written, but no majority has it yet");
                return Err(VaultFault::new(VaultFaultKind::Unavailable, text));
            }
            tokio::time::sleep(WAIT.0).await;
        }
    }
}

/// A new data key, wrapped by the current key-encryption key; not stored yet.
pub(super) fn new_key(
    keyring: &Keyring,
    tenant: &str,
    number: u32,
    created_at: chrono::DateTime<chrono::Utc>,
) -> Result<(StoredKey, Secret), VaultFault> {
    let Some(kek) = keyring.current() else { return Err(super::off()) };
    let secret = Secret::generate()?;
    let wrapped = kek.wrap(&secret, &format!("{tenant}/{number}"), rand::random());
    Ok((StoredKey { tenant: tenant.to_owned(), number, kek: kek.id.clone(), wrapped, created_at }, secret))
}

/// Unwraps a stored data key with the key-encryption key that it names.
pub(super) fn unwrap(keyring: &Keyring, stored: &StoredKey) -> Result<Secret, VaultFault> {
    let (id, kek) = (stored.id(), &stored.kek);
    let Some(key) = keyring.get(kek) else {
        let text = if keyring.is_empty() {
            format!("`encryption.keys` is empty, but the data key {id:?} needs the key {kek:?}: set it")
        } else {
            format!(
                "the data key {id:?} needs the key {kek:?}, which `encryption.keys` lacks: add it after the current one"
            )
        };
        return Err(VaultFault::new(VaultFaultKind::NoKey, text));
    };
    key.unwrap(&stored.wrapped, &id).map_err(|broken| match broken {
        Broken::Tag => VaultFault::new(
            VaultFaultKind::WrongKey,
            format!(
                "the key {kek:?} in `encryption.keys` is not the one that wrapped the data key {id:?}: set the right one \
                 under this id, and give the new one another id"
            ),
        ),
        Broken::Form => VaultFault::new(
            VaultFaultKind::Corrupt,
            format!("the data key {id:?} in MongoDB is damaged: restore its row in `data_keys` from a backup"),
        ),
    })
}
