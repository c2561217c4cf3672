//! A command of the binary, run to its end.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::NamedTempFile;

use super::worker::clean;

pub struct Run {
    args: Vec<String>,
    variables: Vec<(String, String)>,
    config: Option<NamedTempFile>,
    stdin: Vec<u8>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn new(args: &[&str]) -> Self {
        Self { args: args.iter().map(|a| (*a).to_owned()).collect(), variables: vec![], config: None, stdin: vec![] }
    }

    pub fn variables(mut self, variables: Vec<(String, String)>) -> Self {
        self.variables.extend(variables);
        self
    }

    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((super::env::variable(name), value.to_string()));
        self
    }

    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(config_file(toml));
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs it; fails when it has not ended after two minutes.
    pub async fn end(self) -> Ended {
        let run = tokio::task::spawn_blocking(move || self.run());
        tokio::time::timeout(std::time::Duration::from_secs(120), run)
            .await
            .expect("the command ends")
            .expect("the command was run")
    }

    fn run(self) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contextd"));
        clean(&mut command).envs(self.variables);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config.path());
        }
        let mut child = command
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = self.stdin;
        // A command that does not read its input closes the pipe: no failure.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let out = child.wait_with_output().expect("the command ends");
        drop(writer.join());
        Ended {
            code: out.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", out.status)),
            out: String::from_utf8_lossy(&out.stdout).into_owned(),
            err: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Fails unless the exit status is `code`.
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit status; stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// stdout, which must be exactly one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("stdout is not one JSON document ({e}):\n{}\nstderr:\n{}", self.out, self.err))
    }

    /// Fails unless the errors mention each of these.
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.err.to_lowercase().contains(&part.to_lowercase()),
                "stderr does not say {part:?}:\n{}\nstdout:\n{}",
                self.err,
                self.out
            );
        }
        self
    }

    /// Fails when the errors are not for reading: a panic, a back trace, more than a few lines.
    pub fn readable(self) -> Self {
        for bad in ["panicked at", "stack backtrace", "RUST_BACKTRACE"] {
            assert!(!self.err.contains(bad), "stderr:\n{}", self.err);
        }
        assert!(self.err.lines().count() <= 12, "stderr is not short:\n{}", self.err);
        self
    }
}

pub fn config_file(toml: &str) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file can be made");
    file.write_all(toml.as_bytes()).expect("a file can be written");
    file
}

/// Every object in `value`, however deep, that has the field `name`.
pub fn objects_with<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    match value {
        Value::Object(map) => {
            if map.contains_key(name) {
                found.push(value);
            }
            found.extend(map.values().flat_map(|v| objects_with(v, name)));
        }
        Value::Array(items) => found.extend(items.iter().flat_map(|v| objects_with(v, name))),
        _ => {}
    }
    found
}
