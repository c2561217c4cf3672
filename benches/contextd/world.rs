//! The services that are measured against, and a fresh namespace and database for every run.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mongodb::{
    Client, Database,
    bson::doc,
    options::{Acknowledgment, ClientOptions, WriteConcern},
};
use redis::Commands;

use crate::proc;

pub const LIST: &str = "bench_list";
pub const STREAM: &str = "bench_stream";
pub const ANALYSIS: &str = "analysis";

/// Tasks of a batch and batches in flight, for the worker and for the bare driver.
pub const BATCH: usize = 500;
pub const IN_FLIGHT: usize = 4;
/// Threads for text analysis, for the worker and for the bare engine.
pub const ANALYSIS_THREADS: usize = 2;

pub struct World {
    pub runtime: tokio::runtime::Runtime,
    pub redis: redis::Connection,
    pub redis_url: String,
    /// Majority and journal, as the worker writes.
    pub mongodb: Client,
    mongodb_uri: String,
    pub servers: Servers,
    output: PathBuf,
    stages: u32,
}

/// The pids of the servers, as far as they run as plain processes on this machine.
pub struct Servers {
    pub redis: Option<u32>,
    pub mongodb: Option<u32>,
}

impl World {
    pub fn connect(output: PathBuf) -> Result<Self> {
        let redis_url = setting("CONTEXTD_REDIS__URL")?;
        let mongodb_uri = setting("CONTEXTD_MONGODB__URI")?;
        let runtime = tokio::runtime::Runtime::new()?;
        let mut redis = redis::Client::open(redis_url.as_str())?.get_connection().context("connecting to Redis")?;
        let mongodb = runtime.block_on(async {
            let mut options = ClientOptions::parse(&mongodb_uri).await?;
            options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
            options.server_selection_timeout = Some(Duration::from_secs(10));
            Client::with_options(options)
        })?;
        let status = runtime.block_on(mongodb.database("admin").run_command(doc! {"serverStatus": 1}).into_future());
        let pid = status.context("connecting to MongoDB")?.get("pid").and_then(|pid| pid.as_i64());
        let info: String = redis::cmd("INFO").arg("server").query(&mut redis)?;
        let redis_pid = info.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
        let is = |pid: &u32, program: &str| proc::name(*pid).is_some_and(|name| name.starts_with(program));
        let servers = Servers {
            redis: redis_pid.filter(|pid| is(pid, "redis") || is(pid, "valkey")),
            mongodb: pid.and_then(|pid| pid.try_into().ok()).filter(|pid| is(pid, "mongod")),
        };
        fs::create_dir_all(&output)?;
        // Rewrites of the append-only file would fall into some measurements and not into others.
        let quiet: redis::RedisResult<()> =
            redis::cmd("CONFIG").arg(&["SET", "auto-aof-rewrite-percentage", "0"]).query(&mut redis);
        if quiet.is_err() {
            eprintln!("note: Redis does not let us turn off rewrites of its append-only file; expect more noise");
        }
        Ok(Self { runtime, redis, redis_url, mongodb, mongodb_uri, servers, output, stages: 0 })
    }

    /// A fresh namespace and database, migrated.
    pub fn stage(&mut self) -> Result<Stage> {
        self.stages += 1;
        let name = format!("bench-{}-{}", std::process::id(), self.stages);
        let config = self.output.join("bench.toml");
        fs::write(&config, worker_config())?;
        let stage = Stage {
            http: format!("127.0.0.1:{}", free_port()?),
            log: self.output.join("worker.log"),
            redis_url: self.redis_url.clone(),
            mongodb_uri: self.mongodb_uri.clone(),
            config,
            name,
        };
        let output = stage.command().arg("migrate").stdin(Stdio::null()).output().context("starting contextd")?;
        if !output.status.success() {
            bail!("`contextd migrate` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(stage)
    }

    pub fn database(&self, stage: &Stage) -> Database {
        self.mongodb.database(&stage.name)
    }

    /// Removes what a run left and lets the servers settle.
    pub fn clear(&mut self, stage: &Stage) -> Result<()> {
        self.runtime.block_on(self.database(stage).drop().into_future())?;
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(format!("{}:*", stage.name))
                .arg("COUNT")
                .arg(5_000)
                .query(&mut self.redis)?;
            if !keys.is_empty() {
                redis::cmd("UNLINK").arg(keys).exec(&mut self.redis)?;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        self.compact_redis()
    }

    /// Rewrites the append-only file when it has grown: it holds every task pushed so far.
    fn compact_redis(&mut self) -> Result<()> {
        let size =
            |info: String| info.lines().find_map(|line| line.strip_prefix("aof_current_size:")?.trim().parse().ok());
        let persistence = |redis: &mut redis::Connection| -> redis::RedisResult<String> {
            redis::cmd("INFO").arg("persistence").query(redis)
        };
        if size(persistence(&mut self.redis)?).unwrap_or(0_u64) < 1 << 30 {
            return Ok(());
        }
        redis::cmd("BGREWRITEAOF").exec(&mut self.redis)?;
        let running = ["aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1"];
        while running.iter().any(|line| persistence(&mut self.redis).is_ok_and(|info| info.contains(line))) {
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _: redis::RedisResult<()> =
            redis::cmd("CONFIG").arg(&["SET", "auto-aof-rewrite-percentage", "100"]).query(&mut self.redis);
    }
}

/// One namespace and database with its worker's settings.
pub struct Stage {
    /// Namespace in Redis and database in MongoDB.
    pub name: String,
    pub http: String,
    pub log: PathBuf,
    config: PathBuf,
    redis_url: String,
    mongodb_uri: String,
}

impl Stage {
    /// The real binary, set up for this stage.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contextd"));
        command
            .arg("--config")
            .arg(&self.config)
            .env("CONTEXTD_REDIS__URL", &self.redis_url)
            .env("CONTEXTD_MONGODB__URI", &self.mongodb_uri)
            .env("CONTEXTD_MONGODB__DATABASE", &self.name)
            .env("CONTEXTD_NAMESPACE", &self.name)
            .env("CONTEXTD_HTTP__LISTEN", &self.http);
        command
    }

    /// The settings of this stage, for what is measured in this process.
    pub fn config(&self) -> Result<contextd::config::Config> {
        let vars = [
            ("CONTEXTD_REDIS__URL", &self.redis_url),
            ("CONTEXTD_MONGODB__URI", &self.mongodb_uri),
            ("CONTEXTD_MONGODB__DATABASE", &self.name),
            ("CONTEXTD_NAMESPACE", &self.name),
        ];
        let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.clone()));
        Ok(contextd::config::load(None, vars)?)
    }

    pub fn key(&self, queue: &str, part: &str) -> String {
        format!("{}:{{{queue}}}:{part}", self.name)
    }

    pub fn pause(&self, redis: &mut redis::Connection, queue: &str) -> Result<()> {
        Ok(redis.set(self.key(queue, "paused"), 1)?)
    }

    pub fn resume(&self, redis: &mut redis::Connection, queue: &str) -> Result<()> {
        Ok(redis.del(self.key(queue, "paused"))?)
    }

    /// Tasks that wait, and whether any are in flight.
    pub fn left(&self, redis: &mut redis::Connection, queue: &str) -> Result<Left> {
        if queue == STREAM {
            // Entries are deleted when they are settled: what is in the stream waits or is in flight.
            let total: u64 = redis.xlen(self.key(queue, "events"))?;
            let summary: redis::RedisResult<redis::Value> =
                redis::cmd("XPENDING").arg(self.key(queue, "events")).arg("contextd").query(redis);
            // Before the first worker there is no group.
            let pending = match summary {
                Ok(redis::Value::Array(parts)) => {
                    parts.first().and_then(|count| redis::from_redis_value_ref(count).ok()).unwrap_or(0)
                }
                _ => 0_u64,
            };
            return Ok(Left { waiting: total.saturating_sub(pending), in_flight: pending > 0 });
        }
        let mut pipe = redis::pipe();
        for part in ["critical", "high", "normal", "low"] {
            pipe.llen(self.key(queue, part));
        }
        pipe.zcard(self.key(queue, "delayed")).zcard(self.key(queue, "lease"));
        let counts: Vec<u64> = pipe.query(redis)?;
        let (leases, waiting) = counts.split_last().context("Redis answered nothing")?;
        Ok(Left { waiting: waiting.iter().sum(), in_flight: *leases > 0 })
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Left {
    pub waiting: u64,
    pub in_flight: bool,
}

impl Left {
    pub fn is_nothing(&self) -> bool {
        self.waiting == 0 && !self.in_flight
    }
}

fn worker_config() -> String {
    let queue = |name, kind| {
        format!(
            "[queues.{name}]\nkind = \"{kind}\"\nformat = \"cloudevents\"\n\
             batch = {{ tasks = {BATCH}, bytes = \"8MiB\", linger = \"0ms\" }}\nconcurrency = {IN_FLIGHT}\nlow_share = 0.1\n\n"
        )
    };
    queue(LIST, "list")
        + &queue(STREAM, "stream")
        + &format!("[analysis]\nthreads = {ANALYSIS_THREADS}\n\n[log]\nfilter = \"warn\"\n")
}

#[expect(clippy::disallowed_methods, reason = "a benchmark is its own program; the library's rule is for the library")]
fn setting(name: &str) -> Result<String> {
    env::var(name)
        .with_context(|| format!("{name} is not set: use `make bench`, or `eval \"$(scripts/services env)\"` before"))
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
