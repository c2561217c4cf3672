//! What the store knows: its collections, their fields, and the indexes that the lifecycle needs.

use mongodb::bson::{Document, doc};

use super::{Index, load};

/// Fields that rows of any collection may have from contextd itself.
pub(super) const OWN: [&str; 15] = [
    "_id",
    "_sync",
    "state",
    "tenant",
    "holdCount",
    "lifecycle",
    "epoch",
    "createdAt",
    "updatedAt",
    "deletedAt",
    "deletedBy",
    "restoredAt",
    "markedAt",
    "archivedAt",
    "anonymizedAt",
];

/// A collection that the store knows.
pub(super) struct Known {
    pub name: &'static str,
    /// Besides [`OWN`].
    pub fields: &'static [&'static str],
    /// The work of contextd rests on its rows: no rule may take them.
    pub own: bool,
}

const fn rows(name: &'static str, fields: &'static [&'static str]) -> Known {
    Known { name, fields, own: false }
}

const fn own(name: &'static str) -> Known {
    Known { name, fields: &[], own: true }
}

#[rustfmt::skip]
pub(super) const COLLECTIONS: [Known; 30] = [
    rows("analyses", &["documentId", "versionNumber", "userId", "sessionId", "contentHash", "contentType", "cacheKey",
        "cached", "language", "engine", "grammar", "readability", "statistics", "timings"]),
    rows("typing_contexts", &["documentId", "sessionId", "userId", "sequence", "paragraph", "cursor", "selection",
        "recentText", "clientTime"]),
    rows("sessions", &["userId", "documentId", "status", "context", "metadata", "startedAt", "lastActivityAt", "endedAt",
        "reason", "evaluation", "evaluatedAt", "interactionCount", "claimedBy", "claimedAt", "previousSessionId"]),
    rows("session_history", &["sessionId", "userId", "documentId", "status", "context", "metadata", "startedAt", "endedAt",
        "lastActivityAt", "reason", "evaluation", "evaluatedAt", "interactionCount", "durationMs", "documentsTouched",
        "previousSessionId", "previousEndedAt", "claimedBy", "claimedAt"]),
    rows("interactions", &["sessionId", "userId", "documentId", "role", "request", "response", "context", "metadata",
        "processingTimeMs", "timestamp", "evaluation", "evaluatedAt"]),
    rows("users", &["email", "emailHash", "firstName", "lastName", "passwordHash", "accountStatus", "lastLogin", "metadata"]),
    rows("user_preferences", &["userId", "theme", "fontSize", "defaultPromptCategories", "notificationSettings",
        "privacySettings"]),
    rows("documents", &["userId", "sessionId", "ownerType", "title", "description", "content", "contentType", "metadata",
        "tags", "isArchived", "lastAccessedAt", "currentVersionId", "versionNumber", "nextVersionNumber", "claimedBy",
        "moveLeft"]),
    rows("document_versions", &["documentId", "versionId", "versionNumber", "previousVersionId", "restoredFrom", "kind",
        "content", "createdBy", "changeDescription", "decision", "decidedAt", "decidedBy"]),
    rows("ai_prompt_templates", &["name", "description", "promptText", "category", "isSystem", "createdBy"]),
    rows("ai_interactions", &["userId", "sessionId", "documentId", "promptTemplateId", "customPrompt", "aiResponse", "model",
        "cacheKey", "acceptedSuggestions", "rejectedSuggestions", "decision", "decidedAt", "timestamp"]),
    rows("auth_logs", &["userId", "sessionId", "event", "ip", "userAgent", "success", "metadata", "timestamp"]),
    rows("contexts", &["kind", "userId", "sessionId", "type", "status", "title", "content", "importance", "confidence",
        "source", "tags", "metadata", "timestamp"]),
    rows("context_links", &["from", "to", "relation", "weight", "metadata"]),
    rows("dead_letters", &["queue", "priority", "eventId", "source", "type", "reason", "error", "attempts", "crashes",
        "deadAt", "bytes", "body", "bodyFile", "bodyState"]),
    rows("job_runs", &["job", "slot", "trigger", "dryRun", "worker", "cutoff", "startedAt", "finishedAt", "durationMs",
        "outcome", "counts", "error"]),
    rows("holds", &["entityType", "entityId", "reason", "placedBy", "placedAt", "liftedBy", "liftedAt"]),
    own("tombstones"),
    own("audit_log"),
    own("audit_head"),
    own("erasure_certificates"),
    own("kvshadow"),
    own("data_keys"),
    own("access_stats"),
    own("record_guards"),
    own("job_schedules"),
    own("lifecycle_state"),
    own("schema_migrations"),
    own("dead_letter_bodies.files"),
    own("dead_letter_bodies.chunks"),
];

/// Fields that say who somebody is, or let it be found out; what is anonymized keeps none of them.
pub(super) const IDENTIFYING: [&str; 24] = [
    "userId",
    "sessionId",
    "documentId",
    "email",
    "emailHash",
    "firstName",
    "lastName",
    "passwordHash",
    "ip",
    "userAgent",
    "metadata",
    "customPrompt",
    "aiResponse",
    "cacheKey",
    "request",
    "response",
    "context",
    "content",
    "title",
    "description",
    "recentText",
    "paragraph",
    "createdBy",
    "deletedBy",
];

/// Jobs that run the rules that name them.
pub(super) const JOBS: [&str; 7] = [
    crate::session_archival::NAME,
    crate::version_pruning::NAME,
    crate::anonymous_cleanup::NAME,
    crate::document_archival::NAME,
    crate::retention::NAME,
    crate::anonymization::NAME,
    crate::auth_log_archival::NAME,
];

pub(super) fn collection(name: &str) -> Option<&'static Known> {
    COLLECTIONS.iter().find(|known| known.name == name)
}

/// The name of a collection that contextd ships.
pub fn shipped_collection(name: &str) -> Option<&'static str> {
    collection(name).map(|known| known.name)
}

/// The indexes that the shipped rules are served by, whether or not they are enabled.
pub fn shipped_indexes() -> Vec<Index> {
    let mut indexes: Vec<Index> = Vec::new();
    for rule in load::shipped_rules() {
        for case in &rule.cases {
            let index = Index { collection: rule.on.clone(), keys: case.keys() };
            if !indexes.contains(&index) {
                indexes.push(index);
            }
        }
    }
    indexes
}

/// What guards, actions and erasures look up: collection, keys, and whether rows without the field are left out.
pub fn lookup_indexes() -> [(&'static str, Document, bool); 11] {
    [
        ("tombstones", doc! { "state": 1, "rule": 1, "_id": 1 }, false),
        // Whose difference is stored to which version.
        ("document_versions", doc! { "content.base": 1 }, true),
        ("typing_contexts", doc! { "documentId": 1 }, false),
        ("typing_contexts", doc! { "sessionId": 1 }, false),
        ("typing_contexts", doc! { "userId": 1 }, true),
        ("interactions", doc! { "documentId": 1 }, true),
        ("interactions", doc! { "userId": 1 }, true),
        // Contents that have yet to follow their row to the other tier, or owner.
        ("documents", doc! { "moveLeft": 1 }, true),
        ("auth_logs", doc! { "userId": 1 }, true),
        ("ai_interactions", doc! { "userId": 1 }, true),
        ("analyses", doc! { "userId": 1 }, true),
    ]
}
