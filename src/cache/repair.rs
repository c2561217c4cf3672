//! Bringing in step what is noted in `kvshadow`: read from MongoDB, write to Redis, remove the row unless it was noted
//! anew meanwhile. Several workers may do so at once; none of them can do harm to another.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use mongodb::bson::Document;
use tokio_util::sync::CancellationToken;

use super::{CacheWriter, Entry, FLUSH_EVERY, Put, sync::Inner};
use crate::{
    clock,
    record::cached::Kind,
    store::{Shadow, StoreFault},
};

/// Rows of `kvshadow` that are mended together.
const PAGE: i64 = 500;
/// Redis counts as away when it takes longer for a page.
const WITHIN: Duration = Duration::from_secs(2);

/// What a pass of the repair loop did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    pub in_step: u64,
    /// Redis is away or full: they stay noted.
    pub left: u64,
}

impl CacheWriter {
    /// Brings everything noted in step, every `cache.repair_every`, until `done`; adds to the fleet's counts of writes,
    /// too. Several workers may do so at once.
    pub async fn repair(&self, done: CancellationToken) {
        let counts = self.0.access.keep(&self.0.store, FLUSH_EVERY, done.clone());
        tokio::join!(counts, self.mend_until(done));
    }

    /// Adds what was written to the fleet's counts now; what cannot be added is lost with the process.
    pub async fn count(&self, now: DateTime<Utc>) {
        if let Err(fault) = self.0.access.flush(&self.0.store, now).await {
            tracing::debug!(%fault, "the last counts of writes are lost");
        }
    }

    async fn mend_until(&self, done: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.0.every) => {}
                () = done.cancelled() => return,
            }
            if let Err(fault) = self.repair_once(clock::now()).await {
                tracing::debug!(%fault, "records that are not in step cannot be looked up");
            }
        }
    }

    /// One pass over everything that is noted.
    ///
    /// # Errors
    /// MongoDB does not answer.
    pub async fn repair_once(&self, now: DateTime<Utc>) -> Result<Repaired, StoreFault> {
        let this = &*self.0;
        let waiting: Vec<Shadow> = std::mem::take(&mut *this.backlog()).into_values().collect();
        this.note(waiting).await;
        let mut repaired = Repaired::default();
        let mut last = None;
        loop {
            let page = this.store.shadow_page(last.as_ref(), PAGE).await?;
            last = page.last().cloned();
            let mended = this.mend(&page, now).await?;
            repaired.in_step += mended.done.len() as u64;
            repaired.left += (page.len() - mended.done.len()) as u64;
            if mended.away || page.len() < PAGE as usize {
                break;
            }
        }
        let (rows, oldest) = this.store.shadow_state().await?;
        this.metrics.noted(rows, oldest.map(|since| now - since));
        Ok(repaired)
    }
}

/// What became of a page.
#[derive(Default)]
struct Mended {
    done: Vec<Shadow>,
    failed: Vec<Shadow>,
    /// Redis did not answer.
    away: bool,
}

impl Inner {
    /// Brings the records of a page in step.
    async fn mend(&self, page: &[Shadow], now: DateTime<Utc>) -> Result<Mended, StoreFault> {
        let mut kinds: HashMap<&str, Vec<&Shadow>> = HashMap::new();
        for shadow in page {
            kinds.entry(&shadow.kind).or_default().push(shadow);
        }
        let mut mended = Mended::default();
        for (name, shadows) in kinds {
            match self.kinds.get(name) {
                Some(kind) => self.mend_kind(kind, &shadows, now, &mut mended).await?,
                // Of a kind that is no longer declared nothing is read.
                None => mended.done.extend(shadows.into_iter().cloned()),
            }
            if mended.away {
                break;
            }
        }
        self.store.shadow_done(&mended.done).await?;
        for shadow in &mended.done {
            self.metrics.in_step(1, (now - shadow.since).to_std().unwrap_or_default());
        }
        if !mended.away && !mended.failed.is_empty() {
            self.store.shadow_failed(&mended.failed).await?;
        }
        Ok(mended)
    }

    async fn mend_kind(
        &self,
        kind: &Kind,
        shadows: &[&Shadow],
        now: DateTime<Utc>,
        mended: &mut Mended,
    ) -> Result<(), StoreFault> {
        let now_ms = now.timestamp_millis();
        let ids: Vec<&str> = shadows.iter().map(|s| s.id.as_str()).collect();
        let mut found = self.store.records_of(&kind.collection, &kind.by, &ids).await?;
        let (mut entries, mut of_entry, mut of_record, mut records) = (vec![], vec![], vec![], vec![]);
        for shadow in shadows {
            match found.remove(&shadow.id) {
                Some(document) => {
                    of_record.push(*shadow);
                    records.push((kind, document));
                }
                None => {
                    entries.push(Entry::gone(kind.name.clone(), shadow.id.clone(), shadow.rev, now_ms));
                    of_entry.push((*shadow).clone());
                }
            }
        }
        self.count_interactions(&mut records).await?;
        let mut quiet = Vec::new();
        for (shadow, (_, document)) in of_record.into_iter().zip(&records) {
            // Read with majority after it was noted: what is there is at least what was noted.
            let shadow = Shadow { rev: kind.rev(document).max(shadow.rev), ..shadow.clone() };
            match self.entry(kind, document, false, now_ms) {
                // Never was in Redis, and is not to be.
                None => quiet.push(shadow),
                Some(entry) => {
                    entries.push(Entry { is_new: false, ..entry });
                    of_entry.push(shadow);
                }
            }
        }
        for (shadow, put) in of_entry.into_iter().zip(self.show(&entries, &records, now_ms).await) {
            match put {
                Put::Stored | Put::Older => mended.done.push(shadow),
                Put::Full => mended.failed.push(shadow),
                Put::Unknown => mended.failed.push(shadow),
            }
        }
        mended.away |= self.cache.is_away();
        // Which sessions are live is told to Redis, too.
        if mended.away { &mut mended.failed } else { &mut mended.done }.append(&mut quiet);
        Ok(())
    }

    async fn show(&self, entries: &[Entry], records: &[(&Kind, Document)], now_ms: i64) -> Vec<Put> {
        let unknown = || vec![Put::Unknown; entries.len()];
        let live = self.live(records.iter().map(|(kind, document)| (*kind, document)), now_ms);
        let put = async { if self.cache.live(&live).await { self.cache.put(entries).await } else { unknown() } };
        tokio::time::timeout(WITHIN, put).await.unwrap_or_else(|_| {
            self.cache.answered(false);
            unknown()
        })
    }
}
