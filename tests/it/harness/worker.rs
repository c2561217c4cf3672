//! `contextd run` as a process: started, watched, killed.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tempfile::NamedTempFile;

use super::{Env, Metrics, PATIENCE, cli::config_file, eventually, ports, services, when};

/// A worker about to be started.
pub struct Launch {
    args: Vec<String>,
    variables: Vec<(String, String)>,
    config: Option<NamedTempFile>,
    /// Jobs run at their hour; tests do not wait for them.
    scheduler: bool,
}

impl Launch {
    pub fn new(env: &Env, queues: &str) -> Self {
        let args = if queues.is_empty() { vec![] } else { vec!["--queues".to_owned(), queues.to_owned()] };
        Self { args, variables: env.variables(), config: None, scheduler: false }
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// One more setting: `("worker.drain", "1s")`.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((super::env::variable(name), value.to_string()));
        self
    }

    /// A configuration file with this text.
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(config_file(toml));
        self
    }

    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// Starts it and does not wait.
    pub fn start(self) -> Worker {
        self.start_on(ports::free())
    }

    pub fn start_on(self, port: u16) -> Worker {
        let log = NamedTempFile::new().expect("a log file can be made");
        // Appending: stdout and stderr do not overwrite each other.
        let out = File::options().append(true).open(log.path()).expect("the log file can be opened");
        let err = out.try_clone().expect("a file can be shared");
        let mut command = Command::new(env!("CARGO_BIN_EXE_contextd"));
        clean(&mut command).envs(self.variables).env("CONTEXTD_HTTP__LISTEN", format!("127.0.0.1:{port}"));
        if let Some(config) = &self.config {
            command.arg("--config").arg(config.path());
        }
        command.arg("run").args(&self.args);
        if !self.scheduler {
            command.arg("--no-scheduler");
        }
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("the binary starts");
        Worker { child, port, log, _config: self.config, http: client() }
    }

    /// Starts it and waits until it can take work.
    pub async fn ready(self) -> Worker {
        let mut worker = self.start();
        worker.becomes_ready().await;
        worker
    }
}

/// A running worker; killed when dropped, its log printed when the test failed.
pub struct Worker {
    child: Child,
    pub port: u16,
    log: NamedTempFile,
    _config: Option<NamedTempFile>,
    http: reqwest::Client,
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    // HTTP.

    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let response = self.http.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.text().await.ok()?))
    }

    pub async fn metrics(&self) -> Metrics {
        let (status, text) = eventually("/metrics answers", || self.get("/metrics")).await;
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    pub async fn is_ready(&self) -> bool {
        self.get("/ready").await.is_some_and(|(status, _)| status == 200)
    }

    pub async fn becomes_ready(&mut self) {
        let start = std::time::Instant::now();
        while !self.is_ready().await {
            if let Some(status) = self.exited() {
                panic!("the worker ended ({status}) before it was ready");
            }
            assert!(start.elapsed() < PATIENCE, "the worker is not ready within {PATIENCE:?}");
            tokio::time::sleep(super::POLL).await;
        }
    }

    pub async fn becomes_unready(&self) -> String {
        eventually("the worker says that it is not ready", || async {
            self.get("/ready").await.filter(|(status, _)| *status == 503).map(|(_, body)| body)
        })
        .await
    }

    /// Waits until nothing is in flight and the ledger adds up; returns that reading.
    pub async fn at_rest(&self) -> Metrics {
        let metrics = eventually("nothing is in flight", || async {
            let metrics = self.metrics().await;
            when(metrics.sum("tasks_in_flight", &[]) == 0.0).map(|()| metrics)
        })
        .await;
        for queue in metrics.samples.iter().filter(|s| s.name == "contextd_ledger_gap") {
            metrics.assert_ledger(&queue.labels["queue"]);
        }
        metrics
    }

    // The process.

    pub fn signal(&self, name: &str) {
        services::signal(self.pid(), name);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process can be asked")
    }

    /// Waits for its end and returns the exit status.
    pub async fn exit(&mut self) -> i32 {
        self.exit_within(PATIENCE).await
    }

    pub async fn exit_within(&mut self, limit: Duration) -> i32 {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status.code().unwrap_or_else(|| panic!("ended by a signal: {status}"));
            }
            assert!(start.elapsed() < limit, "the worker has not ended within {limit:?}");
            tokio::time::sleep(super::POLL).await;
        }
    }

    /// SIGTERM, and exit status 0.
    pub async fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.exit().await, 0, "exit status after SIGTERM");
    }

    /// Everything that it has printed so far.
    pub fn output(&self) -> String {
        let mut file = self.log.reopen().expect("the log file can be opened");
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("the log file can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            eprintln!("---- worker on port {} ({} lines, the last 25) ----", self.port, lines.len());
            for line in &lines[lines.len().saturating_sub(25)..] {
                eprintln!("{}", line.chars().take(500).collect::<String>());
            }
        }
    }
}

/// Nothing of the test run's own environment reaches the binary.
pub fn clean(command: &mut Command) -> &mut Command {
    command.env_clear().env("PATH", super::var("PATH").unwrap_or_default()).env("RUST_BACKTRACE", "1")
}

fn client() -> reqwest::Client {
    contextd::install_tls();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .pool_max_idle_per_host(1)
        .build()
        .expect("an HTTP client without TLS can be built")
}
