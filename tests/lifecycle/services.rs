//! The servers of the tests: from the environment, else brought up for all tests of this binary.

use std::{process::Command, sync::OnceLock};

pub struct Services {
    pub redis: String,
    pub mongodb: String,
}

pub fn shared() -> &'static Services {
    static SHARED: OnceLock<Services> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "tests are told where the services are by the environment")]
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    SHARED.get_or_init(|| match (var("CONTEXTD_REDIS__URL"), var("CONTEXTD_MONGODB__URI")) {
        (Some(redis), Some(mongodb)) => Services { redis, mongodb },
        _ => bring_up(),
    })
}

fn bring_up() -> Services {
    script(&["up", "--name", "test"]);
    let env = script(&["env", "--name", "test"]);
    let value = |name: &str| {
        let line =
            env.lines().find_map(|line| line.trim().strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name}:\n{env}")).trim_matches(['\'', '"']).to_owned()
    };
    Services { redis: value("CONTEXTD_REDIS__URL"), mongodb: value("CONTEXTD_MONGODB__URI") }
}

fn script(args: &[&str]) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let out = Command::new(path).args(args).output().unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(out.status.success(), "{path} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
