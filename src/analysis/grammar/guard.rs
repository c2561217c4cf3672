//! What stands between a hostile text and the engine: limits on words, so that looking one up stays cheap, and on
//! tokens, so that no rule reads a monster.

use std::{borrow::Cow, sync::Arc};

use harper_core::{
    DictWordMetadata, Span, Token, TokenKind,
    parsers::{Parser, PlainEnglish},
    spell::{CanonicalWordId, Dictionary, FstDictionary, FuzzyMatchResult, MergedDictionary, MutableDictionary},
};

use crate::analysis::text::{Block, PieceKind};

/// Corrections are looked for at most this many edits away. The automaton for 4 edits of a long word needs gigabytes.
const MAX_EDITS: u8 = 2;

/// No correction is looked for of a longer word, in characters.
const MAX_WORD_CHARS: usize = 32;

/// A longer token, in characters, is no word: no rule looks at it.
const MAX_TOKEN_CHARS: usize = 40;

/// The engine's dictionary and the operator's words, with a bound on the cost of a look-up.
#[derive(Clone)]
pub struct GuardedDictionary {
    words: Arc<dyn Dictionary>,
}

impl GuardedDictionary {
    /// Loads the engine's dictionary, which takes up to a second the first time.
    pub fn load(own_words: &[String]) -> Self {
        let curated = FstDictionary::curated();
        if own_words.is_empty() {
            return Self { words: curated };
        }
        let mut own = MutableDictionary::new();
        own.extend_words(own_words.iter().map(|word| (word.chars().collect::<Vec<_>>(), DictWordMetadata::default())));
        let mut merged = MergedDictionary::new();
        merged.add_dictionary(curated);
        merged.add_dictionary(Arc::new(own));
        Self { words: Arc::new(merged) }
    }
}

impl Dictionary for GuardedDictionary {
    fn fuzzy_match(&self, word: &[char], max_distance: u8, max_results: usize) -> Vec<FuzzyMatchResult<'_>> {
        // The spelling rule asks again with a longer distance only when the shorter one found nothing.
        if max_distance > MAX_EDITS || word.len() > MAX_WORD_CHARS {
            return Vec::new();
        }
        self.words.fuzzy_match(word, max_distance, max_results)
    }

    fn fuzzy_match_str(&self, word: &str, max_distance: u8, max_results: usize) -> Vec<FuzzyMatchResult<'_>> {
        if word.chars().nth(MAX_WORD_CHARS).is_some() {
            return Vec::new();
        }
        self.fuzzy_match(&word.chars().collect::<Vec<_>>(), max_distance, max_results)
    }

    fn contains_word(&self, word: &[char]) -> bool {
        self.words.contains_word(word)
    }

    fn contains_word_str(&self, word: &str) -> bool {
        self.words.contains_word_str(word)
    }

    fn contains_exact_word(&self, word: &[char]) -> bool {
        self.words.contains_exact_word(word)
    }

    fn contains_exact_word_str(&self, word: &str) -> bool {
        self.words.contains_exact_word_str(word)
    }

    fn get_correct_capitalization_of(&self, word: &[char]) -> Option<&[char]> {
        self.words.get_correct_capitalization_of(word)
    }

    fn get_correct_capitalizations_of(&self, word: &[char]) -> Box<dyn Iterator<Item = &[char]> + Send + '_> {
        self.words.get_correct_capitalizations_of(word)
    }

    fn get_word_metadata(&self, word: &[char]) -> Option<Cow<'_, DictWordMetadata>> {
        self.words.get_word_metadata(word)
    }

    fn get_word_metadata_str(&self, word: &str) -> Option<Cow<'_, DictWordMetadata>> {
        self.words.get_word_metadata_str(word)
    }

    fn get_word_metadata_exact(&self, word: &[char]) -> Option<&DictWordMetadata> {
        self.words.get_word_metadata_exact(word)
    }

    fn words_iter(&self) -> Box<dyn Iterator<Item = &[char]> + Send + '_> {
        self.words.words_iter()
    }

    fn word_count(&self) -> usize {
        self.words.word_count()
    }

    fn get_word_from_id(&self, id: &CanonicalWordId) -> Option<&[char]> {
        self.words.get_word_from_id(id)
    }

    fn find_words_with_prefix(&self, prefix: &[char]) -> Vec<Cow<'_, [char]>> {
        self.words.find_words_with_prefix(prefix)
    }

    fn find_words_with_common_prefix(&self, word: &[char]) -> Vec<Cow<'_, [char]>> {
        self.words.find_words_with_common_prefix(word)
    }
}

/// Reads a block into tokens: its prose by the engine's rules for English, the rest as what is not to be looked at.
pub struct BlockParser {
    /// The block's pieces, in characters from its start.
    pieces: Vec<(PieceKind, Span<char>)>,
}

impl BlockParser {
    pub fn new(text: &str, block: &Block) -> Self {
        let mut chars = 0;
        let mut at = block.range.start;
        let mut position = |byte: usize| {
            chars += text[at..byte].chars().count();
            at = byte;
            chars
        };
        let pieces = block.pieces.iter().map(|piece| {
            let start = position(piece.range.start);
            (piece.kind, Span::new(start, position(piece.range.end)))
        });
        Self { pieces: pieces.collect() }
    }

    /// Whether `span` lies in prose without a gap, so that replacing it leaves the markup whole.
    pub fn is_within_prose(&self, span: Span<char>) -> bool {
        let mut at = span.start;
        for (kind, piece) in &self.pieces {
            if matches!(kind, PieceKind::Text | PieceKind::LineBreak) && piece.start <= at && at < piece.end {
                at = piece.end;
            }
        }
        at >= span.end
    }
}

impl Parser for BlockParser {
    fn parse(&self, source: &[char]) -> Vec<Token> {
        let mut tokens = Vec::new();
        for (kind, span) in &self.pieces {
            let kind = match kind {
                PieceKind::Text => {
                    prose(source, *span, &mut tokens);
                    continue;
                }
                PieceKind::Opaque => TokenKind::Unlintable,
                PieceKind::LineBreak => TokenKind::Newline(1),
                PieceKind::ParagraphBreak => TokenKind::ParagraphBreak,
                PieceKind::Heading => TokenKind::HeadingStart,
            };
            tokens.push(Token::new(*span, kind));
        }
        // A last break is there for what follows, and here nothing does.
        tokens.pop_if(|last| last.kind == TokenKind::ParagraphBreak);
        tokens
    }
}

/// Adds the tokens of a piece of prose, reading spaces and line ends that the engine does not know as what they are.
fn prose(source: &[char], span: Span<char>, tokens: &mut Vec<Token>) {
    let mut start = span.start;
    let mut at = span.start;
    while at < span.end {
        let (kind, length) = match source[at] {
            '\r' if at + 1 < span.end && source[at + 1] == '\n' => (TokenKind::Newline(1), 2),
            '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => (TokenKind::Newline(1), 1),
            other if other.is_whitespace() && !other.is_ascii() => (TokenKind::Space(1), 1),
            _ => {
                at += 1;
                continue;
            }
        };
        english(source, Span::new(start, at), tokens);
        tokens.push(Token::new(Span::new(at, at + length), kind));
        at += length;
        start = at;
    }
    english(source, Span::new(start, span.end), tokens);
}

fn english(source: &[char], span: Span<char>, tokens: &mut Vec<Token>) {
    let first = tokens.len();
    for mut token in PlainEnglish.parse(&source[span.start..span.end]) {
        token.span.push_by(span.start);
        let blank = matches!(token.kind, TokenKind::Space(_) | TokenKind::Newline(_));
        if token.span.len() > MAX_TOKEN_CHARS && !blank {
            token.kind = TokenKind::Unlintable;
        }
        // The engine breaks words at combining characters and reports the halves: leave the whole word alone.
        let joins = joins_words(source[token.span.start]);
        match tokens[first..].last_mut() {
            Some(last) if joins && is_word_part(last, source) => {
                last.span.end = token.span.end;
                last.kind = TokenKind::Unlintable;
            }
            Some(last) if matches!(token.kind, TokenKind::Word(_)) && joins_words(source[last.span.end - 1]) => {
                last.span.end = token.span.end;
            }
            _ => tokens.push(token),
        }
    }
}

fn is_word_part(token: &Token, source: &[char]) -> bool {
    matches!(token.kind, TokenKind::Word(_)) || token.get_ch(source).iter().any(|c| joins_words(*c))
}

/// Combining marks, and invisible characters inside words.
fn joins_words(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}'
        | '\u{fe20}'..='\u{fe2f}' | '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Format, text::blocks};

    fn tokens(text: &str, format: Format) -> Vec<(String, TokenKind)> {
        let block = &blocks(text, format)[0];
        let source: Vec<char> = text[block.range.clone()].chars().collect();
        let parser = BlockParser::new(text, block);
        parser.parse(&source).into_iter().map(|token| (token.get_str(&source), token.kind)).collect()
    }

    #[test]
    fn monsters_are_not_words() {
        let text = format!("see {} {}", "a".repeat(41), "b".repeat(40));
        let tokens = tokens(&text, Format::Plain);
        let kinds: Vec<_> = tokens.iter().map(|(_, kind)| matches!(kind, TokenKind::Word(_))).collect();
        assert_eq!(kinds, [true, false, false, false, true]);
        let dictionary = GuardedDictionary::load(&[]);
        assert!(dictionary.fuzzy_match_str(&"a".repeat(33), 2, 10).is_empty());
        assert!(!dictionary.fuzzy_match_str("recieve", 2, 10).is_empty());
        assert!(dictionary.fuzzy_match_str("recieve", 3, 10).is_empty());
    }

    #[test]
    fn combining_characters_do_not_tear_words() {
        let tokens = tokens("a re\u{301}sume\u{301} and co\u{ad}op\u{a0}x\r\ny", Format::Plain);
        let words: Vec<_> = tokens.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(
            words,
            ["a", " ", "re\u{301}sume\u{301}", " ", "and", " ", "co\u{ad}op", "\u{a0}", "x", "\r\n", "y"]
        );
        assert_eq!(tokens[2].1, TokenKind::Unlintable);
        assert_eq!(tokens[9].1, TokenKind::Newline(1));
    }

    #[test]
    fn own_words_are_known() {
        let dictionary = GuardedDictionary::load(&["contextd".into()]);
        assert!(dictionary.contains_word_str("contextd") && dictionary.contains_word_str("house"));
        assert!(!GuardedDictionary::load(&[]).contains_word_str("contextd"));
    }
}
