//! Pushes the samples and watches the worker until all of them are done.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{progress::Progress, samples::Sample};
use crate::{
    cli::{failure::Failure, queues},
    clock,
    config::{Config, TaskFormat},
    intake::{Link, QueueAdmin},
    metrics::{Ledger, Metrics},
    task::Priority,
};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Without any progress for this long it is given up.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// Watches the worker of this process on the queues of the samples.
pub struct Driver {
    lanes: Vec<Lane>,
    metrics: Arc<Metrics>,
    progress: Progress,
    /// The last change of any count, and the last look.
    changed: (u64, Instant),
    looked: Instant,
}

/// One queue.
struct Lane {
    name: String,
    admin: QueueAdmin,
    /// Samples for it, and how many of them can be done at once: neither later nor delayed.
    tasks: u64,
    prompt: u64,
    has_later: bool,
    /// What was there before: (waiting, delayed).
    before: (u64, u64),
    /// The last look before its first task was taken, and the first at which the prompt ones were done.
    first: Option<Instant>,
    done: Option<Instant>,
}

impl Lane {
    /// Tasks to do, those of others included.
    fn total(&self) -> u64 {
        self.tasks + self.before.0 + self.before.1
    }
}

/// How fast a queue was worked on.
#[derive(Debug, Clone, Serialize)]
pub struct Pace {
    pub queue: String,
    /// Those that did not have to wait for anything.
    pub tasks: u64,
    pub seconds: f64,
}

/// What was seen from outside.
#[derive(Debug, Clone)]
pub struct Driven {
    pub paces: Vec<Pace>,
    /// Tasks that were in the queues before.
    pub before: u64,
}

impl Driver {
    /// Looks at the queues that the samples need.
    ///
    /// # Errors
    /// One is not there, takes bare payloads or is paused; Redis cannot be asked.
    pub async fn new(
        samples: &[Sample],
        config: &Config,
        link: &Link,
        metrics: Arc<Metrics>,
        now: DateTime<Utc>,
    ) -> Result<Self, Failure> {
        let mut lanes: Vec<Lane> = Vec::new();
        for sample in samples {
            let prompt = u64::from(!sample.later && !sample.is_delayed());
            if let Some(lane) = lanes.iter_mut().find(|lane| lane.name == sample.queue) {
                (lane.tasks, lane.prompt) = (lane.tasks + 1, lane.prompt + prompt);
                lane.has_later |= sample.later;
                continue;
            }
            let name = sample.queue.clone();
            if queues::find(config, &name)?.format == TaskFormat::Bare {
                let text = format!(
                    "the demo's tasks are events, but the queue `{name}` takes bare payloads: set `format = \"cloudevents\"`"
                );
                return Err(Failure::Configuration(text));
            }
            let admin = queues::admin(config, link, &name)?;
            let stats = admin.stats(now.timestamp_millis()).await?;
            if stats.paused {
                return Err(Failure::Wrong(format!("the queue `{name}` is paused: run `contextd resume {name}`")));
            }
            let before = (stats.depth.iter().sum(), stats.delayed);
            let (has_later, tasks) = (sample.later, 1);
            lanes.push(Lane { name, admin, tasks, prompt, has_later, before, first: None, done: None });
        }
        lanes.sort_by(|a, b| a.name.cmp(&b.name));
        let progress = Progress::new(lanes.iter().map(Lane::total).sum());
        Ok(Self { lanes, metrics, progress, changed: (0, Instant::now()), looked: Instant::now() })
    }

    pub fn queues(&self) -> Vec<String> {
        self.lanes.iter().map(|lane| lane.name.clone()).collect()
    }

    /// Pushes those that are to be pushed at first, or later.
    ///
    /// # Errors
    /// Redis cannot be reached, or refuses.
    pub async fn push(&self, samples: &[Sample], later: bool) -> Result<(), Failure> {
        for lane in &self.lanes {
            let of_lane = samples.iter().filter(|s| s.later == later && s.queue == lane.name);
            let tasks: Vec<(Priority, &[u8])> =
                of_lane.map(|s| (s.priority.unwrap_or(Priority::Normal), s.body.as_bytes())).collect();
            if !tasks.is_empty() {
                lane.admin.push(&tasks).await?;
            }
        }
        Ok(())
    }

    /// Waits for what was pushed, pushes the rest, waits for that.
    ///
    /// # Errors
    /// Nothing goes on any more, or Redis cannot be asked.
    pub async fn drive(mut self, samples: &[Sample]) -> Result<Driven, Failure> {
        self.wait(|lane| lane.has_later).await?;
        self.push(samples, true).await?;
        self.wait(|_| true).await?;
        let pace = |lane: &Lane| {
            let seconds = lane.done?.duration_since(lane.first?).as_secs_f64();
            Some(Pace { queue: lane.name.clone(), tasks: lane.prompt, seconds })
        };
        let before = self.lanes.iter().map(|lane| lane.total() - lane.tasks).sum();
        Ok(Driven { paces: self.lanes.iter().filter_map(pace).collect(), before })
    }

    /// Returns when the queues of the lanes that are `asked` for are empty, nothing of them is held and
    /// nothing more is delayed than before; seen so twice, since no look sees all of Redis at one moment.
    async fn wait(&mut self, asked: impl Fn(&Lane) -> bool) -> Result<(), Failure> {
        let mut quiet = 0;
        while quiet < 2 {
            tokio::time::sleep(LOOK_EVERY).await;
            let ledgers = self.metrics.ledgers();
            self.observe(|name| ledgers.get(name).cloned().unwrap_or_default())?;
            let mut is_quiet = true;
            for lane in self.lanes.iter().filter(|lane| asked(lane)) {
                if ledgers.get(&lane.name).is_none_or(|ledger| ledger.in_flight > 0) {
                    is_quiet = false;
                    break;
                }
                let stats = lane.admin.stats(clock::now().timestamp_millis()).await?;
                is_quiet &= stats.is_drained() && stats.delayed <= lane.before.1;
            }
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn observe(&mut self, ledger: impl Fn(&str) -> Ledger) -> Result<(), Failure> {
        let now = Instant::now();
        let (mut done, mut counts, mut words) = (0, 0, Vec::new());
        for lane in &mut self.lanes {
            let ledger = ledger(&lane.name);
            let finished = ledger.received - ledger.returned - ledger.in_flight;
            if ledger.received > 0 {
                lane.first.get_or_insert(self.looked);
            }
            if finished >= lane.prompt {
                lane.done.get_or_insert(now);
            }
            done += finished;
            counts += ledger.received + finished;
            words.push(format!("{} {finished}/{}", lane.name, lane.total()));
        }
        self.looked = now;
        self.progress.show(done, &words.join(", "));
        if counts != self.changed.0 {
            self.changed = (counts, now);
        } else if now.duration_since(self.changed.1) > STALLED_AFTER {
            let s = STALLED_AFTER.as_secs();
            let text = format!(
                "nothing has happened for {s} s ({}): `contextd queues` shows what waits, `contextd check` whether the services are well",
                words.join(", ")
            );
            return Err(Failure::NotFinished(text));
        }
        Ok(())
    }
}
