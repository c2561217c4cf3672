//! `contextd queues`: what waits where.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde::Serialize;
use serde_json::json;

use super::{
    failure::{Failure, Printed},
    table,
};
use crate::{
    config::{Config, Queue, QueueKind},
    intake::{Link, QueueAdmin, QueueStats},
    task::Priority,
};

#[derive(Debug, Clone, clap::Args)]
pub struct QueuesArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// One queue in the JSON output.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueRow {
    name: String,
    kind: QueueKind,
    paused: bool,
    /// Critical to low; of a stream `normal` alone.
    priorities: BTreeMap<&'static str, Waiting>,
    delayed: u64,
    in_flight: u64,
}

/// What waits at one priority.
#[derive(Debug, Clone, Copy, Serialize)]
struct Waiting {
    depth: u64,
    /// When the task that is next was made, as far as it says so.
    oldest: Option<DateTime<Utc>>,
}

impl QueueRow {
    fn new(name: &str, kind: QueueKind, stats: &QueueStats) -> Self {
        let waiting = |p: Priority| {
            let i = p as usize;
            let oldest = stats.oldest_ms[i].and_then(DateTime::from_timestamp_millis);
            (p.as_str(), Waiting { depth: stats.depth[i], oldest })
        };
        let shown = |p: &Priority| kind == QueueKind::List || *p == Priority::Normal;
        let priorities = Priority::ALL.into_iter().filter(shown).map(waiting).collect();
        let (paused, delayed, in_flight) = (stats.paused, stats.delayed, stats.in_flight);
        Self { name: name.to_owned(), kind, paused, priorities, delayed, in_flight }
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

/// # Errors
/// Redis cannot be asked.
pub async fn queues(args: &QueuesArgs, config: &Config, link: &Link, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let ask = config.queues.iter().map(async |(name, queue)| {
        let admin = QueueAdmin::new(link.clone(), &config.namespace, name, queue.kind);
        admin.stats(now.timestamp_millis()).await.map(|stats| QueueRow::new(name, queue.kind, &stats))
    });
    let rows = join_all(ask).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    if args.json { Printed::json(&json!({ "queues": rows })) } else { Ok(Printed::text(render(&rows, now))) }
}

fn render(rows: &[QueueRow], now: DateTime<Utc>) -> String {
    let mut table = table::new(&["queue", "critical", "high", "normal", "low", "oldest", "delayed", "in flight", ""]);
    for row in rows {
        let depth = |p: Priority| row.priorities.get(p.as_str()).map_or("-".to_owned(), |w| w.depth.to_string());
        let oldest = row.priorities.values().filter_map(|w| w.oldest).min();
        let note = if row.paused { "paused" } else { "" };
        let mut cells = vec![row.name.clone()];
        cells.extend(Priority::ALL.map(depth));
        cells.push(oldest.map_or("-".to_owned(), |made| age(made, now)));
        cells.extend([row.delayed.to_string(), row.in_flight.to_string(), note.to_owned()]);
        table.add_row(cells);
    }
    table::align_right(&mut table, 1..8);
    table.to_string()
}

/// How long ago, in one or two units. A producer's clock ahead of ours counts as now.
pub(super) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let s = (now - then).num_seconds().max(0);
    let units = [(s / 86_400, "d"), (s / 3_600 % 24, "h"), (s / 60 % 60, "m"), (s % 60, "s")];
    let first = units.iter().position(|(n, _)| *n > 0).unwrap_or(units.len() - 1);
    let shown = units.iter().enumerate().skip(first).take(2).filter(|(i, (n, _))| *n > 0 || *i == first);
    shown.map(|(_, (n, unit))| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
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
        let mut stats = QueueStats { delayed: 4, in_flight: 5, ..QueueStats::default() };
        (stats.depth[0], stats.oldest_ms[0]) = (17, Some(now.timestamp_millis() - 120_000));
        let list = QueueRow::new("analysis", QueueKind::List, &stats);
        let paused = QueueStats { paused: true, ..QueueStats::default() };
        let stream = QueueRow::new("typing", QueueKind::Stream, &paused);
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
