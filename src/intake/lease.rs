//! Batches under leases: the list queues, and the delayed tasks of every queue.
//!
//! A batch is moved to a key of its own and leased as a whole, so that settling removes nothing item by
//! item. Only Redis' clock decides when a lease has run out. Every call may be repeated: a take under
//! one rid answers the same batch until it is settled.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{Script, Value};

use super::{
    delivery::{Ack, Ask, Batch, Claim, Delivery, Hold, Leftovers, Return, SettleAnswer},
    keys::QueueKeys,
    link::{Fault, Link},
    quotas::{class_of, reserves},
    wrap::{unwrap, wrap},
};
use crate::task::Priority;

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/take.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/settle.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/renew.lua")));
static HAND_BACK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/hand_back.lua")));

/// What a source needs to know of its queue and process.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    pub namespace: String,
    pub queue: String,
    /// A fresh name per process start.
    pub worker: String,
    pub lease: Duration,
    pub crash_limit: u32,
    pub low_share: f64,
}

/// Takes and settles leased batches of one queue.
pub struct LeaseSource {
    link: Link,
    settings: SourceSettings,
    keys: QueueKeys,
    /// Whether the priority lists are taken from, or only delayed tasks.
    lists: bool,
    claims: AtomicU64,
    /// A take whose answer is outstanding: it is asked again under its rid before anything new.
    unanswered: Mutex<Option<String>>,
    /// Expected size of a task, from the last batch.
    expected_bytes: AtomicUsize,
    held: Mutex<HashMap<String, Arc<AtomicBool>>>,
    /// Names of lists that hold another Redis type, as of the last claim.
    broken: Mutex<Vec<String>>,
}

impl LeaseSource {
    pub fn new(link: Link, settings: SourceSettings, lists: bool) -> Self {
        let keys = QueueKeys::new(&settings.namespace, &settings.queue);
        Self {
            link,
            settings,
            keys,
            lists,
            claims: AtomicU64::new(0),
            unanswered: Mutex::default(),
            expected_bytes: AtomicUsize::new(1024),
            held: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    /// Takes the next batch: one that was given back, one whose worker died, or new tasks.
    ///
    /// # Errors
    /// After an error the end of the take is unknown; the next call resolves it.
    pub async fn claim(&self, ask: Ask) -> Result<Claim, Fault> {
        let turn = self.claims.fetch_add(1, Ordering::Relaxed);
        let rid = match lock(&self.unanswered).clone() {
            Some(rid) => rid,
            None => format!("{}-{turn}", self.settings.worker),
        };
        *lock(&self.unanswered) = Some(rid.clone());
        let answer = self.take(&rid, ask, turn).await?;
        *lock(&self.unanswered) = None;
        let Some((kind, meta, broken, bodies)) = answer else { return Ok(Claim::Empty) };
        self.note_broken(&broken);
        match kind.as_str() {
            "batch" => {}
            "paused" => return Ok(Claim::Paused),
            _ => return Ok(Claim::Empty),
        }
        let deliveries = deliveries(&meta, bodies).ok_or_else(|| Fault::shape("take"))?;
        let bytes: usize = deliveries.iter().map(Delivery::size).sum();
        self.expected_bytes.store((bytes / deliveries.len().max(1)).max(64), Ordering::Relaxed);
        let ack = Ack::new(Hold::Lease { rid: rid.clone(), token: self.settings.worker.clone() });
        lock(&self.held).insert(rid, ack.lost_flag());
        Ok(Claim::Batch(Batch { deliveries, ack }))
    }

    async fn take(
        &self,
        rid: &str,
        ask: Ask,
        turn: u64,
    ) -> Result<Option<(String, String, String, Vec<Vec<u8>>)>, Fault> {
        let s = &self.settings;
        let mut call = TAKE.prepare_invoke();
        call.key(&self.keys.base).arg(rid).arg(&s.worker).arg(micros(s.lease));
        call.arg(ask.tasks.max(1)).arg(ask.bytes.max(1)).arg(self.expected_bytes.load(Ordering::Relaxed));
        call.arg(s.crash_limit).arg((ask.tasks / 2).max(1));
        if self.lists {
            let reserves = reserves(s.low_share, ask.tasks.max(1), turn);
            for (priority, reserve) in Priority::ALL.iter().zip(reserves) {
                call.arg(priority.as_str()).arg(reserve);
            }
        }
        // The bodies are read outside of the script, in the same round trip: that is cheaper.
        let mut pipe = redis::pipe();
        pipe.invoke_script(&call).cmd("LRANGE").arg(self.keys.batch(rid)).arg(0).arg(-1);
        let (answer, bodies): (Value, Vec<Vec<u8>>) = match self.link.pipe("take", &pipe).await {
            Ok(reply) => reply,
            Err(fault) if fault.message.contains("NOSCRIPT") || fault.message.contains("NoScript") => {
                self.link
                    .run::<String>("script_load", redis::cmd("SCRIPT").arg("LOAD").arg(include_str!("lua/take.lua")))
                    .await?;
                self.link.pipe("take", &pipe).await?
            }
            Err(fault) => return Err(fault),
        };
        if answer == Value::Nil {
            return Ok(None);
        }
        let mut parts: Vec<String> = redis::from_redis_value(answer).map_err(|_| Fault::shape("take"))?;
        parts.resize(3, String::new());
        let mut parts = parts.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        Ok(Some((next(), next(), next(), bodies)))
    }

    /// Ends a batch. Leftovers go to the delayed set; everything else leaves Redis.
    ///
    /// # Errors
    /// After a transient error the end is unknown: call again with the same arguments and `again`.
    pub async fn settle(
        &self,
        batch: &Batch,
        leftovers: &Leftovers,
        now_ms: i64,
        again: bool,
    ) -> Result<SettleAnswer, Fault> {
        let Hold::Lease { rid, token } = &batch.ack.hold else { return Err(Fault::shape("settle: not a lease")) };
        if leftovers.0.len() == batch.deliveries.len() && leftovers.0.iter().all(|l| l.1 == Return::Release) {
            return self.hand_back(&batch.ack, false).await;
        }
        let mut call = SETTLE.prepare_invoke();
        call.key(&self.keys.base).arg(rid).arg(token);
        for (index, why) in &leftovers.0 {
            let Some(delivery) = batch.deliveries.get(*index) else { continue };
            let (due, member) = delayed_member(delivery, *why, now_ms);
            call.arg(due).arg(member);
        }
        let answer: i64 = self.link.script("settle", &call).await?;
        lock(&self.held).remove(rid);
        Ok(match answer {
            1 => SettleAnswer::Settled,
            // Settled by an earlier call whose answer was lost, unless the lease was lost before.
            0 if again && !batch.ack.is_lost() => SettleAnswer::Settled,
            _ => SettleAnswer::Lost,
        })
    }

    /// Gives the whole batch back at once; `crashed` counts it against the batch.
    pub async fn hand_back(&self, ack: &Ack, crashed: bool) -> Result<SettleAnswer, Fault> {
        let Hold::Lease { rid, token } = &ack.hold else { return Err(Fault::shape("hand back: not a lease")) };
        let mut call = HAND_BACK.prepare_invoke();
        call.key(&self.keys.base).arg(rid).arg(token).arg(if crashed { "crashed" } else { "released" });
        let answer: i64 = self.link.script("hand_back", &call).await?;
        lock(&self.held).remove(rid);
        Ok(if answer == 1 { SettleAnswer::Settled } else { SettleAnswer::Lost })
    }

    /// Renews every lease that is held; a lost one raises its batch's flag.
    pub async fn renew(&self) -> Result<usize, Fault> {
        let held: Vec<(String, Arc<AtomicBool>)> =
            lock(&self.held).iter().map(|(rid, lost)| (rid.clone(), lost.clone())).collect();
        if held.is_empty() {
            return Ok(0);
        }
        let mut call = RENEW.prepare_invoke();
        call.key(&self.keys.base).arg(micros(self.settings.lease));
        for (rid, _) in &held {
            call.arg(rid).arg(&self.settings.worker);
        }
        let lost: Vec<String> = self.link.script("renew", &call).await?;
        let mut count = 0;
        for (rid, flag) in held {
            // One that was settled in the meantime is gone, not lost.
            if lost.contains(&rid) && lock(&self.held).remove(&rid).is_some() {
                flag.store(true, Ordering::Relaxed);
                count += 1;
            }
        }
        Ok(count)
    }

    fn note_broken(&self, names: &str) {
        let names: Vec<String> = names.split(',').filter(|n| !n.is_empty()).map(str::to_string).collect();
        let mut broken = lock(&self.broken);
        if *broken != names {
            for name in &names {
                tracing::error!(
                    key = format!("{}:{name}", self.keys.base),
                    "this key holds another Redis type than a list: its tasks cannot be taken; rename it away, then push them again"
                );
            }
            *broken = names;
        }
    }
}

/// A delivery as a member of the delayed set, and when it is due ("now" for at once).
pub(super) fn delayed_member(delivery: &Delivery, why: Return, now_ms: i64) -> (String, Vec<u8>) {
    match why {
        Return::Retry { after } => {
            let due = now_ms.saturating_add(after.as_millis().min(i64::MAX as u128) as i64);
            (due.to_string(), wrap(delivery, delivery.attempts + 1))
        }
        Return::NotBefore { at_ms } => (at_ms.to_string(), wrap(delivery, delivery.attempts)),
        Return::Release => ("now".into(), wrap(delivery, delivery.attempts)),
    }
}

/// Takes a batch's description and bodies apart. `None` when they do not fit each other.
fn deliveries(meta: &str, bodies: Vec<Vec<u8>>) -> Option<Vec<Delivery>> {
    let fields: Vec<&str> = meta.split('|').collect();
    let [_token, crashes, count, origin, offset, taken, counts @ ..] = fields.as_slice() else { return None };
    let crashes: u32 = crashes.parse().ok()?;
    let offset: usize = offset.parse().ok()?;
    let counts: Vec<usize> = counts.iter().map(|c| c.parse().ok()).collect::<Option<_>>()?;
    if count.parse() != Ok(bodies.len()) {
        return None;
    }
    let identity = |index: usize| format!("{origin}:{taken}:{}", offset + index);
    let one = |(index, body)| match class_of(index, &counts) {
        None => {
            let mut delivery = unwrap(body, || identity(index));
            delivery.crashes += crashes;
            delivery
        }
        Some(priority) => {
            Delivery { body: Some(Bytes::from(body)), priority, attempts: 0, crashes, identity: identity(index) }
        }
    };
    Some(bodies.into_iter().enumerate().map(one).collect())
}

fn micros(d: Duration) -> u64 {
    d.as_micros().min(u64::MAX as u128) as u64
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What the mutexes here guard stays whole whatever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
