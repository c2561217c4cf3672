//! `contextd demo --show DOCUMENT`: what the newest analysis of a document says.

use super::{
    account::Record,
    findings::Shown,
    page::{Page, count, strong},
};
use crate::{
    cli::failure::{Failure, Printed},
    store::Store,
};

/// # Errors
/// There is none, or MongoDB cannot be asked.
pub async fn show(document: &str, json: bool, store: &Store) -> Result<Printed, Failure> {
    let Some(found) = store.newest_analysis(document).await? else {
        let text = format!(
            "there is no analysis of {document:?} yet: does a worker run? `contextd queues` shows what waits, `contextd dead list` what was given up"
        );
        return Err(Failure::Wrong(text));
    };
    if json {
        return Printed::json(&found);
    }
    let record = Record::read(found)
        .ok_or_else(|| Failure::Wrong(format!("the analysis of {document:?} is not as contextd writes it")))?;
    let mut page = Page::new();
    describe(&mut page, &record);
    Ok(Printed::text(page.finish()))
}

fn describe(page: &mut Page, record: &Record) {
    let analysis = &record.analysis;
    let version = record.version_number.map_or(String::new(), |n| format!(", version {n}"));
    page.line(&format!("{}{version}  ({})", strong(&record.document_id), record.id));
    let timings = &analysis.timings;
    let how = if record.cached {
        "answered from the cache".to_owned()
    } else {
        let blocks = timings.blocks;
        format!(
            "{} of {} computed in {:.1} ms",
            blocks.computed,
            count(u64::from(blocks.total), "block"),
            timings.total_ms
        )
    };
    page.line(&format!(
        "language {}, {} {}, {how}",
        analysis.language.code, analysis.engine.name, analysis.engine.version
    ));
    if let Some(s) = &analysis.statistics {
        let (words, sentences) = (count(u64::from(s.words), "word"), count(u64::from(s.sentences), "sentence"));
        page.line(&format!("{words}, {sentences}, {} s to read", s.reading_time_seconds));
    }
    if let Some(r) = &analysis.readability {
        page.line(&format!("reading ease {:.0}, grade {:.0}", r.flesch_reading_ease, r.flesch_kincaid_grade));
    }
    if let Some(reason) = &analysis.grammar_skipped {
        page.para("no grammar: ", reason);
    }
    let Some(grammar) = &analysis.grammar else { return };
    page.heading(&count(grammar.matches.len() as u64, "finding"));
    for shown in grammar.matches.iter().filter_map(|m| Shown::new(&record.document_id, m)) {
        page.line(&format!("  {} ({})", shown.change(), shown.category));
        page.para("    ", &shown.line());
        page.para("    ", &shown.message);
    }
}
