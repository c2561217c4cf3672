//! All that is wanted of one text, on one thread.

use std::{sync::Arc, time::Instant};

use harper_core::Dialect;

use super::{
    Analyzer, LanguageTag, Request,
    grammar::{self, BlockCache, CheckTask, Engine, Limits},
    keys::Keys,
    language,
    readability::readability,
    result::{Analysis, EngineInfo, Grammar, Language, Timings},
    statistics::statistics,
    text::{self, Block, Prose},
};

/// What the threads have in common.
pub struct Shared {
    pub settings: Arc<grammar::Settings>,
    pub keys: Keys,
    pub cache: BlockCache,
}

/// Analyzes a text. `share` may hand the check to other threads as well, before this one begins with it.
pub fn analyze(
    request: &Request,
    engine: &mut Engine,
    shared: &Shared,
    limits: Limits,
    share: impl Fn(&Arc<CheckTask>),
) -> Analysis {
    let begin = Instant::now();
    let blocks = text::blocks(&request.text, request.format);
    let prose = Prose::new(&request.text, &blocks);
    let language = language_of(request, &prose, engine);
    let mut analysis = Analysis {
        language,
        engine: EngineInfo { name: grammar::NAME.into(), version: grammar::version().into() },
        grammar: None,
        grammar_skipped: None,
        readability: None,
        statistics: None,
        timings: Timings::default(),
    };
    for analyzer in request.analyzers.iter() {
        let begin = Instant::now();
        let time = match analyzer {
            Analyzer::Grammar => {
                match dialect(request, &analysis.language.code, &prose, engine, shared) {
                    Ok(dialect) => {
                        let (found, counts) = check(request, &blocks, dialect, engine, shared, &limits, &share);
                        analysis.grammar = Some(found);
                        analysis.timings.blocks = counts;
                    }
                    Err(reason) => analysis.grammar_skipped = Some(reason),
                }
                &mut analysis.timings.grammar_ms
            }
            Analyzer::Readability => {
                analysis.readability = is_english(&analysis.language.code).then(|| readability(&prose)).flatten();
                &mut analysis.timings.readability_ms
            }
            Analyzer::Statistics => {
                analysis.statistics = Some(statistics(&prose));
                &mut analysis.timings.statistics_ms
            }
        };
        *time = Some(milliseconds(begin));
    }
    analysis.timings.total_ms = milliseconds(begin);
    analysis
}

fn check(
    request: &Request,
    blocks: &[Block],
    dialect: Dialect,
    engine: &mut Engine,
    shared: &Shared,
    limits: &Limits,
    share: impl Fn(&Arc<CheckTask>),
) -> (Grammar, super::result::BlockCounts) {
    let Shared { keys, cache, .. } = shared;
    let task = CheckTask::new(request.text.clone(), blocks, request.format, dialect, limits.clone(), keys, cache);
    let task = Arc::new(task);
    share(&task);
    task.work(engine, cache);
    task.finish()
}

fn language_of(request: &Request, prose: &Prose, engine: &Engine) -> Language {
    match &request.language {
        Some(tag) if tag.primary() != language::UNKNOWN => Language { code: tag.to_string(), detected: false },
        _ => {
            let code = language::detect(&prose.joined(), |words| engine.known_share(words));
            Language { code: code.to_owned(), detected: true }
        }
    }
}

fn is_english(code: &str) -> bool {
    code.split('-').next() == Some("en")
}

/// The English to check the text as, or why it is not checked.
fn dialect(request: &Request, code: &str, prose: &Prose, engine: &Engine, shared: &Shared) -> Result<Dialect, String> {
    if code == language::UNKNOWN {
        // Too short to tell, but a short English sentence is no rarity: see whether its words are English.
        let words: Vec<&str> = prose.sentences().flat_map(text::words).take(200).collect();
        let english = words.is_empty() || engine.known_share(&words) >= 0.5;
        return match english {
            true => Ok(shared.settings.dialect),
            false => Err("no grammar check: the language of the text is unknown".to_owned()),
        };
    }
    if !is_english(code) {
        return Err(format!("no grammar engine for language {code:?}"));
    }
    Ok(match request.language.as_ref().and_then(LanguageTag::region) {
        Some("US") => Dialect::American,
        Some("GB" | "IE" | "NZ" | "ZA") => Dialect::British,
        Some("CA") => Dialect::Canadian,
        Some("AU") => Dialect::Australian,
        Some("IN") => Dialect::Indian,
        _ => shared.settings.dialect,
    })
}

fn milliseconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}
