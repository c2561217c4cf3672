//! What types cannot say: ranges, and settings that must fit together. Pure; every problem is reported.

mod cache;

use std::time::Duration;

use bytesize::ByteSize;
use chrono::DateTime;
use croner::parser::{CronParser, Seconds, Year};
use tracing_subscriber::EnvFilter;

use super::{
    records::Content,
    types::{Config, Job, Queue, TaskFormat},
};
use crate::vault::Keyring;

/// Problems with the path of the setting they are about.
#[derive(Default)]
struct Check(Vec<(String, String)>);

impl Check {
    /// Reports `path` unless it holds; `must` goes on the sentence "`path` must ...".
    fn must(&mut self, path: &str, holds: bool, must: &str) {
        if !holds {
            self.0.push((path.to_owned(), format!("`{path}` must {must}")));
        }
    }
}

/// Every problem of `config`, as the dotted path of a setting and a sentence about it.
pub(super) fn validate(config: &Config) -> Vec<(String, String)> {
    let mut check = Check::default();
    check.must("namespace", is_name(&config.namespace), NAME);
    addresses(config, &mut check);
    worker(config, &mut check);
    limits(config, &mut check);
    content(&config.content, &mut check);
    check.must(
        "audit.url",
        is_place(&config.audit.url),
        "be a directory such as /srv/contextd/audit, or s3://BUCKET/PREFIX",
    );
    let key = config.audit.key.len();
    check.must("audit.key", key == 0 || key >= 16, "be empty or a secret of at least 16 characters");
    check.must("queues", !config.queues.is_empty(), "hold at least one queue that is not disabled");
    for (name, settings) in &config.queues {
        queue(name, settings, config, &mut check);
    }
    if let Err(problems) = crate::record::Registry::new(config) {
        check.0.extend(problems);
    }
    cache::cache(config, &mut check);
    job("audit_anchor", &config.jobs.audit_anchor, &mut check);
    job("orphan_sweep", &config.jobs.orphan_sweep, &mut check);
    job("reconciliation", &config.jobs.reconciliation, &mut check);
    let sweep = &config.jobs.orphan_sweep.settings;
    pace("orphan_sweep", &sweep.pace, &mut check);
    let hour = Duration::from_secs(3_600);
    check.must("jobs.orphan_sweep.grace", sweep.grace >= hour, "be at least 1h: writers may be at it");
    check.must("jobs.orphan_sweep.cap_share", (0.0..=1.0).contains(&sweep.cap_share), "be from 0 to 1");
    if let Err(wrong) = Keyring::parse(&config.encryption.keys) {
        check.0.push(("encryption.keys".to_owned(), format!("`encryption.keys`, {wrong}")));
    }
    for (name, settings) in config.jobs.lifecycle() {
        job(name, settings, &mut check);
        pace(name, &settings.settings, &mut check);
    }
    check.0
}

/// How gently a job goes about it.
fn pace(name: &str, figures: &contextd_jobs::engine::Settings, check: &mut Check) {
    let at = |key: &str| format!("jobs.{name}.{key}");
    check.must(&at("page"), (1..=10_000).contains(&figures.page), "be from 1 to 10000");
    let times = Duration::from_millis(1)..=Duration::from_secs(60);
    check.must(&at("page_time"), times.contains(&figures.page_time), "be from 1ms to 1m");
    check.must(&at("yield_share"), (0.01..=1.0).contains(&figures.yield_share), "be from 0.01 to 1");
}

const NAME: &str = "be 1 to 64 of the characters a-z, 0-9, _ and - (it is part of Redis keys)";

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn addresses(config: &Config, check: &mut Check) {
    // The drivers say more when they connect; here it is only made sure that the right kind of address is given.
    let redis = ["redis://", "rediss://", "redis+cluster://", "rediss+cluster://", "redis+sentinel://"];
    let more = ["rediss+sentinel://", "unix://", "redis+unix://", "valkey://", "valkeys://"];
    check.must(
        "redis.url",
        is_url(&config.redis.url, &redis) || is_url(&config.redis.url, &more),
        "be an address such as redis://HOST:PORT/0 (or rediss://, redis+cluster://, redis+sentinel://)",
    );
    let tls = &config.redis.tls;
    check.must(
        "redis.tls.cert_file",
        tls.cert_file.is_empty() == tls.key_file.is_empty(),
        "be given together with `redis.tls.key_file`, or neither of them",
    );
    check.must(
        "mongodb.uri",
        is_url(&config.mongodb.uri, &["mongodb://", "mongodb+srv://"]),
        "be an address such as mongodb://HOST:PORT/?replicaSet=NAME (or mongodb+srv://)",
    );
    let database = &config.mongodb.database;
    let forbidden = |c: char| "/\\. \"$*<>:|?".contains(c) || c.is_control();
    check.must(
        "mongodb.database",
        (1..=63).contains(&database.len()) && !database.contains(forbidden),
        "be a database name: 1 to 63 bytes without spaces and any of /\\.\"$*<>:|?",
    );
    let port = config.http.listen.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    check.must(
        "http.listen",
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok()),
        "be an address and a port such as 127.0.0.1:9464 or [::1]:9464",
    );
    let port = config.mcp.listen.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    check.must(
        "mcp.listen",
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok()),
        "be an address and a port such as 127.0.0.1:9465 or [::1]:9465",
    );
    check.must(
        "mcp.token",
        config.mcp.token.is_empty() || config.mcp.token.len() >= 16,
        "have at least 16 characters (`openssl rand -hex 32`), or be empty where nobody comes in over HTTP",
    );
    check.must(
        "otlp.endpoint",
        config.otlp.endpoint.is_empty() || is_url(&config.otlp.endpoint, &["http://"]),
        "be an address such as http://127.0.0.1:4318 (a collector nearby, without TLS), or empty for no export",
    );
    if let Err(e) = EnvFilter::builder().parse(&config.log.filter) {
        let message = format!("`log.filter` must be a filter such as \"info\" or \"contextd=debug,warn\": {e}");
        check.0.push(("log.filter".to_owned(), message));
    }
}

/// Whether `text` has one of the `schemes` and something behind it.
fn is_url(text: &str, schemes: &[&str]) -> bool {
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}

fn worker(config: &Config, check: &mut Check) {
    let worker = &config.worker;
    let second = Duration::from_secs(1);
    let third = worker.lease / 3;
    check.must("worker.lease", worker.lease >= second, "be at least 1s");
    check.must("worker.poll_min", worker.poll_min >= Duration::from_millis(1), "be at least 1ms");
    check.must("worker.poll_min", worker.poll_min <= worker.poll_max, "not be longer than `worker.poll_max`");
    check.must("worker.poll_max", worker.poll_max < third, "be shorter than a third of `worker.lease`");
    // A take without an answer is asked for again only while its lease can still be trusted.
    check.must("redis.timeout", config.redis.timeout < third, "be shorter than a third of `worker.lease`");
    check.must("redis.timeout", config.redis.timeout >= Duration::from_millis(10), "be at least 10ms");
    check.must("mongodb.timeout", config.mongodb.timeout >= Duration::from_millis(100), "be at least 100ms");
    check.must("worker.memory", worker.memory >= config.limits.task_bytes, "be at least `limits.task_bytes`");
    check.must("schedule.lease", config.schedule.lease >= second, "be at least 1s");
}

fn limits(config: &Config, check: &mut Check) {
    let task = config.limits.task_bytes;
    // A dead letter holds the task's bytes in one document, and MongoDB's limit is 16 MiB.
    let range = ByteSize::kib(1)..=ByteSize::mib(15);
    check.must("limits.task_bytes", range.contains(&task), "be from 1KiB to 15MiB");
    let retry = &config.retry;
    check.must("retry.attempts", (1..=100).contains(&retry.attempts), "be from 1 to 100");
    check.must("retry.crashes", (1..=100).contains(&retry.crashes), "be from 1 to 100");
    check.must("retry.base", retry.base >= Duration::from_millis(1), "be at least 1ms");
    check.must("retry.base", retry.base <= retry.max, "not be longer than `retry.max`");
    let analysis = &config.analysis;
    check.must("analysis.threads", analysis.threads <= 64, "be at most 64 (0: one per core, at most 4)");
    check.must("analysis.text_bytes", analysis.text_bytes > ByteSize::b(0), "be more than 0");
    check.must("analysis.time_limit", analysis.time_limit >= Duration::from_millis(10), "be at least 10ms");
    check.must("analysis.redis_ttl", analysis.redis_ttl >= Duration::from_secs(1), "be at least 1s");
    check.must("analysis.matches_per_block", analysis.matches_per_block >= 1, "be at least 1");
    check.must("typing.redis_ttl", config.typing.redis_ttl >= Duration::from_secs(1), "be at least 1s");
}

fn content(content: &Content, check: &mut Check) {
    check.must(
        "content.url",
        is_place(&content.url),
        "be a directory such as /srv/contextd/objects, or s3://BUCKET/PREFIX",
    );
    check.must(
        "content.archive_url",
        is_place(&content.archive_url),
        "be a directory such as /srv/contextd/archive, or s3://BUCKET/PREFIX",
    );
    // What leaves one tier must not be removed from the other.
    check.must(
        "content.archive_url",
        !is_within(&content.archive_url, &content.url) && !is_within(&content.url, &content.archive_url),
        "be another place than `content.url`, neither inside of the other",
    );
    let in_buckets = is_in_bucket(&content.url);
    // The default would hide archived contents on the one machine that archived them.
    check.must(
        "content.archive_url",
        !in_buckets || is_in_bucket(&content.archive_url) || content.archive_url.starts_with('/'),
        "be s3://BUCKET/PREFIX as `content.url` is, or a whole path that every worker mounts",
    );
    check.must("content.full_every", (1..=1000).contains(&content.full_every), "be from 1 to 1000");
    let timeouts = Duration::from_millis(100)..=Duration::from_secs(300);
    check.must("content.timeout", timeouts.contains(&content.timeout), "be from 100ms to 5m");
    let s3 = &content.s3;
    let in_buckets = in_buckets || is_in_bucket(&content.archive_url);
    check.must("content.s3.region", !in_buckets || !s3.region.is_empty(), "name a region such as us-east-1");
    check.must(
        "content.s3.secret_access_key",
        s3.access_key_id.is_empty() == s3.secret_access_key.is_empty(),
        "be given together with `content.s3.access_key_id`, or neither of them",
    );
    check.must(
        "content.s3.endpoint",
        s3.endpoint.is_empty() || is_url(&s3.endpoint, &["https://", "http://"]),
        "be an address such as https://minio.internal:9000, or empty for Amazon's own",
    );
    check.must(
        "content.s3.allow_http",
        s3.allow_http || !s3.endpoint.starts_with("http://"),
        "be true for an endpoint without TLS (contents and keys then cross the network as they are)",
    );
}

/// Whether it names a directory or a bucket.
fn is_place(url: &str) -> bool {
    match url.strip_prefix("s3://") {
        Some(address) => is_bucket(address.split('/').next().unwrap_or_default()) && !address.contains("//"),
        None => !url.is_empty() && !url.contains("://"),
    }
}

fn is_in_bucket(url: &str) -> bool {
    is_place(url) && url.starts_with("s3://")
}

/// Whether `inner` is `outer` or lies in it.
fn is_within(inner: &str, outer: &str) -> bool {
    let parts = |url: &str| -> Vec<String> {
        url.split('/')
            .enumerate()
            .filter(|(at, part)| *at == 0 || (!part.is_empty() && *part != "."))
            .map(|(_, part)| part.to_owned())
            .collect()
    };
    let (inner, outer) = (parts(inner.trim_start_matches("./")), parts(outer.trim_start_matches("./")));
    inner.starts_with(&outer)
}

/// Whether S3 allows the name; it becomes part of an address.
fn is_bucket(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    (3..=63).contains(&name.len()) && name.bytes().all(allowed)
}

fn queue(name: &str, queue: &Queue, config: &Config, check: &mut Check) {
    let at = |key: &str| format!("queues.{name}.{key}");
    if !is_name(name) {
        check.0.push((format!("queues.{name}"), format!("the queue's name {name:?} must {NAME}")));
    }
    check.must(&at("batch.tasks"), (1..=10_000).contains(&queue.batch.tasks), "be from 1 to 10000");
    check.must(&at("batch.bytes"), queue.batch.bytes >= ByteSize::kib(1), "be at least 1KiB");
    check.must(
        &at("batch.linger"),
        queue.batch.linger < config.worker.lease / 3,
        "be shorter than a third of `worker.lease`",
    );
    check.must(&at("concurrency"), (1..=256).contains(&queue.concurrency), "be from 1 to 256");
    check.must(&at("low_share"), (0.0..=0.5).contains(&queue.low_share), "be from 0 to 0.5");
    match (queue.format, &queue.bare) {
        (TaskFormat::Bare, None) => {
            let must = "name the `type` of its tasks, because its `format` is \"bare\"";
            check.must(&at("bare"), false, must);
        }
        (TaskFormat::Bare, Some(bare)) => {
            check.must(&at("bare.type"), !bare.r#type.is_empty(), "name the type of the queue's tasks");
            check.must(
                &at("bare.id"),
                bare.id.is_empty() || bare.id.starts_with('/'),
                "be a JSON pointer such as \"/jobId\", or empty for the hash of the content",
            );
        }
        (TaskFormat::CloudEvents, Some(_)) => {
            check.must(&at("bare"), false, "be left out unless `format` is \"bare\"");
        }
        (TaskFormat::CloudEvents, None) => {}
    }
}

fn job<S>(name: &str, job: &Job<S>, check: &mut Check) {
    let path = format!("jobs.{name}.cron");
    let must = "be five or six cron fields (seconds first with six) that come true at some time";
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let comes_true = match parser.parse(&job.timing.cron) {
        // Any start will do to tell "0 0 30 2 *" from a schedule.
        Ok(cron) => cron.find_next_occurrence(&DateTime::UNIX_EPOCH, true).map(|_| ()),
        Err(e) => Err(e),
    };
    if let Err(e) = comes_true {
        check.0.push((path.clone(), format!("`{path}` must {must}: {e}")));
    }
}
