//! A private `redis-server`, for tests that kill, fill or lock one.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
};

use super::{eventually, ports, services, when};

pub struct RedisServer {
    program: String,
    args: Vec<String>,
    pub port: u16,
    pub dir: tempfile::TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Started with these further arguments. `None`, with a printed line, where the program is missing.
    pub async fn start(args: &[&str]) -> Option<Self> {
        let Some(program) = services::program("redis-server") else {
            println!("skipped: no redis-server on this machine");
            return None;
        };
        let mut server = Self {
            program,
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            port: ports::free(),
            dir: services::scratch(),
            child: None,
        };
        server.restart();
        server.answers().await;
        Some(server)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Starts the process, on the same port and data. Where the arguments hold `PORT` it is put there, instead of `--port`.
    pub fn restart(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log file");
        let mut command = Command::new(&self.program);
        let port = self.port.to_string();
        if !self.args.iter().any(|arg| arg == "PORT") {
            command.args(["--port", &port]);
        }
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--daemonize", "no"]);
        command.args(["--maxmemory-policy", "noeviction"]).arg("--dir").arg(self.dir.path());
        command.args(self.args.iter().map(|arg| if arg == "PORT" { &port } else { arg }));
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server starts"));
    }

    /// Waits until the port is open.
    pub async fn answers(&self) {
        eventually("redis-server listens", || async {
            when(tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok())
        })
        .await;
    }

    pub fn signal(&self, name: &str) {
        services::signal(self.child.as_ref().expect("the server runs").id(), name);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `redis-cli` with these arguments; its trimmed output, which must not be an error.
pub fn redis_cli(args: &[&str]) -> String {
    let out = Command::new("redis-cli").args(args).stdin(Stdio::null()).output().expect("redis-cli runs");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && !text.contains("ERR "), "redis-cli {args:?}: {text}");
    text.trim().to_owned()
}
