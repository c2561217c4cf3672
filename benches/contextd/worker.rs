//! The real worker as a child process, watched from outside.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{proc, world::Stage};

const READY_LIMIT: Duration = Duration::from_secs(60);

pub struct Worker {
    child: Child,
    http: String,
    log: std::path::PathBuf,
    /// From the start of the process to the first 200 of `/ready`.
    pub ready_after: Duration,
    peak: u64,
}

impl Worker {
    /// Starts `contextd run` on `queues` and waits until it is ready.
    pub fn start(stage: &Stage, queues: &str, extra: &[&str]) -> Result<Self> {
        let log = File::create(&stage.log)?;
        let begin = Instant::now();
        let child = stage
            .command()
            .args(["run", "--no-scheduler", "--queues", queues])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting contextd")?;
        let (http, log) = (stage.http.clone(), stage.log.clone());
        let mut worker = Self { child, http, log, ready_after: Duration::ZERO, peak: 0 };
        while !worker.answers("/ready") {
            worker.check_alive()?;
            if begin.elapsed() > READY_LIMIT {
                bail!("contextd was not ready after {READY_LIMIT:?}; see {}", worker.log.display());
            }
            sleep(Duration::from_millis(5));
        }
        worker.ready_after = begin.elapsed();
        Ok(worker)
    }

    /// Whether `path` answers 200.
    fn answers(&self, path: &str) -> bool {
        let ask = || -> Result<bool> {
            let mut stream = TcpStream::connect(&self.http)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http)?;
            let mut head = [0; 12];
            stream.read_exact(&mut head)?;
            Ok(&head[9..] == b"200")
        };
        ask().unwrap_or(false)
    }

    pub fn cpu(&self) -> Result<Duration> {
        proc::cpu(self.child.id())
    }

    /// Peak resident memory so far in bytes, also after the process ended.
    pub fn peak(&mut self) -> u64 {
        self.peak = proc::peak_memory(self.child.id()).unwrap_or(0).max(self.peak);
        self.peak
    }

    /// An error when the process ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("contextd ended ({status}); see {}", self.log.display()),
            None => Ok(()),
        }
    }

    /// Waits for the worker to end by itself.
    pub fn finish(mut self) -> Result<()> {
        self.wait(Duration::from_secs(30))
    }

    pub fn stop(mut self) -> Result<()> {
        proc::terminate(self.child.id());
        self.wait(Duration::from_secs(40))
    }

    fn wait(&mut self, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("contextd ended with {status}; see {}", self.log.display()),
                None if begin.elapsed() > limit => {
                    bail!("contextd did not end within {limit:?}; see {}", self.log.display())
                }
                None => sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Ended already in the good case; then both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
