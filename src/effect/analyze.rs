//! `document.analyze.v1`: analyses a text, or answers from an earlier analysis of the same content.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Instant,
};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use mongodb::bson::{
    DateTime as BsonDate, Document, RawDocumentBuf, deserialize_from_document, serialize_to_raw_document_buf,
};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Planned;
use crate::{
    analysis::{self, AnalysisError, AnalysisPool, Analyzers, Format, LanguageTag, PoolConfig, Request},
    batch::{Mode, Write},
    cache::AnalysisCache,
    clock,
    config::{self, Config},
    intake::Link,
    metrics::{AnalysisMetrics, ErrorClass, Lookup, Tier},
    status::{Health, Need},
    store::{ANALYSES, Store},
    task::{Reason, Task},
};

pub const TYPE: &str = "document.analyze.v1";

/// The queue whose presence makes the engine load at the start.
pub const QUEUE: &str = "analysis";

/// The analysis of texts with its three tiers of results. The engine's threads start with the first
/// text, or when [`Analysis::warm`] asks for them: a worker without texts does not pay for them.
pub struct Analysis {
    settings: config::Analysis,
    /// Makes cache keys unguessable to those who do not know it: hashes of short texts can be guessed.
    secret: Vec<u8>,
    pool: OnceLock<AnalysisPool>,
    cache: AnalysisCache,
    store: Store,
    health: Arc<Health>,
    metrics: AnalysisMetrics,
}

/// One text of a batch.
struct Text<'a> {
    position: usize,
    task: &'a Task,
    request: Request,
    key: String,
    hash: String,
}

/// The document in `analyses`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    document_id: Option<&'a str>,
    version_number: Option<i64>,
    user_id: Option<&'a str>,
    session_id: Option<&'a str>,
    tenant: Option<&'a str>,
    content_hash: &'a str,
    content_type: &'static str,
    /// What an identical content is found by.
    cache_key: Option<&'a str>,
    cached: bool,
    #[serde(flatten)]
    analysis: &'a analysis::Analysis,
    created_at: BsonDate,
    analyzed_at: BsonDate,
}

impl Analysis {
    pub fn new(config: &Config, link: Link, store: Store, health: Arc<Health>) -> Self {
        let s = &config.analysis;
        Self {
            settings: s.clone(),
            secret: format!("contextd analysis {} {}", config.namespace, config.mongodb.database).into_bytes(),
            pool: OnceLock::new(),
            cache: AnalysisCache::new(link, &config.namespace, s.redis_ttl, s.result_cache.as_u64()),
            store,
            health,
            metrics: AnalysisMetrics::new(&["grammar", "readability", "statistics"]),
        }
    }

    /// Loads the engine now, behind everything else. Texts may come before it is ready; they wait.
    pub fn warm(self: &Arc<Self>) {
        self.health.expect("grammar", Need::Optional, "the grammar engine is loading", clock::now());
        let this = self.clone();
        tokio::spawn(async move {
            if let Ok(pool) = this.pool() {
                pool.ready().await;
                this.health.ready("grammar", clock::now());
            }
        });
    }

    fn pool(&self) -> Result<&AnalysisPool, String> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let pool = AnalysisPool::new(PoolConfig::new(&self.settings, &self.secret))
            .map_err(|e| format!("the analysis threads cannot be started: {e}"))?;
        // Of two that are made at once one is dropped, which ends its threads.
        Ok(self.pool.get_or_init(|| pool))
    }

    /// Plans a batch of texts. What is not finished when `abort` fires is released.
    pub async fn plan(
        &self,
        tasks: &[(usize, &Task)],
        now: DateTime<Utc>,
        abort: &CancellationToken,
    ) -> Vec<(usize, Planned)> {
        let pool = match self.pool() {
            Ok(pool) => pool,
            Err(error) => {
                return tasks.iter().map(|(p, _)| (*p, Planned::Failed(ErrorClass::Effect, error.clone()))).collect();
            }
        };
        let mut planned = Vec::with_capacity(tasks.len());
        let mut texts = Vec::with_capacity(tasks.len());
        for (position, task) in tasks {
            match self.text(pool, *position, task) {
                Ok(text) => texts.push(text),
                Err((reason, error)) => planned.push((*position, Planned::Dead(reason, error))),
            }
        }
        // Each content once, however often it is in the batch.
        let mut groups: HashMap<&str, Vec<&Text<'_>>> = HashMap::new();
        for text in &texts {
            groups.entry(&text.key).or_default().push(text);
        }
        let groups: Vec<Vec<&Text<'_>>> = groups.into_values().collect();
        let keys: Vec<String> = groups.iter().map(|g| g[0].key.clone()).collect();
        let looked = Instant::now();
        let known = self.find(&keys).await;
        let lookup_ms = looked.elapsed().as_secs_f64() * 1000.0 / groups.len().max(1) as f64;

        let analyzed = groups.iter().zip(known).map(|(group, known)| async move {
            match known {
                Some(analysis) => Some(Ok((answered(&analysis, lookup_ms), true))),
                None => tokio::select! {
                    result = pool.analyze(group[0].request.clone()) => Some(result.map(|a| (Arc::new(a), false))),
                    () = abort.cancelled() => None,
                },
            }
        });
        let analyzed = join_all(analyzed).await;
        let fresh: Vec<(String, Arc<analysis::Analysis>)> = keys
            .iter()
            .zip(&analyzed)
            .filter_map(|(key, result)| match result {
                Some(Ok((analysis, false))) if analysis.is_cacheable() => Some((key.clone(), analysis.clone())),
                _ => None,
            })
            .collect();
        self.cache.put(&fresh).await;
        for (group, result) in groups.iter().zip(analyzed) {
            self.answer(group, result, now, &mut planned);
        }
        planned
    }

    fn text<'a>(&self, pool: &AnalysisPool, position: usize, task: &'a Task) -> Result<Text<'a>, (Reason, String)> {
        let text = |name: &str| task.data.get(name).and_then(Value::as_str);
        let bad = |e: &dyn std::fmt::Display| (Reason::Schema, e.to_string());
        let content = text("content").ok_or_else(|| bad(&"`data.content` is missing"))?;
        let format: Format = text("contentType").map_or(Ok(Format::Plain), str::parse).map_err(|e| bad(&e))?;
        let language = text("language").map(str::parse::<LanguageTag>).transpose().map_err(|e| bad(&e))?;
        let analyzers = match task.data.get("analyzers").and_then(Value::as_array) {
            Some(names) => Analyzers::from_names(names.iter().filter_map(Value::as_str)).map_err(|e| bad(&e))?,
            None => Analyzers::default(),
        };
        let request = Request { text: content.into(), format, language, analyzers };
        let (key, hash) = (pool.keys().result_key(&request), pool.keys().content_hash(content));
        Ok(Text { position, task, request, key, hash })
    }

    /// Earlier results: memory, Redis, MongoDB.
    async fn find(&self, keys: &[String]) -> Vec<Option<Arc<analysis::Analysis>>> {
        let mut found = self.cache.get(keys).await;
        let missing: Vec<String> =
            keys.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(k, _)| k.clone()).collect();
        if missing.is_empty() {
            return found;
        }
        let stored = match self.store.analyses_by_key(&missing).await {
            Ok(stored) => stored,
            Err(fault) => {
                // The write that follows waits for MongoDB; computing it anew is no mistake.
                tracing::debug!(%fault, "earlier analyses cannot be looked up");
                Vec::new()
            }
        };
        let stored: HashMap<String, Arc<analysis::Analysis>> = stored
            .into_iter()
            .filter_map(|(key, document)| Some((key, Arc::new(read(document)?))))
            .filter(|(_, analysis)| analysis.is_cacheable())
            .collect();
        for (key, slot) in keys.iter().zip(&mut found).filter(|(_, slot)| slot.is_none()) {
            let hit = stored.get(key);
            let lookup = if hit.is_some() { Lookup::Hit } else { Lookup::Miss };
            self.cache.metrics.lookup(Tier::MongoDb, lookup).increment(1);
            if let Some(analysis) = hit {
                self.cache.remember(key, analysis);
            }
            *slot = hit.cloned();
        }
        found
    }

    fn answer(
        &self,
        group: &[&Text<'_>],
        result: Option<Result<(Arc<analysis::Analysis>, bool), AnalysisError>>,
        now: DateTime<Utc>,
        planned: &mut Vec<(usize, Planned)>,
    ) {
        let (analysis, cached) = match result {
            Some(Ok(answer)) => answer,
            None | Some(Err(AnalysisError::Stopped)) => {
                planned.extend(group.iter().map(|t| (t.position, Planned::Released)));
                return;
            }
            Some(Err(error @ AnalysisError::TextTooLarge { .. })) => {
                let dead = |t: &&Text<'_>| (t.position, Planned::Dead(Reason::TextTooLarge, error.to_string()));
                planned.extend(group.iter().map(dead));
                return;
            }
            Some(Err(error @ AnalysisError::Panicked)) => {
                let failed = |t: &&Text<'_>| (t.position, Planned::Failed(ErrorClass::Panic, error.to_string()));
                planned.extend(group.iter().map(failed));
                return;
            }
        };
        if !cached {
            let t = &analysis.timings;
            for (name, ms) in
                [("grammar", t.grammar_ms), ("readability", t.readability_ms), ("statistics", t.statistics_ms)]
            {
                if let Some(ms) = ms {
                    self.metrics.analyzed(name, std::time::Duration::from_secs_f64(ms.max(0.0) / 1000.0));
                }
            }
        }
        for (i, text) in group.iter().enumerate() {
            // The first of a group has had the work done; the others are answered by it.
            let (analysis, cached) = if i == 0 { (analysis.clone(), cached) } else { (answered(&analysis, 0.0), true) };
            let plan = match document(text, &analysis, cached, now) {
                Ok((id, document)) => Planned::Write(Write {
                    collection: ANALYSES,
                    mode: Mode::Insert,
                    id,
                    document,
                    task: text.position,
                }),
                Err(error) => Planned::Dead(Reason::Rejected, error),
            };
            planned.push((text.position, plan));
        }
    }
}

/// An earlier analysis as the answer to this text: nothing was computed.
fn answered(analysis: &Arc<analysis::Analysis>, lookup_ms: f64) -> Arc<analysis::Analysis> {
    let mut analysis = analysis::Analysis::clone(analysis);
    let timings = &mut analysis.timings;
    timings.total_ms = lookup_ms;
    timings.queued_ms = 0.0;
    (timings.grammar_ms, timings.readability_ms, timings.statistics_ms) = (None, None, None);
    timings.blocks.cached += timings.blocks.computed;
    timings.blocks.computed = 0;
    Arc::new(analysis)
}

fn document(
    text: &Text<'_>,
    analysis: &analysis::Analysis,
    cached: bool,
    now: DateTime<Utc>,
) -> Result<(String, RawDocumentBuf), String> {
    let task = text.task;
    let field = |name: &str| task.data.get(name).and_then(Value::as_str);
    let id = format!("{}@{}", task.id, task.source);
    let date = |t: DateTime<Utc>| BsonDate::from_millis(t.timestamp_millis());
    let record = Record {
        id: &id,
        document_id: field("documentId"),
        version_number: task.data.get("versionNumber").and_then(Value::as_i64),
        user_id: field("userId"),
        session_id: field("sessionId"),
        tenant: task.tenant.as_deref(),
        content_hash: &text.hash,
        content_type: text.request.format.content_type(),
        // An incomplete result answers nobody else.
        cache_key: analysis.is_cacheable().then_some(text.key.as_str()),
        cached,
        analysis,
        created_at: date(task.time.unwrap_or(now)),
        analyzed_at: date(now),
    };
    let document = serialize_to_raw_document_buf(&record).map_err(|e| e.to_string())?;
    Ok((id, document))
}

fn read(document: Document) -> Option<analysis::Analysis> {
    deserialize_from_document(document).ok()
}
