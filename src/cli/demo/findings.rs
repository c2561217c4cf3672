//! Grammar findings as people read them. Pure.

use std::{cmp::Reverse, collections::HashSet};

use super::{
    account::Record,
    page::{marked, strong},
};
use crate::analysis::Match;

/// Characters of a change that are shown.
const CHANGE: usize = 40;

/// One finding with its surroundings, without line breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub document: String,
    pub category: String,
    pub before: String,
    /// Whether `before` is the beginning of the text.
    pub is_start: bool,
    pub found: String,
    pub after: String,
    /// `None`: the engine knows none. Empty: it is to be left out.
    pub replacement: Option<String>,
    pub message: String,
}

impl Shown {
    /// `None`: the context is not the part of the text that it says it is.
    pub fn new(document: &str, finding: &Match) -> Option<Self> {
        let text = &finding.context.text;
        let start = byte_at(text, finding.context.offset)?;
        let end = byte_at(text, finding.context.offset + finding.context.length)?;
        let is_start = finding.offset == finding.context.offset;
        let flat = |part: &str| part.replace(['\n', '\r', '\t'], " ");
        Some(Self {
            document: document.to_owned(),
            category: finding.rule.category.name.to_string(),
            before: flat(text.get(..start)?),
            is_start,
            found: flat(text.get(start..end)?),
            after: flat(text.get(end..)?),
            replacement: finding.replacements.first().map(|r| r.value.clone()),
            message: finding.message.clone(),
        })
    }

    /// What is there, and what to write instead.
    pub fn change(&self) -> String {
        let cut = |text: &str| match text.char_indices().nth(CHANGE) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text.replace(['\n', '\r', '\t'], " "),
        };
        let found = cut(&self.found);
        match self.replacement.as_deref() {
            Some("") => format!("leave out {}", strong(found.trim())),
            Some(text) => format!("{found} -> {}", strong(cut(text))),
            None => found,
        }
    }

    /// The words around it, with the place marked.
    pub fn line(&self) -> String {
        let (before, after) = (self.before.trim_start(), self.after.trim_end());
        let head = if self.is_start { "" } else { "..." };
        let tail = if after.ends_with(['.', '!', '?']) { "" } else { "..." };
        format!("{head}{before}{}{after}{tail}", marked(&self.found))
    }
}

/// Where the UTF-16 code unit `offset` lies.
fn byte_at(text: &str, offset: u32) -> Option<usize> {
    let mut units = 0;
    for (byte, c) in text.char_indices() {
        if units == offset {
            return Some(byte);
        }
        units += c.len_utf16() as u32;
    }
    (units == offset).then_some(text.len())
}

/// At most `most` that show what the engine can do: each from another document, those with the most findings first, and of another
/// category as long as there are others.
pub fn pick(records: &[Record], most: usize) -> Vec<Shown> {
    let matches = |r: &&Record| r.analysis.grammar.as_ref().map_or(0, |g| g.matches.len());
    let mut records: Vec<&Record> = records.iter().filter(|record| !record.cached).collect();
    records.sort_by_key(|r| Reverse(matches(r)));
    let all: Vec<(&str, &Match)> = records
        .iter()
        .flat_map(|r| r.analysis.grammar.iter().flat_map(|g| &g.matches).map(|m| (r.document_id.as_str(), m)))
        .filter(|(_, finding)| is_telling(finding))
        .collect();
    let (mut documents, mut picked) = (HashSet::new(), Vec::new());
    // First one of each category; the second pass fills up with other rules.
    for by_category in [true, false] {
        let mut kinds = HashSet::new();
        for (document, finding) in &all {
            let kind = if by_category { &*finding.rule.category.id } else { finding.rule.id.as_str() };
            if picked.len() < most && !documents.contains(document) && kinds.insert(kind) {
                documents.insert(*document);
                picked.extend(Shown::new(document, finding));
            }
        }
    }
    picked
}

/// Whether it explains itself: with a replacement, and not about a name that the dictionary does not know.
fn is_telling(finding: &Match) -> bool {
    let start = byte_at(&finding.context.text, finding.context.offset).unwrap_or_default();
    let is_name = finding.context.text[start..].starts_with(char::is_uppercase) && finding.rule.id == "SpellCheck";
    !is_name && !finding.replacements.is_empty() && finding.rule.category.id != "MISC"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finding(text: &str, offset: u32, length: u32, found_at: u32) -> Match {
        let finding = json!({
            "offset": found_at, "length": length, "message": "m", "shortMessage": "s", "replacements": [{"value": "an"}],
            "rule": {"id": "AnA", "issueType": "grammar", "category": {"id": "GRAMMAR", "name": "Grammar"}},
            "context": {"text": text, "offset": offset, "length": length},
        });
        serde_json::from_value(finding).unwrap()
    }

    #[test]
    fn marks_the_place_behind_emoji() {
        let shown = Shown::new("d", &finding("🚲 is a\nold bike", 6, 1, 6)).unwrap();
        assert_eq!((shown.before.as_str(), shown.found.as_str(), shown.after.as_str()), ("🚲 is ", "a", " old bike"));
        assert!(shown.is_start);
        assert!(!Shown::new("d", &finding("It is a old", 6, 1, 40)).unwrap().is_start);
    }

    #[test]
    fn a_place_outside_of_the_context_shows_nothing() {
        assert_eq!(Shown::new("d", &finding("short", 4, 9, 4)), None);
        assert_eq!(Shown::new("d", &finding("🚲", 1, 1, 1)), None);
    }
}
