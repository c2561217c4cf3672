//! Keys of cached results. They are keyed hashes: what stands in a short text could otherwise be found by trying.

use super::{
    request::{Format, Request},
    text::{Block, PieceKind},
};

/// Makes the keys of one engine configuration. Workers that share a cache need the same `secret`.
#[derive(Clone)]
pub struct Keys {
    content: [u8; 32],
    result: [u8; 32],
    block: [u8; 32],
}

pub type BlockKey = [u8; 16];

impl Keys {
    /// `fingerprint` is all that decides the findings besides the request: engine version, rules, dictionary, limits.
    pub fn new(secret: &[u8], fingerprint: &str) -> Self {
        let derive = |purpose: &str, parts: &[&[u8]]| {
            let mut hasher = blake3::Hasher::new_derive_key(purpose);
            for part in parts {
                field(&mut hasher, part);
            }
            *hasher.finalize().as_bytes()
        };
        Self {
            content: derive("contextd analysis v1: content", &[secret]),
            result: derive("contextd analysis v1: result", &[secret, fingerprint.as_bytes()]),
            block: derive("contextd analysis v1: block", &[secret, fingerprint.as_bytes()]),
        }
    }

    /// The hash of a text alone, in hexadecimal; the same under every engine.
    pub fn content_hash(&self, text: &str) -> String {
        blake3::keyed_hash(&self.content, text.as_bytes()).to_hex().to_string()
    }

    /// The key of the whole result for `request`, in hexadecimal.
    pub fn result_key(&self, request: &Request) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.result);
        field(&mut hasher, request.format.content_type().as_bytes());
        field(&mut hasher, request.language.as_ref().map_or("", |tag| tag.as_str()).as_bytes());
        for analyzer in request.analyzers.iter() {
            field(&mut hasher, analyzer.name().as_bytes());
        }
        // No analyzer has an empty name: the end of their list.
        field(&mut hasher, b"");
        hasher.update(request.text.as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// The key of the findings in one block: its text, and what in it is not prose.
    pub fn block_key(&self, text: &str, block: &Block, format: Format, variant: &str) -> BlockKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.block);
        field(&mut hasher, variant.as_bytes());
        hasher.update(&[u8::from(format == Format::Markdown), u8::from(block.continues), u8::from(block.continued)]);
        for piece in &block.pieces {
            let kind = match piece.kind {
                PieceKind::Text => 0_u8,
                PieceKind::Opaque => 1,
                PieceKind::LineBreak => 2,
                PieceKind::ParagraphBreak => 3,
                PieceKind::Heading => 4,
            };
            hasher.update(&[kind]);
            hasher.update(&((piece.range.start - block.range.start) as u64).to_le_bytes());
            hasher.update(&((piece.range.end - block.range.start) as u64).to_le_bytes());
        }
        hasher.update(text[block.range.clone()].as_bytes());
        let mut key = BlockKey::default();
        hasher.finalize_xof().fill(&mut key);
        key
    }
}

/// Adds a field of any length, so that no two lists of fields hash alike.
fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

#[cfg(test)]
mod tests {
    use super::{super::text::blocks, *};
    use crate::analysis::Analyzers;

    #[test]
    fn whatever_decides_the_result_is_in_its_key() {
        let keys = Keys::new(b"secret", "engine 1");
        let request = Request::plain("Some text.");
        let key = keys.result_key(&request);
        assert_eq!(key, keys.result_key(&request.clone()));
        let others = [
            keys.result_key(&Request::plain("Some text")),
            keys.result_key(&Request::markdown("Some text.")),
            keys.result_key(&Request { language: "en".parse().ok(), ..request.clone() }),
            keys.result_key(&Request { analyzers: Analyzers::from_names(["grammar"]).unwrap(), ..request.clone() }),
            Keys::new(b"secret", "engine 2").result_key(&request),
            Keys::new(b"other", "engine 1").result_key(&request),
            keys.content_hash("Some text."),
        ];
        assert!(others.iter().all(|other| *other != key));
        assert_eq!(keys.content_hash("x"), Keys::new(b"secret", "engine 2").content_hash("x"));
    }

    #[test]
    fn a_block_has_its_key_wherever_it_stands() {
        let keys = Keys::new(b"", "");
        let key = |text: &str, n: usize, format| keys.block_key(text, &blocks(text, format)[n], format, "american");
        assert_eq!(key("One.\n\nTwo.", 1, Format::Plain), key("Longer one.\n\n\nTwo.\n", 1, Format::Plain));
        assert_ne!(key("Two.", 0, Format::Plain), key("Two.", 0, Format::Markdown));
        assert_ne!(key("a `b` c", 0, Format::Markdown), key("a \\`b\\` c", 0, Format::Markdown));
    }
}
