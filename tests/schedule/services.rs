//! The MongoDB of the tests.

use std::{process::Command, sync::OnceLock};

/// From the environment, else from services brought up for all tests of this binary.
pub fn uri() -> &'static str {
    static URI: OnceLock<String> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration to read it from")]
    URI.get_or_init(|| {
        std::env::var("CONTEXTD_MONGODB__URI").unwrap_or_else(|_| {
            let services = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
            let run = |command: &str| {
                let out =
                    Command::new(services).args([command, "--name", "test"]).output().expect("scripts/services runs");
                assert!(out.status.success(), "scripts/services: {}", String::from_utf8_lossy(&out.stderr));
                String::from_utf8_lossy(&out.stdout).into_owned()
            };
            run("up");
            let env = run("env");
            let line = env.lines().find_map(|l| l.split_once("CONTEXTD_MONGODB__URI=")).expect("a URI");
            line.1.trim_matches(['\'', '"']).to_owned()
        })
    })
}
