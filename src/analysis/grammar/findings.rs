//! From the engine's findings in a block to what is shown: which are kept, where they lie in UTF-16, what they say.

use std::{cmp::Reverse, collections::BTreeMap};

use harper_core::{
    Span,
    linting::{Lint, Suggestion},
};

use super::{Checked, guard::BlockParser, rules};
use crate::analysis::{
    result::{Context, Match, Replacement},
    text::{Block, PieceKind, sentences},
};

/// Characters shown on each side of a finding.
const CONTEXT_CHARS: usize = 40;

/// Replacements kept of one finding; the best come first.
const MAX_REPLACEMENTS: usize = 5;

/// The findings of a block, with offsets from its start.
pub fn checked(
    text: &str,
    block: &Block,
    parser: &BlockParser,
    source: &[char],
    lints: BTreeMap<String, Vec<Lint>>,
    limit: usize,
) -> Checked {
    let mut found: Vec<(String, Lint)> = lints
        .into_iter()
        .flat_map(|(rule, lints)| lints.into_iter().map(move |lint| (rule.clone(), lint)))
        .filter(|(_, lint)| lint.span.start <= lint.span.end && lint.span.end <= source.len())
        .filter(|(rule, lint)| is_trusted(text, block, source, rule, lint))
        .collect();
    // Of findings that overlap the first one stays, then the longest, then the one the engine holds more important.
    found.sort_by(|(a_rule, a), (b_rule, b)| {
        let order = |lint: &Lint| (lint.span.start, Reverse(lint.span.end), lint.priority);
        order(a).cmp(&order(b)).then_with(|| a_rule.cmp(b_rule))
    });
    let mut end = 0;
    found.retain(|(_, lint)| {
        let free = lint.span.start >= end;
        end = if free { lint.span.end.max(lint.span.start + 1) } else { end };
        free
    });
    let dropped = found.len().saturating_sub(limit);
    found.truncate(limit);
    if found.is_empty() {
        return Checked::default();
    }
    let utf16 = Utf16::new(source);
    let matches = found.iter().map(|(rule, lint)| shown(rule, lint, source, parser, &utf16)).collect();
    Checked { matches, dropped: dropped as u32, other_language: false }
}

/// Rules that are right only where a sentence really begins, or where all of a paragraph is seen.
fn is_trusted(text: &str, block: &Block, source: &[char], rule: &str, lint: &Lint) -> bool {
    match rule {
        "SentenceCapitalization" => {
            let bytes: usize = source[..lint.span.start].iter().map(|c| c.len_utf8()).sum();
            begins_sentence(text, block, block.range.start + bytes)
        }
        "UnclosedQuotes" | "LongSentences" => !block.continues && !block.continued,
        _ => true,
    }
}

/// Whether a whole sentence begins at `at`: no list item or title, no rest after an abbreviation.
fn begins_sentence(text: &str, block: &Block, at: usize) -> bool {
    let Some(index) = block.pieces.iter().position(|piece| piece.range.contains(&at)) else { return false };
    let piece = &block.pieces[index];
    let prose = &text[piece.range.clone()];
    let at = at - piece.range.start;
    let all = sentences(prose);
    let Some(nth) = all.iter().position(|sentence| sentence.contains(&at)) else { return false };
    let sentence = &prose[all[nth].clone()];
    let first_letter = sentence.find(char::is_alphanumeric).map(|first| all[nth].start + first);
    let begins_piece_rightly = match index.checked_sub(1).map(|before| block.pieces[before].kind) {
        None => !block.continues,
        Some(before) => before == PieceKind::ParagraphBreak,
    };
    let ends = sentence.trim_end().trim_end_matches(['"', '\'', '”', '’', ')']).ends_with(['.', '!', '?', '…']);
    first_letter == Some(at) && ends && (nth > 0 || begins_piece_rightly)
}

fn shown(rule: &str, lint: &Lint, source: &[char], parser: &BlockParser, utf16: &Utf16) -> Match {
    let span = lint.span;
    let found: String = source[span.start..span.end].iter().collect();
    let mut replacements: Vec<Replacement> = Vec::new();
    // A replacement for words with markup between them would remove that.
    for suggestion in lint.suggestions.iter().filter(|_| parser.is_within_prose(span)) {
        let value = match suggestion {
            Suggestion::ReplaceWith(chars) => chars.iter().collect(),
            Suggestion::InsertAfter(chars) => found.chars().chain(chars.iter().copied()).collect(),
            Suggestion::Remove => String::new(),
        };
        let new = value != found && replacements.iter().all(|known| known.value != value);
        if new && replacements.len() < MAX_REPLACEMENTS {
            replacements.push(Replacement { value });
        }
    }
    let (described, short_message) = rules::describe(rule, lint.lint_kind);
    let around = around(source, span);
    Match {
        offset: utf16.at(span.start),
        length: utf16.at(span.end) - utf16.at(span.start),
        message: message(rule, lint, &found, &replacements),
        short_message,
        replacements,
        rule: described,
        context: Context {
            text: source[around.start..around.end].iter().collect(),
            offset: utf16.at(span.start) - utf16.at(around.start),
            length: utf16.at(span.end) - utf16.at(span.start),
        },
    }
}

fn message(rule: &str, lint: &Lint, found: &str, replacements: &[Replacement]) -> String {
    if rule != "SpellCheck" {
        return unmarked(&lint.message);
    }
    match replacements {
        [] => format!("“{found}” is not in the dictionary."),
        [best, ..] => format!("“{found}” looks misspelled. Did you mean “{}”?", best.value),
    }
}

/// The engine's messages are Markdown; readers of ours see plain text.
fn unmarked(message: &str) -> String {
    let mut plain = String::with_capacity(message.len());
    let mut open = false;
    for c in message.trim().chars() {
        match c {
            '`' => {
                plain.push(if open { '”' } else { '“' });
                open = !open;
            }
            '*' => {}
            _ => plain.push(c),
        }
    }
    if !plain.ends_with(['.', '!', '?', '…', '”', '"']) {
        plain.push('.');
    } else if plain.ends_with('”') {
        plain.push('.');
    }
    plain
}

/// The finding and some whole words before and after it.
fn around(source: &[char], span: Span<char>) -> Span<char> {
    let earliest = span.start.saturating_sub(CONTEXT_CHARS);
    let start = match earliest {
        0 => 0,
        _ => (earliest..span.start).find(|at| source[at - 1].is_whitespace()).unwrap_or(earliest),
    };
    let latest = (span.end + CONTEXT_CHARS).min(source.len());
    let end = match latest {
        _ if latest == source.len() => latest,
        _ => (span.end..=latest).rev().find(|at| source[*at].is_whitespace()).unwrap_or(latest),
    };
    Span::new(start, end)
}

/// From positions in characters to positions in UTF-16 code units.
struct Utf16 {
    /// The position of every character; `None` when all are of one unit.
    positions: Option<Vec<u32>>,
}

impl Utf16 {
    fn new(source: &[char]) -> Self {
        let wide = source.iter().any(|c| c.len_utf16() > 1);
        let positions = wide.then(|| {
            let mut at = 0;
            let starts = source.iter().map(|c| {
                let start = at;
                at += c.len_utf16() as u32;
                start
            });
            let mut positions: Vec<u32> = starts.collect();
            positions.push(at);
            positions
        });
        Self { positions }
    }

    fn at(&self, char_position: usize) -> u32 {
        self.positions.as_ref().map_or(char_position as u32, |positions| positions[char_position])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_plain_sentences() {
        assert_eq!(unmarked("Did you mean `a`?"), "Did you mean “a”?");
        assert_eq!(unmarked("Use `an` instead of `a`"), "Use “an” instead of “a”.");
        assert_eq!(unmarked("A *strong* hint. "), "A strong hint.");
    }

    #[test]
    fn context_is_whole_words() {
        let source: Vec<char> = format!("{} found {}", "before ".repeat(20), "after ".repeat(20)).chars().collect();
        let at = source.iter().collect::<String>().find("found").unwrap();
        let around = around(&source, Span::new(at, at + 5));
        let text: String = source[around.start..around.end].iter().collect();
        assert!(text.starts_with("before ") && text.ends_with("after") && text.len() > 70, "{text}");
    }
}
