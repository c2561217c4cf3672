//! The prose of a text for counting: paragraphs without markup, and their sentences.

use std::{borrow::Cow, ops::Range};

use super::{Block, PieceKind, sentences, words};

/// Paragraphs and sentences that hold at least one word.
#[derive(Debug)]
pub struct Prose<'t> {
    pub paragraphs: Vec<Paragraph<'t>>,
}

#[derive(Debug)]
pub struct Paragraph<'t> {
    pub text: Cow<'t, str>,
    sentences: Vec<Range<usize>>,
}

impl<'t> Prose<'t> {
    /// Reads the prose of `blocks`, which must be undivided: a divided block would count as several paragraphs.
    pub fn new(text: &'t str, blocks: &[Block]) -> Self {
        let mut paragraphs = Vec::new();
        for block in blocks {
            let mut paragraph = Cow::Borrowed("");
            for piece in &block.pieces {
                match piece.kind {
                    PieceKind::Text if paragraph.is_empty() => {
                        paragraph = Cow::Borrowed(&text[piece.range.clone()]);
                    }
                    PieceKind::Text => paragraph.to_mut().push_str(&text[piece.range.clone()]),
                    PieceKind::LineBreak => paragraph.to_mut().push(' '),
                    PieceKind::Opaque => {}
                    PieceKind::ParagraphBreak | PieceKind::Heading => {
                        paragraphs.extend(Paragraph::new(std::mem::take(&mut paragraph)));
                    }
                }
            }
            paragraphs.extend(Paragraph::new(paragraph));
        }
        Self { paragraphs }
    }

    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.paragraphs.iter().flat_map(Paragraph::sentences)
    }

    /// All of it, a paragraph per line.
    pub fn joined(&self) -> String {
        self.paragraphs.iter().map(|paragraph| paragraph.text.as_ref()).collect::<Vec<_>>().join("\n")
    }
}

impl<'t> Paragraph<'t> {
    fn new(text: Cow<'t, str>) -> Option<Self> {
        let mut sentences = sentences(&text);
        sentences.retain(|range| words(&text[range.clone()]).next().is_some());
        (!sentences.is_empty()).then_some(Self { text, sentences })
    }

    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.sentences.iter().map(|range| &self.text[range.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::{super::blocks, *};
    use crate::analysis::Format;

    #[test]
    fn markdown_is_read_without_its_markup() {
        let text = "# Title\n\nSome *bold* words\nover lines. Use `code` here.\n\n- item\n- other item\n\n***\n";
        let blocks = blocks(text, Format::Markdown);
        let prose = Prose::new(text, &blocks);
        let sentences: Vec<_> = prose.sentences().map(str::trim).collect();
        assert_eq!(sentences, ["Title", "Some bold words over lines.", "Use  here.", "item", "other item"]);
        assert_eq!(prose.paragraphs.len(), 4);
    }
}
