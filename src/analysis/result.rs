//! What an analysis says. Field names are those of the stored document; offsets and lengths count UTF-16 code units.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use super::{readability::Readability, statistics::Statistics};

/// Everything found out about one text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    pub language: Language,
    pub engine: EngineInfo,
    /// `None` when not asked for, or not possible: `grammar_skipped` then has the reason.
    pub grammar: Option<Grammar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar_skipped: Option<String>,
    /// `None` when not asked for, for text that is not English, and for text under 30 words.
    pub readability: Option<Readability>,
    pub statistics: Option<Statistics>,
    pub timings: Timings,
}

impl Analysis {
    /// Whether all of the text was checked and all findings are in the result.
    pub fn is_complete(&self) -> bool {
        self.grammar.as_ref().is_none_or(|grammar| !grammar.warnings.incomplete_results)
    }

    /// Whether the same text would have the same result again, so that it may be kept: no limit of time or size, and
    /// no failure, kept it short. Findings dropped from a block with too many are dropped every time.
    pub fn is_cacheable(&self) -> bool {
        let lasting = |skipped: &SkippedBlock| skipped.reason == SkipReason::OtherLanguage;
        self.grammar.as_ref().is_none_or(|grammar| grammar.warnings.skipped_blocks.iter().all(lasting))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Language {
    /// BCP 47; `und` when the text is too short or its script unknown.
    pub code: String,
    /// Whether it was found out here rather than named by the request.
    pub detected: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    pub name: String,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grammar {
    /// Ordered by offset; they do not overlap.
    pub matches: Vec<Match>,
    pub warnings: Warnings,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warnings {
    /// Some of the text could not be checked, or findings were left out.
    pub incomplete_results: bool,
    /// The parts of the text without findings because they were not checked, in order.
    pub skipped_blocks: Vec<SkippedBlock>,
    /// Findings beyond the limit for one block, which are not in `matches`.
    #[serde(default)]
    pub dropped_matches: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedBlock {
    pub offset: u32,
    pub length: u32,
    pub reason: SkipReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SkipReason {
    /// The time limit for one text was reached.
    TimeLimit,
    /// The limit of findings in one text was reached.
    TooManyMatches,
    /// The engine failed on it, also when tried again without the rule known to fail.
    EngineFailure,
    /// It is in another language than the rest. Does not make the results incomplete.
    OtherLanguage,
}

/// One finding, in the shape of LanguageTool's `/v2/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    pub offset: u32,
    pub length: u32,
    pub message: String,
    pub short_message: Cow<'static, str>,
    /// What could stand there instead, best first. Empty when the engine knows none.
    pub replacements: Vec<Replacement>,
    pub rule: Rule,
    pub context: Context,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub id: String,
    pub issue_type: Cow<'static, str>,
    pub category: Category,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Category {
    pub id: Cow<'static, str>,
    pub name: Cow<'static, str>,
}

/// The words around a finding: an exact part of the text, in which the finding lies at `offset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub text: String,
    pub offset: u32,
    pub length: u32,
}

/// Where the time went, in milliseconds. An analyzer that did not run has none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    pub total_ms: f64,
    /// Waiting for a free thread before that; not part of `total_ms`.
    pub queued_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readability_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics_ms: Option<f64>,
    pub blocks: BlockCounts,
}

/// How the blocks of the text got their findings: `total` is the sum of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockCounts {
    pub total: u32,
    pub computed: u32,
    pub cached: u32,
    pub skipped: u32,
}
