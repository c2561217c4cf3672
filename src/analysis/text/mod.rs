//! The structure of a text: blocks of prose with what is markup, code or a line break marked as such.
//!
//! A block is what is checked, and remembered, on its own: a paragraph of plain text or a top-level block of Markdown.
//! All ranges are byte ranges of the original text, which is never changed: no normalization, no stripping.

mod bound;
mod markdown;
mod plain;
mod prose;
mod segment;

use std::ops::Range;

pub use prose::Prose;
pub use segment::{is_end, sentences, words};

use super::request::Format;

/// No block that is checked has more prose, in characters: it bounds the time that a hostile text can take between two
/// looks at the clock.
pub const MAX_BLOCK_CHARS: usize = 4_000;

/// A stretch of text that makes sense on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub range: Range<usize>,
    /// In order and without overlap; what lies between them is markup.
    pub pieces: Vec<Piece>,
    /// It begins in the middle of a paragraph, because that was too long for one block.
    pub continues: bool,
    /// It ends in the middle of a paragraph.
    pub continued: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub kind: PieceKind,
    pub range: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Prose.
    Text,
    /// Stands in a sentence but is no prose: inline code, an address, an image.
    Opaque,
    /// A line end inside a paragraph.
    LineBreak,
    /// The end of a paragraph, list item, heading or table cell.
    ParagraphBreak,
    /// What follows, up to the next paragraph break, is a heading.
    Heading,
}

/// The blocks of `text` that hold prose, in order, of any length. Blocks without a letter are left out.
pub fn blocks(text: &str, format: Format) -> Vec<Block> {
    let mut blocks = match format {
        Format::Plain => plain::blocks(text),
        Format::Markdown => markdown::blocks(text),
    };
    blocks.retain(|block| block.has_prose(text));
    blocks
}

/// Divides blocks longer than [`MAX_BLOCK_CHARS`] at paragraph and sentence ends, or wherever it must.
pub fn bounded(text: &str, blocks: &[Block]) -> Vec<Block> {
    blocks.iter().flat_map(|block| bound::bounded(text, block)).filter(|block| block.has_prose(text)).collect()
}

impl Block {
    /// A block of `pieces`, without the white space around them.
    fn trimmed(text: &str, range: Range<usize>, mut pieces: Vec<Piece>) -> Self {
        let range = trimmed(text, range);
        for piece in &mut pieces {
            piece.range =
                piece.range.start.clamp(range.start, range.end)..piece.range.end.clamp(range.start, range.end);
        }
        Self { range, pieces, continues: false, continued: false }
    }

    /// Its prose pieces.
    pub fn texts(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(|piece| piece.kind == PieceKind::Text)
    }

    fn has_prose(&self, text: &str) -> bool {
        self.texts().any(|piece| text[piece.range.clone()].chars().any(char::is_alphabetic))
    }
}

/// The part of `range` without white space, and without a byte order mark, around it.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    let slice = &text[range.clone()];
    let start = range.start + (slice.len() - slice.trim_start_matches(blank).len());
    let end = range.start + slice.trim_end_matches(blank).len();
    start..end.max(start)
}
