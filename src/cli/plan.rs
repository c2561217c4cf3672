//! `contextd policy plan`, `apply` and `explain`: what the rules would do, doing that or less, and what becomes of one item.

use std::{fmt::Write, path::PathBuf, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use contextd_jobs::{
    engine::{Engine, Explanation, Plan, PlanError},
    policy::Rule,
};
use indicatif::ProgressBar;
use mongodb::bson::Bson;
use tokio_util::sync::CancellationToken;

use super::{
    failure::{Failure, Printed},
    jobs::identity,
    table,
};
use crate::{
    config::Config,
    lifecycle,
    schedule::{self, ByHand, Outcome, RunOutcome, RunReport},
    store::Store,
};

#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Only this rule; may be given several times
    #[arg(long)]
    pub rule: Vec<String>,
    /// Write the plan to this file, for `policy apply`
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print one JSON document, without the single items
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// A file that `policy plan --out` wrote
    pub file: PathBuf,
    /// Go on although a rule is over its cap
    #[arg(long)]
    pub over_cap: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// What it is: "document", "session", "version", "user", or the name of a collection
    pub kind: String,
    pub id: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Says what the rules would do now, and changes nothing.
///
/// # Errors
/// There is no such rule; a store cannot be reached; the file cannot be written.
pub async fn plan(
    args: &PlanArgs,
    config: &Config,
    store: &Store,
    stop: CancellationToken,
) -> Result<Printed, Failure> {
    let rules = chosen(config, &args.rule)?;
    let world = lifecycle::world(config).map_err(Failure::Configuration)?;
    let engine = Engine { world: &world, settings: &config.jobs.retention.settings };
    let bar = bar("plan");
    let work = async |run: &mut contextd_jobs::Run| {
        let plan = engine.plan(run, &rules).await?;
        if args.out.is_some() {
            engine.keep(run, &plan).await?;
        }
        Ok(plan)
    };
    let how = ByHand { dry_run: true, over_cap: false };
    let ran =
        schedule::run_once(store.database(), identity(config), "policy-plan", how, stop, progress(&bar), work).await;
    bar.finish_and_clear();
    let (report, plan) = ran?;
    let Some(plan) = plan else { return Err(unfinished(&report)) };
    if let Some(file) = &args.out {
        let text = serde_json::to_vec(&plan).map_err(|e| Failure::Internal(format!("the plan: {e}")))?;
        std::fs::write(file, text).map_err(|e| Failure::Usage(format!("{} cannot be written: {e}", file.display())))?;
    }
    if args.json {
        let mut bare = plan.clone();
        bare.rules.iter_mut().for_each(|rule| rule.items.clear());
        return Printed::json(&bare);
    }
    Ok(Printed::text(account(&plan, args.out.as_deref())))
}

/// Does what a plan says to those of its items that are due still.
///
/// # Errors
/// The file is no plan, was changed, or is of another policy or database; a rule is over its cap; a store cannot be
/// reached.
pub async fn apply(
    args: &ApplyArgs,
    config: &Config,
    store: &Store,
    stop: CancellationToken,
) -> Result<Printed, Failure> {
    let text = std::fs::read(&args.file)
        .map_err(|e| Failure::Usage(format!("{} cannot be read: {e}", args.file.display())))?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|e| {
        Failure::Wrong(format!("{} is no plan: {e}: make one with `contextd policy plan --out`", args.file.display()))
    })?;
    let world = lifecycle::world(config).map_err(Failure::Configuration)?;
    let engine = Engine { world: &world, settings: &config.jobs.retention.settings };
    let bar = bar("apply");
    let work = async |run: &mut contextd_jobs::Run| match engine.apply(run, &plan).await {
        Ok(()) => Ok(Ok(())),
        Err(PlanError::Refused(why)) => Ok(Err(why)),
        Err(PlanError::Job(e)) => Err(e),
    };
    let how = ByHand { dry_run: false, over_cap: args.over_cap };
    let ran =
        schedule::run_once(store.database(), identity(config), "policy-apply", how, stop, progress(&bar), work).await;
    bar.finish_and_clear();
    let (report, answer) = ran?;
    match answer {
        None => Err(unfinished(&report)),
        Some(Err(why)) => Err(Failure::Wrong(why)),
        Some(Ok(())) if args.json => Printed::json(&report),
        Some(Ok(())) => Ok(Printed::text(applied(&plan, &report.counts))),
    }
}

/// Says which rules will act on one item, when and why, or what keeps it.
///
/// # Errors
/// A store cannot be reached. An item that is not there and never was is found wrong.
pub async fn explain(args: &ExplainArgs, config: &Config, store: &Store) -> Result<Printed, Failure> {
    let collection = collection(&args.kind, config)?;
    let world = lifecycle::world(config).map_err(Failure::Configuration)?;
    let engine = Engine { world: &world, settings: &config.jobs.retention.settings };
    let now = crate::clock::now();
    let run = contextd_jobs::Run::new(store.database(), "policy-explain", now, now, CancellationToken::new(), None);
    let explained = engine.explain(&run, &collection, Bson::from(args.id.as_str())).await.map_err(failed)?;
    let mut printed = if args.json { Printed::json(&explained)? } else { Printed::text(told(&explained)) };
    if !explained.found && explained.tombstone.is_none() {
        printed.wrong = Some(format!("there is no {:?} in `{collection}`, and none was purged", args.id));
    }
    Ok(printed)
}

/// The rules of these names, or all that are enabled.
fn chosen(config: &Config, names: &[String]) -> Result<Vec<Rule>, Failure> {
    let policy = &config.policy;
    if names.is_empty() {
        return Ok(policy.rules.iter().filter(|rule| rule.enabled).cloned().collect());
    }
    let find = |name: &String| {
        policy.rule(name).cloned().ok_or_else(|| {
            let all: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
            Failure::Usage(format!("there is no rule {name:?}: there are {}", all.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// A collection by its name or by what one of its rows is called.
fn collection(kind: &str, config: &Config) -> Result<String, Failure> {
    let plain = kind.replace('-', "_");
    let candidates = match plain.as_str() {
        "version" => vec!["document_versions".to_owned()],
        "analysis" => vec!["analyses".to_owned()],
        _ => vec![plain.clone(), format!("{plain}s")],
    };
    let policy = &config.policy;
    let known = |name: &String| policy.rules.iter().any(|rule| rule.on == *name) || policy.keep.contains_key(name);
    candidates.into_iter().find(known).ok_or_else(|| {
        let mut all: Vec<&str> = policy.rules.iter().map(|rule| rule.on.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        Failure::Usage(format!("nothing is known of {kind:?}: give one of {}", all.join(", ")))
    })
}

/// Hidden where stderr is no terminal.
fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn progress(bar: &ProgressBar) -> impl Fn(&Outcome) + Send + Sync + use<> {
    let bar = bar.clone();
    move |outcome| bar.set_message(format!("examined {}, found {}", outcome.examined, outcome.changed))
}

fn unfinished(report: &RunReport) -> Failure {
    let why = report.error.as_deref().unwrap_or("it was stopped; run it again");
    match report.outcome {
        RunOutcome::Stopped => Failure::NotFinished(format!("{}: {why}", report.job)),
        _ => Failure::Wrong(format!("{}: {why}", report.job)),
    }
}

fn failed(error: contextd_jobs::JobError) -> Failure {
    if error.is_transient() {
        Failure::Unavailable(format!("{error}: check that it runs, and try again"))
    } else {
        Failure::Wrong(error.to_string())
    }
}

fn account(plan: &Plan, file: Option<&std::path::Path>) -> String {
    let mut text = format!(
        "Plan of {} under policy version {} ({}). Nothing was changed.\n",
        time(plan.cutoff),
        plan.policy_version,
        plan.policy_hash.get(..12).unwrap_or_default()
    );
    let mut rows = table::new(&["rule", "action", "due", "oldest", "bytes", "stay", "cap"]);
    for rule in &plan.rules {
        let stay: Vec<String> = rule.left.iter().map(|(why, n)| format!("{n} {why}")).collect();
        rows.add_row([
            rule.rule.clone(),
            rule.action.clone(),
            format!("{} of {}", rule.due, rule.total),
            rule.oldest.map_or_else(String::new, time),
            rule.bytes.to_string(),
            stay.join(", "),
            if rule.over_cap { format!("OVER {}", rule.cap) } else { rule.cap.to_string() },
        ]);
    }
    let _ = writeln!(text, "{rows}");
    for rule in plan.rules.iter().filter(|rule| !rule.sample.is_empty()) {
        let sample: Vec<String> = rule.sample.iter().map(|s| format!("{} ({})", s.id, time(s.date))).collect();
        let _ = writeln!(text, "{}: for instance {}", rule.rule, sample.join(", "));
    }
    for rule in plan.rules.iter().filter(|rule| rule.future + rule.undated > 0) {
        let _ = writeln!(
            text,
            "{}: {} rows have a date in the future and {} have none; no rule ever acts on them",
            rule.rule, rule.future, rule.undated
        );
    }
    if let Some(file) = file {
        let _ = writeln!(
            text,
            "Written to {}: `contextd policy apply {}` does it, or less.",
            file.display(),
            file.display()
        );
    }
    text
}

fn applied(plan: &Plan, counts: &Outcome) -> String {
    let mut rows = table::new(&["rule", "planned", "done", "stayed"]);
    for planned in &plan.rules {
        let Some(done) = counts.rules.get(&planned.rule) else { continue };
        let stay: Vec<String> = done.left.iter().map(|(why, n)| format!("{n} {why}")).collect();
        rows.add_row([planned.rule.clone(), planned.due.to_string(), done.done.to_string(), stay.join(", ")]);
    }
    rows.to_string()
}

fn told(explained: &Explanation) -> String {
    let mut text = format!("{} {}\n", explained.collection, explained.id);
    if let Some(stone) = &explained.tombstone {
        let at = stone.closed_at.or(stone.fenced_at).map_or_else(String::new, time);
        let _ = writeln!(text, "  Rule {} ({}) took it: {} {at}.", stone.rule, stone.action, stone.state);
    }
    if !explained.found {
        let _ = writeln!(text, "  There is no such row now.");
    }
    if let Some(state) = &explained.state {
        let _ = writeln!(text, "  State: {state}.");
    }
    for held in &explained.held_by {
        let _ = writeln!(text, "  Held: {held}.");
    }
    for verdict in &explained.rules {
        let when = match (verdict.applies, verdict.due, verdict.due_at) {
            (true, true, _) => format!("acts with the next run of the job {}", verdict.job),
            (true, false, Some(at)) if at <= explained.at => format!("due since {}, and kept", time(at)),
            (true, false, Some(at)) => format!("not before {}", time(at)),
            (true, false, None) => "never".to_owned(),
            (false, ..) => "is not about it".to_owned(),
        };
        let _ = writeln!(text, "  {} ({}): {when}", verdict.rule, verdict.action);
        for why in &verdict.because {
            let _ = writeln!(text, "    {why}");
        }
    }
    text
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
