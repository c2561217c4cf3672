//! Plans: what the rules would do now, written down, and later done, or less.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::{Engine, IN_FORCE, clock, force, guards, scan};
use crate::{
    kit::{JobError, Run, Sample, to_bson},
    policy::{Policy, Rule},
};

/// Items whose rows are looked at together.
const PAGE: usize = 500;
/// Items that a plan names as an example.
const SAMPLES: usize = 5;

/// What rules would do at one instant, item by item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    pub policy_version: u32,
    pub policy_hash: String,
    /// The plan's "now": what came later is not in it, and never will be.
    pub cutoff: DateTime<Utc>,
    pub rules: Vec<PlannedRule>,
    /// BLAKE3 of everything else, hexadecimal. The database keeps it, so that a changed plan is not taken for this one.
    pub digest: String,
}

/// One rule's part of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedRule {
    pub rule: String,
    pub job: String,
    pub action: String,
    pub collection: String,
    /// Rows that would be acted on.
    pub due: u64,
    /// Rows that are due by their date and would stay, by reason.
    pub left: BTreeMap<String, u64>,
    /// Rows with a date in the future, and with none.
    pub future: u64,
    pub undated: u64,
    pub oldest: Option<DateTime<Utc>>,
    /// Rows of the collection, about.
    pub total: u64,
    pub cap: u64,
    pub over_cap: bool,
    /// What the rows and their contents take, about.
    pub bytes: u64,
    pub sample: Vec<Sample>,
    pub items: Vec<Item>,
}

/// One row of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    pub id: Bson,
    /// The date that makes it due.
    pub date: DateTime<Utc>,
}

/// Why a plan is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Job(#[from] JobError),
}

impl Plan {
    /// What the digest is over.
    fn digest_of(&self) -> String {
        let bare = Plan { digest: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&bare).unwrap_or_default();
        blake3::hash(&text).to_hex().to_string()
    }

    /// Whether the plan is as it was made, and under this policy.
    pub fn check(&self, policy: &Policy) -> Result<(), PlanError> {
        if self.digest != self.digest_of() {
            return Err(PlanError::Refused("the plan was changed after it was made: make a new one".into()));
        }
        if (self.policy_version, &self.policy_hash) != (policy.version, &policy.hash) {
            return Err(PlanError::Refused(format!(
                "the plan was made under version {} of the policy ({}), and version {} ({}) is loaded: make a new one",
                self.policy_version,
                self.policy_hash.get(..12).unwrap_or_default(),
                policy.version,
                policy.hash.get(..12).unwrap_or_default()
            )));
        }
        Ok(())
    }
}

impl Engine<'_> {
    /// Says what these rules would do now. `run` is a dry run; its counts show how far it is.
    pub async fn plan(&self, run: &mut Run, rules: &[Rule]) -> Result<Plan, JobError> {
        run.keep_notes();
        self.run_rules(run, rules).await?;
        let mut items: HashMap<String, Vec<Item>> = HashMap::new();
        for noted in run.notes() {
            items.entry(noted.rule).or_default().push(Item { id: noted.id, date: noted.date });
        }
        let mut planned = Vec::with_capacity(rules.len());
        for rule in rules {
            planned.push(self.planned(run, rule, items.remove(&rule.name).unwrap_or_default()).await?);
        }
        let policy = &self.world.policy;
        let mut plan = Plan {
            policy_version: policy.version,
            policy_hash: policy.hash.clone(),
            cutoff: run.now,
            rules: planned,
            digest: String::new(),
        };
        plan.digest = plan.digest_of();
        Ok(plan)
    }

    async fn planned(&self, run: &mut Run, rule: &Rule, items: Vec<Item>) -> Result<PlannedRule, JobError> {
        let (_, total) = scan::due_and_total(run, rule).await?;
        let bytes = bytes(run, rule, &items).await?;
        let counts = run.outcome.rule(&rule.name).clone();
        let cap = rule.cap.of(total);
        let due = items.len() as u64;
        let sample =
            |item: &Item| Sample { action: rule.action.name().to_owned(), id: super::plain(&item.id), date: item.date };
        Ok(PlannedRule {
            rule: rule.name.clone(),
            job: rule.job.clone(),
            action: rule.action.name().to_owned(),
            collection: rule.on.clone(),
            due,
            left: counts.left,
            future: counts.future,
            undated: counts.undated,
            oldest: items.iter().map(|item| item.date).min(),
            total,
            cap,
            over_cap: due > cap,
            bytes,
            sample: items.iter().take(SAMPLES).map(sample).collect(),
            items,
        })
    }

    /// Lets the database know the plan, so that [`Engine::apply`] takes it.
    pub async fn keep(&self, run: &Run, plan: &Plan) -> Result<(), JobError> {
        let state = run.db.collection::<Document>(IN_FORCE);
        let set = doc! { "$set": { "madeAt": to_bson(plan.cutoff), "policy": &plan.policy_hash } };
        let id = format!("plan/{}", plan.digest);
        let keep = async { state.update_one(doc! { "_id": id }, set).upsert(true).await };
        run.call("keep plan", keep).await.map(|_| ())
    }

    /// Does what the plan says, to those of its rows that are due still; never more.
    pub async fn apply(&self, run: &mut Run, plan: &Plan) -> Result<(), PlanError> {
        let policy = &self.world.policy;
        plan.check(policy)?;
        let state = run.db.collection::<Document>(IN_FORCE);
        let id = format!("plan/{}", plan.digest);
        let known = run.call("plan", async { state.find_one(doc! { "_id": id }).await }).await?;
        if known.is_none() {
            let text =
                "the plan was not made for this database, or not by `contextd policy plan --out`: make a new one";
            return Err(PlanError::Refused(text.into()));
        }
        let mut rules = Vec::with_capacity(plan.rules.len());
        for planned in &plan.rules {
            let Some(rule) = policy.rule(&planned.rule) else {
                return Err(PlanError::Refused(format!("the policy has no rule `{}`", planned.rule)));
            };
            if planned.over_cap && !run.over_cap {
                return Err(PlanError::Refused(format!(
                    "rule `{}`: {} rows are due and its cap is {}: nothing was changed. If that is right, say so with \
                     `--over-cap`",
                    planned.rule, planned.due, planned.cap
                )));
            }
            rules.push((rule.clone(), planned));
        }
        clock::check(run, policy.skew).await?;
        force::check(run, policy).await?;
        run.outcome.policy = Some(format!("{} {}", policy.version, policy.hash));
        for (rule, _) in &rules {
            self.resume(run, rule).await?;
        }
        for (rule, planned) in &rules {
            for page in planned.items.chunks(PAGE) {
                run.page(None).await?;
                self.apply_page(run, rule, page).await?;
            }
        }
        Ok(())
    }

    async fn apply_page(&self, run: &mut Run, rule: &Rule, page: &[Item]) -> Result<(), JobError> {
        let ids: Vec<&Bson> = page.iter().map(|item| &item.id).collect();
        let rows = run.db.collection::<Document>(&rule.on);
        let filter = doc! { "_id": { "$in": ids } };
        let find = async { rows.find(filter).await?.try_collect::<Vec<_>>().await };
        let rows = run.call("planned rows", find).await?;
        let counts = run.outcome.rule(&rule.name);
        let gone = (page.len() - rows.len().min(page.len())) as u64;
        if gone > 0 {
            *counts.left.entry("gone".into()).or_default() += gone;
        }
        run.outcome.examined += page.len() as u64;
        // By case: a row is due by the first that it meets.
        let mut by_case: Vec<Vec<Document>> = vec![Vec::new(); rule.cases.len()];
        let mut changed = 0_u64;
        for row in rows {
            match rule.cases.iter().position(|case| case.meets(&row)) {
                Some(case) => by_case[case].push(row),
                None => changed += 1,
            }
        }
        if changed > 0 {
            *run.outcome.rule(&rule.name).left.entry("changed".into()).or_default() += changed;
        }
        for (case, rows) in by_case.into_iter().enumerate() {
            let due = self.judge(run, rule, case, rows).await?;
            if due.is_empty() {
                continue;
            }
            let acted = self.act(run, rule, due).await?;
            run.outcome.count(rule.action.name(), acted.done);
            run.outcome.rule(&rule.name).done += acted.done;
            self.leave(run, rule, acted.left);
        }
        Ok(())
    }
}

/// What the rows take, with their contents and (of documents) their versions' contents. Rows count with the collection's
/// average.
async fn bytes(run: &Run, rule: &Rule, items: &[Item]) -> Result<u64, JobError> {
    if items.is_empty() {
        return Ok(0);
    }
    let stats = doc! { "$collStats": { "storageStats": { "scale": 1 } } };
    let rows = run.db.collection::<Document>(&rule.on);
    let stats: Vec<Document> = run.call("size", async { rows.aggregate([stats]).await?.try_collect().await }).await?;
    let average =
        stats.iter().filter_map(|s| s.get_document("storageStats").ok()).find_map(|s| number(s, "avgObjSize"));
    let mut bytes = average.unwrap_or(0) * items.len() as u64;
    let places: &[(&str, &str)] = match rule.on.as_str() {
        "documents" => &[("documents", "_id"), ("document_versions", "documentId")],
        "document_versions" => &[("document_versions", "_id")],
        _ => &[],
    };
    for page in items.chunks(PAGE) {
        let ids: Vec<&Bson> = page.iter().map(|item| &item.id).collect();
        for (collection, field) in places {
            let filter = doc! { *field: { "$in": &ids } };
            let rows = guards::find(run, "size", collection, filter, doc! { "content.stored": 1 }).await?;
            bytes += rows.iter().filter_map(|r| number(r.get_document("content").ok()?, "stored")).sum::<u64>();
        }
    }
    Ok(bytes)
}

fn number(of: &Document, name: &str) -> Option<u64> {
    match of.get(name)? {
        Bson::Int32(n) => u64::try_from(*n).ok(),
        Bson::Int64(n) => u64::try_from(*n).ok(),
        Bson::Double(n) => Some(*n as u64),
        _ => None,
    }
}
