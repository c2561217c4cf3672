//! One thread's instance of harper-core, behind its guards.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use harper_core::{Dialect, Document, TokenKind, linting::LintGroup, spell::Dictionary};

use super::{
    Checked,
    findings::{self, Reading},
    guard::{BlockParser, GuardedDictionary},
    rules,
};
use crate::analysis::{Format, language, text::Block};

pub const NAME: &str = "harper-core";

/// Rule groups for this many dialects are kept by one thread; each costs some dozens of megabytes.
const MAX_GROUPS: usize = 2;

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

/// Not shared: the engine keeps much of its state per thread, so that it is used on the thread that loaded it.
pub struct Engine {
    settings: Arc<Settings>,
    dictionary: Arc<GuardedDictionary>,
    /// The one used last is the first.
    groups: Vec<(Dialect, LintGroup)>,
}

impl Engine {
    /// Loads dictionary and rules and uses them once, which takes up to two seconds: the first text is not to wait.
    pub fn load(settings: Arc<Settings>) -> Self {
        let dictionary = Arc::new(GuardedDictionary::load(&settings.dictionary));
        let mut engine = Self { settings, dictionary, groups: Vec::new() };
        let text = "This are a smal sentence to begin with.";
        for block in crate::analysis::text::blocks(text, Format::Plain) {
            engine.check(text, &block, Format::Plain, engine.settings.dialect);
        }
        engine
    }

    /// The share of `words` in the dictionary.
    pub fn known_share(&self, words: &[&str]) -> f64 {
        let known = words.iter().filter(|word| self.dictionary.contains_word_str(word)).count();
        known as f64 / words.len().max(1) as f64
    }

    /// Checks one block of at most [`crate::analysis::text::MAX_BLOCK_CHARS`] characters. `None`: the engine fails
    /// on it whatever is left out, and is sound again.
    pub fn check(&mut self, text: &str, block: &Block, format: Format, dialect: Dialect) -> Option<Checked> {
        // The rule counts on a small "s": not worth a panic each time.
        let source = &text[block.range.clone()];
        let fragile = source.contains("'S") || source.contains("’S");
        let mut attempts = [fragile, true].into_iter();
        attempts.find_map(|without_fragile| self.attempt(text, block, format, dialect, without_fragile))
    }

    /// Drops the rules, which are loaded anew when next needed.
    pub fn reset(&mut self) {
        self.groups.clear();
    }

    /// `None` when the engine panicked: its rules may be in any state then, and are loaded anew.
    fn attempt(
        &mut self,
        text: &str,
        block: &Block,
        format: Format,
        dialect: Dialect,
        without_fragile: bool,
    ) -> Option<Checked> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.lint(text, block, format, dialect, without_fragile)));
        if outcome.is_err() {
            self.reset();
        }
        outcome.ok()
    }

    fn lint(&mut self, text: &str, block: &Block, format: Format, dialect: Dialect, without_fragile: bool) -> Checked {
        let source: Arc<[char]> = text[block.range.clone()].chars().collect();
        let parser = BlockParser::new(text, block);
        let document = Document::new_from_chars(source, &parser, &self.dictionary);
        if is_foreign(&document, &text[block.range.clone()]) {
            return Checked { other_language: true, ..Checked::default() };
        }
        let limit = self.settings.matches_per_block;
        let dictionary = self.dictionary.clone();
        let group = self.group(dialect);
        group.config.set_rule_enabled(rules::FRAGILE, !without_fragile);
        // The group remembers findings by characters and configuration, and what those say depends on the format.
        group.config.set_rule_enabled("contextd: Markdown", format == Format::Markdown);
        let lints = group.organized_lints(&document);
        let reading =
            Reading { text, block, parser: &parser, source: document.get_source(), dictionary: &dictionary, dialect };
        findings::checked(&reading, lints, limit)
    }

    fn group(&mut self, dialect: Dialect) -> &mut LintGroup {
        match self.groups.iter().position(|(of, _)| *of == dialect) {
            Some(index) => self.groups[..=index].rotate_right(1),
            None => {
                let mut group = LintGroup::new_curated(self.dictionary.clone(), dialect);
                rules::configure(&mut group.config);
                self.groups.truncate(MAX_GROUPS - 1);
                self.groups.insert(0, (dialect, group));
            }
        }
        &mut self.groups[0].1
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
        engine.check(text, &blocks(text, Format::Plain)[0], Format::Plain, dialect).expect("the engine failed")
    }

    #[test]
    fn a_panic_costs_one_rule_of_one_block() {
        let mut engine = Engine::load(settings());
        let text = "THERE'S CHANGES in the file, and teh rest.";
        let block = &blocks(text, Format::Plain)[0];
        assert!(
            engine.attempt(text, block, Format::Plain, Dialect::American, false).is_none(),
            "it panicked no longer"
        );
        assert!(engine.groups.is_empty());
        assert_eq!(checked(&mut engine, text, Dialect::American).matches.len(), 1);
        assert_eq!(checked(&mut engine, "There is apples here.", Dialect::American).matches[0].rule.id, rules::FRAGILE);
    }

    #[test]
    fn dialects_differ_and_few_are_kept() {
        let mut engine = Engine::load(settings());
        let text = "The colour of the harbour was grey that evening.";
        assert!(!checked(&mut engine, text, Dialect::American).matches.is_empty());
        assert_eq!(checked(&mut engine, text, Dialect::British).matches, []);
        assert_eq!(checked(&mut engine, text, Dialect::Australian).matches, []);
        assert_eq!(engine.groups.len(), MAX_GROUPS);
        assert_eq!(engine.groups[0].0, Dialect::Australian);
    }

    #[test]
    fn a_block_in_another_language_is_left_alone() {
        let mut engine = Engine::load(settings());
        let text = "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann sehr schnell davon.";
        assert!(checked(&mut engine, text, Dialect::American).other_language);
    }
}
