//! Keeps out of the way of those who are served: waits while a replica is behind or writes are slow, and shares the
//! time when others use the database. No signal means stop, not go.

use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};

use super::{force::IN_FORCE, settings::Settings};
use crate::kit::{JobError, Run, strict};

/// Signals are asked for at most this often.
const EVERY: Duration = Duration::from_millis(500);
/// A pause is this long before the signal is looked at again.
const PAUSE: Duration = Duration::from_millis(500);
/// After so long without a signal the run ends, and goes on with its next attempt.
const BLIND: Duration = Duration::from_secs(60);
/// Others use the database when they make more operations a second than this.
const IN_USE: f64 = 20.0;

#[derive(Debug)]
pub struct Throttle<'s> {
    settings: &'s Settings,
    looked: Option<Instant>,
    /// Operations that the server had done, and those of them that were this run's.
    ops: Option<(Instant, i64)>,
    shared: bool,
    worked: Duration,
}

impl<'s> Throttle<'s> {
    pub fn new(settings: &'s Settings) -> Self {
        Self { settings, looked: None, ops: None, shared: false, worked: Duration::ZERO }
    }

    /// Notes how long a page took.
    pub fn worked(&mut self, took: Duration) {
        self.worked = took;
    }

    /// Returns when the next page may begin.
    pub async fn wait(&mut self, run: &Run) -> Result<(), JobError> {
        let share = self.settings.yield_share.clamp(0.01, 1.0);
        if self.shared && share < 1.0 {
            let rest = self.worked.mul_f64(1.0 / share - 1.0);
            sleep(run, rest).await?;
        }
        if self.looked.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        let since = Instant::now();
        loop {
            let verdict = self.look(run).await;
            self.looked = Some(Instant::now());
            match verdict {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => tracing::debug!(job = run.job, why, "the run pauses"),
                Err(e) if e.is_transient() && since.elapsed() < BLIND => {
                    tracing::warn!(job = run.job, error = %e, "no sign of how the database is doing: the run waits");
                }
                Err(e) => return Err(e),
            }
            sleep(run, PAUSE).await?;
        }
    }

    /// Why to wait, if there is a reason.
    async fn look(&mut self, run: &Run) -> Result<Option<&'static str>, JobError> {
        if !self.settings.lag.is_zero() && lag(run).await? > self.settings.lag {
            return Ok(Some("a member of the replica set is behind"));
        }
        if !self.settings.latency.is_zero() {
            let began = Instant::now();
            let state = strict(&run.db).collection::<Document>(IN_FORCE);
            let probe =
                async { state.update_one(doc! { "_id": "probe" }, doc! { "$inc": { "n": 1_i64 } }).upsert(true).await };
            run.call("probe", probe).await?;
            if began.elapsed() > self.settings.latency {
                return Ok(Some("writes are slow"));
            }
        }
        self.shared = self.in_use(run).await?;
        Ok(None)
    }

    /// Whether others use the database now: more queries and single inserts than this run makes itself.
    async fn in_use(&mut self, run: &Run) -> Result<bool, JobError> {
        if self.settings.yield_share >= 1.0 {
            return Ok(false);
        }
        let only = doc! { "serverStatus": 1, "opcounters": 1, "repl": 0, "metrics": 0, "wiredTiger": 0, "locks": 0,
        "tcmalloc": 0, "transactions": 0, "mirroredReads": 0 };
        let status = run.call("load", async { run.db.client().database("admin").run_command(only).await }).await?;
        let counters = status.get_document("opcounters").map_err(|_| blind("serverStatus has no opcounters"))?;
        // Pages delete and update by the hundred; inserts and queries are what others do.
        let of = |name: &str| counters.get(name).and_then(|n| n.as_i64().or(n.as_i32().map(i64::from))).unwrap_or(0);
        let ops = of("query") + of("getmore");
        let now = Instant::now();
        let rate = self.ops.map(|(at, before)| (ops - before) as f64 / (now - at).as_secs_f64().max(0.001));
        self.ops = Some((now, ops));
        Ok(rate.is_some_and(|rate| rate > IN_USE * 10.0))
    }
}

async fn sleep(run: &Run, time: Duration) -> Result<(), JobError> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = run.stop.cancelled() => Err(JobError::Stopped),
    }
}

fn blind(why: &str) -> JobError {
    JobError::Failed(anyhow::anyhow!("no sign of how the database is doing, so nothing is changed: {why}"))
}

/// How far the slowest member that serves is behind the primary.
async fn lag(run: &Run) -> Result<Duration, JobError> {
    let admin = run.db.client().database("admin");
    let status =
        run.call("lag", async { admin.run_command(doc! { "replSetGetStatus": 1 }).await }).await.map_err(|e| {
            if e.is_transient() {
                return e;
            }
            blind(&format!("replSetGetStatus: {e}. Grant `clusterMonitor`, or set the job's `lag` to \"0s\""))
        })?;
    let members = status.get_array("members").map_err(|_| blind("replSetGetStatus has no members"))?;
    let members: Vec<&Document> = members.iter().filter_map(|member| member.as_document()).collect();
    let at = |member: &Document| member.get_datetime("optimeDate").map(|at| at.timestamp_millis()).ok();
    let state = |member: &Document| member.get_i32("state").unwrap_or(0);
    let primary = members.iter().find(|m| state(m) == 1).and_then(|m| at(m));
    let Some(primary) = primary else { return Err(JobError::Unconfirmed("there is no primary now".into())) };
    // Arbiters have no data; a member that is down is the replica set's own alarm, and majority writes wait for others.
    let slowest = members.iter().filter(|m| state(m) == 2).filter_map(|m| at(m)).min().unwrap_or(primary);
    Ok(Duration::from_millis(u64::try_from(primary - slowest).unwrap_or(0)))
}
