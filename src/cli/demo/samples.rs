//! The sample input of `samples/`, compiled in. Pure: the id of the run and the time are arguments.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::{metrics::Outcome, task::Priority};

/// How far in the future `{soon}` lies: long enough to be seen waiting, short enough to wait for.
pub const SOON: TimeDelta = TimeDelta::seconds(2);

/// One task as it is pushed.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub queue: String,
    /// Of a list queue.
    pub priority: Option<Priority>,
    pub body: String,
    /// How it is meant to end.
    pub expect: Outcome,
    /// It is pushed when everything before it is done, because it is about what was found out then.
    pub later: bool,
    /// Why it is among the samples, when that is not obvious.
    pub note: Option<String>,
}

impl Sample {
    /// The event, of those that are one.
    pub fn event(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }

    /// Whether it is to wait in Redis first.
    pub fn is_delayed(&self) -> bool {
        self.event().is_some_and(|event| event.get("notbefore").is_some())
    }
}

/// The sample input does not fit together: a mistake in `samples/`, never of the user.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("samples/tasks.jsonl, line {line}: {error}")]
    Line { line: usize, error: serde_json::Error },
    #[error("samples/tasks.jsonl, line {line}: `expect` is not an outcome: {expect:?}")]
    Outcome { line: usize, expect: String },
    #[error("samples/tasks.jsonl, line {line}: there is no samples/{file}")]
    File { line: usize, file: String },
    #[error(
        "samples/tasks.jsonl, line {line}: one of `event` and `raw` is needed, and `contentFile` only with `event`"
    )]
    Shape { line: usize },
}

/// A line of `tasks.jsonl`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    queue: String,
    priority: Option<Priority>,
    expect: String,
    #[serde(default)]
    later: bool,
    note: Option<String>,
    event: Option<Value>,
    content_file: Option<String>,
    raw: Option<String>,
}

/// The tasks in the order in which they are pushed. `run` becomes part of every id, so that each run is new work.
pub fn load(run: &str, now: DateTime<Utc>) -> Result<Vec<Sample>, SampleError> {
    let stamp = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let filled = TASKS
        .replace("{run}", run)
        .replace("{now}", &stamp(now))
        .replace("{soon}", &stamp(now + SOON))
        .replace("{past}", &stamp(now - TimeDelta::minutes(1)));
    filled.lines().enumerate().map(|(index, text)| sample(index + 1, text)).collect()
}

fn sample(line: usize, text: &str) -> Result<Sample, SampleError> {
    let Line { queue, priority, expect, later, note, event, content_file, raw } =
        serde_json::from_str(text).map_err(|error| SampleError::Line { line, error })?;
    let expect = match Outcome::ALL.iter().find(|outcome| outcome.as_str() == expect) {
        Some(outcome) => *outcome,
        None => return Err(SampleError::Outcome { line, expect }),
    };
    let body = match (event, content_file, raw) {
        (None, None, Some(raw)) => raw,
        (Some(event), None, None) => event.to_string(),
        (Some(mut event), Some(file), None) => {
            let content = document(&file).ok_or(SampleError::File { line, file })?;
            event["data"]["content"] = Value::from(content);
            event.to_string()
        }
        _ => return Err(SampleError::Shape { line }),
    };
    Ok(Sample { queue, priority, body, expect, later, note })
}

fn document(file: &str) -> Option<&'static str> {
    let name = file.strip_prefix("documents/")?;
    DOCUMENTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

const TASKS: &str = include_str!("../../../samples/tasks.jsonl");

macro_rules! documents {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../samples/documents/", $name)))),*]
    };
}

/// Name and text of each document.
pub const DOCUMENTS: &[(&str, &str)] = documents![
    "bug-report.md",
    "cover-letter.txt",
    "email-invoice-reminder.txt",
    "email-leaving.txt",
    "email-onboarding.txt",
    "email-venue-change.txt",
    "essay-city-trees.txt",
    "essay-letters.txt",
    "essay-phones-in-school.txt",
    "fiction-ferry.txt",
    "handbook-edited.md",
    "handbook.md",
    "incident-review.md",
    "job-posting.txt",
    "lab-report.txt",
    "lettre-voisins.txt",
    "meeting-garden.txt",
    "meeting-platform.md",
    "note-one-line.txt",
    "press-release.txt",
    "product-app-store.txt",
    "product-backpack.txt",
    "product-kettle.txt",
    "protokoll-elternabend.txt",
    "readme-importer.md",
    "recipe-bread.txt",
    "release-notes-4.2.md",
    "release-notes-hotfix.txt",
    "review-restaurant.txt",
    "social-post.txt",
    "speech-anniversary.txt",
    "support-login-loop.txt",
    "support-refund.txt",
    "support-shipping.txt",
    "survey-answers.txt",
    "tenancy-notice.txt",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn loaded(run: &str) -> Vec<Sample> {
        load(run, DateTime::UNIX_EPOCH).expect("the samples fit together")
    }

    #[test]
    fn no_placeholder_is_left() {
        for sample in loaded("r1") {
            for name in ["{run}", "{now}", "{soon}", "{past}"] {
                assert!(!sample.body.contains(name), "{name} in {}", sample.body);
            }
        }
    }

    #[test]
    fn every_document_is_compiled_in_and_used() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/documents");
        let on_disk: BTreeSet<String> = std::fs::read_dir(here)
            .expect("the directory is there")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        let compiled: BTreeSet<String> = DOCUMENTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(on_disk, compiled);
        for name in compiled {
            assert!(TASKS.contains(&format!("\"documents/{name}\"")), "{name} is in no task");
        }
    }

    #[test]
    fn runs_share_no_event_id() {
        let ids = |run: &str| -> BTreeSet<String> {
            let events = loaded(run).into_iter().filter_map(|s| serde_json::from_str::<Value>(&s.body).ok());
            events.filter_map(|event| event["id"].as_str().map(str::to_owned)).collect()
        };
        assert!(ids("r1").is_disjoint(&ids("r2")));
        assert!(ids("r1").len() > 100);
    }

    #[test]
    fn all_priorities_and_both_kinds_of_queue_are_used() {
        let samples = loaded("r1");
        for priority in Priority::ALL {
            assert!(samples.iter().any(|s| s.priority == Some(priority)), "nothing has priority {priority}");
        }
        assert!(samples.iter().any(|s| s.queue == "typing" && s.priority.is_none()));
        assert!(samples.iter().all(|s| (s.queue == "analysis") == s.priority.is_some()));
    }

    #[test]
    fn what_is_broken_says_why() {
        let broken = |s: &Sample| serde_json::from_str::<Value>(&s.body).is_err();
        let samples = loaded("r1");
        assert!(samples.iter().any(broken));
        assert!(samples.iter().filter(|s| broken(s)).all(|s| s.note.is_some() && s.expect == Outcome::Dead));
        assert!(samples.iter().filter(|s| s.expect == Outcome::Dead || s.later).all(|s| s.note.is_some()));
    }

    #[test]
    fn every_outcome_is_among_them() {
        let samples = loaded("r1");
        for outcome in Outcome::ALL {
            assert!(samples.iter().any(|s| s.expect == *outcome), "nothing ends as {outcome}");
        }
    }
}
