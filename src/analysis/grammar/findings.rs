//! From the engine's findings in a block to what is shown: which are kept, where they lie in UTF-16, what they say.

use std::{cmp::Reverse, collections::BTreeMap};

use harper_core::{
    Dialect, Span,
    linting::{Lint, Suggestion},
    spell::Dictionary,
};

use super::{
    Checked,
    engine::Passage,
    guard::{BlockParser, GuardedDictionary},
    rules::{self, Label, SPELLING},
};
use crate::analysis::{
    result::{Context, Match, Replacement},
    text::{Block, is_end},
};

/// Characters shown on each side of a finding.
const CONTEXT_CHARS: usize = 40;

/// Replacements kept of one finding; the best come first.
const MAX_REPLACEMENTS: usize = 5;

/// A block as the engine has read it.
pub struct Reading<'a> {
    pub passage: Passage<'a>,
    pub parser: &'a BlockParser,
    /// The block's characters.
    pub source: &'a [char],
    pub dictionary: &'a GuardedDictionary,
}

/// The findings of a block, with offsets from its start; of many the first `limit`.
pub fn checked(reading: &Reading, lints: BTreeMap<String, Vec<Lint>>, limit: usize) -> Checked {
    let source = reading.source;
    let mut found: Vec<Finding> = lints
        .into_iter()
        .flat_map(|(rule, lints)| lints.into_iter().map(move |lint| (rule.clone(), lint)))
        .filter(|(_, lint)| lint.span.start <= lint.span.end && lint.span.end <= source.len())
        .filter(|(rule, lint)| is_trusted(reading, rule, lint))
        .filter_map(|(rule, lint)| Finding::new(rule, lint, reading))
        .collect();
    resolve_overlaps(&mut found);
    let dropped = found.len().saturating_sub(limit);
    found.truncate(limit);
    if found.is_empty() {
        return Checked::default();
    }
    let utf16 = Utf16::new(source);
    let matches = found.into_iter().map(|finding| finding.shown(reading, &utf16)).collect();
    Checked { matches, dropped: dropped as u32, other_language: false }
}

/// Rules that are right only where a sentence really begins, or where all of a paragraph is seen.
fn is_trusted(reading: &Reading, rule: &str, lint: &Lint) -> bool {
    let Reading { passage: Passage { text, block, .. }, source, .. } = *reading;
    match rule {
        "SentenceCapitalization" => {
            let bytes: usize = source[..lint.span.start].iter().map(|c| c.len_utf8()).sum();
            begins_sentence(text, block, block.range.start + bytes)
        }
        // ". . ." is an ellipsis.
        "Spaces" => lint.span.start == 0 || source[lint.span.start - 1] != '.' || lint.span.len() > 1,
        "UnclosedQuotes" => !block.continues && !block.continued,
        _ => true,
    }
}

/// Whether a whole sentence begins at `at`: no list item or title, no rest after an abbreviation.
fn begins_sentence(text: &str, block: &Block, at: usize) -> bool {
    if at == block.range.start {
        return !block.continues && text[block.range.clone()].contains(['.', '!', '?', '…']);
    }
    let Some(piece) = block.texts().find(|piece| piece.range.contains(&at)) else { return false };
    is_end(text[piece.range.start..at].trim_end_matches(|c: char| c.is_whitespace() || "“‘\"'([".contains(c)))
}

/// A finding that is shown unless another one is in its way.
struct Finding {
    rule: String,
    lint: Lint,
    found: String,
    replacements: Vec<String>,
    label: Label,
}

impl Finding {
    /// `None` for what is no mistake on a closer look.
    fn new(rule: String, lint: Lint, reading: &Reading) -> Option<Self> {
        let Reading { source, parser, dictionary, .. } = *reading;
        let span = lint.span;
        let found: String = source[span.start..span.end].iter().collect();
        if rule == SPELLING && is_no_word(&found, dictionary) {
            return None;
        }
        let mut replacements: Vec<String> = Vec::new();
        for suggestion in &lint.suggestions {
            let value: String = match suggestion {
                Suggestion::ReplaceWith(chars) => chars.iter().collect(),
                Suggestion::InsertAfter(chars) => found.chars().chain(chars.iter().copied()).collect(),
                Suggestion::Remove => String::new(),
            };
            // Some rules take a line end inside a name for a mistake.
            if found.contains('\n') && value.split_whitespace().eq(found.split_whitespace()) {
                return None;
            }
            if value != found && replacements.len() < MAX_REPLACEMENTS && !replacements.contains(&value) {
                replacements.push(value);
            }
        }
        // A replacement for words with markup between them would remove that.
        if !parser.is_within_prose(span) {
            replacements.clear();
        }
        let is_foreign = rule == SPELLING && dictionary.contains_word_str(&found);
        let label = rules::label(&rule, lint.lint_kind, &found, replacements.first().map(String::as_str), is_foreign);
        Some(Self { rule, lint, found, replacements, label })
    }

    fn shown(self, reading: &Reading, utf16: &Utf16) -> Match {
        let source = reading.source;
        let span = self.lint.span;
        let around = around(source, span);
        let message = self.message(reading.passage.dialect);
        Match {
            offset: utf16.at(span.start),
            length: utf16.at(span.end) - utf16.at(span.start),
            message,
            short_message: self.label.short.into(),
            replacements: self.replacements.into_iter().map(|value| Replacement { value }).collect(),
            rule: self.label.rule(self.rule),
            context: Context {
                text: source[around.start..around.end].iter().collect(),
                offset: utf16.at(span.start) - utf16.at(around.start),
                length: utf16.at(span.end) - utf16.at(span.start),
            },
        }
    }

    fn message(&self, dialect: Dialect) -> String {
        let Self { found, label, .. } = self;
        match self.replacements.first() {
            _ if self.rule != SPELLING => unmarked(&self.lint.message),
            Some(best) if label.is_casing() => format!("“{found}” is written “{best}”."),
            Some(best) if label.is_regional() => format!("In {dialect:?} English, “{found}” is spelled “{best}”."),
            Some(best) => format!("“{found}” looks misspelled. Did you mean “{best}”?"),
            None => format!("“{found}” is not in the dictionary."),
        }
    }
}

/// Names in code, initials and acronyms: the dictionary cannot know them.
fn is_no_word(found: &str, dictionary: &GuardedDictionary) -> bool {
    let letters: Vec<char> = found.chars().filter(|c| c.is_alphabetic()).collect();
    let upper = letters.iter().filter(|c| c.is_uppercase()).count();
    let slipped_shift = upper == 2 && letters[..2].iter().all(|c| c.is_uppercase()) && letters.len() > 3;
    let shouted = upper == letters.len() && upper > 0;
    found.chars().any(|c| c.is_numeric())
        || letters.len() < 2
        || (shouted && (letters.len() <= 5 || dictionary.contains_word_str(found)))
        || (!shouted && !slipped_shift && letters.iter().skip(1).any(|c| c.is_uppercase()))
}

/// Of findings that overlap, mistakes come before matters of style; then the first one stays, then the longest, then
/// the one the engine holds more important.
fn resolve_overlaps(found: &mut Vec<Finding>) {
    found.sort_by(|a, b| {
        let order =
            |one: &Finding| (one.label.is_style(), one.lint.span.start, Reverse(one.lint.span.end), one.lint.priority);
        order(a).cmp(&order(b)).then_with(|| a.rule.cmp(&b.rule))
    });
    // By their starts; none overlap. A finding without length takes its place as well.
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    found.retain(|one| {
        let (start, end) = (one.lint.span.start, one.lint.span.end.max(one.lint.span.start + 1));
        let free = taken.range(..end).next_back().is_none_or(|(_, before)| *before <= start);
        if free {
            taken.insert(start, end);
        }
        free
    });
    found.sort_by_key(|one| one.lint.span.start);
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
    if !plain.ends_with(['.', '!', '?', '…']) {
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
