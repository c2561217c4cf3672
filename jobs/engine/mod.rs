//! One engine runs every rule of the policy: it scans, leaves out what is held or guarded, stops at caps, acts under the
//! repeated predicate, and leaves evidence.
//!
//! A run: the clocks are compared ([`clock`]), the policy is the one in force ([`force`]), what an earlier run fenced is
//! brought to its end, no rule is over its cap; then page by page: [`scan`], [`judge`], [`guards`], the action. What an
//! action does to rows is in a file for each; [`take`] is the transaction that they share.

mod anonymize;
mod archive;
pub mod archive_rows;
mod clock;
mod erase;
mod explain;
mod file;
mod force;
mod guards;
mod job;
mod judge;
mod mark;
mod moves;
mod person;
mod plan;
mod prune;
mod purge;
mod replay;
mod rows;
mod scan;
mod sessions;
mod settings;
pub mod sweep;
mod take;
mod throttle;
mod tries;
pub mod unarchive;

use std::time::Instant;

use chrono::{DateTime, Utc};
use mongodb::{
    IndexModel,
    bson::{Bson, Document, doc},
    options::IndexOptions,
};

pub use erase::{ERASE, Erased, Request};
pub use explain::{Explanation, Purged, Verdict};
pub use force::IN_FORCE;
pub use job::{ACTIONS, RulesJob};
pub use judge::{Due, Left};
pub use moves::finish as finish_moves;
pub use person::{CERTIFICATES, Certificate, indexes as person_indexes};
pub use plan::{Item, Plan, PlanError, PlannedRule};
pub use replay::Replayed;
pub use settings::Settings;

use crate::{
    kit::{JobError, PageSize, Run, World, from_bson},
    policy::{Action, Rule},
};
use scan::Scan;
use throttle::Throttle;

/// What an engine runs on.
pub struct Engine<'e> {
    pub world: &'e World,
    pub settings: &'e Settings,
}

/// What an action did to the rows that it was given.
#[derive(Debug, Default)]
pub struct Acted {
    /// So many rows went.
    pub done: u64,
    /// Those that did not, by id, with the reason.
    pub left: Vec<(Bson, Left)>,
}

impl Engine<'_> {
    /// Runs the job's rules to their end, or in a dry run says what they would do. Goes on from `run.resume`.
    pub async fn run(&self, run: &mut Run) -> Result<(), JobError> {
        let rules: Vec<Rule> = self.world.policy.of_job(run.job).cloned().collect();
        self.run_rules(run, &rules).await
    }

    /// The same for these rules.
    pub async fn run_rules(&self, run: &mut Run, rules: &[Rule]) -> Result<(), JobError> {
        if run.stop.is_cancelled() {
            return Err(JobError::Stopped);
        }
        clock::check(run, self.world.policy.skew).await?;
        force::check(run, &self.world.policy).await?;
        run.outcome.policy = Some(format!("{} {}", self.world.policy.version, self.world.policy.hash));
        if !run.dry_run {
            for rule in rules {
                self.resume(run, rule).await?;
            }
        }
        let start = Cursor::read(run.resume.as_ref(), rules);
        // A run that goes on was under its caps when it began.
        if start.is_none() {
            for rule in rules {
                self.check_cap(run, rule).await?;
            }
        }
        let mut throttle = Throttle::new(self.settings);
        let start = start.unwrap_or_default();
        for (at, rule) in rules.iter().enumerate().skip(start.rule) {
            for case in 0..rule.cases.len() {
                let after = match (at == start.rule, case.cmp(&start.case)) {
                    (true, std::cmp::Ordering::Less) => continue,
                    (true, std::cmp::Ordering::Equal) => start.after.clone(),
                    _ => None,
                };
                self.run_case(run, rule, case, after, &mut throttle).await?;
            }
        }
        run.outcome.remaining = Some(if run.dry_run { run.outcome.changed } else { 0 });
        Ok(())
    }

    async fn run_case(
        &self,
        run: &mut Run,
        rule: &Rule,
        case: usize,
        mut after: Option<(Bson, Bson)>,
        throttle: &mut Throttle<'_>,
    ) -> Result<(), JobError> {
        let scan = Scan::new(rule, case, run.now);
        let odd = scan.odd(run, self.world.policy.skew).await?;
        if odd.future + odd.undated > 0 {
            tracing::warn!(
                rule = rule.name,
                future = odd.future,
                undated = odd.undated,
                "rows with odd dates are left"
            );
        }
        let counts = run.outcome.rule(&rule.name);
        counts.future += odd.future;
        counts.undated += odd.undated;
        let also = self.world.caches.cached_by(&rule.on);
        let mut size = PageSize::new(self.settings.page, self.settings.page_time);
        loop {
            run.page(Some(Cursor::write(&rule.name, case, after.as_ref()))).await?;
            if !run.dry_run {
                throttle.wait(run).await?;
            }
            let started = Instant::now();
            let rows = scan.page(run, after.as_ref(), size.rows(), &also).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let place = scan.place(last);
            let examined = rows.len() as u64;
            run.outcome.examined += examined;
            let due = self.judge(run, rule, case, rows).await?;
            if run.dry_run {
                self.note(run, rule, &due);
            } else if !due.is_empty() {
                let acted = self.act(run, rule, due).await?;
                run.outcome.count(rule.action.name(), acted.done);
                run.outcome.rule(&rule.name).done += acted.done;
                self.leave(run, rule, acted.left);
            }
            // Behind what was looked at, gone or not: rows that stay never hold up those behind them.
            after = Some(place);
            size.took(u32::try_from(examined).unwrap_or(u32::MAX), started.elapsed());
            throttle.worked(started.elapsed());
        }
    }

    /// Those of the rows that are due by all that can be seen before the write; the others are counted by reason.
    async fn judge(&self, run: &mut Run, rule: &Rule, case: usize, rows: Vec<Document>) -> Result<Vec<Due>, JobError> {
        let mut due = Vec::with_capacity(rows.len());
        let mut left = Vec::new();
        for row in rows {
            let id = row.get("_id").cloned().unwrap_or(Bson::Null);
            match judge::judge(rule, case, row, run.now) {
                Ok(item) => due.push(item),
                Err(reason) => left.push((id, reason)),
            }
        }
        let guarded = guards::check(run, self.world, rule, due).await?;
        left.extend(guarded.left);
        self.leave(run, rule, left);
        Ok(guarded.due)
    }

    fn leave(&self, run: &mut Run, rule: &Rule, left: Vec<(Bson, Left)>) {
        run.outcome.held += left.iter().filter(|(_, why)| *why == Left::Held).count() as u64;
        let counts = run.outcome.rule(&rule.name);
        for (_, why) in left {
            // Found among dates: a list of dates, for instance.
            if why == Left::Undated {
                counts.undated += 1;
                continue;
            }
            *counts.left.entry(why.as_str().to_owned()).or_default() += 1;
        }
    }

    /// What a dry run keeps of due rows.
    fn note(&self, run: &mut Run, rule: &Rule, due: &[Due]) {
        run.outcome.count(rule.action.name(), due.len() as u64);
        for item in due {
            run.outcome.sample(rule.action.name(), plain(&item.id), item.date);
            let counts = run.outcome.rule(&rule.name);
            counts.done += 1;
            counts.oldest = Some(counts.oldest.map_or(item.date, |oldest| oldest.min(item.date)));
        }
        run.note(&rule.name, due.iter().map(|item| (item.id.clone(), item.date)));
    }

    async fn act(&self, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Acted, JobError> {
        match &rule.action {
            Action::Purge if rule.on == purge::DOCUMENTS => purge::act(self, run, rule, due).await,
            Action::Purge => rows::purge(self, run, rule, due).await,
            Action::Prune => prune::act(self, run, rule, due).await,
            Action::ArchiveSession => sessions::act(self, run, rule, due).await,
            Action::Mark { state } => mark::act(self, run, rule, due, state).await,
            Action::Archive => archive::act(self, run, rule, due).await,
            Action::ArchiveRows { archive_for } => archive_rows::act(self, run, rule, due, *archive_for).await,
            Action::SoftDelete => mark::act(self, run, rule, due, "deleted").await,
            Action::Anonymize { keep, random } => anonymize::act(self, run, rule, due, keep, random).await,
        }
    }

    /// Brings to its end what an earlier run of the rule began.
    async fn resume(&self, run: &mut Run, rule: &Rule) -> Result<(), JobError> {
        match &rule.action {
            Action::Purge if rule.on == purge::DOCUMENTS => purge::resume(self, run, rule).await,
            Action::Anonymize { .. } => anonymize::resume(self, run, rule).await,
            Action::Prune => prune::resume(self, run, rule).await,
            Action::Archive => archive::resume(self, run).await,
            Action::ArchiveRows { .. } => archive_rows::resume(self, run, rule).await,
            _ => Ok(()),
        }
    }

    /// Stops before the first write when the rule would take more than its cap.
    async fn check_cap(&self, run: &mut Run, rule: &Rule) -> Result<(), JobError> {
        let (due, total) = scan::due_and_total(run, rule).await?;
        let cap = rule.cap.of(total);
        run.outcome.rule(&rule.name).cap = cap;
        if due <= cap || run.over_cap || run.dry_run {
            return Ok(());
        }
        run.outcome.rule(&rule.name).over_cap = true;
        Err(JobError::Failed(anyhow::anyhow!(
            "rule `{}`: {due} of {total} rows of `{}` are due, and its cap is {cap}: nothing was changed. Look at them with \
             `contextd policy plan --rule {}`; if it is right, run `contextd jobs run {} --over-cap`",
            rule.name,
            rule.on,
            rule.name,
            run.job
        )))
    }
}

/// How far a run has come: rule, case, and the place of the last row that was looked at.
#[derive(Debug, Clone, Default, PartialEq)]
struct Cursor {
    rule: usize,
    case: usize,
    after: Option<(Bson, Bson)>,
}

impl Cursor {
    fn write(rule: &str, case: usize, after: Option<&(Bson, Bson)>) -> Document {
        let mut doc = doc! { "rule": rule, "case": case as i64 };
        if let Some((date, id)) = after {
            doc.insert("date", date.clone());
            doc.insert("id", id.clone());
        }
        doc
    }

    /// A cursor that does not fit any more (of another policy) means from the start, which is always safe.
    fn read(doc: Option<&Document>, rules: &[Rule]) -> Option<Self> {
        let doc = doc?;
        let name = doc.get_str("rule").ok()?;
        let rule = rules.iter().position(|rule| rule.name == name)?;
        let case = usize::try_from(doc.get_i64("case").ok()?).ok()?;
        let after = doc.get("date").cloned().zip(doc.get("id").cloned());
        Some(Self { rule, case, after })
    }
}

/// The indexes that the engine's own look-ups are served by; those of rules follow from the policy.
pub fn indexes() -> Vec<(&'static str, IndexModel)> {
    let partial = |field: &str| {
        let options = IndexOptions::builder().partial_filter_expression(doc! { field: { "$exists": true } }).build();
        IndexModel::builder().keys(doc! { field: 1 }).options(options).build()
    };
    let closed = IndexModel::builder().keys(doc! { "state": 1, "closedAt": 1, "_id": 1 }).build();
    vec![
        (purge::DOCUMENTS, partial(unarchive::FLAG)),
        (purge::DOCUMENTS, partial(moves::MOVED)),
        (take::TOMBSTONES, closed),
        ("session_history", IndexModel::builder().keys(doc! { "archivedAt": 1 }).build()),
    ]
}

/// An id as a person would write it.
pub(crate) fn plain(id: &Bson) -> String {
    match id {
        Bson::String(id) => id.clone(),
        Bson::ObjectId(id) => id.to_hex(),
        other => other.to_string(),
    }
}

fn date_of(row: &Document, field: &str) -> Option<DateTime<Utc>> {
    row.get_datetime(field).ok().copied().map(from_bson)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_storage_and_another_policy() {
        let rule = |name: &str| Rule {
            name: name.into(),
            job: "j".into(),
            enabled: true,
            on: "c".into(),
            cases: Vec::new(),
            guards: Vec::new(),
            action: Action::Purge,
            cap: crate::policy::Cap { share: 1.0, floor: 1, rows: 1 },
            tenants: std::collections::BTreeMap::new(),
        };
        let rules = [rule("a"), rule("b")];
        let after = (Bson::from(3_i64), Bson::from("x"));
        let stored = Cursor::write("b", 2, Some(&after));
        assert_eq!(Cursor::read(Some(&stored), &rules), Some(Cursor { rule: 1, case: 2, after: Some(after) }));
        assert_eq!(Cursor::read(Some(&stored), &rules[..1]), None);
        assert_eq!(Cursor::read(Some(&doc! { "rule": 3 }), &rules), None);
        assert_eq!(Cursor::read(None, &rules), None);
    }
}
