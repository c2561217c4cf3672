//! Which rules run, and where their findings belong. The engine's own grouping is too coarse for readers: it files
//! the indefinite article under "miscellaneous".

use std::borrow::Cow;

use harper_core::linting::{FlatConfig, LintKind};

use crate::analysis::result::{Category, Rule};

/// Counts up when this file changes what is found or said, so that results cached before are not used after.
pub const REVISION: u32 = 1;

/// Off: on correct text they are wrong more often than right.
const OFF: &[&str] = &["SplitWords", "OrthographicConsistency", "MassNouns", "QuiteQuiet"];

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

struct Kind {
    category: (&'static str, &'static str),
    issue_type: &'static str,
    short: &'static str,
}

const fn kind(id: &'static str, name: &'static str, issue_type: &'static str, short: &'static str) -> Kind {
    Kind { category: (id, name), issue_type, short }
}

const TYPOS: Kind = kind("TYPOS", "Possible Typo", "misspelling", "Spelling mistake");
const GRAMMAR: Kind = kind("GRAMMAR", "Grammar", "grammar", "Grammar mistake");
const AGREEMENT: Kind = kind("GRAMMAR", "Grammar", "grammar", "Agreement");
const CONFUSED: Kind = kind("CONFUSED_WORDS", "Commonly Confused Words", "grammar", "Confused words");
const COMPOUNDING: Kind = kind("COMPOUNDING", "Compounding", "misspelling", "One word or two");
const CASING: Kind = kind("CASING", "Capitalization", "typographical", "Capitalization");
const PUNCTUATION: Kind = kind("PUNCTUATION", "Punctuation", "typographical", "Punctuation");
const TYPOGRAPHY: Kind = kind("TYPOGRAPHY", "Typography", "typographical", "Typography");
const STYLE: Kind = kind("STYLE", "Style", "style", "Style");
const REDUNDANCY: Kind = kind("REDUNDANCY", "Redundant Phrases", "style", "Redundant phrase");
const REGIONALISMS: Kind = kind("REGIONALISMS", "Regionalisms", "locale-violation", "Regional usage");
const COLLOCATIONS: Kind = kind("COLLOCATIONS", "Collocations", "grammar", "Unusual combination");
const REPETITION: Kind = kind("GRAMMAR", "Grammar", "duplication", "Repeated word");
const MISC: Kind = kind("MISC", "Miscellaneous", "uncategorized", "Possible mistake");

/// The rule as results show it, and a few words that say what kind of mistake it is about.
pub fn describe(id: &str, lint_kind: LintKind) -> (Rule, Cow<'static, str>) {
    let kind = by_id(id).unwrap_or_else(|| by_kind(lint_kind));
    let (category, name) = kind.category;
    let rule = Rule {
        id: id.to_owned(),
        issue_type: kind.issue_type.into(),
        category: Category { id: category.into(), name: name.into() },
    };
    (rule, kind.short.into())
}

/// Rules that the engine files elsewhere, or under "miscellaneous".
fn by_id(id: &str) -> Option<Kind> {
    Some(match id {
        "SpellCheck" => TYPOS,
        "AnA" | "AnAnother" | "AnotherAn" | "Didnt" | "DidPast" | "DespiteOf" | "NotOnlyInversion"
        | "CriteriaPhenomena" | "AmountsFor" | "AfterLater" | "ThisTypeOfThing" | "TheHowWhy" | "DoubleModal" => {
            GRAMMAR
        }
        "RepeatedWords" | "ToTo" | "ThatThis" => REPETITION,
        "SentenceCapitalization" | "CapitalizePersonalPronouns" | "UseTitleCase" => CASING,
        "Cant" | "ToTwoToo" | "ThenThan" | "ThesesThese" | "ThingThink" | "ThoughThought" | "LetsConfusion"
        | "BellowBelow" | "FindFine" | "APart" | "AWhile" | "NounVerbConfusion" | "TheyreConfusions"
        | "TheirToThere" | "TheirToTheyre" | "ThereToTheir" | "TheyreToTheir" | "ItsContraction" | "ItsPossessive"
        | "PossessiveYour" | "WereWhere" | "PronounContraction" | "Addicting" | "ApartFrom" => CONFUSED,
        "Spaces" | "NoFrenchSpaces" | "UseEllipsisCharacter" | "EllipsisLength" | "Dashes" | "QuoteSpacing" => {
            TYPOGRAPHY
        }
        "AvoidCurses" => kind("OFFENSIVE", "Offensive Language", "style", "Offensive word"),
        _ => return None,
    })
}

fn by_kind(kind: LintKind) -> Kind {
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
