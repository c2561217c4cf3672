//! From the plain bytes of a content to what is stored, and back. Pure.
//!
//! Nothing that is read can make it take more memory than the declared size, and nothing leaves it that does not have
//! the declared hash.

use serde::{Deserialize, Serialize};
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

/// The largest content, in bytes: a content comes within a task, and `limits.task_bytes` is at most 15 MiB.
pub const MAX_SIZE: u64 = 16 << 20;

/// More costs time and gains little on text: 20.2 kB of English take 8.7 kB in 0.12 ms at 3, 8.4 kB in 0.44 ms at 9.
const LEVEL: i32 = 3;

/// Matches reach back 16 MiB: over the whole of a base of any size that is allowed.
const WINDOW_LOG: u32 = 24;

/// How stored bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// The plain bytes: compression did not pay.
    Raw,
    /// Zstandard.
    Zstd,
    /// Zstandard with the plain bytes of another content before it.
    ZstdDelta,
}

impl Codec {
    /// As in the row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::ZstdDelta => "zstd-delta",
        }
    }
}

/// What is stored of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub codec: Codec,
    pub bytes: Vec<u8>,
}

/// Why stored bytes are not the content they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("a difference needs the content that it was made against")]
    NoBase,
    #[error("a content of {0} bytes is larger than any that contextd stores")]
    TooLarge(u64),
    #[error("the content has {found} bytes instead of {expected}")]
    Size { expected: u64, found: u64 },
    #[error("the content does not decompress: {0}")]
    Garbled(&'static str),
    #[error("the content has the hash {found} instead of {expected}")]
    Hash { expected: String, found: String },
}

/// The hash by which a content is known: BLAKE3 of the plain bytes, in hexadecimal digits.
pub fn hash(plain: &[u8]) -> String {
    blake3::hash(plain).to_hex().to_string()
}

/// The smallest of the forms that pay. A difference to `base` is taken only when it has at most half the bytes of a
/// full copy, because reading it costs a second object.
pub fn encode(plain: &[u8], base: Option<&[u8]>) -> Encoded {
    let full = match compress(plain, None) {
        Some(bytes) if bytes.len() < plain.len() => Encoded { codec: Codec::Zstd, bytes },
        _ => Encoded { codec: Codec::Raw, bytes: plain.to_vec() },
    };
    match base.and_then(|base| compress(plain, Some(base))) {
        Some(bytes) if bytes.len() <= full.bytes.len() / 2 => Encoded { codec: Codec::ZstdDelta, bytes },
        _ => full,
    }
}

/// The plain bytes, which have `size` and `hash` or are not given out. `base`: those of the content that a difference
/// was made against.
pub fn decode(codec: Codec, bytes: &[u8], base: Option<&[u8]>, size: u64, hash: &str) -> Result<Vec<u8>, CodecError> {
    if size > MAX_SIZE {
        return Err(CodecError::TooLarge(size));
    }
    let plain = match (codec, base) {
        (Codec::Raw, _) => {
            is_size(size, bytes.len() as u64)?;
            bytes.to_vec()
        }
        (Codec::Zstd, _) => decompress(bytes, None, size)?,
        (Codec::ZstdDelta, Some(base)) => decompress(bytes, Some(base), size)?,
        (Codec::ZstdDelta, None) => return Err(CodecError::NoBase),
    };
    let found = self::hash(&plain);
    if found != hash {
        return Err(CodecError::Hash { expected: hash.to_owned(), found });
    }
    Ok(plain)
}

fn is_size(expected: u64, found: u64) -> Result<(), CodecError> {
    if expected == found { Ok(()) } else { Err(CodecError::Size { expected, found }) }
}

/// One frame that says its size; none when Zstandard refuses, in which case another form serves.
fn compress(plain: &[u8], base: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut context = CCtx::try_create()?;
    context.set_parameter(CParameter::CompressionLevel(LEVEL)).ok()?;
    if let Some(base) = base {
        context.set_parameter(CParameter::WindowLog(WINDOW_LOG)).ok()?;
        context.set_parameter(CParameter::EnableLongDistanceMatching(true)).ok()?;
        context.ref_prefix(base).ok()?;
    }
    let mut bytes = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut bytes, plain).ok()?;
    bytes.shrink_to_fit();
    Some(bytes)
}

/// In one go into a buffer of `size`: the decoder then keeps no window of its own, whatever the frame asks for.
fn decompress(bytes: &[u8], base: Option<&[u8]>, size: u64) -> Result<Vec<u8>, CodecError> {
    match zstd_safe::get_frame_content_size(bytes) {
        Ok(Some(found)) => is_size(size, found)?,
        Ok(None) => return Err(CodecError::Garbled("its header does not say how large it is")),
        Err(_) => return Err(CodecError::Garbled("it has no valid header")),
    }
    let capacity = usize::try_from(size).map_err(|_| CodecError::TooLarge(size))?;
    let mut plain = Vec::with_capacity(capacity);
    let mut context = DCtx::try_create().ok_or(CodecError::Garbled("there is no memory for it"))?;
    if let Some(base) = base {
        context.ref_prefix(base).map_err(|code| CodecError::Garbled(zstd_safe::get_error_name(code)))?;
    }
    context.decompress(&mut plain, bytes).map_err(|code| CodecError::Garbled(zstd_safe::get_error_name(code)))?;
    is_size(size, plain.len() as u64)?;
    Ok(plain)
}
