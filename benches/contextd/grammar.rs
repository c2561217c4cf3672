//! Analysis against the bare engine: the same texts, the same number of threads.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures::TryStreamExt;
use harper_core::{
    Dialect, Document,
    linting::{LintGroup, Linter},
    parsers::PlainEnglish,
    spell::FstDictionary,
};
use mongodb::bson::{self, doc};
use serde::Serialize;

use crate::{
    drain::resume_and_wait,
    input::{self, Paragraphs},
    worker::Worker,
    world::{ANALYSIS, ANALYSIS_THREADS, Stage, World},
};

/// Rules that the worker has off by default; the bare engine has the same set.
const OFF: [&str; 4] = ["SplitWords", "OrthographicConsistency", "MassNouns", "QuiteQuiet"];

/// Words of the documents for the comparison of a whole, an identical and an edited one.
const LONG: usize = 2_000;
const WHOLES: usize = 8;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysed {
    pub words_per_second: f64,
    /// Seconds a document of [`LONG`] words with a backlog of such: new, seen before, one paragraph edited.
    pub whole: f64,
    pub identical: f64,
    pub edited: f64,
    /// The worker's own account of the same, from the stored `timings`: median milliseconds.
    pub whole_ms: f64,
    pub edited_ms: f64,
    /// From the push of one such document alone until it is settled, in milliseconds: median.
    pub alone_whole_ms: f64,
    pub alone_identical_ms: f64,
    pub alone_edited_ms: f64,
    pub peak: u64,
    pub ready_after: Duration,
}

/// Distinct documents of 300 to 2,000 words, `words` in all or a little more.
pub fn documents(paragraphs: &Paragraphs, words: usize) -> Vec<String> {
    let (mut texts, mut first, mut count) = (Vec::new(), 0, 0);
    while count < words {
        let size = 300 + input::scatter(texts.len()) as usize % 1_700;
        let (text, used) = paragraphs.text(first, size.min(words - count));
        count += input::word_count(&text);
        first += used;
        texts.push(text);
    }
    texts
}

/// Words per second of the engine alone, paragraph by paragraph.
pub fn bare(texts: &[String]) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let (loaded, done) = (Arc::new(Barrier::new(ANALYSIS_THREADS + 1)), Arc::new(Barrier::new(ANALYSIS_THREADS + 1)));
    let texts: Arc<[String]> = texts.into();
    let threads: Vec<_> = (0..ANALYSIS_THREADS)
        .map(|_| {
            let (next, loaded, done, texts) = (next.clone(), loaded.clone(), done.clone(), texts.clone());
            thread::spawn(move || {
                let dictionary = FstDictionary::curated();
                let mut group = LintGroup::new_curated(dictionary.clone(), Dialect::American);
                for rule in OFF {
                    group.config.set_rule_enabled(rule, false);
                }
                let mut found = 0;
                let mut check = |paragraph: &str| {
                    found += group.lint(&Document::new(paragraph, &PlainEnglish, &dictionary)).len();
                };
                check("This are a smal sentence to begin with, so that nothing is loaded later.");
                loaded.wait();
                while let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    text.split("\n\n").for_each(&mut check);
                }
                done.wait();
                found
            })
        })
        .collect();
    loaded.wait();
    let begin = Instant::now();
    done.wait();
    let seconds = begin.elapsed().as_secs_f64();
    // Findings are counted and looked at, so that nothing is optimized away.
    let found: usize = threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum();
    let words: usize = texts.iter().map(|text| input::word_count(text)).sum();
    if found == 0 { 0.0 } else { words as f64 / seconds }
}

/// The same texts through the worker, then a long document again and edited.
pub fn worker(world: &mut World, paragraphs: &Paragraphs, texts: &[String], repeats: usize) -> Result<Analysed> {
    let stage = world.stage()?;
    let mut worker = Worker::start(&stage, ANALYSIS, &[])?;
    let ready_after = worker.ready_after;
    // The engine loads behind the start, and each of its threads is slow at first.
    let warm: Vec<String> =
        (0..ANALYSIS_THREADS * 4).map(|index| paragraphs.text(900_000 + index * 10, 100).0).collect();
    backlog(world, &stage, &mut worker, "warm", &warm)?;

    let words: usize = texts.iter().map(|text| input::word_count(text)).sum();
    let words_per_second = words as f64 / backlog(world, &stage, &mut worker, "text", texts)?;

    let originals: Vec<String> = (0..WHOLES).map(|index| paragraphs.text(100_000 + index * 200, LONG).0).collect();
    let whole = backlog(world, &stage, &mut worker, "whole", &originals)? / WHOLES as f64;
    let again: Vec<String> = originals.iter().cycle().take(WHOLES * repeats).cloned().collect();
    let identical = backlog(world, &stage, &mut worker, "again", &again)? / again.len() as f64;
    let edits: Vec<String> = (0..WHOLES * repeats)
        .map(|index| edit(&originals[index % WHOLES], &paragraphs.paragraph(200_000 + index)))
        .collect();
    let edited = backlog(world, &stage, &mut worker, "edit", &edits)? / edits.len() as f64;

    let mut alone = [Vec::new(), Vec::new(), Vec::new()];
    for index in 0..5 {
        let new = paragraphs.text(300_000 + index * 200, LONG).0;
        let changed = edit(&new, &paragraphs.paragraph(400_000 + index));
        for (kind, text) in [&new, &new, &changed].into_iter().enumerate() {
            alone[kind].push(one(world, &stage, &mut worker, &format!("one-{index}-{kind}"), text)?);
        }
    }
    let [alone_whole_ms, alone_identical_ms, alone_edited_ms] = alone.map(|times| median(times) * 1e3);
    let (whole_ms, edited_ms) = (stored_ms(world, &stage, "whole")?, stored_ms(world, &stage, "edit")?);
    let peak = worker.peak();
    worker.stop()?;
    world.clear(&stage)?;
    Ok(Analysed {
        words_per_second,
        whole,
        identical,
        edited,
        whole_ms,
        edited_ms,
        alone_whole_ms,
        alone_identical_ms,
        alone_edited_ms,
        peak,
        ready_after,
    })
}

/// Seconds from the first claim of these texts until all are settled.
fn backlog(world: &mut World, stage: &Stage, worker: &mut Worker, name: &str, texts: &[String]) -> Result<f64> {
    stage.pause(&mut world.redis, ANALYSIS)?;
    let events = texts.iter().enumerate().map(|(index, text)| event(name, index, text));
    // A claim under way may not have seen the pause yet.
    thread::sleep(Duration::from_millis(200));
    input::push(&mut world.redis, stage, ANALYSIS, events)?;
    let cost = resume_and_wait(world, stage, ANALYSIS, worker, texts.len())?;
    let filter = doc! {"documentId": {"$regex": format!("^{name}-")}};
    let analyses = world.database(stage).collection::<bson::Document>("analyses");
    let stored = world.runtime.block_on(analyses.count_documents(filter).into_future())?;
    if stored != texts.len() as u64 {
        bail!("{} analyses of \"{name}\" were due, {stored} are there: no figures from wrong results", texts.len());
    }
    Ok(cost.seconds)
}

/// Seconds from the push of a single text until it is settled.
fn one(world: &mut World, stage: &Stage, worker: &mut Worker, name: &str, text: &str) -> Result<f64> {
    let begin = Instant::now();
    input::push(&mut world.redis, stage, ANALYSIS, std::iter::once(event(name, 0, text)))?;
    while !stage.left(&mut world.redis, ANALYSIS)?.is_nothing() {
        worker.check_alive()?;
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("one text was not analysed within a minute; see {}", stage.log.display());
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn event(name: &str, index: usize, text: &str) -> String {
    input::analysis_event(&format!("{name}-{index:06}"), &format!("{name}-{index}"), text)
}

/// `text` with its middle paragraph replaced.
fn edit(text: &str, paragraph: &str) -> String {
    let mut paragraphs: Vec<&str> = text.split("\n\n").collect();
    let middle = paragraphs.len() / 2;
    paragraphs[middle] = paragraph;
    paragraphs.join("\n\n")
}

/// The median of `timings.totalMs` of the documents of one kind.
fn stored_ms(world: &World, stage: &Stage, name: &str) -> Result<f64> {
    let analyses = world.database(stage).collection::<bson::Document>("analyses");
    let filter = doc! {"documentId": {"$regex": format!("^{name}-")}};
    let found: Vec<bson::Document> = world
        .runtime
        .block_on(async { analyses.find(filter).projection(doc! {"timings": 1}).await?.try_collect().await })?;
    let times = found.iter().filter_map(|one| one.get_document("timings").ok()?.get_f64("totalMs").ok());
    Ok(median(times.collect()))
}

/// Of nothing: NaN, which no target is met by.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}
