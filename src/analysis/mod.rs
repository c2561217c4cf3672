//! Text analysis: language, grammar, readability and statistics of one text.
//!
//! [`AnalysisPool`] owns the threads; everything else is a pure function of the text, the settings and a deadline.
//! `text` finds the blocks of prose, `grammar` checks them one by one and remembers each, `readability` and
//! `statistics` count, `run` puts it together. All offsets in results count UTF-16 code units of the original text.
//!
//! Deliberately absent: I/O, caches of whole results (see [`Keys`] and [`Analysis::is_cacheable`]), normalization.

pub mod grammar;
mod keys;
mod language;
mod pool;
mod readability;
mod request;
mod result;
mod run;
mod statistics;
pub mod text;

#[cfg(test)]
mod tests;

pub use keys::Keys;
pub use pool::{AnalysisError, AnalysisPool, PoolConfig};
pub use request::{Analyzer, Analyzers, Format, LanguageTag, Request, RequestError};
pub use result::*;
