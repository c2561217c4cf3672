//! The settings as types. `config/default.toml` explains each; the names here are the names there.

use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
use contextd_jobs::engine::Settings as Lifecycle;
use serde::{Deserialize, Serialize};

use super::records::{Audit, Cache, Content, Encryption, Mcp, Record};

/// Everything that can be set, resolved from the compiled-in defaults, a file and the environment.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub namespace: String,
    pub redis: Redis,
    pub mongodb: MongoDb,
    pub http: Http,
    pub log: Log,
    pub otlp: Otlp,
    pub worker: Worker,
    pub limits: Limits,
    pub retry: Retry,
    pub queues: BTreeMap<String, Queue>,
    pub analysis: Analysis,
    pub typing: Typing,
    pub records: BTreeMap<String, Record>,
    pub cache: Cache,
    pub content: Content,
    pub audit: Audit,
    pub encryption: Encryption,
    pub mcp: Mcp,
    pub schedule: Schedule,
    pub jobs: Jobs,
    /// Declared in `[policy]`, which is read by `contextd_jobs::policy::load`.
    #[serde(skip)]
    pub policy: contextd_jobs::policy::Policy,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    pub url: String,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub tls: RedisTls,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RedisTls {
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MongoDb {
    pub uri: String,
    pub database: String,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Auto,
    Human,
    Json,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    pub endpoint: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    #[serde(with = "humantime_serde")]
    pub poll_min: Duration,
    #[serde(with = "humantime_serde")]
    pub poll_max: Duration,
    pub memory: ByteSize,
    #[serde(with = "humantime_serde")]
    pub start_wait: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub task_bytes: ByteSize,
    #[serde(with = "humantime_serde")]
    pub clock_skew: Duration,
    #[serde(with = "humantime_serde")]
    pub records_flush: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub attempts: u32,
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    pub crashes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    List,
    Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskFormat {
    #[serde(rename = "cloudevents")]
    CloudEvents,
    Bare,
}

/// One queue; its name is the key in [`Config::queues`].
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub kind: QueueKind,
    #[serde(default = "cloudevents")]
    pub format: TaskFormat,
    #[serde(default)]
    pub bare: Option<Bare>,
    #[serde(default)]
    pub batch: BatchLimits,
    #[serde(default = "four")]
    pub concurrency: usize,
    #[serde(default = "tenth")]
    pub low_share: f64,
}

fn cloudevents() -> TaskFormat {
    TaskFormat::CloudEvents
}
fn four() -> usize {
    4
}
fn tenth() -> f64 {
    0.1
}

/// How a queue of bare payloads gives its tasks a type and an id.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bare {
    pub r#type: String,
    #[serde(default)]
    pub id: String,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    pub tasks: usize,
    pub bytes: ByteSize,
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { tasks: 500, bytes: ByteSize::mib(8), linger: Duration::ZERO }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Analysis {
    pub threads: usize,
    pub text_bytes: ByteSize,
    #[serde(with = "humantime_serde")]
    pub time_limit: Duration,
    pub result_cache: ByteSize,
    pub block_cache: ByteSize,
    #[serde(with = "humantime_serde")]
    pub redis_ttl: Duration,
    pub dialect: Dialect,
    pub dictionary: Vec<String>,
    pub matches_per_block: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    American,
    British,
    Canadian,
    Australian,
    Indian,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Typing {
    #[serde(with = "humantime_serde")]
    pub redis_ttl: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
}

/// One section per scheduled job: the shared timing settings and the job's own figures.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    pub audit_anchor: Job<contextd_jobs::audit_anchor::Settings>,
    pub session_archival: Job<Lifecycle>,
    pub version_pruning: Job<Lifecycle>,
    pub anonymous_cleanup: Job<Lifecycle>,
    pub document_archival: Job<Lifecycle>,
    pub retention: Job<Lifecycle>,
    pub anonymization: Job<Lifecycle>,
    pub auth_log_archival: Job<Lifecycle>,
    pub orphan_sweep: Job<contextd_jobs::orphan_sweep::Settings>,
    pub reconciliation: Job<contextd_jobs::reconciliation::Settings>,
}

impl Jobs {
    /// The jobs of the lifecycle, with their section's name.
    pub fn lifecycle(&self) -> [(&'static str, &Job<Lifecycle>); 7] {
        [
            ("session_archival", &self.session_archival),
            ("version_pruning", &self.version_pruning),
            ("anonymous_cleanup", &self.anonymous_cleanup),
            ("document_archival", &self.document_archival),
            ("retention", &self.retention),
            ("anonymization", &self.anonymization),
            ("auth_log_archival", &self.auth_log_archival),
        ]
    }
}

/// When a job runs ([`JobTiming`]) and under which figures (`settings`).
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Job<S> {
    #[serde(flatten)]
    pub timing: JobTiming,
    #[serde(flatten)]
    pub settings: S,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct JobTiming {
    pub enabled: bool,
    pub cron: String,
    pub zone: chrono_tz::Tz,
    pub misfire: Misfire,
    #[serde(with = "humantime_serde")]
    pub catch_up: Duration,
    pub overlap: Overlap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    Skip,
    Once,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    Skip,
    Queue,
}

// URLs hold passwords: they are never printed whole.
impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("timeout", &self.timeout).field("tls", &self.tls).finish_non_exhaustive()
    }
}
impl std::fmt::Debug for MongoDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MongoDb")
            .field("database", &self.database)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
impl std::fmt::Debug for Otlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Otlp").field("exports", &!self.endpoint.is_empty()).finish_non_exhaustive()
    }
}
