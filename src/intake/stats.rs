//! Looking at queues and steering them: depths, pausing, pushing.

use redis::Value;
use serde::Serialize;

use super::{
    keys::QueueKeys,
    link::{Fault, Link},
    stream::GROUP,
};
use crate::{
    config::QueueKind,
    task::{Priority, made_at},
};

/// What a queue holds at one moment, fleet-wide.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStats {
    pub queue: String,
    pub kind: Option<QueueKind>,
    pub paused: bool,
    /// Waiting tasks; a stream's are all `normal`.
    pub depth: [u64; 4],
    /// When the oldest waiting task was made (ms since 1970), as far as it says so.
    pub oldest_ms: [Option<i64>; 4],
    pub delayed: u64,
    pub delayed_due: u64,
    /// Tasks that some worker holds.
    pub in_flight: u64,
    pub stream_pending: u64,
}

impl QueueStats {
    /// Nothing waits, nothing is held, nothing is due.
    pub fn is_drained(&self) -> bool {
        self.depth.iter().sum::<u64>() == 0 && self.delayed_due == 0 && self.in_flight == 0
    }
}

/// One queue's controls.
#[derive(Clone)]
pub struct QueueAdmin {
    link: Link,
    keys: QueueKeys,
    queue: String,
    kind: QueueKind,
}

impl QueueAdmin {
    pub fn new(link: Link, namespace: &str, queue: &str, kind: QueueKind) -> Self {
        Self { link, keys: QueueKeys::new(namespace, queue), queue: queue.into(), kind }
    }

    /// Stops every worker of the fleet from claiming, or lets them claim again.
    pub async fn pause(&self, paused: bool) -> Result<(), Fault> {
        let cmd = if paused {
            redis::cmd("SET").arg(self.keys.paused()).arg("1").clone()
        } else {
            redis::cmd("DEL").arg(self.keys.paused()).clone()
        };
        self.link.run::<Value>("pause", &cmd).await.map(|_| ())
    }

    /// Adds tasks: (priority, body). A stream has one order only.
    pub async fn push(&self, tasks: &[(Priority, &[u8])]) -> Result<(), Fault> {
        for chunk in tasks.chunks(500) {
            let mut pipe = redis::pipe();
            for (priority, body) in chunk {
                match self.kind {
                    QueueKind::List => pipe.cmd("LPUSH").arg(self.keys.list(*priority)).arg(*body),
                    QueueKind::Stream => pipe.cmd("XADD").arg(self.keys.stream()).arg("*").arg("body").arg(*body),
                };
            }
            self.link.pipe::<Value>("push", &pipe).await?;
        }
        Ok(())
    }

    /// Looks at the queue. `now_ms` decides which delayed tasks are due.
    pub async fn stats(&self, now_ms: i64) -> Result<QueueStats, Fault> {
        let mut stats = QueueStats { queue: self.queue.clone(), kind: Some(self.kind), ..QueueStats::default() };
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS").arg(self.keys.paused());
        pipe.cmd("ZCARD").arg(self.keys.delayed());
        pipe.cmd("ZCOUNT").arg(self.keys.delayed()).arg("-inf").arg(now_ms);
        pipe.cmd("HVALS").arg(self.keys.metas());
        let (paused, delayed, due, metas): (bool, u64, u64, Vec<String>) = self.link.pipe("stats", &pipe).await?;
        (stats.paused, stats.delayed, stats.delayed_due) = (paused, delayed, due);
        stats.in_flight = metas.iter().filter_map(|m| m.split('|').nth(2)?.parse::<u64>().ok()).sum();
        match self.kind {
            QueueKind::List => self.list_stats(&mut stats).await?,
            QueueKind::Stream => self.stream_stats(&mut stats).await?,
        }
        Ok(stats)
    }

    async fn list_stats(&self, stats: &mut QueueStats) -> Result<(), Fault> {
        for (i, priority) in Priority::ALL.into_iter().enumerate() {
            let key = self.keys.list(priority);
            let mut pipe = redis::pipe();
            pipe.cmd("LLEN").arg(&key).cmd("LINDEX").arg(&key).arg(-1);
            // A key of another type counts as empty here; the worker reports it.
            let Ok((length, oldest)) = self.link.pipe::<(u64, Option<Vec<u8>>)>("stats", &pipe).await else { continue };
            stats.depth[i] = length;
            stats.oldest_ms[i] = oldest.and_then(|body| made_at(&body)).map(|made| made.timestamp_millis());
        }
        Ok(())
    }

    async fn stream_stats(&self, stats: &mut QueueStats) -> Result<(), Fault> {
        let key = self.keys.stream();
        let length: u64 = match self.link.run("stats", redis::cmd("XLEN").arg(&key)).await {
            Ok(n) => n,
            Err(f) if f.is_transient() => return Err(f),
            Err(_) => 0,
        };
        let pending: Value = match self.link.run("stats", redis::cmd("XPENDING").arg(&key).arg(GROUP)).await {
            Ok(v) => v,
            Err(f) if f.is_transient() => return Err(f),
            Err(_) => Value::Nil, // no group yet
        };
        if let Value::Array(items) = &pending
            && let Some(Value::Int(n)) = items.first()
        {
            stats.stream_pending = (*n).max(0) as u64;
        }
        stats.in_flight += stats.stream_pending;
        let normal = Priority::Normal as usize;
        // Finished entries are deleted: what is there and not pending waits.
        stats.depth[normal] = length.saturating_sub(stats.stream_pending);
        if stats.depth[normal] > 0 {
            let cmd = redis::cmd("XRANGE").arg(&key).arg("-").arg("+").arg("COUNT").arg(1).clone();
            let first: Vec<(String, Value)> = self.link.run("stats", &cmd).await.unwrap_or_default();
            stats.oldest_ms[normal] = first.first().and_then(|(id, _)| id.split('-').next()?.parse().ok());
        }
        Ok(())
    }
}
