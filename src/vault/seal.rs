//! The sealed form of bytes, and what it is bound to. Pure: the random bytes are an argument.
//!
//! ```text
//! [format 1][length of the key's id, 1][key's id][salt 16][nonce 12][AES-256-GCM ciphertext][tag 16]
//! ```
//!
//! Each value has an AES key of its own, derived from the named key and the salt, so that random nonces are safe however
//! many values a key seals. The tag also covers the key's id and what the value is bound to: a sealed value that is
//! moved elsewhere does not open.

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce, Tag,
    aead::{AeadInOut, array::Array},
};
use zeroize::Zeroizing;

use super::secret::Secret;

const FORMAT: u8 = 1;
const SALT: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;

/// Random bytes that one sealing needs.
pub(super) const RANDOM: usize = SALT + NONCE;

/// What a sealed value is bound to: its use, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// A data key, by its id.
    DataKey(&'a str),
    /// A field of a record.
    Field { collection: &'a str, id: &'a str, field: &'a str },
    /// Bytes outside MongoDB, by a name that stays the same as long as they live.
    Content(&'a str),
}

impl Place<'_> {
    /// Each part goes in with its length, so that no two places look the same.
    fn associated(&self, key_id: &str) -> Vec<u8> {
        let (label, parts) = match *self {
            Place::DataKey(id) => ("contextd data key", [id, "", ""]),
            Place::Field { collection, id, field } => ("contextd field", [collection, id, field]),
            Place::Content(name) => ("contextd content", [name, "", ""]),
        };
        let all = [label, parts[0], parts[1], parts[2], key_id];
        let mut out = Vec::with_capacity(all.iter().map(|part| part.len() + 8).sum());
        for part in all {
            out.extend_from_slice(&(part.len() as u64).to_le_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out
    }
}

/// Why bytes do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Too short, or of a format that is not known.
    Form,
    /// Other bytes, another place or another key than when it was sealed.
    Tag,
}

/// Seals `plain`; `random` must be fresh for every call. Ids of keys are at most 140 bytes long, by how they are made.
pub(super) fn seal(key: &Secret, key_id: &str, place: Place<'_>, random: [u8; RANDOM], plain: &[u8]) -> Vec<u8> {
    let id_length = u8::try_from(key_id.len()).expect("an id of at most 255 bytes");
    let start = 2 + key_id.len() + RANDOM;
    let mut out = Vec::with_capacity(start + plain.len() + TAG);
    out.extend_from_slice(&[FORMAT, id_length]);
    out.extend_from_slice(key_id.as_bytes());
    out.extend_from_slice(&random);
    out.extend_from_slice(plain);
    let (salt, nonce) = random.split_at(SALT);
    let nonce: &Nonce<_> = nonce.try_into().expect("a nonce has 12 bytes");
    let associated = place.associated(key_id);
    let tag = cipher(key, salt)
        .encrypt_inout_detached(nonce, &associated, (&mut out[start..]).into())
        .expect("AES-GCM takes up to 64 GiB");
    out.extend_from_slice(&tag);
    out
}

/// The id of the key that opens `sealed`.
pub(super) fn key_id(sealed: &[u8]) -> Result<&str, Broken> {
    let [FORMAT, length, rest @ ..] = sealed else { return Err(Broken::Form) };
    let id = rest.get(..usize::from(*length)).filter(|_| rest.len() >= usize::from(*length) + RANDOM + TAG);
    id.and_then(|id| std::str::from_utf8(id).ok()).ok_or(Broken::Form)
}

/// Opens what [`seal`] made with the same key for the same place.
pub(super) fn open(key: &Secret, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let key_id = key_id(sealed)?;
    let (random, rest) = sealed[2 + key_id.len()..].split_at(RANDOM);
    let (salt, nonce) = random.split_at(SALT);
    let (ciphertext, tag) = rest.split_at(rest.len() - TAG);
    let nonce: &Nonce<_> = nonce.try_into().map_err(|_| Broken::Form)?;
    let tag: &Tag = tag.try_into().map_err(|_| Broken::Form)?;
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    cipher(key, salt)
        .decrypt_inout_detached(nonce, &place.associated(key_id), plain.as_mut_slice().into(), tag)
        .map_err(|_| Broken::Tag)?;
    Ok(plain)
}

fn cipher(key: &Secret, salt: &[u8]) -> Aes256Gcm {
    Aes256Gcm::new(<&Array<u8, _>>::from(key.derive("contextd sealed value", salt).bytes()))
}
