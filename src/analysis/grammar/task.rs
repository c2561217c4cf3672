//! The check of one text, which several threads can work on.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use harper_core::Dialect;

use super::{BlockCache, Checked, Engine, engine::Passage};
use crate::analysis::{
    keys::{BlockKey, Keys},
    request::Format,
    result::{BlockCounts, Grammar, Match, SkipReason, SkippedBlock, Warnings},
    text::{self, Block},
};

/// Findings kept of one text: a result has to fit into one record.
const MAX_MATCHES: usize = 5_000;

/// Skipped parts listed of one text; those beyond are joined into the last one.
const MAX_SKIPPED: usize = 1_000;

/// When to stop, between two blocks.
#[derive(Clone)]
pub struct Limits {
    pub deadline: Instant,
    /// Nobody waits for the result any more.
    pub cancelled: Arc<AtomicBool>,
}

/// A text's blocks and what is known of them so far.
pub struct CheckTask {
    text: Arc<str>,
    format: Format,
    dialect: Dialect,
    blocks: Vec<(Block, BlockKey)>,
    /// Indexes of the blocks to compute.
    missing: Vec<usize>,
    next: AtomicUsize,
    limits: Limits,
    progress: Mutex<Progress>,
    finished: Condvar,
}

struct Progress {
    /// One of each block.
    results: Vec<Option<Result<Arc<Checked>, SkipReason>>>,
    matches: usize,
    computed: usize,
    /// Blocks of `missing` that have their result.
    finished: usize,
}

impl CheckTask {
    /// Divides the text and takes from the cache what is there.
    pub fn new(
        text: Arc<str>,
        blocks: &[Block],
        format: Format,
        dialect: Dialect,
        limits: Limits,
        keys: &Keys,
        cache: &BlockCache,
    ) -> Self {
        let variant = format!("{dialect:?}");
        let blocks: Vec<_> = text::bounded(&text, blocks)
            .into_iter()
            .map(|block| {
                let key = keys.block_key(&text, &block, format, &variant);
                (block, key)
            })
            .collect();
        let results: Vec<_> = blocks.iter().map(|(_, key)| cache.get(key).map(Ok)).collect();
        let missing = (0..blocks.len()).filter(|index| results[*index].is_none()).collect();
        let matches = results.iter().flatten().flatten().map(|checked| checked.matches.len()).sum();
        let progress = Mutex::new(Progress { results, matches, computed: 0, finished: 0 });
        Self {
            text,
            format,
            dialect,
            blocks,
            missing,
            next: AtomicUsize::new(0),
            limits,
            progress,
            finished: Condvar::new(),
        }
    }

    /// Blocks that no thread has taken yet.
    pub fn untaken(&self) -> usize {
        self.missing.len().saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Takes block after block until none is left. Any number of threads may do so at once.
    pub fn work(&self, engine: &mut Engine, cache: &BlockCache) {
        while let Some(&index) = self.missing.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let key = &self.blocks[index].1;
            let (result, computed) = match (self.stop(), cache.get(key)) {
                (Some(reason), _) => (Err(reason), false),
                // The same paragraph stands further up, or in another text.
                (None, Some(checked)) => (Ok(checked), false),
                (None, None) => (self.check(index, engine, cache), true),
            };
            let mut progress = self.progress();
            progress.matches += result.as_ref().map_or(0, |checked| checked.matches.len());
            progress.computed += usize::from(computed && result.is_ok());
            progress.results[index] = Some(result);
            progress.finished += 1;
            if progress.finished == self.missing.len() {
                self.finished.notify_all();
            }
        }
    }

    fn check(&self, index: usize, engine: &mut Engine, cache: &BlockCache) -> Result<Arc<Checked>, SkipReason> {
        let (block, key) = &self.blocks[index];
        let passage = Passage { text: &self.text, block, format: self.format, dialect: self.dialect };
        let checked = Arc::new(engine.check(passage).ok_or(SkipReason::EngineFailure)?);
        cache.insert(*key, checked.clone());
        Ok(checked)
    }

    fn stop(&self) -> Option<SkipReason> {
        if self.limits.cancelled.load(Ordering::Relaxed) || Instant::now() >= self.limits.deadline {
            Some(SkipReason::TimeLimit)
        } else {
            (self.progress().matches >= MAX_MATCHES).then_some(SkipReason::TooManyMatches)
        }
    }

    /// Waits for the blocks that other threads have taken, and puts everything together. To be called after
    /// [`CheckTask::work`].
    pub fn finish(&self) -> (Grammar, BlockCounts) {
        let progress = self
            .finished
            .wait_while(self.progress(), |progress| progress.finished < self.missing.len())
            .unwrap_or_else(PoisonError::into_inner);
        let mut grammar = Grammar::default();
        let mut skipped = 0;
        let mut position = Position::default();
        let mut before = None;
        for ((block, _), result) in self.blocks.iter().zip(&progress.results) {
            let offset = position.utf16(&self.text, block.range.start);
            let end = position.utf16(&self.text, block.range.end);
            // `wait_while` has waited for all results.
            let Some(result) = result else { continue };
            let reason = match result {
                Ok(checked) => {
                    add(&mut grammar, checked, offset);
                    checked.other_language.then_some(SkipReason::OtherLanguage)
                }
                Err(reason) => {
                    skipped += 1;
                    Some(*reason)
                }
            };
            if let Some(reason) = reason {
                let joins = before == Some(reason);
                skip(&mut grammar.warnings, SkippedBlock { offset, length: end - offset, reason }, joins);
            }
            before = reason;
        }
        if grammar.matches.len() > MAX_MATCHES {
            let dropped = grammar.matches.split_off(MAX_MATCHES).len();
            grammar.warnings.dropped_matches += dropped as u32;
        }
        let warnings = &mut grammar.warnings;
        warnings.incomplete_results |= warnings.dropped_matches > 0;
        let total = self.blocks.len() as u32;
        let computed = progress.computed as u32;
        let counts = BlockCounts { total, computed, cached: total - computed - skipped, skipped };
        (grammar, counts)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Nothing can panic between two changes that belong together.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(grammar: &mut Grammar, checked: &Checked, offset: u32) {
    grammar
        .matches
        .extend(checked.matches.iter().map(|found| Match { offset: found.offset + offset, ..found.clone() }));
    grammar.warnings.dropped_matches += checked.dropped;
}

/// Neighbours skipped for the same reason are listed as one.
fn skip(warnings: &mut Warnings, block: SkippedBlock, joins: bool) {
    warnings.incomplete_results |= block.reason != SkipReason::OtherLanguage;
    let full = warnings.skipped_blocks.len() >= MAX_SKIPPED;
    match warnings.skipped_blocks.last_mut() {
        Some(last) if joins || full => last.length = block.offset + block.length - last.offset,
        _ => warnings.skipped_blocks.push(block),
    }
}

/// Counts UTF-16 code units along the text, once.
#[derive(Default)]
struct Position {
    byte: usize,
    utf16: u32,
}

impl Position {
    /// The offset of the character at `byte`, which must not lie before the last one asked for.
    fn utf16(&mut self, text: &str, byte: usize) -> u32 {
        let passed = &text[self.byte..byte];
        self.utf16 += if passed.is_ascii() { passed.len() } else { passed.chars().map(char::len_utf16).sum() } as u32;
        self.byte = byte;
        self.utf16
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::{super::Settings, *};

    #[test]
    fn two_threads_find_what_one_finds() {
        let text: Arc<str> = (0..60).map(|n| format!("🙂 On day {n} we saw teh house.\n\n")).collect::<String>().into();
        let settings = Settings { dialect: Dialect::American, dictionary: vec![], matches_per_block: 100 };
        let settings = Arc::new(settings);
        let blocks = text::blocks(&text, Format::Plain);
        let check = |threads: usize| {
            let cache = BlockCache::new(1 << 20);
            let limits = Limits { deadline: Instant::now() + Duration::from_secs(60), cancelled: Arc::default() };
            let keys = Keys::new(b"", "");
            let task = CheckTask::new(text.clone(), &blocks, Format::Plain, Dialect::American, limits, &keys, &cache);
            thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(|| task.work(&mut Engine::load(settings.clone()), &cache));
                }
                task.work(&mut Engine::load(settings.clone()), &cache);
                task.finish()
            })
        };
        let (one, counts) = check(1);
        assert_eq!(one.matches.len(), 60);
        assert_eq!(counts, BlockCounts { total: 60, computed: 60, cached: 0, skipped: 0 });
        assert_eq!(check(3), (one, counts));
    }
}
