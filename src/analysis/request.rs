//! What to analyze: the text, how it is marked up, its language and the kinds of analysis wanted.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// One text and what is wanted of it.
#[derive(Debug, Clone)]
pub struct Request {
    pub text: Arc<str>,
    pub format: Format,
    /// The language its author names; `None`: it is detected.
    pub language: Option<LanguageTag>,
    pub analyzers: Analyzers,
}

impl Request {
    /// All analyzers on plain text in a language to be detected.
    pub fn plain(text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), format: Format::Plain, language: None, analyzers: Analyzers::default() }
    }

    /// All analyzers on Markdown in a language to be detected.
    pub fn markdown(text: impl Into<Arc<str>>) -> Self {
        Self { format: Format::Markdown, ..Self::plain(text) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("unknown analyzer {0:?}: use \"grammar\", \"readability\" or \"statistics\"")]
    UnknownAnalyzer(String),
    #[error("unknown content type {0:?}: use \"text/plain\" or \"text/markdown\"")]
    UnknownContentType(String),
    #[error("{0:?} is not a BCP 47 language tag: use for instance \"en\", \"en-GB\" or \"de\"")]
    BadLanguageTag(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Plain,
    Markdown,
}

impl Format {
    /// The media type that names it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain",
            Self::Markdown => "text/markdown",
        }
    }
}

impl FromStr for Format {
    type Err = RequestError;

    /// Parses a media type; parameters such as `charset` are ignored.
    fn from_str(value: &str) -> Result<Self, RequestError> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        [Self::Plain, Self::Markdown]
            .into_iter()
            .find(|format| essence.eq_ignore_ascii_case(format.content_type()))
            .ok_or_else(|| RequestError::UnknownContentType(value.to_owned()))
    }
}

/// One kind of analysis. A new one is an arm here, a file with a pure function, and a field of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Analyzer {
    Grammar,
    Readability,
    Statistics,
}

impl Analyzer {
    pub const ALL: [Self; 3] = [Self::Grammar, Self::Readability, Self::Statistics];

    /// Its name in tasks, results and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grammar => "grammar",
            Self::Readability => "readability",
            Self::Statistics => "statistics",
        }
    }
}

impl FromStr for Analyzer {
    type Err = RequestError;

    fn from_str(value: &str) -> Result<Self, RequestError> {
        Self::ALL
            .into_iter()
            .find(|analyzer| analyzer.name() == value)
            .ok_or_else(|| RequestError::UnknownAnalyzer(value.to_owned()))
    }
}

/// A set of analyzers; by default all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Analyzers(BTreeSet<Analyzer>);

impl Analyzers {
    /// Parses names; their order and repetitions do not matter.
    pub fn from_names<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, RequestError> {
        names.into_iter().map(|name| name.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    pub fn iter(&self) -> impl Iterator<Item = Analyzer> + '_ {
        self.0.iter().copied()
    }

    pub fn contains(&self, analyzer: Analyzer) -> bool {
        self.0.contains(&analyzer)
    }
}

impl Default for Analyzers {
    fn default() -> Self {
        Self(Analyzer::ALL.into())
    }
}

impl FromIterator<Analyzer> for Analyzers {
    fn from_iter<I: IntoIterator<Item = Analyzer>>(analyzers: I) -> Self {
        Self(analyzers.into_iter().collect())
    }
}

/// A well-formed BCP 47 tag, in the usual letter case (`en-GB`, `zh-Hant-TW`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageTag(String);

impl LanguageTag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The language itself, in lower case: `en` of `en-GB`.
    pub fn primary(&self) -> &str {
        self.0.split('-').next().unwrap_or_default()
    }

    /// The country, if the tag has one: `GB` of `en-GB`.
    pub fn region(&self) -> Option<&str> {
        self.0
            .split('-')
            .skip(1)
            .take_while(|part| part.len() > 1)
            .find(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_alphabetic()))
    }
}

impl FromStr for LanguageTag {
    type Err = RequestError;

    fn from_str(value: &str) -> Result<Self, RequestError> {
        let bad = || RequestError::BadLanguageTag(value.chars().take(40).collect());
        let mut tag = String::with_capacity(value.len().min(40));
        for (index, part) in value.split('-').enumerate() {
            let letters = part.bytes().all(|b| b.is_ascii_alphabetic());
            let well_formed = match index {
                0 => letters && (2..=3).contains(&part.len()),
                _ => part.bytes().all(|b| b.is_ascii_alphanumeric()) && (1..=8).contains(&part.len()),
            };
            if !well_formed || index > 8 {
                return Err(bad());
            }
            let mut part = part.to_ascii_lowercase();
            match part.len() {
                2 if index > 0 => part.make_ascii_uppercase(),
                4 if index > 0 && letters => part[..1].make_ascii_uppercase(),
                _ => {}
            }
            if index > 0 {
                tag.push('-');
            }
            tag.push_str(&part);
        }
        Ok(Self(tag))
    }
}

impl fmt::Display for LanguageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_tags_get_their_usual_case() {
        let parse = |tag: &str| tag.parse::<LanguageTag>();
        assert_eq!(parse("EN-gb").unwrap().as_str(), "en-GB");
        assert_eq!(parse("zh-hant-tw").unwrap().as_str(), "zh-Hant-TW");
        assert_eq!(parse("zh-hant-tw").unwrap().region(), Some("TW"));
        assert_eq!(parse("en-x-gb").unwrap().region(), None);
        assert_eq!(parse("de").unwrap().primary(), "de");
        for bad in ["", "e", "english", "en_GB", "en-", "en-toolongpart", "ü", "-en"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn analyzers_are_a_set_of_known_names() {
        let set = Analyzers::from_names(["statistics", "grammar", "grammar"]).unwrap();
        assert_eq!(set.iter().map(Analyzer::name).collect::<Vec<_>>(), ["grammar", "statistics"]);
        let error = Analyzers::from_names(["spelling"]).unwrap_err();
        assert_eq!(error, RequestError::UnknownAnalyzer("spelling".into()));
    }

    #[test]
    fn content_types_may_have_parameters() {
        assert_eq!("Text/Markdown; charset=utf-8".parse(), Ok(Format::Markdown));
        assert!("text/html".parse::<Format>().is_err());
    }
}
