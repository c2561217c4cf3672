//! One thread's instance of harper-core, behind its guards.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use harper_core::{Dialect, Document, TokenKind, TokenStringExt, linting::LintGroup, spell::Dictionary};

use super::{
    Checked,
    findings::{self, Reading},
    guard::{BlockParser, GuardedDictionary},
    rules,
};
use crate::analysis::{
    Format, language,
    text::{self, Block},
};

pub const NAME: &str = "harper-core";

/// Rule groups for this many dialects are kept by one thread.
const MAX_GROUPS: usize = 2;

/// After this many clauses and sentences a rule group is made anew. It remembers its findings in each of the last
/// thousands of them, at some 60 kB apiece; making a group takes about as long as checking ten of them.
const UNITS_PER_GROUP: usize = 600;

/// A block needs this many words before it is taken for another language than its text's.
const MIN_FOREIGN_WORDS: usize = 8;

/// What decides the findings, besides the text.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For English without a country.
    pub dialect: Dialect,
    /// Words that are never misspelled.
    pub dictionary: Vec<String>,
    /// Findings kept of one block.
    pub matches_per_block: usize,
}

impl Settings {
    /// All that decides the findings besides text, language and format; changes whenever they could.
    pub fn fingerprint(&self) -> String {
        let Self { dialect, dictionary, matches_per_block } = self;
        let (version, rules) = (harper_core::core_version(), rules::fingerprint());
        format!("{NAME} {version}\n{rules}\n{dialect:?}\n{matches_per_block}\n{dictionary:?}")
    }
}

pub fn version() -> &'static str {
    harper_core::core_version()
}

/// One block, and how to read it.
#[derive(Clone, Copy)]
pub struct Passage<'a> {
    /// The whole text.
    pub text: &'a str,
    /// Of at most [`crate::analysis::text::MAX_BLOCK_CHARS`] characters.
    pub block: &'a Block,
    pub format: Format,
    pub dialect: Dialect,
}

impl<'a> Passage<'a> {
    pub fn source(self) -> &'a str {
        &self.text[self.block.range.clone()]
    }
}

/// Not shared: the engine keeps much of its state per thread, so that it is used on the thread that loaded it.
pub struct Engine {
    settings: Arc<Settings>,
    dictionary: Arc<GuardedDictionary>,
    /// The one used last is the first.
    groups: Vec<Group>,
}

struct Group {
    dialect: Dialect,
    rules: LintGroup,
    units: usize,
}

impl Engine {
    /// Loads dictionary and rules and uses them once, which takes up to two seconds: the first text is not to wait.
    pub fn load(settings: Arc<Settings>) -> Self {
        let dictionary = Arc::new(GuardedDictionary::load(&settings.dictionary));
        let mut engine = Self { settings, dictionary, groups: Vec::new() };
        let (text, format, dialect) =
            ("This are a smal sentence to begin with.", Format::Plain, engine.settings.dialect);
        for block in &text::blocks(text, format) {
            engine.check(Passage { text, block, format, dialect });
        }
        engine
    }

    /// The share of `words` in the dictionary.
    pub fn known_share(&self, words: &[&str]) -> f64 {
        let known = words.iter().filter(|word| self.dictionary.contains_word_str(word)).count();
        known as f64 / words.len().max(1) as f64
    }

    /// Checks one block. `None`: the engine fails on it whatever is left out, and is sound again.
    pub fn check(&mut self, passage: Passage) -> Option<Checked> {
        // The rule counts on a small "s": not worth a panic each time.
        let fragile = ["'S", "’S"].iter().any(|ending| passage.source().contains(ending));
        let mut attempts = [fragile, true].into_iter();
        attempts.find_map(|without_fragile| self.attempt(passage, without_fragile))
    }

    /// Drops the rules, which are made anew when next needed.
    pub fn reset(&mut self) {
        self.groups.clear();
    }

    /// `None` when the engine panicked: its rules may be in any state then, and are made anew.
    fn attempt(&mut self, passage: Passage, without_fragile: bool) -> Option<Checked> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.lint(passage, without_fragile)));
        if outcome.is_err() {
            self.reset();
        }
        outcome.ok()
    }

    fn lint(&mut self, passage: Passage, without_fragile: bool) -> Checked {
        let source: Arc<[char]> = passage.source().chars().collect();
        let parser = BlockParser::new(passage.text, passage.block);
        let document = Document::new_from_chars(source, &parser, &self.dictionary);
        if is_foreign(&document, passage.source()) {
            return Checked { other_language: true, ..Checked::default() };
        }
        let units = document.iter_chunks().count() + document.iter_sentences().count();
        let rules = self.rules(passage.dialect, units);
        rules.config.set_rule_enabled(rules::FRAGILE, !without_fragile);
        // The group remembers findings by characters and configuration, and what those say depends on the format.
        rules.config.set_rule_enabled("contextd: Markdown", passage.format == Format::Markdown);
        let lints = rules.organized_lints(&document);
        let reading = Reading { passage, parser: &parser, source: document.get_source(), dictionary: &self.dictionary };
        findings::checked(&reading, lints, self.settings.matches_per_block)
    }

    /// The rules for a dialect, to be used on `units` clauses and sentences.
    fn rules(&mut self, dialect: Dialect, units: usize) -> &mut LintGroup {
        self.groups.retain(|group| group.units < UNITS_PER_GROUP);
        match self.groups.iter().position(|group| group.dialect == dialect) {
            Some(index) => self.groups[..=index].rotate_right(1),
            None => {
                let mut rules = LintGroup::new_curated(self.dictionary.clone(), dialect);
                rules::configure(&mut rules.config);
                self.groups.truncate(MAX_GROUPS - 1);
                self.groups.insert(0, Group { dialect, rules, units: 0 });
            }
        }
        let group = &mut self.groups[0];
        group.units += units;
        &mut group.rules
    }
}

/// Whether most words are unknown, and the text looks like another language.
fn is_foreign(document: &Document, text: &str) -> bool {
    let (mut words, mut known) = (0, 0);
    for token in document.tokens() {
        if let TokenKind::Word(metadata) = &token.kind {
            words += 1;
            known += usize::from(metadata.is_some());
        }
    }
    words >= MIN_FOREIGN_WORDS && known * 10 < words * 7 && language::guess(text) != "en"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::text::blocks;

    fn settings() -> Arc<Settings> {
        Arc::new(Settings { dialect: Dialect::American, dictionary: vec![], matches_per_block: 100 })
    }

    fn checked(engine: &mut Engine, text: &str, dialect: Dialect) -> Checked {
        let format = Format::Plain;
        engine.check(Passage { text, block: &blocks(text, format)[0], format, dialect }).expect("the engine failed")
    }

    #[test]
    fn a_panic_costs_one_rule_of_one_block() {
        let mut engine = Engine::load(settings());
        let (text, format, dialect) = ("THERE'S CHANGES in the file, and teh rest.", Format::Plain, Dialect::American);
        let passage = Passage { text, block: &blocks(text, format)[0], format, dialect };
        assert!(engine.attempt(passage, false).is_none(), "it panicked no longer");
        assert!(engine.groups.is_empty());
        assert_eq!(checked(&mut engine, text, dialect).matches.len(), 1);
        assert_eq!(checked(&mut engine, "There is apples here.", dialect).matches[0].rule.id, rules::FRAGILE);
    }

    #[test]
    fn a_group_is_used_for_a_while() {
        let mut engine = Engine::load(settings());
        let text = "One, two. ".repeat(UNITS_PER_GROUP / 8);
        let mut units = Vec::new();
        for _ in 0..4 {
            checked(&mut engine, &text, Dialect::American);
            units.push(engine.groups[0].units);
        }
        assert_eq!(engine.groups.len(), 1);
        assert!(
            units.iter().all(|units| *units < 2 * UNITS_PER_GROUP) && units.windows(2).any(|pair| pair[0] > pair[1]),
            "{units:?}"
        );
    }

    #[test]
    fn dialects_differ_and_few_are_kept() {
        let mut engine = Engine::load(settings());
        let text = "The colour of the harbour was grey that evening.";
        assert!(!checked(&mut engine, text, Dialect::American).matches.is_empty());
        assert_eq!(checked(&mut engine, text, Dialect::British).matches, []);
        assert_eq!(checked(&mut engine, text, Dialect::Australian).matches, []);
        assert_eq!(engine.groups.len(), MAX_GROUPS);
        assert_eq!(engine.groups[0].dialect, Dialect::Australian);
    }

    #[test]
    fn a_block_in_another_language_is_left_alone() {
        let mut engine = Engine::load(settings());
        let text = "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann sehr schnell davon.";
        assert!(checked(&mut engine, text, Dialect::American).other_language);
    }
}
