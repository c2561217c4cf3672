//! The parts of the benchmark: what is measured how often, and what the figures have to reach.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::{
    ceiling::{ceiling, popping_loop},
    drain::{Case, Cost, Drained, drain},
    grammar::{self, Analysed, median},
    input::{Paragraphs, Shape},
    latency, records,
    report::{Report, Target, number},
    tiers,
    world::{ANALYSIS_THREADS, BATCH, IN_FLIGHT, LIST, STREAM, World},
};

pub struct Sizes {
    tasks: usize,
    rounds: usize,
    latency_seconds: usize,
    analysis_words: usize,
    analysis_repeats: usize,
    /// Backlogs and how often each is drained.
    backlogs: [(usize, usize); 3],
}

pub const FULL: Sizes = Sizes {
    tasks: 200_000,
    rounds: 3,
    latency_seconds: 20,
    analysis_words: 60_000,
    analysis_repeats: 25,
    backlogs: [(10_000, 5), (100_000, 3), (1_000_000, 1)],
};

pub const QUICK: Sizes = Sizes {
    tasks: 20_000,
    rounds: 1,
    latency_seconds: 4,
    analysis_words: 8_000,
    analysis_repeats: 5,
    backlogs: [(10_000, 1), (30_000, 1), (100_000, 1)],
};

/// Plain inserts a second of a competent hand-written loop in Python or Node.
const HAND_WRITTEN: f64 = 57_000.0;
const MB: f64 = 1e6;

pub struct Bench {
    world: World,
    sizes: Sizes,
    begin: Instant,
    paragraphs: Option<Paragraphs>,
    /// Peaks with the largest backlog waiting, without the analysis queue.
    drain_peaks: Vec<u64>,
    analysed: Vec<Analysed>,
    starts: Vec<Duration>,
}

impl Bench {
    pub fn new(world: World, sizes: Sizes, tasks: Option<usize>) -> Self {
        let sizes = Sizes { tasks: tasks.unwrap_or(sizes.tasks), ..sizes };
        let begin = Instant::now();
        Self { world, sizes, begin, paragraphs: None, drain_peaks: vec![], analysed: vec![], starts: vec![] }
    }

    fn say(&self, what: &str) {
        eprintln!("[{:>4} s] {what}", self.begin.elapsed().as_secs());
    }

    pub fn machine(&self, report: &mut Report) -> Result<()> {
        let cores = std::thread::available_parallelism()?.get();
        let machine = json!({
            "cores": cores, "batch": BATCH, "inFlight": IN_FLIGHT, "analysisThreads": ANALYSIS_THREADS,
            "writeConcern": "majority, journaled", "tasks": self.sizes.tasks, "rounds": self.sizes.rounds,
        });
        report.raw("settings", machine)
    }

    fn drain(&mut self, case: Case, tasks: usize, keep_documents: bool) -> Result<Drained> {
        let drained = drain(&mut self.world, case, tasks, keep_documents)?;
        self.starts.push(drained.ready_after);
        if tasks == self.sizes.backlogs[2].0 {
            self.drain_peaks.push(drained.peak);
        }
        self.say(&format!("{} x {tasks}: {}", case.name(), shown(&drained.cost)));
        Ok(drained)
    }

    /// (a) and (b): the worker and the ceiling in turns.
    pub fn throughput(&mut self, report: &mut Report) -> Result<()> {
        let tasks = self.sizes.tasks;
        let mut documents = [(Shape::Distinct, Vec::new()), (Shape::Bursts, Vec::new())];
        let mut pairs: Vec<Vec<(Cost, Cost)>> = Case::ALL.map(|_| Vec::new()).into();
        let mut popping = Vec::new();
        for round in 0..self.sizes.rounds {
            self.say(&format!("(a, b) round {} of {}", round + 1, self.sizes.rounds));
            for (case, pairs) in Case::ALL.into_iter().zip(&mut pairs) {
                let Some((_, kept)) = documents.iter_mut().find(|(shape, _)| *shape == case.shape) else { continue };
                let drained = self.drain(case, tasks, kept.is_empty())?;
                if kept.is_empty() {
                    *kept = drained.documents;
                }
                let bare = ceiling(&mut self.world, case.shape, kept, tasks)?;
                self.say(&format!("  the bare driver: {}", shown(&bare)));
                pairs.push((drained.cost, bare));
            }
            let Some((_, kept)) = documents.first() else { continue };
            let cost = popping_loop(&mut self.world, kept, tasks)?;
            self.say(&format!("pop and insert, nothing else: {}", shown(&cost)));
            popping.push(cost);
        }
        for (case, pairs) in Case::ALL.into_iter().zip(&pairs) {
            let of = |value: fn(&(Cost, Cost)) -> f64| median(pairs.iter().map(value).collect());
            let speed = of(|(worker, _)| worker.tasks_per_second);
            let ratio = of(|(worker, bare)| worker.tasks_per_second / bare.tasks_per_second);
            let bare = of(|(_, bare)| bare.tasks_per_second);
            // With all cores busy the share cannot be more than the quotient of these.
            let (all, all_bare) = (of(|(worker, _)| worker.all_us()), of(|(_, bare)| bare.all_us()));
            let note = format!(
                "{} of {} tasks/s; all processes {} us a task (bare {})",
                number(speed),
                number(bare),
                number(all),
                number(all_bare)
            );
            report.row(
                'a',
                format!("{}: share of the bare driver", case.name()),
                ratio,
                "",
                Target::AtLeast(0.8),
                note,
            );
            let note = format!(
                "bare {}; mongod {} (bare {}), Redis {}; others kept {} cores busy",
                number(of(|(_, bare)| bare.client_us)),
                number(of(|(worker, _)| worker.mongodb_us.unwrap_or(f64::NAN))),
                number(of(|(_, bare)| bare.mongodb_us.unwrap_or(f64::NAN))),
                number(of(|(worker, _)| worker.redis_us.unwrap_or(f64::NAN))),
                number(of(|(worker, _)| worker.other_cores)),
            );
            let cpu = of(|(worker, _)| worker.client_us);
            report.row('a', format!("{}: worker CPU a task", case.name()), cpu, "us", Target::AtMost(8.0), note);
            if case.shape == Shape::Distinct {
                let what = format!("{}: a hand-written loop does {}", case.name(), number(HAND_WRITTEN));
                report.row('a', what, speed, "tasks/s", Target::AtLeast(HAND_WRITTEN), "");
            }
        }
        let speed = median(popping.iter().map(|cost| cost.tasks_per_second).collect());
        let what = "a loop that pops and inserts and does nothing else";
        report.row(
            'b',
            what,
            speed,
            "tasks/s",
            Target::None,
            "no decoding, no lease: loses what it holds when it dies",
        );
        report.raw("popAndInsert", popping)?;
        let raw: Vec<_> = Case::ALL
            .into_iter()
            .zip(&pairs)
            .map(|(case, pairs)| {
                let rounds: Vec<_> =
                    pairs.iter().map(|(worker, bare)| json!({"worker": worker, "bare": bare})).collect();
                json!({"case": case.name(), "rounds": rounds})
            })
            .collect();
        report.raw("throughput", raw)
    }

    /// (r): plain records through the worker and the same writes by the bare driver, in turns.
    pub fn records(&mut self, report: &mut Report) -> Result<()> {
        let tasks = self.sizes.tasks / 2;
        for kind in records::Kind::ALL {
            let mut pairs = Vec::new();
            for _ in 0..self.sizes.rounds {
                let (worker, bare) = records::pair(&mut self.world, kind, tasks)?;
                self.say(&format!("{}: {}; the bare driver: {}", kind.name(), shown(&worker), shown(&bare)));
                pairs.push((worker, bare));
            }
            let of = |value: fn(&(Cost, Cost)) -> f64| median(pairs.iter().map(value).collect());
            let note = format!(
                "{} of {} tasks/s; worker {} us, mongod {} (bare {}), Redis {} a task",
                number(of(|(worker, _)| worker.tasks_per_second)),
                number(of(|(_, bare)| bare.tasks_per_second)),
                number(of(|(worker, _)| worker.client_us)),
                number(of(|(worker, _)| worker.mongodb_us.unwrap_or(f64::NAN))),
                number(of(|(_, bare)| bare.mongodb_us.unwrap_or(f64::NAN))),
                number(of(|(worker, _)| worker.redis_us.unwrap_or(f64::NAN))),
            );
            let ratio = of(|(worker, bare)| worker.tasks_per_second / bare.tasks_per_second);
            let what = format!("{}: share of the bare driver", kind.name());
            report.row('r', what, ratio, "", Target::AtLeast(0.7), note);
            report.raw(kind.name(), pairs)?;
        }
        Ok(())
    }

    /// (c)
    pub fn latency(&mut self, report: &mut Report) -> Result<()> {
        self.say("(c) latency");
        let found = latency::measure(&mut self.world, self.sizes.latency_seconds)?;
        let bare = found.bare_acknowledged;
        let seen = found.bare_visible;
        report.row(
            'c',
            "one bare write: acknowledged, p50",
            bare.p50,
            "ms",
            Target::None,
            format!("p99 {}", number(bare.p99)),
        );
        report.row(
            'c',
            "one bare write: visible, p50",
            seen.p50,
            "ms",
            Target::None,
            format!("p99 {}", number(seen.p99)),
        );
        for (kind, found) in [("list", found.list_visible), ("stream", found.stream_visible)] {
            let note = format!("p50 {}, p95 {}, max {} ms", number(found.p50), number(found.p95), number(found.max));
            let what = format!("{kind}: p50 enqueue to visible, above one bare write");
            report.row('c', what, found.p50 - bare.p50, "ms", Target::AtMost(15.0), note);
            report.row('c', format!("{kind}: p99 enqueue to visible"), found.p99, "ms", Target::AtMost(100.0), "");
        }
        report.raw("latencyMs", found)
    }

    fn paragraphs(&mut self) -> Result<Paragraphs> {
        self.paragraphs.take().map_or_else(Paragraphs::load, Ok)
    }

    fn analyse(&mut self, paragraphs: &Paragraphs, texts: &[String], repeats: usize) -> Result<Analysed> {
        let analysed = grammar::worker(&mut self.world, paragraphs, texts, repeats)?;
        self.starts.push(analysed.ready_after);
        self.analysed.push(analysed.clone());
        Ok(analysed)
    }

    /// (d): the worker and the bare engine in turns.
    pub fn analysis(&mut self, report: &mut Report) -> Result<()> {
        let paragraphs = self.paragraphs()?;
        let texts = grammar::documents(&paragraphs, self.sizes.analysis_words);
        let mut rounds = Vec::new();
        for round in 0..self.sizes.rounds {
            self.say(&format!("(d) round {} of {}: {} documents", round + 1, self.sizes.rounds, texts.len()));
            let analysed = self.analyse(&paragraphs, &texts, self.sizes.analysis_repeats)?;
            self.say(&format!("  worker: {} words/s", number(analysed.words_per_second)));
            let bare = grammar::bare(&texts);
            self.say(&format!("  the bare engine: {} words/s", number(bare)));
            rounds.push((analysed, bare));
        }
        self.paragraphs = Some(paragraphs);
        let of = |value: fn(&(Analysed, f64)) -> f64| median(rounds.iter().map(value).collect());
        let ratio = of(|(worker, bare)| worker.words_per_second / bare);
        let (speed, bare) = (of(|(worker, _)| worker.words_per_second), of(|(_, bare)| *bare));
        let note = format!("{} of {} words/s, {ANALYSIS_THREADS} threads", number(speed), number(bare));
        report.row('d', "analysis: share of the bare engine", ratio, "", Target::AtLeast(0.9), note);
        let whole = of(|(worker, _)| worker.whole * 1e3);
        let of_whole =
            |ms: f64| format!("{} instead of {} ms a document of 2000 words, end to end", number(ms), number(whole));
        let (identical, edited) = (of(|(worker, _)| worker.identical * 1e3), of(|(worker, _)| worker.edited * 1e3));
        let times = of(|(worker, _)| worker.whole / worker.identical);
        report.row('d', "identical content: times faster", times, "x", Target::AtLeast(50.0), of_whole(identical));
        let times = of(|(worker, _)| worker.whole / worker.edited);
        report.row('d', "one paragraph edited: times faster", times, "x", Target::AtLeast(20.0), of_whole(edited));
        let (whole, edited) = (of(|(worker, _)| worker.whole_ms), of(|(worker, _)| worker.edited_ms));
        let note = format!("{} instead of {} ms in the stored timings", number(edited), number(whole));
        report.row('d', "one paragraph edited, engine only", whole / edited, "x", Target::None, note);
        let note = format!(
            "seen before: {} ms; one paragraph edited: {} ms (claim, write and settle included)",
            number(of(|(worker, _)| worker.alone_identical_ms)),
            number(of(|(worker, _)| worker.alone_edited_ms)),
        );
        let alone = of(|(worker, _)| worker.alone_whole_ms);
        report.row('d', "one document of 2000 words alone, push to settled", alone, "ms", Target::None, note);
        let raw: Vec<_> =
            rounds.iter().map(|(worker, bare)| json!({"worker": worker, "bareWordsPerSecond": bare})).collect();
        report.raw("analysis", raw)
    }

    /// (f): what a task costs at growing backlogs.
    pub fn backlogs(&mut self, report: &mut Report) -> Result<()> {
        let backlogs = self.sizes.backlogs;
        let mut raw = Vec::new();
        for case in Case::ALL {
            self.say(&format!("(f) {}", case.name()));
            let mut costs = Vec::new();
            for (tasks, times) in backlogs {
                let mut all = Vec::new();
                for _ in 0..times {
                    all.push(self.drain(case, tasks, false)?.cost);
                }
                let cpu = median(all.iter().map(|cost| cost.client_us).collect());
                let speed = median(all.iter().map(|cost| cost.tasks_per_second).collect());
                costs.push((tasks, cpu, speed));
                raw.push(json!({"case": case.name(), "backlog": tasks, "runs": all}));
            }
            let cpus: Vec<f64> = costs.iter().map(|(_, cpu, _)| *cpu).collect();
            let least = cpus.iter().copied().fold(f64::INFINITY, f64::min);
            let most = cpus.iter().copied().fold(0.0, f64::max);
            let note = costs.iter().map(|(tasks, cpu, speed)| {
                format!("{}: {} us, {} tasks/s", number(*tasks as f64), number(*cpu), number(*speed))
            });
            let what = format!("{}: CPU a task, spread over backlogs", case.name());
            let note = note.collect::<Vec<_>>().join("; ");
            report.row('f', what, (most / least - 1.0) * 100.0, "%", Target::AtMost(15.0), note);
        }
        report.raw("backlogs", raw)
    }

    /// Cached records.
    pub fn tiers(&mut self, report: &mut Report) -> Result<()> {
        self.say("(t) cached records");
        tiers::measure(&mut self.world, report)
    }

    /// (e): peaks and starts seen on the way, or measured now.
    pub fn memory(&mut self, report: &mut Report) -> Result<()> {
        let tasks = self.sizes.backlogs[2].0;
        if self.drain_peaks.is_empty() {
            self.say("(e) memory");
            for queue in [LIST, STREAM] {
                self.drain(Case { queue, shape: Shape::Distinct }, tasks, false)?;
            }
        }
        if self.analysed.is_empty() {
            let paragraphs = self.paragraphs()?;
            let texts = grammar::documents(&paragraphs, self.sizes.analysis_words);
            self.analyse(&paragraphs, &texts, 1)?;
        }
        let peak = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64 / MB);
        let (drains, grammar) =
            (peak(self.drain_peaks.iter().copied().max()), peak(self.analysed.iter().map(|one| one.peak).max()));
        let what = format!("peak memory, {} tasks waiting", number(tasks as f64));
        report.row('e', what, drains, "MB", Target::AtMost(80.0), "resident, no analysis queue");
        let what = format!("peak memory, grammar on {ANALYSIS_THREADS} threads");
        report.row('e', what, grammar, "MB", Target::AtMost(450.0), "resident, after the texts of (d)");
        let starts: Vec<f64> = self.starts.iter().map(Duration::as_secs_f64).collect();
        let worst = starts.iter().copied().fold(0.0, f64::max);
        let note = format!("the slowest of {}; median {} s", starts.len(), number(median(starts.clone())));
        report.row('e', "start to ready", worst, "s", Target::AtMost(3.0), note);
        report.raw("memory", json!({"drainPeaks": self.drain_peaks, "startsSeconds": starts}))
    }
}

/// A cost in one line of the progress.
fn shown(cost: &Cost) -> String {
    format!(
        "{} tasks/s in {:.1} s; us a task: client {}, mongod {}, Redis {}",
        number(cost.tasks_per_second),
        cost.seconds,
        number(cost.client_us),
        number(cost.mongodb_us.unwrap_or(f64::NAN)),
        number(cost.redis_us.unwrap_or(f64::NAN)),
    )
}
