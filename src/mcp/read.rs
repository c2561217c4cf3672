//! Tools that read: strategies, advice, memories.

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::Server;
use crate::{
    cli::search::{connected, found},
    clock,
    read::{
        advise::{self, Advice, Pattern, default_strategy},
        find,
        survey::survey,
    },
    store::{Direction, Importance, Kind, MAX_DEPTH, MAX_HITS, Search},
};

/// No arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RecommendArgs {
    /// How the records are going to be used. Without it the advice rests on what was measured.
    #[serde(default)]
    usage_pattern: Option<UsagePattern>,
    /// Only this cached kind, for instance `session` or `interaction`.
    #[serde(default)]
    kind: Option<String>,
    /// Judge by the last so many hours, from 1 to 168; 24 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 168))]
    hours: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum UsagePattern {
    HighFrequency,
    RealTime,
    Analytical,
    Archival,
}

impl UsagePattern {
    fn pattern(self) -> Pattern {
        match self {
            Self::HighFrequency => Pattern::HighFrequency,
            Self::RealTime => Pattern::RealTime,
            Self::Analytical => Pattern::Analytical,
            Self::Archival => Pattern::Archival,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AnalyzeArgs {
    /// Only this cached kind, for instance `session` or `interaction`.
    #[serde(default)]
    kind: Option<String>,
    /// Judge by the last so many hours, from 1 to 168; 24 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 168))]
    hours: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RecallArgs {
    /// Words to find, a "quoted phrase", -word for what must not occur. Without it the newest come first.
    #[serde(default)]
    query: String,
    /// Memories, contexts, or any; memories when absent.
    #[serde(default)]
    kind: RecallKind,
    /// Of one of these types, for instance `fact` or `preference`.
    #[serde(default)]
    types: Vec<String>,
    /// With all of these tags.
    #[serde(default)]
    tags: Vec<String>,
    /// About this user.
    #[serde(default)]
    user_id: Option<String>,
    /// Of this session.
    #[serde(default)]
    session_id: Option<String>,
    /// At least this important.
    #[serde(default)]
    #[schemars(with = "Option<ImportanceName>")]
    importance: Option<Importance>,
    /// Instead of a query: what this record is related to, either way.
    #[serde(default)]
    related_to: Option<String>,
    /// With `relatedTo`: over so many steps, from 1 to 8; 1 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8))]
    depth: Option<u32>,
    /// Most answers, from 1 to 200; 10 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
    /// Go on where a page ended: its `next`.
    #[serde(default)]
    after: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RecallKind {
    #[default]
    Memory,
    Context,
    Any,
}

/// The names of [`Importance`] in the tool's schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
enum ImportanceName {
    Low,
    Medium,
    High,
    Critical,
}

/// The arguments as `T`, or what is wrong with them.
pub(super) fn arguments<T: DeserializeOwned>(given: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(given)).map_err(|e| format!("the arguments do not fit: {e}"))
}

fn between(name: &str, given: Option<u32>, absent: u32, most: u32) -> Result<u32, String> {
    match given.unwrap_or(absent) {
        n if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("`{name}` must be from 1 to {most}")),
    }
}

impl Server {
    /// The strategies of a cached kind.
    pub(super) fn strategies(&self, kind: &str) -> Result<Value, String> {
        let settings = self.kind(kind)?;
        let default = default_strategy(settings, &self.config.cache.environment);
        let patterns = |name: &str| {
            let suited = Pattern::ALL.into_iter().filter(|p| p.strategy(kind, settings) == Some(name));
            suited.map(Pattern::as_str).collect::<Vec<_>>()
        };
        let strategies = settings.strategies.iter().map(|(name, strategy)| {
            json!({
                "name": name,
                "ttlSeconds": strategy.ttl.as_secs(),
                "fields": strategy.fields,
                "default": name == default,
                "suits": patterns(name),
            })
        });
        Ok(json!({ "kind": kind, "default": default, "strategies": strategies.collect::<Vec<_>>() }))
    }

    fn kind(&self, kind: &str) -> Result<&crate::config::CacheKind, String> {
        self.config.cache.kinds.get(kind).ok_or_else(|| {
            let known = self.config.cache.kinds.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("there is no cached kind {kind:?}: use one of {known}")
        })
    }

    /// For a usage that is named, or from what was measured.
    pub(super) async fn recommendations(&self, args: RecommendArgs) -> Result<Value, String> {
        if let Some(usage) = args.usage_pattern {
            let pattern = usage.pattern();
            let kinds = match &args.kind {
                Some(kind) => vec![(kind.as_str(), self.kind(kind)?)],
                None => self.config.cache.kinds.iter().map(|(name, settings)| (name.as_str(), settings)).collect(),
            };
            let advised: Map<String, Value> =
                kinds.iter().map(|(name, s)| ((*name).to_owned(), json!(pattern.strategy(name, s)))).collect();
            return Ok(json!({ "usagePattern": pattern, "means": pattern.means(), "strategies": advised }));
        }
        let (hours, all) = self.survey(args.kind.as_deref(), args.hours).await?;
        let recommended = all.iter().map(|a| {
            let bytes = |strategy: Option<&str>| strategy.and_then(|s| a.cost(s)).map(|c| c.redis_bytes);
            json!({
                "kind": a.kind,
                "current": a.current,
                "recommended": a.advised,
                "pattern": a.pattern,
                "why": a.why,
                "redisBytesNow": bytes(Some(&a.current)),
                "redisBytesThen": bytes(a.advised.as_deref()),
            })
        });
        Ok(json!({ "hours": hours, "recommendations": recommended.collect::<Vec<_>>() }))
    }

    /// The figures behind the recommendations.
    pub(super) async fn patterns(&self, args: AnalyzeArgs) -> Result<Value, String> {
        let (hours, all) = self.survey(args.kind.as_deref(), args.hours).await?;
        let thresholds = json!({
            "minOperations": advise::MIN_OPERATIONS,
            "archivalReadsPerWrite": advise::ARCHIVAL_READS_PER_WRITE,
            "frequentReadsPerWrite": advise::FREQUENT_READS_PER_WRITE,
            "frequentReadsPerHour": advise::FREQUENT_READS_PER_HOUR,
            "realTimeWritesPerHour": advise::REAL_TIME_WRITES_PER_HOUR,
            "realTimeWholeShare": advise::REAL_TIME_WHOLE_SHARE,
        });
        Ok(json!({ "hours": hours, "kinds": all, "thresholds": thresholds }))
    }

    async fn survey(&self, kind: Option<&str>, hours: Option<u32>) -> Result<(u32, Vec<Advice>), String> {
        let hours = between("hours", hours, 24, 168)?;
        if let Some(kind) = kind {
            self.kind(kind)?;
        }
        let window = TimeDelta::hours(i64::from(hours));
        let all = survey(&self.store, &self.config, &self.kinds, kind, window, clock::now())
            .await
            .map_err(|e| e.to_string())?;
        Ok((hours, all))
    }

    /// What is remembered.
    pub(super) async fn recall(&self, args: RecallArgs) -> Result<Value, String> {
        if let Some(id) = &args.related_to {
            let depth = between("depth", args.depth, 1, MAX_DEPTH)?;
            let related = find::related(&self.store, &self.vault, id, &[], depth, Direction::Both).await;
            let related = related.map_err(|e| e.to_string())?;
            return Ok(connected(id, &related));
        }
        let search = Search {
            text: args.query,
            kind: match args.kind {
                RecallKind::Memory => Some(Kind::Memory),
                RecallKind::Context => Some(Kind::Context),
                RecallKind::Any => None,
            },
            types: args.types,
            tags: args.tags,
            user: args.user_id,
            session: args.session_id,
            importance: args.importance,
            limit: between("limit", args.limit, 10, MAX_HITS)?,
            after: args.after.map(|after| after.parse()).transpose()?,
        };
        let page = find::find(&self.store, &self.vault, &search).await.map_err(|e| e.to_string())?;
        Ok(found(&page))
    }
}
