//! Key material in memory.

use std::fmt;

use aes_gcm::aead::Generate;
use zeroize::{Zeroize, Zeroizing};

use super::{VaultFault, VaultFaultKind};

/// 32 secret bytes: on the heap, so that a move leaves no copy behind, wiped when dropped, and never printed.
/// What a computation leaves on the stack is not wiped.
pub(super) struct Secret(Box<[u8; 32]>);

impl Secret {
    /// `None` unless there are exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self(Box::new([0; 32]));
        (bytes.len() == 32).then(|| secret.0.copy_from_slice(bytes))?;
        Some(secret)
    }

    /// From the system's generator.
    pub fn generate() -> Result<Self, VaultFault> {
        let bytes = <[u8; 32]>::try_generate().map(Zeroizing::new).map_err(|e| {
            VaultFault::new(VaultFaultKind::Unavailable, format!("the system gives no random bytes for a key: {e}"))
        })?;
        Ok(Self(Box::new(*bytes)))
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key of its own for `purpose`: what is made with it tells nothing about what is made with others.
    pub fn derive(&self, purpose: &str, salt: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(purpose.as_bytes()).update(&[0]).update(salt);
        let mut derived = Self(Box::new([0; 32]));
        hasher.finalize_xof().fill(&mut *derived.0);
        derived
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
