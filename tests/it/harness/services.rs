//! The shared Redis and MongoDB: from the environment, else brought up once through `scripts/services`.

use std::{process::Command, sync::OnceLock};

use super::var;

pub struct Services {
    pub redis: String,
    pub mongodb: String,
}

pub fn shared() -> &'static Services {
    static SHARED: OnceLock<Services> = OnceLock::new();
    SHARED.get_or_init(|| match (var("CONTEXTD_REDIS__URL"), var("CONTEXTD_MONGODB__URI")) {
        (Some(redis), Some(mongodb)) => Services { redis, mongodb },
        _ => bring_up(),
    })
}

fn bring_up() -> Services {
    script(&["up", "--name", "test"]);
    let env = script(&["env", "--name", "test"]);
    let value = |name: &str| {
        env.lines()
            .filter_map(|line| line.trim().strip_prefix("export ")?.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches(['\'', '"']).to_owned())
            .unwrap_or_else(|| panic!("scripts/services env printed no {name}:\n{env}"))
    };
    Services { redis: value("CONTEXTD_REDIS__URL"), mongodb: value("CONTEXTD_MONGODB__URI") }
}

fn script(args: &[&str]) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let out = Command::new(path).args(args).output().unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(out.status.success(), "{path} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Where the program `name` lies: on the PATH, or among what `scripts/services` has unpacked.
pub fn program(name: &str) -> Option<String> {
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/.services");
    let found = Command::new("sh")
        .arg("-c")
        .arg(format!("command -v {name} || find {unpacked} -name {name} -type f -perm -u+x 2>/dev/null | head -n 1"))
        .output()
        .ok()?;
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    (!path.is_empty()).then_some(path)
}

/// A directory in memory where there is one: private servers of tests need no disk.
pub fn scratch() -> tempfile::TempDir {
    let parent = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("contextd-it-").tempdir_in(parent).expect("a temporary directory can be made")
}

/// Sends `signal` ("TERM", "STOP", ...) to one process.
pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{signal} {pid}")).status().expect("sh runs");
    assert!(status.success(), "kill -{signal} {pid}");
}
