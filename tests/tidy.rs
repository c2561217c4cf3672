//! The rules about who may use what, checked on the source text: reviewers forget, tests do not.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, out);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            out.push(entry);
        }
    }
}

/// Every line of code below `dir` that uses `needle` and does not lie under one of `allowed`.
fn strays(dir: &str, needle: &str, exempt: &str, allowed: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join(dir), &mut files);
    assert!(files.len() > 2, "{dir} holds the code");
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        if allowed.iter().any(|a| name.starts_with(a)) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let uses = code.match_indices(needle).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                let rest = &code[at + needle.len()..];
                before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
                    && (exempt.is_empty() || !rest.starts_with(exempt))
            });
            if uses {
                found.push(format!("{name}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn redis_is_spoken_in_intake_and_cache_only() {
    assert_eq!(strays("src", "redis::", "", &["src/intake/", "src/cache/"]), [""; 0]);
}

#[test]
fn mongodb_is_spoken_in_store_schedule_and_jobs_only() {
    // Its document types are data like any other.
    assert_eq!(strays("src", "mongodb::", "bson", &["src/store/", "src/schedule/"]), [""; 0]);
}

#[test]
fn http_is_spoken_in_status_and_mcp_only() {
    // The tests of the export of spans have a collector of their own.
    assert_eq!(strays("src", "axum::", "", &["src/status/", "src/mcp/", "src/telemetry/tests.rs"]), [""; 0]);
}

#[test]
fn the_environment_is_read_in_config_only() {
    assert_eq!(strays("src", "env::var", "", &["src/config/"]), [""; 0]);
    assert_eq!(strays("jobs", "env::var", "", &[]), [""; 0]);
}

#[test]
fn jobs_reach_neither_intake_nor_http() {
    for needle in ["redis::", "axum::", "contextd::"] {
        assert_eq!(strays("jobs", needle, "", &[]), [""; 0]);
    }
}

#[test]
fn the_switchboard_stays_small() {
    let main = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    assert!(main.lines().count() <= 40, "main.rs only says which library function runs");
}

/// Names in backticks with at least two underscores, in the last column of the tables of `docs/seeds.md`.
fn named_tests() -> Vec<String> {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/seeds.md")).unwrap();
    let proofs = table.lines().filter_map(|line| line.strip_prefix('|')?.split('|').nth(2).map(str::to_owned));
    let is_name = |text: &&str| {
        text.matches('_').count() > 1 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    proofs.flat_map(|cell| cell.split('`').filter(is_name).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn the_tests_that_the_docs_name_are_there() {
    let mut files = Vec::new();
    for dir in ["src", "tests", "jobs"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut files);
    }
    let code: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let names = named_tests();
    assert!(names.len() > 40, "the tables name tests");
    let is_missing = |name: &&String| !code.iter().any(|text| text.contains(&format!("fn {name}(")));
    assert_eq!(names.iter().filter(is_missing).collect::<Vec<_>>(), Vec::<&String>::new());
}
