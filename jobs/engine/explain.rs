//! What will become of one item, when and why, or what keeps it.

use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::{Bson, Document, doc};
use serde::Serialize;

use super::{
    Engine, date_of, guards,
    judge::{Due, is_held},
    take::{TOMBSTONES, stone_id},
};
use crate::{
    kit::{JobError, Run, from_bson},
    policy::{Case, Rule},
};

/// All that the policy says of one row.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub collection: String,
    pub id: String,
    /// When it was looked at.
    pub at: DateTime<Utc>,
    /// Whether the row is there.
    pub found: bool,
    pub state: Option<String>,
    /// What is held: the row itself or what it belongs to, as COLLECTION/ID.
    pub held_by: Vec<String>,
    /// Of a row that is gone or going: what took it.
    pub tombstone: Option<Purged>,
    /// Every rule of the collection.
    pub rules: Vec<Verdict>,
}

/// What took a row.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Purged {
    pub rule: String,
    pub action: String,
    pub state: String,
    pub fenced_at: Option<DateTime<Utc>>,
    pub closed_at: Option<DateTime<Utc>>,
}

/// What one rule says.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub rule: String,
    pub job: String,
    pub action: String,
    pub enabled: bool,
    /// Whether the rule is about this row as it is now.
    pub applies: bool,
    /// From when on the rule acts, if nothing changes; the first run of its job after that.
    pub due_at: Option<DateTime<Utc>>,
    /// It would act now.
    pub due: bool,
    /// What keeps it, or why the rule is not about it; full sentences.
    pub because: Vec<String>,
}

impl Engine<'_> {
    /// Explains one row. `run` is a dry run.
    pub async fn explain(&self, run: &Run, collection: &str, id: Bson) -> Result<Explanation, JobError> {
        let rows = run.db.collection::<Document>(collection);
        let row = run.call("row", async { rows.find_one(doc! { "_id": id.clone() }).await }).await?;
        let stones = run.db.collection::<Document>(TOMBSTONES);
        let stone_id = stone_id(collection, &id);
        let stone = run.call("tombstone", async { stones.find_one(doc! { "_id": stone_id }).await }).await?;
        let mut explained = Explanation {
            collection: collection.to_owned(),
            id: super::plain(&id),
            at: run.now,
            found: row.is_some(),
            state: row.as_ref().and_then(|row| row.get_str("state").ok()).map(str::to_owned),
            held_by: Vec::new(),
            tombstone: stone.as_ref().map(purged),
            rules: Vec::new(),
        };
        let Some(row) = row else { return Ok(explained) };
        if is_held(&row) {
            explained.held_by.push(format!("{collection}/{}", explained.id));
        }
        let kin = guards::Kin::of(run, std::iter::once(&row), None).await?;
        let mut held: Vec<String> = guards::held(run, kin.owners(&row).into_iter().collect(), None)
            .await?
            .into_iter()
            .map(|(of, id)| format!("{of}/{id}"))
            .collect();
        held.sort_unstable();
        explained.held_by.extend(held);
        for rule in self.world.policy.rules.iter().filter(|rule| rule.on == collection) {
            explained.rules.push(self.verdict(run, rule, &row, &explained.held_by).await?);
        }
        Ok(explained)
    }

    async fn verdict(&self, run: &Run, rule: &Rule, row: &Document, held_by: &[String]) -> Result<Verdict, JobError> {
        let mut verdict = Verdict {
            rule: rule.name.clone(),
            job: rule.job.clone(),
            action: rule.action.name().to_owned(),
            enabled: rule.enabled,
            applies: false,
            due_at: None,
            due: false,
            because: Vec::new(),
        };
        if !rule.enabled {
            verdict.because.push("The rule is disabled.".into());
        }
        let Some((at, case)) = rule.cases.iter().enumerate().find(|(_, case)| case.meets(row)) else {
            verdict.because.extend(rule.cases.iter().map(|case| misses(case, row)));
            return Ok(verdict);
        };
        verdict.applies = true;
        let tenant = row.get_str("tenant").ok();
        let Some(term) = rule.term(at, tenant) else {
            verdict.because.push(format!("The rule is disabled for the tenant {:?}.", tenant.unwrap_or_default()));
            return Ok(verdict);
        };
        let Some(date) = date_of(row, &case.date) else {
            verdict.because.push(format!("Its `{}` is no date: it is never acted on. Correct it.", case.date));
            return Ok(verdict);
        };
        verdict.due_at = TimeDelta::from_std(term).ok().and_then(|term| date.checked_add_signed(term));
        let has_come = verdict.due_at.is_some_and(|due| due <= run.now);
        if !has_come {
            let text = format!("Its term, {} since `{}`, is not over.", humantime(term), case.date);
            verdict.because.push(text);
        }
        if row.get_str("state").is_ok_and(|state| state == "purging") {
            verdict.because.push("A purge of it has begun and will be brought to its end.".into());
        }
        if !held_by.is_empty() {
            verdict.because.push(format!("A legal hold keeps it, on {}.", held_by.join(", ")));
        }
        let id = row.get("_id").cloned().unwrap_or(Bson::Null);
        let due = Due { id, case: at, date, cutoff: run.now, row: row.clone() };
        // The guards one by one: all that hold it back are told.
        for guard in &rule.guards {
            let alone = Rule { guards: vec![*guard], ..rule.clone() };
            let guarded = guards::check(run, self.world, &alone, vec![due.clone()]).await?;
            if guarded.left.iter().any(|(_, why)| *why == super::Left::Guarded(*guard)) {
                verdict.because.push(guard.sentence().into());
            }
        }
        verdict.due = rule.enabled && has_come && verdict.because.is_empty();
        Ok(verdict)
    }
}

fn purged(stone: &Document) -> Purged {
    let text = |name: &str| stone.get_str(name).unwrap_or_default().to_owned();
    let at = |name: &str| stone.get_datetime(name).ok().copied().map(from_bson);
    Purged {
        rule: text("rule"),
        action: text("action"),
        state: text("state"),
        fenced_at: at("fencedAt"),
        closed_at: at("closedAt"),
    }
}

/// Why a case is not about a row.
fn misses(case: &Case, row: &Document) -> String {
    let is = |name: &str| row.get(name).map_or("missing".to_owned(), super::plain);
    let there = |name: &str| row.get(name).is_some_and(|value| *value != Bson::Null);
    let mut why: Vec<String> = Vec::new();
    for (name, value) in &case.equal {
        if is(name) != super::plain(value) {
            why.push(format!("`{name}` is {} and not {}", is(name), super::plain(value)));
        }
    }
    why.extend(case.absent.iter().filter(|name| there(name)).map(|name| format!("`{name}` is there")));
    why.extend(case.present.iter().filter(|name| !there(name)).map(|name| format!("`{name}` is missing")));
    let of = if case.name.is_empty() { String::new() } else { format!("Case {}: ", case.name) };
    format!("{of}{}.", why.join(", "))
}

/// As policies write terms: "30d", "24h".
fn humantime(term: std::time::Duration) -> String {
    let secs = term.as_secs();
    match secs {
        _ if secs >= 86_400 && secs.is_multiple_of(86_400) => format!("{}d", secs / 86_400),
        _ if secs >= 3_600 && secs.is_multiple_of(3_600) => format!("{}h", secs / 3_600),
        _ if secs >= 60 && secs.is_multiple_of(60) => format!("{}m", secs / 60),
        _ => format!("{}s", term.as_secs_f64()),
    }
}
