//! Cached records: set so that never an older value replaces a newer one, whoever comes when.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use redis::{Script, Value};

use crate::{
    intake::{FaultKind, Link},
    record::{Life, cached},
};

/// KEYS: records. ARGV: per key the revision, "1" for a marker, ttl (ms), value. Answers per key 1 (stored), 0 (a newer
/// one stays) or -1 (Redis is full: the key is removed, since what lies there is older).
///
/// The revision stands at the start of every value, whatever its format; revisions are compared as decimal digits, since
/// Lua's numbers end at 2^53. A value of the same revision is replaced, which renews its time; but a marker is not
/// replaced by a value that it was set to keep out.
static SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
        local answers, full = {}, false
        for i, key in ipairs(KEYS) do
          local at = 4 * i - 3
          local new, marker = ARGV[at], ARGV[at + 1] == '1'
          local head = redis.pcall('GETRANGE', key, 0, 63)
          local old, rest
          if type(head) == 'string' then
            old, rest = string.match(head, '^{"f":%d+,"rev":(%d+)(.*)')
          end
          local newer = old and (#old > #new or (#old == #new and old > new))
          local kept = old == new and not marker and string.sub(rest, 1, 12) == ',"gone":true'
          if newer or kept then
            answers[i] = 0
          else
            -- Redis checks its memory at a script's first write only.
            full = full or redis.pcall('SET', key, ARGV[at + 3], 'PX', ARGV[at + 2]).err
            if full then
              redis.call('UNLINK', key)
              answers[i] = -1
            else
              answers[i] = 1
            end
          end
        end
        return answers
        "#,
    )
});

/// One script holds Redis up for everybody: so many records and bytes at most.
const CHUNK: usize = 200;
const CHUNK_BYTES: usize = 1024 * 1024;
/// On Cluster a script serves one key: so many are on the way at once.
const CLUSTER_CALLS: usize = 32;
/// After a call without an answer nothing is asked for this long: whoever reads or writes has MongoDB.
const AWAY: Duration = Duration::from_secs(1);

/// A value for Redis, or a marker.
#[derive(Debug, Clone)]
pub struct Entry {
    pub kind: Arc<str>,
    pub id: String,
    pub rev: i64,
    pub bytes: Vec<u8>,
    pub ttl: Duration,
    pub is_marker: bool,
    /// Whether the record was made just now, so that Redis most likely has no value of it.
    pub is_new: bool,
}

impl Entry {
    /// A marker: values with this `rev` and older ones are not to be read any more.
    pub fn gone(kind: Arc<str>, id: String, rev: i64, now_ms: i64) -> Self {
        let bytes = cached::gone(rev, now_ms);
        Self { kind, id, rev, bytes, ttl: cached::GONE_TTL, is_marker: true, is_new: false }
    }
}

/// What became of an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Stored,
    /// A newer one was there.
    Older,
    /// Redis is full: there is no value now.
    Full,
    /// No answer, or Redis does not take it: what is there is unknown.
    Unknown,
}

/// No answer from Redis; the caller goes on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cache in Redis does not answer")]
pub struct Away;

/// Records in Redis, under NAMESPACE:cache:KIND:ID. Clones share the connection.
#[derive(Clone)]
pub struct RecordCache {
    link: Link,
    namespace: Arc<str>,
    /// When a call last remained without an answer.
    away: Arc<std::sync::Mutex<Option<Instant>>>,
}

impl RecordCache {
    pub fn new(link: Link, namespace: &str) -> Self {
        Self { link, namespace: namespace.into(), away: Arc::default() }
    }

    fn key(&self, kind: &str, id: &str) -> String {
        format!("{}:cache:{kind}:{id}", self.namespace)
    }

    /// Whether Redis has just failed to answer.
    pub fn is_away(&self) -> bool {
        let away = self.away.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        away.is_some_and(|since| since.elapsed() < AWAY)
    }

    /// Notes whether Redis answers; calls that were cut off in time count as unanswered.
    pub fn answered(&self, answered: bool) {
        let now = (!answered).then(Instant::now);
        *self.away.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }

    /// Sets values and markers, each only over older ones. Answers for each in the order given.
    pub async fn put(&self, entries: &[Entry]) -> Vec<Put> {
        let mut answers = vec![Put::Unknown; entries.len()];
        let (new, mut rest): (Vec<usize>, Vec<usize>) =
            (0..entries.len()).partition(|i| entries[*i].is_new && !entries[*i].is_marker);
        // Where nothing is most likely: a plain SET in a pipeline costs a fraction of the script.
        for chunk in chunks(entries, &new, CHUNK) {
            let mut pipe = redis::pipe();
            for i in &chunk {
                let entry = &entries[*i];
                let set = pipe.cmd("SET").arg(self.key(&entry.kind, &entry.id)).arg(&entry.bytes[..]);
                set.arg("PX").arg(entry.ttl.as_millis() as u64).arg("NX");
            }
            match self.link.pipe::<Vec<Option<String>>>("record_set", &pipe).await {
                Ok(set) => {
                    self.answered(true);
                    for (i, set) in chunk.into_iter().zip(set) {
                        match set {
                            Some(_) => answers[i] = Put::Stored,
                            None => rest.push(i),
                        }
                    }
                }
                // The script tells for each, and removes what is old where Redis is full.
                Err(f) if f.kind != FaultKind::Unavailable => rest.extend(chunk),
                Err(fault) => {
                    tracing::debug!(%fault, "records are not cached");
                    self.answered(false);
                    return answers;
                }
            }
        }
        let cluster = self.link.is_cluster();
        let (size, calls) = if cluster { (1, CLUSTER_CALLS) } else { (CHUNK, 1) };
        let scripts = stream::iter(chunks(entries, &rest, size)).map(|chunk| self.set(entries, chunk));
        let mut scripts = scripts.buffer_unordered(calls);
        while let Some((chunk, done)) = scripts.next().await {
            let Some(done) = done else { break };
            for (i, put) in chunk.into_iter().zip(done) {
                answers[i] = put;
            }
        }
        answers
    }

    async fn set(&self, entries: &[Entry], chunk: Vec<usize>) -> (Vec<usize>, Option<Vec<Put>>) {
        let mut call = SET.prepare_invoke();
        for i in &chunk {
            let entry = &entries[*i];
            call.key(self.key(&entry.kind, &entry.id)).arg(entry.rev).arg(u8::from(entry.is_marker));
            call.arg(entry.ttl.as_millis() as u64).arg(&entry.bytes[..]);
        }
        match self.link.script::<Vec<i64>>("record_set", &call).await {
            Ok(answers) => {
                self.answered(true);
                let put = |answer| match answer {
                    1 => Put::Stored,
                    0 => Put::Older,
                    _ => Put::Full,
                };
                (chunk, Some(answers.into_iter().map(put).collect()))
            }
            Err(fault) => {
                tracing::debug!(%fault, "records are not cached");
                self.answered(fault.kind != FaultKind::Unavailable);
                (chunk, None)
            }
        }
    }

    /// Says that these records are removed: (kind, id, rev of the removal or of the last value).
    pub async fn gone(&self, records: &[(Arc<str>, String, i64)], now_ms: i64) -> Vec<Put> {
        let entry = |(kind, id, rev): &(Arc<str>, String, i64)| Entry::gone(kind.clone(), id.clone(), *rev, now_ms);
        self.put(&records.iter().map(entry).collect::<Vec<_>>()).await
    }

    /// Says which sessions are live, under NAMESPACE:session:ID. False: not all of them are told.
    pub async fn live(&self, sessions: &[(String, Life)]) -> bool {
        let mut pipe = redis::pipe();
        for (id, life) in sessions {
            let key = format!("{}:session:{id}", self.namespace);
            match life {
                Life::Goes(left) => drop(pipe.cmd("SET").arg(key).arg("1").arg("PX").arg(left.as_millis() as u64)),
                Life::Ended => drop(pipe.cmd("DEL").arg(key)),
                Life::Idle => {}
            }
        }
        if pipe.is_empty() {
            return true;
        }
        match self.link.pipe::<Value>("session_live", &pipe).await {
            Ok(_) => true,
            Err(fault) => {
                tracing::debug!(%fault, "it is not told which sessions are live");
                self.answered(fault.kind != FaultKind::Unavailable);
                false
            }
        }
    }

    /// The values of these (kind, id), as they lie there.
    ///
    /// # Errors
    /// No answer. Another call within a second fails at once.
    pub async fn get(&self, keys: &[(&str, &str)]) -> Result<Vec<Option<Vec<u8>>>, Away> {
        if self.is_away() {
            return Err(Away);
        }
        // GETs in a pipeline rather than one MGET: on Cluster the keys lie in many slots.
        let mut pipe = redis::pipe();
        for (kind, id) in keys {
            pipe.cmd("GET").arg(self.key(kind, id));
        }
        match self.link.pipe("record_get", &pipe).await {
            Ok(values) => Ok(values),
            Err(fault) => {
                tracing::debug!(%fault, "cached records are not read");
                self.answered(fault.kind != FaultKind::Unavailable);
                Err(Away)
            }
        }
    }
}

/// Positions in chunks of at most `size` records and about [`CHUNK_BYTES`].
fn chunks(entries: &[Entry], positions: &[usize], size: usize) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for i in positions {
        bytes += entries[*i].bytes.len();
        match out.last_mut() {
            Some(chunk) if chunk.len() < size && bytes <= CHUNK_BYTES => chunk.push(*i),
            _ => {
                bytes = entries[*i].bytes.len();
                out.push(vec![*i]);
            }
        }
    }
    out
}
