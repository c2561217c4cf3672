//! `make bench`: the worker against the bare drivers and the bare engine, in one run, on the services that
//! CONTEXTD_REDIS__URL and CONTEXTD_MONGODB__URI name. Each run has a namespace and a database of its own.
//!
//! Worker and ceiling take turns, so that what changes in the machine meanwhile hits both; ratios are medians.

mod ceiling;
mod drain;
mod grammar;
mod input;
mod latency;
mod parts;
mod proc;
mod records;
mod report;
mod tiers;
mod worker;
mod world;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, ValueEnum};

use parts::Bench;
use report::Report;

/// The worker's allocator, so that the bare engine is measured under the same conditions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Drain throughput (with its ceiling, b)
    A,
    /// The ceiling (with a)
    B,
    /// Enqueue-to-visible latency
    C,
    /// Analysis words per second
    D,
    /// Peak memory and start
    E,
    /// Backlogs of 10k, 100k and 1M tasks
    F,
    /// Plain records against the bare driver
    R,
    /// Cached records: reads by tier, a stampede, writes of values
    Tiers,
}

/// Measures contextd on the services that the environment names.
#[derive(Parser)]
#[command(name = "contextd-bench")]
struct Options {
    /// Small sizes, one round: about a minute, for a first look
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Tasks of the drains that are set against the ceiling
    #[arg(long)]
    tasks: Option<usize>,
    /// Where the JSON goes [default: bench/contextd.json in Cargo's target folder]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    // Cargo's folder for this is `tmp` in the target folder.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let output = target.parent().unwrap_or(target).join("bench");
    let json = options.json.clone().unwrap_or_else(|| output.join("contextd.json"));
    let sizes = if options.quick { parts::QUICK } else { parts::FULL };
    let mut bench = Bench::new(world::World::connect(output)?, sizes, options.tasks);
    let mut report = Report::default();
    let outcome = run(&options, &mut bench, &mut report);
    // What was measured before a failure is worth having.
    report.print();
    report.write(&json)?;
    println!("{}", json.display());
    outcome
}

fn run(options: &Options, bench: &mut Bench, report: &mut Report) -> Result<()> {
    bench.machine(report)?;
    if options.wants(Part::A) || options.wants(Part::B) {
        bench.throughput(report)?;
    }
    if options.wants(Part::C) {
        bench.latency(report)?;
    }
    if options.wants(Part::D) {
        bench.analysis(report)?;
    }
    if options.wants(Part::R) {
        bench.records(report)?;
    }
    if options.wants(Part::F) {
        bench.backlogs(report)?;
    }
    if options.wants(Part::E) {
        bench.memory(report)?;
    }
    if options.wants(Part::Tiers) {
        bench.tiers(report)?;
    }
    Ok(())
}
