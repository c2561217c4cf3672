//! Stream queues: a consumer group, one consumer per process start.
//!
//! What a consumer has read is pending until it is acknowledged; acknowledged entries are deleted.
//! Delivery counts are the crash count: a heartbeat does not raise it, taking an entry over does.
//! Delayed tasks of the queue (retries, `notbefore`) are leased batches, as in the list queues.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use redis::{Script, Value};

use super::{
    delivery::{Ack, Ask, Batch, Claim, Delivery, Hold, Leftovers, Return, SettleAnswer},
    entries::{Entry, entries, entries_of_read, order, size},
    keys::QueueKeys,
    lease::{LeaseSource, SourceSettings, delayed_member, lock},
    link::{Fault, FaultKind, Link},
};
use crate::task::Priority;

static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/stream_settle.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/stream_renew.lua")));

/// A script, because a full Redis refuses the plain command, and could then never be drained.
static CREATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "#!lua flags=allow-oom\n\
         local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')\n\
         if made.err and not string.find(made.err, 'BUSYGROUP') then return made end\n\
         return 1",
    )
});
static TIDY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/stream_tidy.lua")));

/// The consumer group of every stream queue.
pub const GROUP: &str = "contextd";
/// Entries read per call, at most, and at first: while the size of entries is not known yet.
const CHUNK: usize = 250;
const FIRST_CHUNK: usize = 16;
/// How often a claim looks for entries of dead consumers, and for delayed tasks.
const RECLAIM_EVERY: Duration = Duration::from_millis(500);
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// A consumer without pending entries and without life for this long is removed.
const CONSUMER_GONE: Duration = Duration::from_secs(3600);
const DELAYED_EVERY: Duration = Duration::from_millis(20);

/// Reads and settles the entries of one stream.
pub struct StreamSource {
    link: Link,
    settings: SourceSettings,
    keys: QueueKeys,
    stream: String,
    delayed: LeaseSource,
    held: Mutex<HashMap<String, Held>>,
    /// After a failed call entries may be ours without our knowing.
    unsure: AtomicBool,
    expected_bytes: AtomicUsize,
    /// How many entries the next call reads at most; grows while entries are as small as expected.
    chunk: AtomicUsize,
    /// Entries that were read, are ours, and did not fit into the last batch.
    surplus: Mutex<VecDeque<Entry>>,
    reclaimed: Mutex<Option<Instant>>,
    looked_at_delayed: Mutex<Option<Instant>>,
    tidied: Mutex<Option<Instant>>,
    broken: AtomicBool,
}

/// An entry in flight: its batch's flag, and when it was last known to be ours.
#[derive(Clone)]
struct Held {
    lost: Arc<AtomicBool>,
    sure: Instant,
}

impl StreamSource {
    pub fn new(link: Link, settings: SourceSettings) -> Self {
        let keys = QueueKeys::new(&settings.namespace, &settings.queue);
        Self {
            delayed: LeaseSource::new(link.clone(), settings.clone(), false),
            link,
            stream: keys.stream(),
            keys,
            settings,
            held: Mutex::default(),
            unsure: AtomicBool::new(false),
            expected_bytes: AtomicUsize::new(4096),
            chunk: AtomicUsize::new(FIRST_CHUNK),
            surplus: Mutex::default(),
            reclaimed: Mutex::default(),
            looked_at_delayed: Mutex::default(),
            tidied: Mutex::default(),
            broken: AtomicBool::new(false),
        }
    }

    /// Takes the next batch: delayed tasks that are due, entries of dead consumers, or new entries.
    pub async fn claim(&self, ask: Ask) -> Result<Claim, Fault> {
        let result = self.try_claim(ask).await;
        match &result {
            Err(f) if f.kind == FaultKind::NoGroup => {
                self.create_group().await?;
                return Ok(Claim::Empty);
            }
            Err(f) if f.kind == FaultKind::WrongType => {
                if !self.broken.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        key = self.stream,
                        "this key holds another Redis type than a stream: its tasks cannot be taken; rename it away, then push them again"
                    );
                }
                return Ok(Claim::Empty);
            }
            Err(_) => self.unsure.store(true, Ordering::Relaxed),
            Ok(_) => self.broken.store(false, Ordering::Relaxed),
        }
        result
    }

    async fn try_claim(&self, ask: Ask) -> Result<Claim, Fault> {
        if due(&self.looked_at_delayed, DELAYED_EVERY) {
            match self.delayed.claim(ask).await? {
                Claim::Empty => {}
                other => return Ok(other),
            }
        }
        if self.link.run::<bool>("exists", redis::cmd("EXISTS").arg(self.keys.paused())).await? {
            return Ok(Claim::Paused);
        }
        if self.unsure.load(Ordering::Relaxed) {
            let mine = self.read_own_pending(ask).await?;
            if !mine.is_empty() {
                return Ok(self.batch(mine, 0));
            }
            self.unsure.store(false, Ordering::Relaxed);
        }
        if due(&self.reclaimed, RECLAIM_EVERY)
            && let Some((entries, crashes)) = self.reclaim(ask).await?
        {
            *lock(&self.reclaimed) = None; // there may be more
            return Ok(self.batch(entries, crashes));
        }
        if due(&self.tidied, TIDY_EVERY) {
            let mut call = TIDY.prepare_invoke();
            call.key(&self.stream).arg(GROUP).arg(CONSUMER_GONE.as_millis() as u64);
            self.link.script::<i64>("stream_tidy", &call).await?;
        }
        let entries = self.read_new(ask).await?;
        Ok(if entries.is_empty() { Claim::Empty } else { self.batch(entries, 0) })
    }

    fn read_command(&self, count: usize, after: &str) -> redis::Cmd {
        let mut cmd = redis::cmd("XREADGROUP");
        cmd.arg("GROUP").arg(GROUP).arg(&self.settings.worker).arg("COUNT").arg(count);
        cmd.arg("STREAMS").arg(&self.stream).arg(after);
        cmd
    }

    /// Reads new entries, in chunks, until the tasks or the bytes of `ask` are reached.
    async fn read_new(&self, ask: Ask) -> Result<Vec<Entry>, Fault> {
        let mut entries = self.fitting(ask, lock(&self.surplus).drain(..).collect());
        let mut bytes: usize = entries.iter().map(size).sum();
        while lock(&self.surplus).is_empty() && entries.len() < ask.tasks && bytes < ask.bytes {
            let expected = self.expected_bytes.load(Ordering::Relaxed);
            let fit = (ask.bytes.saturating_sub(bytes) / expected).max(1);
            let chunk = self.chunk.load(Ordering::Relaxed);
            let count = (ask.tasks - entries.len()).min(chunk).min(fit);
            let reply = self.link.run("xreadgroup", &self.read_command(count, ">")).await;
            let read = match reply.and_then(entries_of_read) {
                Ok(read) => read.present,
                // What was read before the error is ours all the same; the rest is found when sure again.
                Err(fault) if !entries.is_empty() => {
                    tracing::warn!(%fault, "reading the stream broke off");
                    self.unsure.store(true, Ordering::Relaxed);
                    return Ok(entries);
                }
                Err(fault) => return Err(fault),
            };
            let got = read.len();
            bytes += read.iter().map(size).sum::<usize>();
            // A maximum that fades: one large entry makes the next claims careful.
            let largest = read.iter().map(size).max().unwrap_or(0);
            self.expected_bytes.store(largest.max(expected - expected / 64).max(64), Ordering::Relaxed);
            let grown = if largest > expected { FIRST_CHUNK } else { (chunk * 4).min(CHUNK) };
            self.chunk.store(grown, Ordering::Relaxed);
            entries.extend(read);
            entries = self.fitting(ask, entries);
            if got < count {
                break;
            }
        }
        Ok(entries)
    }

    /// The entries that a batch may hold, the first in any case; the rest waits for the next claim.
    fn fitting(&self, ask: Ask, mut entries: Vec<Entry>) -> Vec<Entry> {
        let mut bytes = 0;
        let mut fits = |(i, e): (usize, &Entry)| {
            bytes += size(e);
            i == 0 || (i < ask.tasks && bytes <= ask.bytes)
        };
        let fit = entries.iter().enumerate().take_while(|(i, e)| fits((*i, e))).count();
        if fit < entries.len() {
            let rest = entries.split_off(fit);
            let held = Held { lost: Arc::default(), sure: Instant::now() };
            lock(&self.held).extend(rest.iter().map(|e| (e.0.clone(), held.clone())));
            lock(&self.surplus).extend(rest);
        }
        entries
    }

    /// Entries that a lost answer delivered to us. Those in flight are ours as well and stay out.
    async fn read_own_pending(&self, ask: Ask) -> Result<Vec<Entry>, Fault> {
        let mut after = "0".to_string();
        loop {
            let read = entries_of_read(self.link.run("xreadgroup", &self.read_command(CHUNK, &after)).await?)?;
            if !read.deleted.is_empty() {
                let mut ack = redis::cmd("XACK");
                ack.arg(&self.stream).arg(GROUP).arg(&read.deleted);
                self.link.run::<Value>("xack", &ack).await?;
            }
            let Some(last) = read.present.iter().map(|e| &e.0).chain(&read.deleted).max_by_key(|id| order(id)) else {
                return Ok(Vec::new());
            };
            after.clone_from(last);
            let mut mine = read.present;
            mine.retain(|(id, _)| !lock(&self.held).contains_key(id));
            mine.truncate(ask.tasks.max(1));
            if !mine.is_empty() {
                // Reading them again has raised their delivery count: that was no crash.
                let ids: Vec<&String> = mine.iter().map(|e| &e.0).collect();
                self.claim_just_id(&ids, 0, 1).await?;
                return Ok(mine);
            }
        }
    }

    /// Takes over entries whose consumer has shown no life for a lease. Those delivered more than once
    /// come alone, so that an entry that kills workers is isolated.
    async fn reclaim(&self, ask: Ask) -> Result<Option<(Vec<Entry>, u32)>, Fault> {
        let idle = self.settings.lease.as_millis() as u64;
        let mut cmd = redis::cmd("XPENDING");
        cmd.arg(&self.stream).arg(GROUP).arg("IDLE").arg(idle).arg("-").arg("+").arg(ask.tasks.min(1000));
        let pending: Vec<(String, String, u64, u32)> = self.link.run("xpending", &cmd).await?;
        let Some(crashes) = pending.first().map(|p| p.3) else { return Ok(None) };
        let alike: Vec<&String> = pending.iter().filter(|p| p.3 == crashes).map(|p| &p.0).collect();
        let size = match crashes {
            // Given back, not crashed.
            0 => alike.len(),
            1 => (alike.len() as f64).sqrt().ceil() as usize,
            _ => 1,
        };
        let mut cmd = redis::cmd("XCLAIM");
        cmd.arg(&self.stream).arg(GROUP).arg(&self.settings.worker).arg(idle);
        for id in alike.into_iter().take(size) {
            cmd.arg(id);
        }
        // Who is first has it: the others' minimum idle time is not met any more.
        let reply: Value = self.link.run("xclaim", &cmd).await?;
        let entries = entries(reply)?.present;
        Ok((!entries.is_empty()).then_some((entries, crashes)))
    }

    fn batch(&self, entries: Vec<Entry>, crashes: u32) -> Claim {
        let ids: Vec<String> = entries.iter().map(|e| e.0.clone()).collect();
        let ack = Ack::new(Hold::Entries { ids: ids.clone(), crashes });
        let held = Held { lost: ack.lost_flag(), sure: Instant::now() };
        lock(&self.held).extend(ids.into_iter().map(|id| (id, held.clone())));
        let one = |(id, body): Entry| Delivery {
            body: body.map(Bytes::from),
            priority: Priority::Normal,
            attempts: 0,
            crashes,
            identity: id,
        };
        Claim::Batch(Batch { deliveries: entries.into_iter().map(one).collect(), ack })
    }

    async fn create_group(&self) -> Result<(), Fault> {
        let mut call = CREATE.prepare_invoke();
        call.key(&self.stream).arg(GROUP);
        self.link.script::<i64>("xgroup", &call).await.map(|_| ())
    }

    /// Acknowledges and deletes what has ended; moves retries to the delayed set; gives the rest back.
    pub async fn settle(
        &self,
        batch: &Batch,
        leftovers: &Leftovers,
        now_ms: i64,
        again: bool,
    ) -> Result<SettleAnswer, Fault> {
        let Hold::Entries { ids, crashes } = &batch.ack.hold else {
            return self.delayed.settle(batch, leftovers, now_ms, again).await;
        };
        let mut released = Vec::new();
        let mut delayed = Vec::new();
        let mut ends: Vec<bool> = vec![true; ids.len()];
        for (index, why) in &leftovers.0 {
            let (Some(delivery), Some(id)) = (batch.deliveries.get(*index), ids.get(*index)) else { continue };
            match why {
                Return::Release => {
                    ends[*index] = false;
                    released.push(id);
                }
                other => delayed.push((id, delayed_member(delivery, *other, now_ms))),
            }
        }
        let mut call = SETTLE.prepare_invoke();
        call.key(&self.stream).key(self.keys.delayed()).arg(GROUP).arg(&self.settings.worker);
        call.arg(u8::from(self.is_doubtful(&batch.ack, ids))).arg(delayed.len());
        for (id, (due, member)) in delayed {
            call.arg(id).arg(due).arg(member);
        }
        for (id, _) in ids.iter().zip(&ends).filter(|(_, ends)| **ends) {
            call.arg(id);
        }
        let lost: i64 = self.link.script("stream_settle", &call).await?;
        if !released.is_empty() {
            self.claim_just_id(&released, self.settings.lease.as_millis() as u64, *crashes).await?;
        }
        self.forget(ids);
        Ok(if lost == 0 || again { SettleAnswer::Settled } else { SettleAnswer::Lost })
    }

    /// Whether other consumers may have taken entries over: no sign of life for most of a lease (this
    /// process may have been frozen).
    fn is_doubtful(&self, ack: &Ack, ids: &[String]) -> bool {
        let held = lock(&self.held);
        let sure = ids.first().and_then(|id| held.get(id)).map(|h| h.sure);
        ack.is_lost() || sure.is_none_or(|s| s.elapsed() > self.settings.lease * 2 / 3)
    }

    /// Gives the batch back at once; `crashed` counts it against the entries.
    pub async fn hand_back(&self, ack: &Ack, crashed: bool) -> Result<SettleAnswer, Fault> {
        let Hold::Entries { ids, crashes } = &ack.hold else { return self.delayed.hand_back(ack, crashed).await };
        if self.is_doubtful(ack, ids) {
            self.renew().await?;
        }
        let ours: Vec<&String> = ids.iter().filter(|id| lock(&self.held).contains_key(*id)).collect();
        let count = crashes + u32::from(crashed);
        self.claim_just_id(&ours, self.settings.lease.as_millis() as u64, count).await?;
        let all = ours.len() == ids.len();
        self.forget(ids);
        Ok(if all { SettleAnswer::Settled } else { SettleAnswer::Lost })
    }

    /// Gives back entries that no batch has taken.
    pub async fn close(&self) -> Result<(), Fault> {
        let ids: Vec<String> = lock(&self.surplus).drain(..).map(|e| e.0).collect();
        self.claim_just_id(&ids.iter().collect::<Vec<_>>(), self.settings.lease.as_millis() as u64, 0).await?;
        self.forget(&ids);
        Ok(())
    }

    fn forget(&self, ids: &[String]) {
        let mut held = lock(&self.held);
        for id in ids {
            held.remove(id);
        }
    }

    /// Sets how long our entries have been idle (ms), and their delivery count.
    async fn claim_just_id(&self, ids: &[&String], idle: u64, deliveries: u32) -> Result<(), Fault> {
        for ids in ids.chunks(1000) {
            let mut cmd = redis::cmd("XCLAIM");
            cmd.arg(&self.stream).arg(GROUP).arg(&self.settings.worker).arg(0).arg(ids);
            cmd.arg("IDLE").arg(idle).arg("RETRYCOUNT").arg(deliveries).arg("JUSTID");
            self.link.run::<Value>("xclaim", &cmd).await?;
        }
        Ok(())
    }

    /// Shows life for every entry that is held, and renews the leases of delayed tasks.
    pub async fn renew(&self) -> Result<usize, Fault> {
        let mut count = self.delayed.renew().await?;
        let ids: Vec<String> = lock(&self.held).keys().cloned().collect();
        for ids in ids.chunks(500) {
            let asked = Instant::now();
            let mut call = RENEW.prepare_invoke();
            call.key(&self.stream).arg(GROUP).arg(&self.settings.worker).arg(ids);
            let lost: Vec<String> = self.link.script("stream_renew", &call).await?;
            let mut held = lock(&self.held);
            for id in ids {
                if let Some(h) = held.get_mut(id) {
                    h.sure = asked;
                }
            }
            for id in lost {
                // One that was settled in the meantime is gone, not lost.
                if let Some(h) = held.remove(&id) {
                    h.lost.store(true, Ordering::Relaxed);
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}

/// Whether `last` lies `every` back; if so it is now.
fn due(last: &Mutex<Option<Instant>>, every: Duration) -> bool {
    let mut last = lock(last);
    let is_due = last.is_none_or(|t| t.elapsed() >= every);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}
