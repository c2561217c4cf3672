//! The account as text.

use super::{
    account::{Account, Dead, Record, ended},
    aged, findings,
    page::{Page, bad, count, good, strong},
};
use crate::{
    cli::table,
    metrics::{Ledger, Outcome},
    store::{ANALYSES, DEAD_LETTERS, TYPING_CONTEXTS},
    task::Priority,
};

const FINDINGS: usize = 6;

pub fn account(page: &mut Page, account: &Account) {
    received(page, account);
    outcomes(page, account);
    landed(page, account);
    grammar(page, account);
    reuse(page, account);
    texts(page, account);
    dead_letters(page, account);
    pace(page, account);
    if let Some(lifecycle) = &account.lifecycle {
        aged::render(page, lifecycle);
    }
    verdict(page, account);
}

fn received(page: &mut Page, account: &Account) {
    let tasks: u64 = account.pushed.iter().map(|p| p.tasks).sum();
    page.heading(&format!("What was pushed to Redis: {tasks} tasks"));
    let mut table = table::new(&["queue", "kind", "critical", "high", "normal", "low", "tasks"]);
    for pushed in &account.pushed {
        let of = |p: Priority| pushed.priorities.map_or("-".to_owned(), |all| all[p as usize].to_string());
        let kind = if pushed.priorities.is_some() { "list" } else { "stream" };
        let mut row = vec![pushed.queue.clone(), kind.to_owned()];
        row.extend(Priority::ALL.map(of));
        row.push(pushed.tasks.to_string());
        table.add_row(row);
    }
    table::align_right(&mut table, 2..7);
    page.table(&mut table);
    page.line(&format!("The ids of this run begin with {}.", account.run));
}

fn outcomes(page: &mut Page, account: &Account) {
    page.heading("What became of them");
    let mut heads = vec!["outcome"];
    heads.extend(account.ledgers.keys().map(String::as_str));
    heads.extend(["all", "which means"]);
    let mut table = table::new(&heads);
    let mut row = |name: &str, of: &dyn Fn(&Ledger) -> u64, means: &str| {
        let counts: Vec<u64> = account.ledgers.values().map(of).collect();
        let mut cells = vec![name.to_owned()];
        cells.extend(counts.iter().chain([&counts.iter().sum()]).map(u64::to_string));
        cells.push(means.to_owned());
        table.add_row(cells);
    };
    for outcome in Outcome::ALL {
        row(outcome.as_str(), &|ledger| ended(ledger, *outcome), meaning(*outcome));
    }
    row("returned", &|l| l.returned, "waited for its `notbefore`, then received again");
    row("received", &|l| l.received, "the sum of the above");
    table::align_right(&mut table, 1..heads.len() - 1);
    page.table(&mut table);
    let sum = |of: &dyn Fn(&Ledger) -> u64| account.ledgers.values().map(of).sum::<u64>();
    let parts: Vec<String> = Outcome::ALL.iter().map(|o| account.ended(*o).to_string()).collect();
    let gap: i64 = account.ledgers.values().map(|l| l.gap).sum();
    let verdict = if gap == 0 { good("it adds up") } else { bad(format!("{gap} are missing")) };
    let text = format!(
        "{} received = {} finished + {} returned + {} in flight: {verdict}.",
        sum(&|l| l.received),
        parts.join(" + "),
        sum(&|l| l.returned),
        sum(&|l| l.in_flight),
    );
    page.para("", &text);
    if !account.alone {
        page.para("", "Other tasks were in the queues, or another worker took some: the table is about what this process received.");
    }
}

fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Written => "its effect is in MongoDB, acknowledged by the majority",
        Outcome::Duplicate => "the same event had come before: no second effect",
        Outcome::Superseded => "a newer context of the same session made it moot",
        Outcome::Expired => "its `expirytime` had passed",
        Outcome::Dead => "it can never be done: see the dead letters",
    }
}

fn landed(page: &mut Page, account: &Account) {
    page.heading("Where it landed");
    let mut table = table::new(&["MongoDB collection", "this run", "in all", "one document for each"]);
    for landed in &account.landed {
        let what = match landed.collection {
            ANALYSES => "analysed text",
            TYPING_CONTEXTS => "session that typed in a document: its newest context",
            DEAD_LETTERS => "broken task, with its original bytes",
            _ => "",
        };
        table.add_row([landed.collection, &landed.run.to_string(), &landed.total.to_string(), what]);
    }
    table::align_right(&mut table, 1..3);
    page.table(&mut table);
    page.para("", "Redis has the newest typing contexts as well (30 min) and the analyses as a cache (1 h).");
}

fn grammar(page: &mut Page, account: &Account) {
    let computed = || account.analyses.iter().filter(|r| !r.cached);
    let all: usize = computed().filter_map(|r| Some(r.analysis.grammar.as_ref()?.matches.len())).sum();
    let clean = computed().filter(|r| r.analysis.grammar.as_ref().is_some_and(|g| g.matches.is_empty())).count();
    page.heading(&format!("Grammar: {all} findings, {} without any. Some of them", count(clean as u64, "text")));
    for shown in findings::pick(&account.analyses, FINDINGS) {
        page.line(&format!("  {}: {} ({})", shown.document, shown.change(), shown.category));
        page.para("    ", &shown.line());
    }
}

/// What was not computed because it was known.
fn reuse(page: &mut Page, account: &Account) {
    page.heading("What was not computed twice");
    let first = |of: &Record| {
        let same = |r: &&Record| r.content_hash == of.content_hash && !r.cached;
        account.analyses.iter().find(same)
    };
    if let Some((again, first)) = account.analyses.iter().filter(|r| r.cached).find_map(|r| Some((r, first(r)?))) {
        let text = format!(
            "{} has the very text of {}: answered from the cache in {} instead of {}.",
            strong(&again.document_id),
            first.document_id,
            ms(again.analysis.timings.total_ms),
            ms(first.analysis.timings.total_ms)
        );
        page.para("  ", &text);
    }
    let earlier = |of: &Record| {
        let before = |r: &&Record| r.document_id == of.document_id && r.version_number < of.version_number;
        account.analyses.iter().find(before)
    };
    if let Some((edited, before)) = account.analyses.iter().find_map(|r| Some((r, earlier(r)?))) {
        let (new, old) = (&edited.analysis.timings, &before.analysis.timings);
        let text = format!(
            "{} ({}) after an edit: {} of {} blocks computed, {} instead of {}.",
            strong(&edited.document_id),
            count(u64::from(words(edited)), "word"),
            new.blocks.computed,
            new.blocks.total,
            ms(new.total_ms),
            ms(old.total_ms)
        );
        page.para("  ", &text);
    }
}

fn ms(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

fn words(record: &Record) -> u32 {
    record.analysis.statistics.as_ref().map_or(0, |s| s.words)
}

/// The easiest and the hardest texts, and those that are not English.
fn texts(page: &mut Page, account: &Account) {
    page.heading("Language and readability");
    let ease = |r: &Record| r.analysis.readability.as_ref().map(|r| r.flesch_reading_ease);
    let mut scored: Vec<&Record> = account.analyses.iter().filter(|r| !r.cached && ease(r).is_some()).collect();
    scored.sort_by(|a, b| ease(b).partial_cmp(&ease(a)).unwrap_or(std::cmp::Ordering::Equal));
    let ends = scored.iter().take(2).chain(scored.iter().rev().take(2).rev()).copied();
    let others = account.analyses.iter().filter(|r| !r.cached && ease(r).is_none());
    let mut table = table::new(&["document", "language", "words", "reading ease", "grade", "findings"]);
    let mut reasons = Vec::new();
    for record in ends.chain(others) {
        let analysis = &record.analysis;
        let language =
            format!("{}{}", analysis.language.code, if analysis.language.detected { "" } else { " (given)" });
        let scores = analysis.readability.as_ref();
        let score =
            |of: &dyn Fn(&crate::analysis::Readability) -> f64| scores.map_or("-".into(), |s| format!("{:.0}", of(s)));
        table.add_row([
            record.document_id.clone(),
            language,
            words(record).to_string(),
            score(&|s| s.flesch_reading_ease),
            score(&|s| s.flesch_kincaid_grade),
            analysis.grammar.as_ref().map_or("-".into(), |g| g.matches.len().to_string()),
        ]);
        if let Some(reason) = &analysis.grammar_skipped {
            reasons.push(format!("{}: {reason}", record.document_id));
        }
    }
    table::align_right(&mut table, 2..6);
    page.table(&mut table);
    page.para("", "Reading ease by Flesch (100 is very easy, under 30 hard), grade by Flesch and Kincaid; English of at least 30 words only.");
    for reason in reasons {
        page.para("", &format!("No grammar for {reason}."));
    }
}

fn dead_letters(page: &mut Page, account: &Account) {
    page.heading("The dead letters, and why");
    for Dead { letter, body, .. } in &account.dead_letters {
        let what = letter.event_id.clone().unwrap_or_else(|| format!("(no id) {}", excerpt(body, 40)));
        page.line(&format!("  {} from {}: {}", strong(&letter.reason), letter.queue, what));
        page.para("    ", &excerpt(&letter.error, 400));
    }
}

/// The beginning, without control characters.
fn excerpt(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        shown.push_str("...");
    }
    shown
}

fn pace(page: &mut Page, account: &Account) {
    // When another worker took a part, nothing can be said.
    if account.paces.is_empty() || !account.alone {
        return;
    }
    page.heading("How fast");
    // Each text that was computed, once; the edited one came later.
    let computed = || account.analyses.iter().filter(|r| r.analysis.timings.blocks.cached == 0 && !r.cached);
    let all: u32 = computed().map(words).sum();
    for pace in &account.paces {
        let per_second = pace.tasks as f64 / pace.seconds.max(0.001);
        let digits = if per_second < 10.0 { 1 } else { 0 };
        let mut text = format!("{} tasks in {:.2} s: {per_second:.digits$} tasks/s", pace.tasks, pace.seconds);
        if pace.queue == crate::effect::analyze::QUEUE {
            let speed = f64::from(all) / pace.seconds.max(0.001);
            text.push_str(&format!(", {all} words: {speed:.0} words/s, the loading of the engine included"));
        }
        page.para(&format!("  {:<9} ", pace.queue), &text);
    }
    let build = if cfg!(debug_assertions) { " and a debug build" } else { "" };
    page.para("", &format!("A small sample{build}: `make bench` measures."));
}

fn verdict(page: &mut Page, account: &Account) {
    page.heading("Result");
    if account.problems.is_empty() {
        page.line(&good("  Everything ended as it was meant to."));
    }
    for problem in &account.problems {
        page.para(&bad("  ! "), problem);
    }
}
