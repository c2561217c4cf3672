//! The key-encryption keys of `encryption.keys`. Pure.

use mongodb::bson::Binary;
use zeroize::Zeroize;

use super::{
    seal::{self, Broken, Place, RANDOM},
    secret::Secret,
};

/// The longest id of a key-encryption key, in bytes.
const ID_MAX: usize = 64;

/// Keys that wrap data keys. The first is current; the others still open what they wrapped.
#[derive(Debug, Default)]
pub struct Keyring(Vec<Kek>);

/// A key-encryption key.
#[derive(Debug)]
pub(super) struct Kek {
    pub id: String,
    secret: Secret,
}

impl Kek {
    pub fn wrap(&self, data_key: &Secret, data_key_id: &str, random: [u8; RANDOM]) -> Vec<u8> {
        seal::seal(&self.secret, &self.id, Place::DataKey(data_key_id), random, data_key.bytes())
    }

    pub fn unwrap(&self, wrapped: &[u8], data_key_id: &str) -> Result<Secret, Broken> {
        let plain = seal::open(&self.secret, Place::DataKey(data_key_id), wrapped)?;
        Secret::from_slice(&plain).ok_or(Broken::Form)
    }
}

impl Keyring {
    /// Reads "ID:BASE64" entries, one a line or separated by commas. Empty lines and those that begin with `#` are left
    /// out; nothing at all is an empty keyring.
    ///
    /// # Errors
    /// What is wrong and where, without any part of a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<Kek> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // A comma at the end of a line does no harm.
            let entries = line.split(',').map(str::trim).filter(|entry| !entry.is_empty());
            for (position, entry) in (1..).zip(entries) {
                let at = |wrong: &str| format!("line {number}, key {position}: {wrong}");
                let key = parse_entry(entry).map_err(at)?;
                if keys.iter().any(|other| other.id == key.id) {
                    return Err(at("its id is used twice: give each key an id of its own"));
                }
                if keys.iter().any(|other| other.secret.bytes() == key.secret.bytes()) {
                    return Err(at("it is the same key as an earlier one: make a new one, `openssl rand -base64 32`"));
                }
                keys.push(key);
            }
        }
        Ok(Self(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that wraps new data keys.
    pub(super) fn current(&self) -> Option<&Kek> {
        self.0.first()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Kek> {
        self.0.iter().find(|key| key.id == id)
    }

    /// The ids, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }
}

fn parse_entry(entry: &str) -> Result<Kek, &'static str> {
    let Some((id, key)) = entry.split_once(':') else {
        return Err("it has no id: write ID:BASE64, with any name for the key before the colon");
    };
    let (id, key) = (id.trim(), key.trim());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !(1..=ID_MAX).contains(&id.len()) || !id.bytes().all(allowed) {
        return Err("its id must be 1 to 64 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`");
    }
    let Ok(Binary { mut bytes, .. }) = Binary::from_base64(key, None) else {
        return Err("what follows the colon is not base64: make a key with `openssl rand -base64 32`");
    };
    let secret = Secret::from_slice(&bytes);
    // A placeholder, such as 32 zeros.
    let is_constant = bytes.iter().all(|byte| Some(byte) == bytes.first());
    bytes.zeroize();
    match secret {
        None => Err("it must be exactly 32 bytes in base64: make one with `openssl rand -base64 32`"),
        Some(_) if is_constant => {
            Err("it is one byte 32 times, no random key: make one with `openssl rand -base64 32`")
        }
        Some(secret) => Ok(Kek { id: id.to_owned(), secret }),
    }
}
