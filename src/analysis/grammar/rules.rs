//! Which rules run, and where their findings belong. The engine's own grouping is too coarse for readers: it files
//! the indefinite article under "miscellaneous".

use harper_core::linting::{FlatConfig, LintKind};

use crate::analysis::result::{Category, Rule};

/// Counts up when this file changes what is found or said, so that results cached before are not used after.
pub const REVISION: u32 = 1;

/// Off. The first four are wrong more often than right on correct text. The others are matters of taste, which the
/// next author settles otherwise.
const OFF: &[&str] = &[
    "SplitWords",
    "OrthographicConsistency",
    "MassNouns",
    "QuiteQuiet",
    "Excellent",
    "Freezing",
    "LongSentences",
    "OxfordComma",
    "Starving",
    "UseEllipsisCharacter",
    "UseTitleCase",
];

/// The rule that compares words with the dictionary.
pub const SPELLING: &str = "SpellCheck";

/// The one rule that is known to make the engine fail; left out when a block is tried again.
pub const FRAGILE: &str = "ThereIsAgreement";

pub fn configure(config: &mut FlatConfig) {
    for rule in OFF {
        config.set_rule_enabled(rule, false);
    }
}

/// Says all that this module decides.
pub fn fingerprint() -> String {
    format!("{REVISION}:{}", OFF.join(","))
}

/// Where a finding belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    category: (&'static str, &'static str),
    issue_type: &'static str,
    /// A few words that say what kind of mistake it is.
    pub short: &'static str,
}

impl Label {
    pub fn rule(self, id: String) -> Rule {
        let (category, name) = self.category;
        let category = Category { id: category.into(), name: name.into() };
        Rule { id, issue_type: self.issue_type.into(), category }
    }

    pub fn is_style(self) -> bool {
        self.issue_type == STYLE.issue_type
    }

    pub fn is_casing(self) -> bool {
        self == CASING
    }

    pub fn is_regional(self) -> bool {
        self == REGIONALISMS
    }
}

const fn kind(id: &'static str, name: &'static str, issue_type: &'static str, short: &'static str) -> Label {
    Label { category: (id, name), issue_type, short }
}

const TYPOS: Label = kind("TYPOS", "Possible Typo", "misspelling", "Spelling mistake");
const GRAMMAR: Label = kind("GRAMMAR", "Grammar", "grammar", "Grammar mistake");
const AGREEMENT: Label = kind("GRAMMAR", "Grammar", "grammar", "Agreement");
const CONFUSED: Label = kind("CONFUSED_WORDS", "Commonly Confused Words", "grammar", "Confused words");
const COMPOUNDING: Label = kind("COMPOUNDING", "Compounding", "misspelling", "One word or two");
const CASING: Label = kind("CASING", "Capitalization", "typographical", "Capitalization");
const PUNCTUATION: Label = kind("PUNCTUATION", "Punctuation", "typographical", "Punctuation");
const TYPOGRAPHY: Label = kind("TYPOGRAPHY", "Typography", "typographical", "Typography");
const STYLE: Label = kind("STYLE", "Style", "style", "Style");
const REDUNDANCY: Label = kind("REDUNDANCY", "Redundant Phrases", "style", "Redundant phrase");
const REGIONALISMS: Label = kind("REGIONALISMS", "Regionalisms", "locale-violation", "Regional usage");
const COLLOCATIONS: Label = kind("COLLOCATIONS", "Collocations", "grammar", "Unusual combination");
const REPETITION: Label = kind("GRAMMAR", "Grammar", "duplication", "Repeated word");
const MISC: Label = kind("MISC", "Miscellaneous", "uncategorized", "Possible mistake");

/// The label of what `rule` found, with its best replacement. `regional`: the dictionary has the word, but for another
/// country.
pub fn label(rule: &str, lint_kind: LintKind, found: &str, best: Option<&str>, regional: bool) -> Label {
    let letters =
        |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let recased = best.is_some_and(|best| best.to_lowercase() == found.to_lowercase());
    match by_id(rule) {
        Some(label) => label,
        None if rule == SPELLING && recased => CASING,
        None if rule == SPELLING && regional => REGIONALISMS,
        None if lint_kind != LintKind::Miscellaneous => by_kind(lint_kind),
        // Under "miscellaneous" the engine has several hundred phrases, of a few kinds.
        None if recased => CASING,
        None if best.is_some_and(|best| letters(best) == letters(found)) => COMPOUNDING,
        None if found.chars().all(|c| c.is_uppercase()) => STYLE,
        None => MISC,
    }
}

/// Rules that the engine files elsewhere, or under "miscellaneous".
fn by_id(id: &str) -> Option<Label> {
    Some(match id {
        "AnA" | "AnAnother" | "AnotherAn" | "Didnt" | "DidPast" | "DespiteOf" | "NotOnlyInversion"
        | "CriteriaPhenomena" | "AmountsFor" | "AfterLater" | "ThisTypeOfThing" | "TheHowWhy" | "DoubleModal" => {
            GRAMMAR
        }
        "RepeatedWords" | "ToTo" | "ThatThis" => REPETITION,
        "SentenceCapitalization" | "CapitalizePersonalPronouns" | "UseTitleCase" => CASING,
        "Cant"
        | "ToTwoToo"
        | "ThenThan"
        | "ThesesThese"
        | "ThingThink"
        | "ThoughThought"
        | "LetsConfusion"
        | "BellowBelow"
        | "FindFine"
        | "APart"
        | "AWhile"
        | "NounVerbConfusion"
        | "TheyreConfusions"
        | "TheirToThere"
        | "TheirToTheyre"
        | "ThereToTheir"
        | "TheyreToTheir"
        | "ItsContraction"
        | "ItsPossessive"
        | "PossessiveYour"
        | "WereWhere"
        | "PronounContraction"
        | "ApartFrom"
        | "ModalOf"
        | "ToLoseTooLoose"
        | "TooTo"
        | "SafeToSave"
        | "SaveToSafe"
        | "YourPredicateAdjective" => CONFUSED,
        "Spaces" | "NoFrenchSpaces" | "UseEllipsisCharacter" | "EllipsisLength" | "Dashes" | "QuoteSpacing" => {
            TYPOGRAPHY
        }
        "AvoidCurses" => kind("OFFENSIVE", "Offensive Language", "style", "Offensive word"),
        _ => return None,
    })
}

fn by_kind(kind: LintKind) -> Label {
    match kind {
        LintKind::Spelling | LintKind::Typo => TYPOS,
        LintKind::Agreement => AGREEMENT,
        LintKind::Grammar | LintKind::Nonstandard | LintKind::WordOrder => GRAMMAR,
        LintKind::Eggcorn | LintKind::Malapropism => CONFUSED,
        LintKind::WordChoice | LintKind::Usage => COLLOCATIONS,
        LintKind::BoundaryError => COMPOUNDING,
        LintKind::Capitalization => CASING,
        LintKind::Punctuation => PUNCTUATION,
        LintKind::Formatting => TYPOGRAPHY,
        LintKind::Enhancement | LintKind::Readability | LintKind::Style => STYLE,
        LintKind::Redundancy => REDUNDANCY,
        LintKind::Regionalism => REGIONALISMS,
        LintKind::Repetition => REPETITION,
        LintKind::Miscellaneous => MISC,
    }
}
