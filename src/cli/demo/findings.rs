//! Grammar findings as people read them. Pure.

use std::collections::HashSet;

use super::{account::Record, page::marked};
use crate::analysis::Match;

/// One finding with its surroundings, without line breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub document: String,
    pub category: String,
    pub before: String,
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
        let flat = |part: &str| part.replace(['\n', '\r', '\t'], " ");
        Some(Self {
            document: document.to_owned(),
            category: finding.rule.category.name.to_string(),
            before: from_word(&flat(text.get(..start)?)).to_owned(),
            found: flat(text.get(start..end)?),
            after: to_word(&flat(text.get(end..)?)).to_owned(),
            replacement: finding.replacements.first().map(|r| r.value.clone()),
            message: finding.message.clone(),
        })
    }

    /// The words around it, with the place marked, and what to write instead.
    pub fn line(&self) -> String {
        let instead = match self.replacement.as_deref() {
            Some("") => "  ->  leave it out".to_owned(),
            Some(text) => format!("  ->  {}", text.replace('\n', " ")),
            None => String::new(),
        };
        format!("...{}{}{}...{instead}", self.before, marked(&self.found), self.after)
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

/// Without the cut word at the beginning.
fn from_word(text: &str) -> &str {
    text.split_once(' ').map_or(text, |(cut, rest)| if rest.trim().is_empty() || cut.is_empty() { text } else { rest })
}

/// Without the cut word at the end.
fn to_word(text: &str) -> &str {
    text.rsplit_once(' ').map_or(text, |(rest, cut)| if rest.trim().is_empty() || cut.is_empty() { text } else { rest })
}

/// At most `most` that say something about the engine: each of another category as long as there are others, each from another
/// document, with a replacement.
pub fn pick(records: &[Record], most: usize) -> Vec<Shown> {
    let all: Vec<(&str, &Match)> = records
        .iter()
        .filter(|record| !record.cached)
        .flat_map(|r| r.analysis.grammar.iter().flat_map(|g| &g.matches).map(|m| (r.document_id.as_str(), m)))
        .filter(|(_, finding)| !finding.replacements.is_empty())
        .collect();
    let (mut documents, mut picked) = (HashSet::new(), Vec::new());
    // First one of each category; the second pass fills up.
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
