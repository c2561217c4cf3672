//! Dividing a block that is too long to be checked in one go.

use std::ops::Range;

use super::{Block, MAX_BLOCK_CHARS, Piece, PieceKind, segment};

/// From this length on, in characters, a block may end at a sentence that is chosen by its content. So the cuts
/// after an edit are soon where they were before it, and the blocks there need not be checked again.
const GOOD_BLOCK_CHARS: usize = 400;

/// `block` itself, or the blocks it is divided into.
pub(super) fn bounded(text: &str, block: &Block) -> Vec<Block> {
    if block.pieces.iter().map(|piece| chars(text, piece)).sum::<usize>() <= MAX_BLOCK_CHARS {
        return vec![block.clone()];
    }
    let mut parts = Vec::new();
    let mut part = Part::default();
    let mut continues = block.continues;
    for piece in block.pieces.iter().flat_map(|piece| atoms(text, piece)) {
        let size = chars(text, &piece);
        if part.chars + size > MAX_BLOCK_CHARS && !part.pieces.is_empty() {
            parts.push(std::mem::take(&mut part).block(text, continues, true));
            continues = true;
        }
        part.chars += size;
        let cut = part.chars >= GOOD_BLOCK_CHARS && is_good_end(text, &piece);
        let ends_paragraph = piece.kind == PieceKind::ParagraphBreak;
        part.push(piece);
        if cut {
            parts.push(std::mem::take(&mut part).block(text, continues, !ends_paragraph));
            continues = !ends_paragraph;
        }
    }
    if !part.pieces.is_empty() {
        parts.push(part.block(text, continues, block.continued));
    }
    parts
}

#[derive(Default)]
struct Part {
    pieces: Vec<Piece>,
    chars: usize,
}

impl Part {
    fn push(&mut self, piece: Piece) {
        match self.pieces.last_mut() {
            Some(last)
                if piece.kind == PieceKind::Text && last.kind == piece.kind && last.range.end == piece.range.start =>
            {
                last.range.end = piece.range.end;
            }
            _ => self.pieces.push(piece),
        }
    }

    fn block(self, text: &str, continues: bool, continued: bool) -> Block {
        let start = self.pieces.first().map_or(0, |piece| piece.range.start);
        let end = self.pieces.last().map_or(start, |piece| piece.range.end);
        Block { continues, continued, ..Block::trimmed(text, start..end, self.pieces) }
    }
}

/// The length of what has to be read of a piece.
fn chars(text: &str, piece: &Piece) -> usize {
    match piece.kind {
        PieceKind::Text => text[piece.range.clone()].chars().count(),
        _ => 1,
    }
}

/// Parts of a piece that are kept together: sentences, or, of longer ones, as many words as fit.
fn atoms(text: &str, piece: &Piece) -> Vec<Piece> {
    if piece.kind != PieceKind::Text {
        return vec![piece.clone()];
    }
    let within = |range: Range<usize>, start: usize| start + range.start..start + range.end;
    segment::sentences(&text[piece.range.clone()])
        .into_iter()
        .map(|sentence| within(sentence, piece.range.start))
        .flat_map(|sentence| fitting(&text[sentence.clone()]).into_iter().map(move |part| within(part, sentence.start)))
        .map(|range| Piece { kind: PieceKind::Text, range })
        .collect()
}

/// Divides `sentence` into parts of at most [`MAX_BLOCK_CHARS`] characters, between words if there are any.
fn fitting(sentence: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    while let Some((end, _)) = sentence[start..].char_indices().nth(MAX_BLOCK_CHARS) {
        let part = &sentence[start..start + end];
        let cut = part.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(end, |(at, c)| at + c.len_utf8());
        parts.push(start..start + cut);
        start += cut;
    }
    parts.push(start..sentence.len());
    parts
}

fn is_good_end(text: &str, piece: &Piece) -> bool {
    match piece.kind {
        PieceKind::ParagraphBreak => true,
        PieceKind::Text => {
            let sentence = text[piece.range.clone()].trim_end();
            sentence.ends_with(['.', '!', '?']) && blake3::hash(sentence.as_bytes()).as_bytes()[0].is_multiple_of(16)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::blocks, *};
    use crate::analysis::Format;

    fn parts(text: &str, format: Format) -> Vec<Block> {
        super::super::bounded(text, &blocks(text, format))
    }

    fn assert_bounded(text: &str, format: Format) -> usize {
        let parts = parts(text, format);
        let mut at = 0;
        for part in &parts {
            assert!(text[part.range.clone()].chars().count() <= MAX_BLOCK_CHARS);
            assert!(part.range.start >= at && part.pieces.windows(2).all(|p| p[0].range.end <= p[1].range.start));
            at = part.range.end;
        }
        parts.len()
    }

    #[test]
    fn every_part_is_short_whatever_the_text_is() {
        assert_eq!(assert_bounded(&"a".repeat(100_000), Format::Plain), 25);
        assert_eq!(assert_bounded(&"漢字".repeat(10_000), Format::Plain), 5);
        assert!(assert_bounded(&"word ".repeat(20_000), Format::Plain) >= 25);
        assert!(assert_bounded(&"A short sentence. ".repeat(2_000), Format::Plain) >= 9);
        assert!(assert_bounded(&"- An *item* of a list.\n".repeat(2_000), Format::Markdown) >= 9);
        assert_eq!(assert_bounded("One. Two.", Format::Plain), 1);
    }

    #[test]
    fn the_parts_hold_all_the_words() {
        let text = (0..3_000).map(|n| format!("Sentence number {n} is here. ")).collect::<String>();
        let parts = parts(&text, Format::Plain);
        let joined = parts.iter().map(|part| &text[part.range.clone()]).collect::<Vec<_>>().join(" ");
        assert_eq!(joined, text.trim_end());
        assert!(!parts[0].continues && parts[0].continued && parts[1].continues);
        assert!(!parts.last().unwrap().continued);
    }

    #[test]
    fn an_edit_moves_few_cuts() {
        let sentences: Vec<_> = (0..1_000).map(|n| format!("Sentence number {n} is here. ")).collect();
        let before = sentences.concat();
        let after = before.replacen("number 3 is", "number three was once", 1);
        let texts = |text: &str| {
            parts(text, Format::Plain).iter().map(|p| text[p.range.clone()].to_owned()).collect::<Vec<_>>()
        };
        let (before, after) = (texts(&before), texts(&after));
        let changed = after.iter().filter(|part| !before.contains(part)).count();
        assert!(changed <= 3, "{changed} of {}", after.len());
    }
}
