//! From a claimed batch to its settlement: decode, plan, write, account.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    flight::{Claimed, Settlement},
    queue::count,
};
use crate::{
    batch::{Resolution, Write, WriteSet},
    cache::TypingCache,
    clock,
    config::Retry,
    effect::{Analysis, Patience, Planned, Records, analyze, purged, typing},
    intake::{Delivery, Leftovers, Return},
    metrics::{ErrorClass, Outcome, QueueMetrics, ReturnReason},
    retry::{self, Backoff},
    status::Health,
    store::{INLINE_BODY, NewDeadLetter, Store, StoreFault},
    task::{Decoder, Reason, Rejected, Task},
    telemetry,
};

/// What every batch of a queue is processed with.
pub struct Processor {
    pub queue: String,
    pub decoder: Decoder,
    pub store: Store,
    pub typing: TypingCache,
    pub analysis: Arc<Analysis>,
    pub records: Arc<Records>,
    pub retry: Retry,
    pub clock_skew: Duration,
    pub metrics: Arc<QueueMetrics>,
    pub health: Arc<Health>,
    pub abort: CancellationToken,
    /// Whether spans are exported, so that links are worth their cost.
    pub links: bool,
}

/// How a task ends, or why it returns.
enum End {
    Finished(Outcome),
    Returned(ReturnReason, Return),
}

impl Processor {
    /// Processes one batch. Whatever happens to a task, the others go on.
    pub async fn run(&self, claimed: &Claimed) -> Settlement {
        let deliveries = &claimed.batch.deliveries;
        let now = clock::now();
        let mut decoded: Vec<Result<Task, Rejected>> = deliveries.iter().map(|d| self.decode(d)).collect();
        claimed.hold(self.metrics.received(decoded.iter().map(|d| match d {
            Ok(task) => Some(task.kind.as_str()),
            Err(rejected) => rejected.kind.as_deref(),
        })));
        self.observe(deliveries, &decoded, now);
        if self.links {
            let span = tracing::Span::current();
            for trace in decoded.iter().filter_map(|d| d.as_ref().ok()?.trace.as_ref()) {
                telemetry::link_to(&span, &trace.parent, trace.state.as_deref());
            }
        }

        let mut ends: Vec<Option<End>> = (0..deliveries.len()).map(|_| None).collect();
        let planned = self.plan(deliveries, &decoded, now, &mut ends).await;
        let contexts = contexts(&planned, &decoded, now);
        // Whatever is needed of the data is planned by now; while the batch is written, its memory is free.
        for task in decoded.iter_mut().flatten() {
            task.data = serde_json::Map::new();
        }
        let mut writes: Vec<Write> = Vec::new();
        for (position, plan) in planned {
            let is_missing = matches!(plan, Planned::Missing(..));
            match plan {
                Planned::Write(write) => writes.push(write),
                Planned::Superseded => ends[position] = Some(End::Finished(Outcome::Superseded)),
                Planned::Duplicate => ends[position] = Some(End::Finished(Outcome::Duplicate)),
                Planned::Done(outcome) => ends[position] = Some(End::Finished(outcome)),
                Planned::Later { at_ms } => {
                    ends[position] = Some(End::Returned(ReturnReason::Release, Return::NotBefore { at_ms }));
                }
                Planned::Released => ends[position] = Some(End::Returned(ReturnReason::Release, Return::Release)),
                Planned::Dead(reason, error) => {
                    writes.push(self.dead_letter(position, deliveries, &decoded, reason, &error, now));
                }
                Planned::Failed(class, error) | Planned::Missing(class, error) => {
                    let reason = if is_missing { Reason::Missing } else { Reason::Failed };
                    match self.retry_or_dead(&deliveries[position], &decoded[position], class, &error) {
                        Ok(end) => ends[position] = Some(end),
                        Err(error) => {
                            writes.push(self.dead_letter(position, deliveries, &decoded, reason, &error, now));
                        }
                    }
                }
            }
        }
        let written = self.write(deliveries, &decoded, writes, &mut ends, now).await;
        self.cache(contexts, &written).await;
        settlement(deliveries, &decoded, ends)
    }

    fn decode(&self, delivery: &Delivery) -> Result<Task, Rejected> {
        match &delivery.body {
            Some(body) => self.decoder.decode(body),
            None => Err(Rejected {
                reason: Reason::BadEnvelope,
                error: "the stream entry has no field `body`: put the event's JSON there".into(),
                id: None,
                source: None,
                kind: None,
            }),
        }
    }

    /// Notes how long tasks have waited, as far as they say when they were made.
    fn observe(&self, deliveries: &[Delivery], decoded: &[Result<Task, Rejected>], now: DateTime<Utc>) {
        for (delivery, task) in deliveries.iter().zip(decoded) {
            if let Some(made) = made_at(delivery, task.as_ref().ok()) {
                let ms = now.timestamp_millis() - made;
                // A producer's clock ahead of ours: as if made now. Far ahead: nothing can be said.
                if ms >= -(self.clock_skew.as_millis() as i64) {
                    self.metrics.wait(delivery.priority).record(ms.max(0) as f64 / 1000.0);
                }
            }
        }
    }

    /// Decides about every task that needs no effect, and plans the effects of the others.
    async fn plan(
        &self,
        deliveries: &[Delivery],
        decoded: &[Result<Task, Rejected>],
        now: DateTime<Utc>,
        ends: &mut [Option<End>],
    ) -> Vec<(usize, Planned)> {
        let mut planned = Vec::new();
        let mut contexts: Vec<(usize, &Task)> = Vec::new();
        let mut texts: Vec<(usize, &Task)> = Vec::new();
        let mut records: Vec<(usize, &Task)> = Vec::new();
        for (position, (delivery, task)) in deliveries.iter().zip(decoded).enumerate() {
            if delivery.crashes >= self.retry.crashes {
                let error = format!(
                    "the workers that held it died {} times: look for what it does to them, then requeue it",
                    delivery.crashes
                );
                planned.push((position, Planned::Dead(Reason::Crashed, error)));
                continue;
            }
            let task = match task {
                Ok(task) => task,
                Err(rejected) => {
                    self.metrics.failures(ErrorClass::Invalid).increment(1);
                    planned.push((position, Planned::Dead(rejected.reason, rejected.error.clone())));
                    continue;
                }
            };
            if task.expiry.is_some_and(|expiry| expiry <= now) {
                ends[position] = Some(End::Finished(Outcome::Expired));
            } else if let Some(at) = task.not_before.filter(|at| *at > now) {
                let at_ms = at.timestamp_millis();
                ends[position] = Some(End::Returned(ReturnReason::Release, Return::NotBefore { at_ms }));
            } else if task.kind == typing::TYPE {
                contexts.push((position, task));
            } else if task.kind == analyze::TYPE {
                texts.push((position, task));
            } else {
                records.push((position, task));
            }
        }
        self.expire(&mut contexts, &mut texts, ends).await;
        if !contexts.is_empty() {
            planned.extend(typing::plan(&contexts, now));
        }
        if !texts.is_empty() {
            planned.extend(self.analysis.plan(&texts, now, &self.abort).await);
        }
        if !records.is_empty() {
            planned.extend(self.records.run(&records, now, &self.abort).await);
        }
        planned
    }

    /// Ends the tasks about what was purged.
    async fn expire<'a>(
        &self,
        contexts: &mut Vec<(usize, &'a Task)>,
        texts: &mut Vec<(usize, &'a Task)>,
        ends: &mut [Option<End>],
    ) {
        let patience = Patience { health: &self.health, abort: &self.abort };
        for tasks in [contexts, texts].into_iter().filter(|tasks| !tasks.is_empty()) {
            match purged::tasks(&self.store, tasks, &patience).await {
                Some(gone) => {
                    gone.iter().for_each(|position| ends[*position] = Some(End::Finished(Outcome::Expired)));
                    tasks.retain(|(position, _)| !gone.contains(position));
                }
                // What has no end is given back.
                None => tasks.clear(),
            }
        }
    }

    fn dead_letter(
        &self,
        position: usize,
        deliveries: &[Delivery],
        decoded: &[Result<Task, Rejected>],
        reason: Reason,
        error: &str,
        now: DateTime<Utc>,
    ) -> Write {
        let (delivery, task) = (&deliveries[position], &decoded[position]);
        let (event_id, source, kind) = match task {
            Ok(t) => (Some(t.id.as_str()), Some(t.source.as_str()), Some(t.kind.as_str())),
            Err(r) => (r.id.as_deref(), r.source.as_deref(), r.kind.as_deref()),
        };
        NewDeadLetter {
            queue: &self.queue,
            priority: delivery.priority,
            identity: &delivery.identity,
            event_id,
            source,
            kind,
            reason,
            error,
            attempts: delivery.attempts + u32::from(matches!(reason, Reason::Failed | Reason::Missing)),
            crashes: delivery.crashes,
            body: delivery.body.as_deref().unwrap_or_default(),
            dead_at: now,
        }
        .write(position)
    }

    /// A failed effect comes back after a delay, until its attempts are used up.
    fn retry_or_dead(
        &self,
        delivery: &Delivery,
        task: &Result<Task, Rejected>,
        class: ErrorClass,
        error: &str,
    ) -> Result<End, String> {
        self.metrics.failures(class).increment(1);
        let own = task.as_ref().ok().and_then(|t| t.max_attempts).unwrap_or(u32::MAX);
        let failed = delivery.attempts + 1;
        if failed >= self.retry.attempts.min(own) {
            return Err(format!("failed {failed} times, at last: {error}"));
        }
        self.metrics.retries(class).increment(1);
        let after = retry::delay(failed, self.retry.base, self.retry.max, rand::random());
        tracing::debug!(queue = self.queue, error, ?after, "a task is tried again");
        Ok(End::Returned(ReturnReason::Retry, Return::Retry { after }))
    }

    /// Writes until every document has an outcome, however long MongoDB takes; answers the positions
    /// that were written, and whether nothing was there before.
    async fn write(
        &self,
        deliveries: &[Delivery],
        decoded: &[Result<Task, Rejected>],
        writes: Vec<Write>,
        ends: &mut [Option<End>],
        now: DateTime<Utc>,
    ) -> Vec<(usize, bool)> {
        let mut set = WriteSet::new(writes);
        if !self.write_all(deliveries, &mut set).await {
            for (write, resolution) in set.writes.iter().zip(&set.resolutions) {
                if resolution.is_none() {
                    ends[write.task] = Some(End::Returned(ReturnReason::Release, Return::Release));
                }
            }
        }
        let mut written = Vec::new();
        let mut refused = Vec::new();
        let patience = Patience { health: &self.health, abort: &self.abort };
        // Written, and not known to be allowed: they are given back, and come again.
        let Some(gone) = purged::writes(&self.store, &set, &patience).await else { return written };
        for (write, resolution) in set.writes.iter().zip(set.resolutions) {
            let is_dead = write.collection == crate::store::DEAD_LETTERS;
            let outcome = match resolution {
                None => continue,
                Some(_) if gone.contains(&write.task) => Outcome::Expired,
                Some(Resolution::Rejected(error)) => {
                    refused.push((write.task, error));
                    continue;
                }
                Some(_) if is_dead => Outcome::Dead,
                Some(Resolution::Created) => {
                    written.push((write.task, true));
                    Outcome::Written
                }
                Some(Resolution::Written) => {
                    written.push((write.task, false));
                    Outcome::Written
                }
                Some(Resolution::Duplicate) => Outcome::Duplicate,
                Some(Resolution::Superseded) => Outcome::Superseded,
            };
            ends[write.task] = Some(End::Finished(outcome));
        }
        if !refused.is_empty() {
            let letters = refused
                .iter()
                .map(|(p, error)| self.dead_letter(*p, deliveries, decoded, Reason::Rejected, error, now));
            let mut letters = WriteSet::new(letters.collect());
            let complete = self.write_all(deliveries, &mut letters).await;
            for (write, resolution) in letters.writes.iter().zip(&letters.resolutions) {
                ends[write.task] = Some(match resolution {
                    Some(_) if complete => End::Finished(Outcome::Dead),
                    _ => End::Returned(ReturnReason::Release, Return::Release),
                });
            }
        }
        written
    }

    /// Answers whether everything is resolved; false only when the worker has to stop.
    async fn write_all(&self, deliveries: &[Delivery], set: &mut WriteSet) -> bool {
        let mut backoff = Backoff::new();
        let mut filed = false;
        while !set.is_resolved() {
            let attempt = async {
                if !filed {
                    self.file_bodies(deliveries, set).await?;
                    filed = true;
                }
                self.store.write(set).await
            };
            let attempt = tokio::select! {
                attempt = attempt => attempt,
                () = self.abort.cancelled() => return false,
            };
            match attempt {
                Ok(()) => self.health.ready("mongodb", clock::now()),
                Err(fault) => {
                    self.health.unready("mongodb", &fault.to_string(), clock::now());
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next(rand::random())) => {}
                        () = self.abort.cancelled() => return false,
                    }
                }
            }
        }
        true
    }

    /// Bodies too large for their dead letters go first: a dead letter never lacks its body.
    async fn file_bodies(&self, deliveries: &[Delivery], set: &WriteSet) -> Result<(), StoreFault> {
        for write in set.writes.iter().filter(|w| w.collection == crate::store::DEAD_LETTERS) {
            if let Some(body) = deliveries[write.task].body.as_ref().filter(|b| b.len() > INLINE_BODY) {
                self.store.dead_put_body(&write.id, body).await?;
            }
        }
        Ok(())
    }

    /// Shows readers what MongoDB has. Redis being away does not undo a written task.
    async fn cache(&self, contexts: Vec<(usize, typing::Latest)>, written: &[(usize, bool)]) {
        let written: HashMap<usize, bool> = written.iter().copied().collect();
        let shown = |(position, context): (usize, typing::Latest)| {
            written.get(&position).map(|is_first| typing::Latest { is_first: *is_first, ..context })
        };
        let latest: Vec<typing::Latest> = contexts.into_iter().filter_map(shown).collect();
        if latest.is_empty() {
            return;
        }
        let mut backoff = Backoff::new();
        for _ in 0..3 {
            match self.typing.store(&latest).await {
                Ok(()) => return,
                Err(fault) => {
                    self.health.unready("redis", &fault.to_string(), clock::now());
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
            }
        }
        tracing::warn!(contexts = latest.len(), "typing contexts are in MongoDB, but not in Redis");
    }
}

/// The Redis form of every typing context that is to be written.
fn contexts(
    planned: &[(usize, Planned)],
    decoded: &[Result<Task, Rejected>],
    now: DateTime<Utc>,
) -> Vec<(usize, typing::Latest)> {
    let writes = planned.iter().filter(|(_, plan)| matches!(plan, Planned::Write(_)));
    let tasks = writes.filter_map(|(position, _)| Some((*position, decoded[*position].as_ref().ok()?)));
    let contexts = tasks.filter(|(_, task)| task.kind == typing::TYPE);
    contexts.filter_map(|(position, task)| Some((position, typing::latest(task, now)?))).collect()
}

/// When a task was made, in ms since 1970: by its `time`, or by its stream entry.
fn made_at(delivery: &Delivery, task: Option<&Task>) -> Option<i64> {
    let time = task.and_then(|t| t.time).map(|t| t.timestamp_millis());
    time.or_else(|| delivery.identity.split_once('-').filter(|(_, seq)| !seq.contains(':'))?.0.parse().ok())
}

fn settlement(deliveries: &[Delivery], decoded: &[Result<Task, Rejected>], ends: Vec<Option<End>>) -> Settlement {
    let mut finished = Vec::with_capacity(ends.len());
    let mut returned = Vec::new();
    let mut leftovers = Leftovers::default();
    let mut times = Vec::new();
    for (position, end) in ends.into_iter().enumerate() {
        match end {
            Some(End::Finished(outcome)) => {
                finished.push(outcome);
                if let Some(made) = made_at(&deliveries[position], decoded[position].as_ref().ok()) {
                    times.push((deliveries[position].priority, made));
                }
            }
            Some(End::Returned(reason, why)) => {
                returned.push(reason);
                leftovers.0.push((position, why));
            }
            // A plan that forgot a task gives it back rather than losing it.
            None => {
                returned.push(ReturnReason::Release);
                leftovers.0.push((position, Return::Release));
            }
        }
    }
    Settlement { finished: count(finished), returned: count(returned), leftovers, made_at: times }
}
