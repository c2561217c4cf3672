//! Paragraphs of plain text.

use std::ops::Range;

use super::{Block, Piece, PieceKind};

/// A longer line was not wrapped by hand, so the line end after it ends the paragraph.
const WRAPPED_LINE_CHARS: usize = 120;

pub(super) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut paragraph = 0..0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        let blank = line.trim().is_empty();
        if !blank {
            paragraph.end = end;
        }
        if blank || line.chars().nth(WRAPPED_LINE_CHARS).is_some() {
            blocks.extend(block(text, paragraph));
            paragraph = end..end;
        }
        at = end;
    }
    blocks.extend(block(text, paragraph));
    blocks
}

fn block(text: &str, paragraph: Range<usize>) -> Option<Block> {
    let pieces = vec![Piece { kind: PieceKind::Text, range: paragraph.clone() }];
    Some(Block::trimmed(text, paragraph, pieces)).filter(|block| !block.range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paragraphs(text: &str) -> Vec<&str> {
        blocks(text).into_iter().map(|block| &text[block.range]).collect()
    }

    #[test]
    fn blank_lines_divide_whatever_the_line_ends_are() {
        assert_eq!(
            paragraphs("\u{feff}One\ntwo.\n\n \t\nThree.\r\n\r\n  Four\r\nfive.\n"),
            ["One\ntwo.", "Three.", "Four\r\nfive."]
        );
        assert!(paragraphs(" \n\n\u{feff}").is_empty());
    }

    #[test]
    fn a_line_too_long_to_be_wrapped_by_hand_is_a_paragraph() {
        let long = "word ".repeat(30);
        let text = format!("{long}\n{long}\nshort\nlines");
        assert_eq!(paragraphs(&text), [long.trim(), long.trim(), "short\nlines"]);
    }
}
