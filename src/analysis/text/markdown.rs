//! Top-level blocks of Markdown. Code blocks, HTML and front matter hold no prose.

use std::ops::Range;

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};

use super::{Block, Piece, PieceKind};

pub(super) fn blocks(text: &str) -> Vec<Block> {
    // A byte order mark would hide the first heading from the parser.
    let skipped = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS
        | Options::ENABLE_MATH
        | Options::ENABLE_GFM
        | Options::ENABLE_WIKILINKS;
    let mut reader = Reader { text, blocks: Vec::new(), pieces: Vec::new(), depth: 0, hidden: 0 };
    for (event, range) in Parser::new_ext(&text[skipped..], options).into_offset_iter() {
        reader.read(event, range.start + skipped..range.end + skipped);
    }
    reader.blocks
}

struct Reader<'t> {
    text: &'t str,
    blocks: Vec<Block>,
    pieces: Vec<Piece>,
    depth: usize,
    /// The depth of the element whose content is not prose; 0: none.
    hidden: usize,
}

impl Reader<'_> {
    fn read(&mut self, event: Event, range: Range<usize>) {
        match event {
            Event::Start(tag) => {
                self.depth += 1;
                if self.hidden == 0 {
                    self.start(&tag, range);
                }
            }
            Event::End(tag) => {
                if self.hidden == self.depth {
                    self.hidden = 0;
                }
                if self.hidden == 0 && ends_paragraph(tag) {
                    self.paragraph_break();
                }
                self.depth -= 1;
                if self.depth == 0 {
                    self.finish(range);
                }
            }
            _ if self.hidden > 0 => {}
            // What differs from the source, an entity for instance, has no characters that findings could point to.
            Event::Text(content) if *content == self.text[range.clone()] => self.push(PieceKind::Text, range),
            Event::Text(_) | Event::Code(_) | Event::InlineMath(_) | Event::DisplayMath(_) => {
                self.push(PieceKind::Opaque, range);
            }
            Event::SoftBreak => self.push(PieceKind::LineBreak, range),
            Event::HardBreak => self.paragraph_break(),
            // Tags and footnote marks are markup: the words around them stand next to each other.
            Event::Html(_)
            | Event::InlineHtml(_)
            | Event::FootnoteReference(_)
            | Event::TaskListMarker(_)
            | Event::Rule => {}
        }
    }

    fn start(&mut self, tag: &Tag, range: Range<usize>) {
        match tag {
            Tag::CodeBlock(_) | Tag::HtmlBlock | Tag::MetadataBlock(_) => {
                self.paragraph_break();
                self.hidden = self.depth;
            }
            Tag::Image { .. } | Tag::Link { link_type: LinkType::Autolink | LinkType::Email, .. } => {
                self.push(PieceKind::Opaque, range);
                self.hidden = self.depth;
            }
            Tag::Heading { .. } => self.push(PieceKind::Heading, range.start..range.start),
            Tag::List(_) | Tag::Item | Tag::BlockQuote(_) => self.paragraph_break(),
            _ => {}
        }
    }

    fn push(&mut self, kind: PieceKind, range: Range<usize>) {
        // The parser hands out a run of text in several parts; words must not be torn.
        match self.pieces.last_mut() {
            Some(last) if kind == PieceKind::Text && last.kind == kind && last.range.end == range.start => {
                last.range.end = range.end;
            }
            _ => self.pieces.push(Piece { kind, range }),
        }
    }

    fn paragraph_break(&mut self) {
        if let Some(last) = self.pieces.last().filter(|last| last.kind != PieceKind::ParagraphBreak) {
            let end = last.range.end;
            self.pieces.push(Piece { kind: PieceKind::ParagraphBreak, range: end..end });
        }
    }

    fn finish(&mut self, range: Range<usize>) {
        let pieces = std::mem::take(&mut self.pieces);
        self.blocks.push(Block::trimmed(self.text, range, pieces));
    }
}

fn ends_paragraph(tag: TagEnd) -> bool {
    matches!(
        tag,
        TagEnd::Paragraph
            | TagEnd::Heading(_)
            | TagEnd::Item
            | TagEnd::TableCell
            | TagEnd::BlockQuote(_)
            | TagEnd::FootnoteDefinition
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prose(text: &str) -> Vec<Vec<&str>> {
        super::super::blocks(text, crate::analysis::Format::Markdown)
            .iter()
            .map(|block| block.texts().map(|piece| &text[piece.range.clone()]).collect())
            .collect()
    }

    #[test]
    fn code_html_and_addresses_are_not_prose() {
        let text = "---\ntitle: teh front\n---\n\n# A *heading*\n\nUse `teh code` or <https://teh.example>, \
                    see [the link](http://teh.target \"teh title\") &amp; ![teh alt](i.png) <b>end</b>.\n\n\
                    ```rust\nlet teh = 1;\n```\n\n    teh indented\n\n<div>\nteh html\n</div>\n";
        assert_eq!(
            prose(text),
            [vec!["A ", "heading"], vec!["Use ", " or ", ", see ", "the link", " ", " ", " ", "end", "."]]
        );
    }

    #[test]
    fn lists_quotes_and_tables_are_one_block_of_several_paragraphs() {
        let text = "- one\n- two\n  still two\n\n> quoted\n> text\n\n| a | b |\n|---|---|\n| c | d |\n";
        let blocks = blocks(text);
        assert_eq!(prose(text), [vec!["one", "two", "still two"], vec!["quoted", "text"], vec!["a", "b", "c", "d"]]);
        let breaks = |block: &Block| block.pieces.iter().filter(|p| p.kind == PieceKind::ParagraphBreak).count();
        assert_eq!(blocks.iter().map(breaks).collect::<Vec<_>>(), [2, 1, 4]);
    }

    #[test]
    fn a_byte_order_mark_and_crlf_keep_ranges_right() {
        let text = "\u{feff}# Head\r\n\r\nFirst\r\nsecond.\r\n";
        assert_eq!(prose(text), [vec!["Head"], vec!["First", "second."]]);
    }

    #[test]
    fn ten_thousand_levels_are_read() {
        assert!(prose(&format!("{}deep", ">".repeat(10_000))).len() <= 1);
        assert!(prose(&format!("{}deep", "- ".repeat(10_000))).len() <= 1);
    }
}
