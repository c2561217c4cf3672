//! Redis as the lifecycle sees it: who is live, and removing what is cached about records. Other than for readers, no
//! answer is an error here: a session of which nothing is known is not one that has ended.

use std::{collections::HashSet, sync::Arc};

use mongodb::bson::Document;

use super::{Put, RecordCache, analysis, typing};
use crate::{
    intake::{Fault, FaultKind, Link},
    record::cached::{Kind, Kinds},
};

/// Keys of one pipeline.
const CHUNK: usize = 500;
/// Analyses are cached under this field of their rows.
const ANALYSES: (&str, &str) = ("analyses", "cacheKey");

/// Clones share the connection, which is made by the first call.
#[derive(Clone)]
pub struct LifecycleCache {
    link: Link,
    records: RecordCache,
    namespace: Arc<str>,
    kinds: Arc<Kinds>,
}

impl LifecycleCache {
    pub fn new(link: Link, namespace: &str, kinds: Arc<Kinds>) -> Self {
        Self { records: RecordCache::new(link.clone(), namespace), link, namespace: namespace.into(), kinds }
    }

    /// Which of these sessions have a live key.
    pub async fn live(&self, sessions: &[String]) -> Result<HashSet<String>, Fault> {
        let mut live = HashSet::new();
        for chunk in sessions.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            for id in chunk {
                pipe.cmd("EXISTS").arg(self.session(id));
            }
            let found: Vec<bool> = self.link.pipe("session_exists", &pipe).await?;
            if found.len() != chunk.len() {
                let message = format!("{} of {} sessions were told to be live or not", found.len(), chunk.len());
                return Err(Fault { kind: FaultKind::Unavailable, message });
            }
            live.extend(chunk.iter().zip(found).filter(|(_, found)| *found).map(|(id, _)| id.clone()));
        }
        Ok(live)
    }

    /// Marks these records, (collection, id, revision), as gone in every kind that is cached by their `_id`.
    pub async fn forget(&self, records: &[(String, String, i64)], now_ms: i64) -> Result<(), Fault> {
        let gone: Vec<_> = records
            .iter()
            .flat_map(|(collection, id, rev)| {
                let kinds = self.kinds_of(collection).filter(|kind| kind.by.is_empty());
                kinds.map(move |kind| (kind.name.clone(), id.clone(), *rev))
            })
            .collect();
        self.mark(&gone, now_ms).await
    }

    /// The fields of a collection's rows under whose values something is cached.
    pub fn cached_by(&self, collection: &str) -> Vec<String> {
        let kinds = self.kinds_of(collection).filter(|kind| !kind.by.is_empty()).map(|kind| kind.by.clone());
        let analyses = (collection == ANALYSES.0).then(|| ANALYSES.1.to_owned());
        kinds.chain(analyses).collect()
    }

    /// Removes what is cached under the values of [`LifecycleCache::cached_by`] of these rows. Under such a value lies
    /// the newest of several records: a newer one than the row stays.
    pub async fn forget_by(&self, collection: &str, rows: &[Document], now_ms: i64) -> Result<(), Fault> {
        let by: Vec<&Kind> = self.kinds_of(collection).filter(|kind| !kind.by.is_empty()).collect();
        let gone: Vec<_> = rows
            .iter()
            .flat_map(|row| {
                by.iter().filter_map(|kind| Some((kind.name.clone(), kind.key(row)?.to_owned(), kind.rev(row))))
            })
            .collect();
        self.mark(&gone, now_ms).await?;
        if collection == ANALYSES.0 {
            let keys = rows.iter().filter_map(|row| row.get_str(ANALYSES.1).ok());
            self.delete(keys.map(|key| analysis::key(&self.namespace, key)).collect()).await?;
        }
        Ok(())
    }

    /// Removes the latest typing contexts of (document, session).
    pub async fn forget_typing(&self, of: &[(String, String)]) -> Result<(), Fault> {
        let key = |(document, session): &(String, String)| typing::key(&self.namespace, document, session);
        self.delete(of.iter().map(key).collect()).await
    }

    /// Removes what says that these sessions are live.
    pub async fn end_sessions(&self, sessions: &[String]) -> Result<(), Fault> {
        self.delete(sessions.iter().map(|id| self.session(id)).collect()).await
    }

    fn session(&self, id: &str) -> String {
        format!("{}:session:{id}", self.namespace)
    }

    fn kinds_of<'k>(&'k self, collection: &'k str) -> impl Iterator<Item = &'k Kind> {
        self.kinds.iter().filter(move |kind| &*kind.collection == collection)
    }

    async fn mark(&self, gone: &[(Arc<str>, String, i64)], now_ms: i64) -> Result<(), Fault> {
        if gone.is_empty() {
            return Ok(());
        }
        let unknown = self.records.gone(gone, now_ms).await.into_iter().filter(|put| *put == Put::Unknown).count();
        if unknown > 0 {
            let message = format!("{unknown} of {} cached records may still be there: no answer", gone.len());
            return Err(Fault { kind: FaultKind::Unavailable, message });
        }
        Ok(())
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), Fault> {
        for chunk in keys.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            for key in chunk {
                pipe.cmd("UNLINK").arg(key).ignore();
            }
            self.link.pipe::<()>("lifecycle_delete", &pipe).await?;
        }
        Ok(())
    }
}
