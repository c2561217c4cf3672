//! Indexes and schema versions, brought up to date by `contextd migrate`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use mongodb::{
    IndexModel,
    bson::{Bson, DateTime as BsonDate, Document, doc},
    options::IndexOptions,
};
use serde::Serialize;

use super::{
    ACCESS_STATS, ANALYSES, AUDIT_LOG, CONTEXTS, DEAD_LETTERS, KVSHADOW, Store, StoreFault, access::KEPT_DAYS,
};

const MIGRATIONS: &str = "schema_migrations";
/// The step that makes a chain of the audit log.
const AUDIT: &str = "0007-audit";

/// One step of the schema; steps are only ever added.
#[derive(Debug, Clone)]
pub struct Migration {
    pub id: &'static str,
    pub indexes: Vec<(&'static str, IndexModel)>,
}

/// Whether a step has been taken.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexState {
    pub id: String,
    pub applied_at: Option<DateTime<Utc>>,
}

/// Every step, oldest first.
pub fn migrations() -> Vec<Migration> {
    vec![
        Migration {
            id: "0001-tasks",
            indexes: vec![
                (ANALYSES, index(doc! { "documentId": 1, "createdAt": -1 })),
                (ANALYSES, index(doc! { "cacheKey": 1 })),
                (DEAD_LETTERS, index(doc! { "deadAt": 1, "_id": 1 })),
                (DEAD_LETTERS, index(doc! { "queue": 1, "reason": 1, "deadAt": -1 })),
                (DEAD_LETTERS, index(doc! { "eventId": 1 })),
            ],
        },
        Migration {
            id: "0002-jobs",
            indexes: vec![
                (DEAD_LETTERS, index(doc! { "deadAt": 1, "_id": 1 })),
                ("job_runs", index(doc! { "finishedAt": 1, "_id": 1 })),
            ],
        },
        Migration {
            id: "0003-records",
            // Seed 004's indexes and what the effects look up by.
            indexes: vec![
                ("users", index(doc! { "accountStatus": 1 })),
                ("documents", index(doc! { "userId": 1, "state": 1 })),
                ("documents", index(doc! { "sessionId": 1 })),
                ("documents", index(doc! { "tags": 1 })),
                ("document_versions", unique(doc! { "documentId": 1, "versionNumber": 1 })),
                ("sessions", index(doc! { "userId": 1, "state": 1 })),
                ("interactions", index(doc! { "sessionId": 1, "timestamp": 1 })),
                ("ai_interactions", index(doc! { "sessionId": 1 })),
                ("ai_interactions", index(doc! { "documentId": 1, "timestamp": 1 })),
                ("ai_prompt_templates", index(doc! { "category": 1 })),
                ("context_links", index(doc! { "from": 1, "relation": 1 })),
                ("context_links", index(doc! { "to": 1, "relation": 1 })),
                ("holds", index(doc! { "entityType": 1, "entityId": 1, "state": 1 })),
                ("audit_log", index(doc! { "entity.kind": 1, "entity.id": 1, "at": 1 })),
            ],
        },
        Migration {
            id: "0004-caches",
            indexes: vec![
                (KVSHADOW, index(doc! { "since": 1, "_id": 1 })),
                ("ai_interactions", index(doc! { "cacheKey": 1, "_sync.order": -1 })),
            ],
        },
        Migration { id: "0005-search", indexes: search() },
        Migration {
            id: "0006-addresses",
            // One user per address, be it plain or sealed: a sealed one is no string, and has a stand-in.
            indexes: vec![("users", unique_text("email")), ("users", unique_text("emailHash"))],
        },
        Migration { id: AUDIT, indexes: audit() },
        // What the shipped rules scan, and what guards, actions and erasures look up.
        Migration { id: "0008-lifecycle", indexes: super::lifecycle::step() },
        Migration {
            id: "0009-sessions",
            // The session before another one, and the version behind another one.
            indexes: vec![
                ("session_history", index(doc! { "userId": 1, "endedAt": 1, "_id": 1 })),
                ("session_history", index(doc! { "documentsTouched": 1, "endedAt": 1, "_id": 1 })),
                ("document_versions", sparse(doc! { "previousVersionId": 1 })),
            ],
        },
        // Documents whose contents are on their way, and what was purged lately.
        Migration { id: "0010-moves", indexes: contextd_jobs::engine::indexes() },
        // What a user left is found by these.
        Migration { id: "0011-erasure", indexes: contextd_jobs::engine::person_indexes() },
    ]
}

fn index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn sparse(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().sparse(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

fn unique(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().unique(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Lists begin with what they are of and go on with the newest first, which is the order in which pages are read.
fn search() -> Vec<(&'static str, IndexModel)> {
    let weights = doc! { "title": 8, "tags": 3, "content": 1 };
    // A field `language` of a producer's own must not decide how a text is read: MongoDB refuses languages it does not
    // know. No record has a field of this name.
    let text = IndexOptions::builder().weights(weights).language_override("_language".to_owned());
    let fields = doc! { "title": "text", "tags": "text", "content": "text" };
    let mut indexes = vec![(CONTEXTS, IndexModel::builder().keys(fields).options(text.build()).build())];
    for first in [&["kind"][..], &["kind", "type"], &["kind", "importance"], &["tags"]] {
        indexes.push((CONTEXTS, index(newest_first(first))));
    }
    for owner in ["userId", "sessionId"] {
        let owned = doc! { owner: { "$exists": true } };
        let options = IndexOptions::builder().partial_filter_expression(owned).build();
        indexes.push((CONTEXTS, IndexModel::builder().keys(newest_first(&[owner])).options(options).build()));
    }
    let expires = IndexOptions::builder().expire_after(Duration::from_secs(KEPT_DAYS * 24 * 3_600)).build();
    indexes.push((ACCESS_STATS, IndexModel::builder().keys(doc! { "hour": 1 }).options(expires).build()));
    indexes
}

fn newest_first(of: &[&str]) -> Document {
    let mut keys: Document = of.iter().map(|name| ((*name).to_owned(), Bson::Int32(1))).collect();
    keys.extend(doc! { "updatedAt": -1, "_id": 1 });
    keys
}

/// A number belongs to one entry; those that wait to be linked are found at once, in their order.
fn audit() -> Vec<(&'static str, IndexModel)> {
    let linked = IndexOptions::builder().unique(true).partial_filter_expression(doc! { "seq": { "$exists": true } });
    // An index of what has no field at all is not to be had in other words.
    let waiting = IndexOptions::builder().partial_filter_expression(doc! { "seq": null });
    [(doc! { "seq": 1 }, linked.build()), (doc! { "at": 1, "_id": 1 }, waiting.build())]
        .map(|(keys, options)| (AUDIT_LOG, IndexModel::builder().keys(keys).options(options).build()))
        .to_vec()
}

/// Unique among the documents whose `field` is a text.
fn unique_text(field: &str) -> IndexModel {
    let is_text = doc! { field: { "$type": "string" } };
    let options = IndexOptions::builder().unique(true).partial_filter_expression(is_text).build();
    IndexModel::builder().keys(doc! { field: 1 }).options(options).build()
}

impl Store {
    /// Which steps have been taken.
    pub async fn migration_status(&self) -> Result<Vec<IndexState>, StoreFault> {
        let find = async {
            self.db.collection::<Document>(MIGRATIONS).find(doc! {}).await?.try_collect::<Vec<Document>>().await
        };
        let applied = self.bounded("find", find).await?;
        let at = |id: &str| {
            let found = applied.iter().find(|d| d.get_str("_id").ok() == Some(id))?;
            DateTime::from_timestamp_millis(found.get_datetime("appliedAt").ok()?.timestamp_millis())
        };
        Ok(migrations().iter().map(|m| IndexState { id: m.id.into(), applied_at: at(m.id) }).collect())
    }

    /// Takes the missing steps, and answers their ids. Safe to run from several processes at once:
    /// every step can be repeated.
    pub async fn migrate(&self, now: DateTime<Utc>) -> Result<Vec<&'static str>, StoreFault> {
        let status = self.migration_status().await?;
        let mut taken = Vec::new();
        for migration in migrations() {
            if status.iter().any(|s| s.id == migration.id && s.applied_at.is_some()) {
                continue;
            }
            for (collection, index) in migration.indexes {
                // Building an index takes as long as it takes: no time limit of ours.
                self.db.collection::<Document>(collection).create_index(index).await?;
            }
            if migration.id == AUDIT {
                self.adopt_audit().await?;
            }
            let record = doc! { "$setOnInsert": { "appliedAt": BsonDate::from_millis(now.timestamp_millis()) } };
            let done = self.db.collection::<Document>(MIGRATIONS);
            let upsert = done.update_one(doc! { "_id": migration.id }, record).upsert(true);
            self.bounded("update", upsert.into_future()).await?;
            taken.push(migration.id);
        }
        Ok(taken)
    }
}
