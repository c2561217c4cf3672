//! What became of the samples: gathered from the ledgers and from MongoDB, and held against what was meant.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document, deserialize_from_document};
use serde::Serialize;
use serde_json::Value;

use super::{
    aged::Aged,
    drive::{Driven, Pace},
    samples::Sample,
    to_millis,
};
use crate::{
    analysis::Analysis,
    cli::failure::Failure,
    effect::{analyze, typing},
    metrics::{Ledger, Outcome},
    store::{ANALYSES, DEAD_LETTERS, DeadFilter, DeadLetter, Store, TYPING_CONTEXTS},
};

/// More dead letters than one run can make.
const DEAD_LOOKED_AT: i64 = 1_000;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Part of the ids of all that was pushed.
    pub run: String,
    pub pushed: Vec<Pushed>,
    /// What became of what this process received, by queue.
    pub ledgers: BTreeMap<String, Ledger>,
    pub landed: Vec<Landed>,
    /// In the order in which they were pushed.
    pub analyses: Vec<Record>,
    pub dead_letters: Vec<Dead>,
    pub paces: Vec<Pace>,
    /// Whether this process did all of it, and nothing else.
    pub alone: bool,
    /// What is not as it was meant to be.
    pub problems: Vec<String>,
    /// The lifecycle's part.
    pub lifecycle: Option<Aged>,
}

/// The samples of one queue.
#[derive(Debug, Clone, Serialize)]
pub struct Pushed {
    pub queue: String,
    /// By priority; of a stream all are `None`.
    pub priorities: Option<[u64; 4]>,
    pub tasks: u64,
}

/// The documents in a collection.
#[derive(Debug, Clone, Serialize)]
pub struct Landed {
    pub collection: &'static str,
    /// Of this run, and in all.
    pub run: u64,
    pub total: u64,
}

/// One document of `analyses`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub id: String,
    pub document_id: String,
    pub version_number: Option<i64>,
    pub cached: bool,
    pub content_hash: String,
    #[serde(flatten)]
    pub analysis: Analysis,
}

#[derive(Debug, Clone, Serialize)]
pub struct Dead {
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// Its original bytes, and why they are among the samples.
    pub body: String,
    pub note: Option<String>,
}

impl Record {
    /// `None`: not a document that the analysis has written.
    pub fn read(document: Document) -> Option<Self> {
        let text = |name: &str| document.get_str(name).map(str::to_owned).ok();
        let version_number = document.get("versionNumber").and_then(Bson::as_i64);
        Some(Self {
            id: text("_id")?,
            document_id: text("documentId")?,
            version_number,
            cached: document.get_bool("cached").ok()?,
            content_hash: text("contentHash")?,
            analysis: deserialize_from_document(document).ok()?,
        })
    }
}

/// Where a sample that is meant to be written shows: collection, `_id`, and of a context its place in the order.
fn effect(sample: &Sample) -> Option<(&'static str, String, Option<i64>)> {
    let event = sample.event().filter(|_| sample.expect == Outcome::Written)?;
    let of = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let data = event.get("data")?;
    match event.get("type")?.as_str()? {
        analyze::TYPE => Some((ANALYSES, format!("{}@{}", of(&event, "id")?, of(&event, "source")?), None)),
        typing::TYPE => {
            let id = format!("{}:{}", of(data, "documentId")?, of(data, "sessionId")?);
            Some((TYPING_CONTEXTS, id, data.get("sequence").and_then(Value::as_i64)))
        }
        _ => None,
    }
}

impl Account {
    /// # Errors
    /// MongoDB cannot be asked.
    pub async fn gather(
        run: String,
        samples: &[Sample],
        driven: Driven,
        ledgers: BTreeMap<String, Ledger>,
        store: &Store,
        started: DateTime<Utc>,
    ) -> Result<Self, Failure> {
        let effects: Vec<_> = samples.iter().filter_map(effect).collect();
        let ids = |collection: &str| -> Vec<String> {
            effects.iter().filter(|(of, ..)| *of == collection).map(|(_, id, _)| id.clone()).collect()
        };
        let mut found: HashMap<String, Record> = HashMap::new();
        for document in store.by_ids(ANALYSES, &ids(ANALYSES)).await? {
            found.extend(Record::read(document).map(|record| (record.id.clone(), record)));
        }
        let analyses: Vec<Record> = ids(ANALYSES).iter().filter_map(|id| found.remove(id)).collect();
        let contexts = store.by_ids(TYPING_CONTEXTS, &ids(TYPING_CONTEXTS)).await?;
        let newest = |id: &str, sequence: Option<i64>| {
            let context = contexts.iter().find(|c| c.get_str("_id").is_ok_and(|found| found == id));
            context.is_some_and(|c| c.get("sequence").and_then(Bson::as_i64) == sequence)
        };
        let stale = effects.iter().filter(|(of, id, n)| *of == TYPING_CONTEXTS && !newest(id, *n)).count();
        let dead_letters = dead(samples, store, to_millis(started)).await?;

        let mut landed = Vec::new();
        for (collection, run) in
            [(ANALYSES, analyses.len()), (TYPING_CONTEXTS, contexts.len()), (DEAD_LETTERS, dead_letters.len())]
        {
            landed.push(Landed { collection, run: run as u64, total: store.size(collection).await? });
        }
        let mut account = Self {
            run,
            pushed: pushed(samples),
            ledgers,
            landed,
            analyses,
            dead_letters,
            paces: driven.paces,
            alone: false,
            problems: Vec::new(),
            lifecycle: None,
        };
        account.alone = driven.before == 0 && account.taken() == samples.len() as u64;
        account.problems = account.problems(samples, ids(ANALYSES).len(), stale);
        Ok(account)
    }

    /// Tasks that this process took and did not give back.
    fn taken(&self) -> u64 {
        self.ledgers.values().map(|ledger| ledger.received - ledger.returned).sum()
    }

    fn problems(&self, samples: &[Sample], analyses: usize, stale: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let mut expect = |is_right: bool, text: String| {
            if !is_right {
                problems.push(text);
            }
        };
        for (queue, ledger) in &self.ledgers {
            expect(ledger.gap == 0, format!("the ledger of {queue} has a gap of {}", ledger.gap));
        }
        let there = self.analyses.len();
        expect(there == analyses, format!("{there} of {analyses} documents have an analysis"));
        expect(stale == 0, format!("{stale} typing contexts are missing or not the newest"));
        let meant = |outcome: Outcome| samples.iter().filter(|s| s.expect == outcome).count() as u64;
        let (dead, meant_dead) = (self.dead_letters.len() as u64, meant(Outcome::Dead));
        expect(dead == meant_dead, format!("{dead} of {meant_dead} broken tasks are in the dead letters"));
        if self.alone {
            // How a burst falls into batches decides which of its contexts are written and which superseded.
            let sums: [&[Outcome]; 4] = [
                &[Outcome::Written, Outcome::Superseded],
                &[Outcome::Duplicate],
                &[Outcome::Expired],
                &[Outcome::Dead],
            ];
            for outcomes in sums {
                let ended: u64 = outcomes.iter().map(|o| self.ended(*o)).sum();
                let meant: u64 = outcomes.iter().map(|o| meant(*o)).sum();
                let names: Vec<&str> = outcomes.iter().map(|o| o.as_str()).collect();
                expect(ended == meant, format!("{ended} tasks ended as {}, not {meant}", names.join(" or ")));
            }
        }
        problems
    }

    /// How many tasks ended so, in all queues.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.ledgers.values().map(|ledger| ended(ledger, outcome)).sum()
    }
}

pub fn ended(ledger: &Ledger, outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Written => ledger.written,
        Outcome::Duplicate => ledger.duplicate,
        Outcome::Superseded => ledger.superseded,
        Outcome::Expired => ledger.expired,
        Outcome::Dead => ledger.dead,
    }
}

fn pushed(samples: &[Sample]) -> Vec<Pushed> {
    let mut pushed: Vec<Pushed> = Vec::new();
    for sample in samples {
        let at = pushed.iter().position(|p| p.queue == sample.queue).unwrap_or_else(|| {
            pushed.push(Pushed { queue: sample.queue.clone(), priorities: None, tasks: 0 });
            pushed.len() - 1
        });
        pushed[at].tasks += 1;
        if let Some(priority) = sample.priority {
            pushed[at].priorities.get_or_insert_default()[priority as usize] += 1;
        }
    }
    pushed.sort_by(|a, b| a.queue.cmp(&b.queue));
    pushed
}

/// The dead letters since `started` whose bytes are those of a sample.
async fn dead(samples: &[Sample], store: &Store, started: DateTime<Utc>) -> Result<Vec<Dead>, Failure> {
    let recent = store.dead_list(&DeadFilter::default(), 0, DEAD_LOOKED_AT).await?;
    let mut dead = Vec::new();
    for letter in recent.into_iter().take_while(|letter| letter.dead_at >= started) {
        let filter = DeadFilter { id: Some(letter.id), ..DeadFilter::default() };
        let Some(letter) = store.dead_page(&filter, None, 1).await?.pop() else { continue };
        if let Some(sample) = samples.iter().find(|s| s.body.as_bytes() == letter.body) {
            dead.push(Dead { body: sample.body.clone(), note: sample.note.clone(), letter });
        }
    }
    dead.sort_by(|a, b| (&a.letter.queue, &a.letter.reason).cmp(&(&b.letter.queue, &b.letter.reason)));
    Ok(dead)
}
