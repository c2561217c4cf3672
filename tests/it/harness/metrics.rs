//! One reading of `/metrics`: Prometheus text, as a table.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub help: BTreeSet<String>,
    /// Metric name -> "counter", "gauge", "histogram".
    pub types: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
pub struct Sample {
    /// With the prefix `contextd_`.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                metrics.help.extend(rest.split(' ').next().map(str::to_owned));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a TYPE line names a type");
                metrics.types.insert(name.into(), kind.trim().into());
            } else if !line.starts_with('#') {
                metrics.samples.push(Sample::parse(line));
            }
        }
        metrics
    }

    /// The sum of all series of `contextd_<name>` that carry these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let name = format!("contextd_{name}");
        self.samples
            .iter()
            .filter(|s| s.name == name)
            .filter(|s| labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|have| have == v)))
            .map(|s| s.value)
            .sum()
    }

    pub fn finished(&self, queue: &str, outcome: &str) -> f64 {
        self.sum("tasks_finished_total", &[("queue", queue), ("outcome", outcome)])
    }

    /// Fails unless every task that was received is accounted for.
    pub fn assert_ledger(&self, queue: &str) {
        let of_queue = [("queue", queue)];
        let received = self.sum("tasks_received_total", &of_queue);
        let finished = self.sum("tasks_finished_total", &of_queue);
        let returned = self.sum("tasks_returned_total", &of_queue);
        let in_flight = self.sum("tasks_in_flight", &of_queue);
        assert_eq!(
            received,
            finished + returned + in_flight,
            "{queue}: received {received}, finished {finished}, returned {returned}, in flight {in_flight}"
        );
        assert_eq!(self.sum("ledger_gap", &of_queue), 0.0, "{queue}: the worker reports a gap itself");
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, rest) = match line.split_once('{') {
            Some((name, rest)) => {
                let (labels, value) = rest.rsplit_once('}').expect("labels end with }");
                ((name, labels), value)
            }
            None => {
                let (name, value) = line.split_once(' ').expect("a sample has a value");
                ((name, ""), value)
            }
        };
        let labels = labels(series.1);
        let value = rest.split_whitespace().next().expect("a sample has a value");
        Self {
            name: series.0.to_owned(),
            labels,
            value: value.parse().unwrap_or_else(|_| panic!("not a number: {line}")),
        }
    }
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((key, tail)) = rest.split_once("=\"") {
        let end = tail.find('"').expect("a label value is quoted");
        labels.insert(key.trim_start_matches([',', ' ']).to_owned(), tail[..end].to_owned());
        rest = &tail[end + 1..];
    }
    labels
}
