//! `contextd queues`: what waits where.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde::Serialize;

use super::{
    failure::{Failure, Printed},
    table,
};
use crate::{
    config::{Config, Queue, QueueKind},
    intake::{Link, QueueAdmin, QueueState, Waiting},
    task::Priority,
};

#[derive(Debug, Clone, clap::Args)]
pub struct QueuesArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// One queue in the JSON output, also in `/api/status`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueRow {
    pub name: String,
    pub kind: QueueKind,
    pub paused: bool,
    /// Critical to low; of a stream `normal` alone.
    pub priorities: BTreeMap<&'static str, Waiting>,
    pub delayed: u64,
    pub in_flight: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl QueueRow {
    pub fn new(name: &str, kind: QueueKind, state: QueueState) -> Self {
        let shown = |p: &Priority| kind == QueueKind::List || *p == Priority::Normal;
        let priorities = Priority::ALL.into_iter().filter(shown);
        Self {
            name: name.to_owned(),
            kind,
            paused: state.paused,
            priorities: priorities.map(|p| (p.as_str(), state.waiting[p as usize])).collect(),
            delayed: state.delayed,
            in_flight: state.in_flight,
            error: state.error,
        }
    }
}

/// The queue `name` of the configuration.
///
/// # Errors
/// There is none; the near one is named.
pub fn find<'c>(config: &'c Config, name: &str) -> Result<&'c Queue, Failure> {
    config.queues.get(name).ok_or_else(|| {
        let near = config.queues.keys().find(|known| strsim::damerau_levenshtein(known, name) <= 2);
        let all = || config.queues.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let hint = near.map_or_else(|| format!("configured are {}", all()), |near| format!("did you mean `{near}`?"));
        Failure::Usage(format!("there is no queue {name:?}: {hint}"))
    })
}

/// The admin handle of the queue `name`.
///
/// # Errors
/// As [`find`].
pub fn admin(config: &Config, link: &Link, name: &str) -> Result<QueueAdmin, Failure> {
    let queue = find(config, name)?;
    Ok(QueueAdmin::new(link.clone(), &config.namespace, name, queue.kind))
}

/// Every configured queue as it is now.
///
/// # Errors
/// Redis cannot be asked.
pub async fn rows(config: &Config, link: &Link) -> Result<Vec<QueueRow>, Failure> {
    let states = config.queues.iter().map(async |(name, queue)| {
        let admin = QueueAdmin::new(link.clone(), &config.namespace, name, queue.kind);
        admin.state().await.map(|state| QueueRow::new(name, queue.kind, state))
    });
    Ok(join_all(states).await.into_iter().collect::<Result<_, _>>()?)
}

/// # Errors
/// Redis cannot be asked.
pub async fn queues(args: &QueuesArgs, config: &Config, link: &Link, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let rows = rows(config, link).await?;
    let wrong = rows.iter().filter_map(|row| row.error.clone()).collect::<Vec<_>>().join("; ");
    let mut printed = if args.json {
        Printed::json(&serde_json::json!({ "queues": rows }))?
    } else {
        Printed::text(render(&rows, now))
    };
    printed.wrong = (!wrong.is_empty()).then_some(wrong);
    Ok(printed)
}

fn render(rows: &[QueueRow], now: DateTime<Utc>) -> String {
    let mut table = table::new(&["queue", "critical", "high", "normal", "low", "oldest", "delayed", "in flight", ""]);
    for row in rows {
        let depth = |p: Priority| row.priorities.get(p.as_str()).map_or("-".to_owned(), |w| w.depth.to_string());
        let oldest = row.priorities.values().filter_map(|w| w.oldest).min();
        let note = match (&row.error, row.paused) {
            (Some(error), _) => error.clone(),
            (None, true) => "paused".to_owned(),
            (None, false) => String::new(),
        };
        let mut cells = vec![row.name.clone()];
        cells.extend(Priority::ALL.map(depth));
        cells.push(oldest.map_or("-".to_owned(), |made| age(made, now)));
        cells.extend([row.delayed.to_string(), row.in_flight.to_string(), note]);
        table.add_row(cells);
    }
    table::align_right(&mut table, 1..8);
    table.to_string()
}

/// How long ago, in one or two units. A producer's clock ahead of ours counts as now.
pub(super) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - then).num_seconds().max(0).unsigned_abs();
    let rounded = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds / 60 * 60,
        _ => seconds / 3_600 * 3_600,
    };
    humantime(Duration::from_secs(rounded))
}

fn humantime(d: Duration) -> String {
    let s = d.as_secs();
    let parts = [(s / 86_400, "d"), (s / 3_600 % 24, "h"), (s / 60 % 60, "m"), (s % 60, "s")];
    let shown: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::attribute::parse_time;

    #[test]
    fn ages() {
        let now = parse_time("2026-01-31T12:00:00Z").unwrap();
        for (seconds, words) in
            [(-5, "0s"), (0, "0s"), (59, "59s"), (61, "1m 1s"), (3_661, "1h 1m"), (7_200, "2h"), (90_061, "1d 1h")]
        {
            assert_eq!(age(now - chrono::TimeDelta::seconds(seconds), now), words);
        }
    }

    #[test]
    fn table_and_json_show_every_priority() {
        let now = parse_time("2026-01-31T12:00:00Z").unwrap();
        let mut state = QueueState { delayed: 4, in_flight: 5, ..QueueState::default() };
        state.waiting[0] = Waiting { depth: 17, oldest: parse_time("2026-01-31T11:58:00Z") };
        let list = QueueRow::new("analysis", QueueKind::List, state);
        let paused = QueueState { paused: true, ..QueueState::default() };
        let stream = QueueRow::new("typing", QueueKind::Stream, paused);
        let json = serde_json::to_value([&list, &stream]).unwrap();
        assert_eq!(json[0]["priorities"]["critical"]["depth"], 17);
        assert_eq!(json[0]["inFlight"], 5);
        assert_eq!(json[1]["priorities"].as_object().unwrap().keys().collect::<Vec<_>>(), ["normal"]);
        let text = render(&[list, stream], now);
        for part in ["analysis", "critical", "17", "2m", "typing", "paused"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
