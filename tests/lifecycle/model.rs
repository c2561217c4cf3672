//! What the rules of the shipped policy mean, written from their text and from nothing else: which rows are due at an
//! instant, and what the stores hold after a rule has done its work. Pure, and slow.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::kit::from_bson;
use mongodb::bson::{Bson, Document, doc};

pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// Declared in the policy as `access_slack`: touches reach `lastAccessedAt` late by the flush of touches and by what
/// caches answered.
pub const SLACK: i64 = 6 * MINUTE;

/// Every rule with its job, in the order in which a job applies them.
pub const RULES: [(&str, &str); 15] = [
    ("session-archival", "session-archival"),
    ("minor-version", "version-pruning"),
    ("ai-version", "version-pruning"),
    ("anonymous-mark", "anonymous-cleanup"),
    ("anonymous-cleanup", "anonymous-cleanup"),
    ("inactive-document", "document-archival"),
    ("archive-end", "document-archival"),
    ("deleted-user", "anonymization"),
    ("ai-interaction-30", "anonymization"),
    ("auth-log", "auth-log-archival"),
    ("deleted-document", "retention"),
    ("ai-interaction-90", "retention"),
    ("dead-letter", "retention"),
    ("analysis-result", "retention"),
    ("job-run", "retention"),
];

/// Everything that rules look at or change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stores {
    /// By collection and id.
    pub rows: BTreeMap<String, BTreeMap<String, Document>>,
    /// Contents of documents and versions, by key.
    pub hot: BTreeSet<String>,
    pub archive: BTreeSet<String>,
    /// Sessions with a live key.
    pub live: BTreeSet<String>,
    /// Cached values and typing contexts in Redis, without the namespace; no markers of what is gone.
    pub keys: BTreeSet<String>,
}

/// Enabled only when an operator says so.
pub fn opted_in(rule: &str) -> bool {
    rule == "archive-end"
}

impl Stores {
    pub fn of(&self, collection: &str) -> impl Iterator<Item = (&String, &Document)> {
        self.rows.get(collection).into_iter().flatten()
    }

    pub fn row(&self, collection: &str, id: &str) -> Option<&Document> {
        self.rows.get(collection)?.get(id)
    }

    fn edit(&mut self, collection: &str) -> &mut BTreeMap<String, Document> {
        self.rows.entry(collection.into()).or_default()
    }

    pub fn put(&mut self, collection: &str, row: Document) {
        let id = row.get_str("_id").expect("ids are texts").to_owned();
        self.edit(collection).insert(id, row);
    }

    /// The rows that `rule` has to take at `now`.
    pub fn due(&self, rule: &str, now: DateTime<Utc>) -> BTreeSet<String> {
        let collection = collection(rule);
        let due = |(id, row): &(&String, &Document)| {
            let waits = rule == "deleted-user" && (self.holds_something(id) || self.keeps_documents(id, now));
            self.meets(rule, id, row, now) && !self.held(collection, row) && !waits
        };
        self.of(collection).filter(due).map(|(id, _)| id.clone()).collect()
    }

    fn meets(&self, rule: &str, id: &str, row: &Document, now: DateTime<Utc>) -> bool {
        let is = |field: &str, value: &str| text(row, field) == Some(value);
        let past = |field: &str, term: i64| {
            let date = row.get_datetime(field).ok().map(|d| from_bson(*d));
            date.is_some_and(|date| date <= now && now - date >= TimeDelta::milliseconds(term))
        };
        if is("state", "purging") {
            return false;
        }
        match rule {
            "session-archival" => {
                let idle = if there(row, "userId") {
                    past("lastActivityAt", 30 * MINUTE)
                } else {
                    past("lastActivityAt", DAY)
                };
                let over = (is("state", "active") && idle) || (is("state", "ended") && past("endedAt", 0));
                over && !self.live.contains(id)
            }
            "minor-version" => is("kind", "minor") && past("createdAt", DAY) && self.is_spare(id, row),
            "ai-version" => {
                is("kind", "ai") && is("decision", "rejected") && past("decidedAt", 0) && self.is_spare(id, row)
            }
            "anonymous-mark" => {
                is("ownerType", "anon") && is("state", "active") && past("lastAccessedAt", 0) && self.has_expired(row)
            }
            "anonymous-cleanup" => {
                is("ownerType", "anon")
                    && (is("state", "active") || is("state", "pending_cleanup"))
                    && past("lastAccessedAt", 7 * DAY + SLACK)
                    && !text(row, "sessionId").is_some_and(|s| self.live.contains(s))
            }
            "inactive-document" => {
                is("state", "active") && is("ownerType", "user") && past("lastAccessedAt", 90 * DAY + SLACK)
            }
            "archive-end" => is("state", "archived") && past("archivedAt", 365 * DAY),
            "deleted-document" | "deleted-user" => {
                is("state", "deleted") && past("deletedAt", 30 * DAY) && !there(row, "anonymizedAt")
            }
            "ai-interaction-30" => past("timestamp", 30 * DAY) && !there(row, "anonymizedAt"),
            "ai-interaction-90" => past("timestamp", 90 * DAY),
            "auth-log" => past("timestamp", 365 * DAY),
            "dead-letter" => past("deadAt", 30 * DAY),
            "job-run" => past("finishedAt", 90 * DAY),
            "analysis-result" => {
                let made = row.get_datetime("createdAt").ok();
                let newer = |other: &Document| {
                    let at = other.get_datetime("createdAt").ok();
                    text(other, "documentId") == text(row, "documentId")
                        && at
                            .zip(made)
                            .is_some_and(|(at, made)| at > made && now - from_bson(*at) >= TimeDelta::days(30))
                };
                text(row, "documentId").is_some() && self.of("analyses").any(|(_, other)| newer(other))
            }
            other => panic!("no rule {other}"),
        }
    }

    /// Neither current nor what another version is stored as a difference to.
    fn is_spare(&self, id: &str, row: &Document) -> bool {
        let document = text(row, "documentId").and_then(|d| self.row("documents", d));
        let current = document.and_then(|d| text(d, "currentVersionId")) == Some(id);
        let base = |(_, other): (&String, &Document)| {
            other.get_document("content").ok().and_then(|c| text(c, "base")) == Some(id)
        };
        !current && !self.of("document_versions").any(base)
    }

    /// Its session has no live key, and is gone or not active.
    fn has_expired(&self, row: &Document) -> bool {
        let Some(session) = text(row, "sessionId") else { return true };
        let active = self.row("sessions", session).is_some_and(|s| text(s, "state") == Some("active"));
        !self.live.contains(session) && !active
    }

    /// Held itself, or what it belongs to is: its document, its user, its session.
    pub fn held(&self, collection: &str, row: &Document) -> bool {
        if count(row) > 0 {
            return true;
        }
        let of = |owner: &str, field: &str| {
            let id = text(row, field).filter(|_| owner != collection)?;
            self.row(owner, id)
        };
        let owners = [("documents", "documentId"), ("users", "userId"), ("sessions", "sessionId")];
        owners.iter().filter_map(|(owner, field)| Some((*owner, of(owner, field)?))).any(|(c, o)| self.held_owner(c, o))
    }

    fn held_owner(&self, collection: &str, row: &Document) -> bool {
        count(row) > 0 || (collection == "documents" && self.held(collection, row))
    }

    /// What `rule` leaves of what is due.
    pub fn apply(&mut self, rule: &str, ids: &BTreeSet<String>, now: DateTime<Utc>) {
        for id in ids {
            match rule {
                "session-archival" => self.archive_session(id),
                "minor-version" | "ai-version" => self.prune(id),
                "anonymous-mark" => self.set("documents", id, doc! { "state": "pending_cleanup" }),
                "anonymous-cleanup" | "deleted-document" => self.purge_document(id),
                "inactive-document" => {
                    self.set(
                        "documents",
                        id,
                        doc! { "state": "archived", "archivedAt": contextd_jobs::kit::to_bson(now) },
                    );
                }
                "archive-end" => {
                    self.set(
                        "documents",
                        id,
                        doc! { "state": "deleted", "deletedAt": contextd_jobs::kit::to_bson(now) },
                    );
                }
                "deleted-user" => self.erase(id),
                "ai-interaction-30" => self.anonymize("ai_interactions", id, AI_KEPT),
                "analysis-result" | "ai-interaction-90" | "auth-log" | "dead-letter" | "job-run" => {
                    self.remove(collection(rule), id);
                }
                other => panic!("no rule {other}"),
            }
        }
    }

    fn set(&mut self, collection: &str, id: &str, fields: Document) {
        self.edit(collection).get_mut(id).expect("it is there").extend(fields);
        // A cached value does not show the state before.
        self.forget(collection, id);
    }

    fn archive_session(&mut self, id: &str) {
        self.remove("sessions", id);
        self.put("session_history", doc! { "_id": id });
        self.live.remove(id);
        self.keys.retain(|key| !(key.starts_with("typing:") && key.ends_with(&format!(":{id}"))));
    }

    fn prune(&mut self, id: &str) {
        let Some(gone) = self.edit("document_versions").remove(id) else { return };
        for row in self.edit("document_versions").values_mut() {
            if text(row, "previousVersionId") == Some(id) {
                match gone.get("previousVersionId") {
                    Some(previous) => row.insert("previousVersionId", previous.clone()),
                    None => row.remove("previousVersionId"),
                };
            }
        }
        self.drop_content(&gone);
    }

    /// With everything that belongs to it.
    fn purge_document(&mut self, id: &str) {
        for child in ["document_versions", "analyses", "typing_contexts"] {
            let of_it = self.of(child).filter(|(_, row)| text(row, "documentId") == Some(id));
            let ids: Vec<String> = of_it.map(|(id, _)| id.clone()).collect();
            for child_id in ids {
                self.remove(child, &child_id);
            }
        }
        for collection in ["interactions", "ai_interactions"] {
            for row in self.edit(collection).values_mut().filter(|row| text(row, "documentId") == Some(id)) {
                row.remove("documentId");
            }
        }
        self.edit("context_links").retain(|_, row| text(row, "from") != Some(id) && text(row, "to") != Some(id));
        self.keys.retain(|key| !key.starts_with(&format!("typing:{id}:")));
        self.remove("documents", id);
    }

    /// A user's document or session is held: nothing of the user goes.
    fn holds_something(&self, user: &str) -> bool {
        let sessions = self.sessions_of(user);
        let theirs = |row: &Document| {
            text(row, "userId") == Some(user) || text(row, "sessionId").is_some_and(|s| sessions.contains(s))
        };
        ["documents", "sessions", "session_history"]
            .iter()
            .any(|collection| self.of(collection).any(|(_, row)| theirs(row) && count(row) > 0))
    }

    /// A document of the user is not due yet: nothing goes early, and the user goes after it.
    fn keeps_documents(&self, user: &str, now: DateTime<Utc>) -> bool {
        let goes = |id: &str, row: &Document| {
            text(row, "state") == Some("purging")
                || ["deleted-document", "anonymous-cleanup"].iter().any(|rule| self.meets(rule, id, row, now))
        };
        self.of("documents").any(|(id, row)| text(row, "userId") == Some(user) && !goes(id, row))
    }

    fn sessions_of(&self, user: &str) -> BTreeSet<String> {
        let both = self.of("sessions").chain(self.of("session_history"));
        both.filter(|(_, row)| text(row, "userId") == Some(user)).map(|(id, _)| id.clone()).collect()
    }

    /// As `docs/erasure.md` has it: the user, and all that names the user or lies in a session of the user and names nobody.
    fn erase(&mut self, user: &str) {
        let sessions = self.sessions_of(user);
        let theirs = |row: &Document| {
            text(row, "userId") == Some(user)
                || (!there(row, "userId") && text(row, "sessionId").is_some_and(|s| sessions.contains(s)))
        };
        let of = |stores: &Self, collection: &str| -> Vec<String> {
            stores.of(collection).filter(|(_, row)| theirs(row)).map(|(id, _)| id.clone()).collect()
        };
        for document in of(self, "documents") {
            self.purge_document(&document);
        }
        for id in of(self, "sessions") {
            self.archive_session(&id);
        }
        for id in of(self, "interactions") {
            let row = self.edit("interactions").get_mut(&id).expect("it is there");
            *row = doc! { "_id": &id };
            self.forget("interactions", &id);
        }
        for id in of(self, "ai_interactions") {
            self.anonymize("ai_interactions", &id, AI_KEPT);
        }
        for collection in ["typing_contexts", "analyses"] {
            for id in of(self, collection) {
                self.remove(collection, &id);
            }
        }
        self.keys.retain(|key| !sessions.iter().any(|s| key.starts_with("typing:") && key.ends_with(&format!(":{s}"))));
        self.anonymize("users", user, &["createdAt", "deletedAt", "accountStatus"]);
    }

    fn anonymize(&mut self, collection: &str, id: &str, keep: &[&str]) {
        let row = self.edit(collection).get_mut(id).expect("it is there");
        let kept = |name: &str| keep.contains(&name) || ["_id", "state"].contains(&name);
        let left = row.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone()));
        let mut left: Document = left.collect();
        left.insert("anonymizedAt", true);
        // Nothing that comes late is written onto it any more.
        left.insert("state", "anonymized");
        *row = left;
        self.forget(collection, id);
    }

    fn remove(&mut self, collection: &str, id: &str) {
        if let Some(row) = self.edit(collection).remove(id) {
            self.drop_content(&row);
            if collection == "analyses"
                && let Some(key) = text(&row, "cacheKey")
            {
                self.keys.remove(&format!("cache:analysis:{key}"));
            }
        }
        self.forget(collection, id);
    }

    fn forget(&mut self, collection: &str, id: &str) {
        if collection == "ai_interactions" {
            // Found by what was asked; the items of tests have the key of their id.
            self.keys.remove(&format!("cache:ai:key-{id}"));
        }
        let kinds =
            [("sessions", "session"), ("documents", "document"), ("users", "user"), ("interactions", "interaction")];
        for (_, kind) in kinds.iter().filter(|(of, _)| *of == collection) {
            self.keys.remove(&format!("cache:{kind}:{id}"));
        }
    }

    fn drop_content(&mut self, row: &Document) {
        if let Some(key) = row.get_document("content").ok().and_then(|c| text(c, "key")) {
            self.hot.remove(key);
            self.archive.remove(key);
        }
    }

    /// All that has to be equal: one line for each thing. In which tier a content lies is looked at by `misplaced`.
    pub fn view(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for (collection, rows) in self.rows.iter().filter(|(name, _)| LOOKED_AT.contains(&name.as_str())) {
            // Records of what a test itself did by hand.
            for (id, row) in rows.iter().filter(|(id, _)| !id.contains(":manual:")) {
                let shown = shown(collection).iter().map(|field| match row.get(*field) {
                    Some(Bson::String(text)) => format!(" {field}={text}"),
                    Some(Bson::Null) | None => String::new(),
                    Some(_) => format!(" {field}"),
                });
                lines.insert(format!("{collection}/{id}{}", shown.collect::<String>()));
            }
        }
        lines.extend(self.hot.union(&self.archive).map(|key| format!("object {key}")));
        lines.extend(self.live.iter().map(|id| format!("live {id}")));
        lines.extend(self.keys.iter().map(|key| format!("key {key}")));
        lines
    }

    /// Contents that are not where their row says, archived documents with contents outside of the archive, versions
    /// without what they are a difference to or whose predecessor is gone.
    pub fn misplaced(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for collection in ["documents", "document_versions"] {
            for (id, row) in self.of(collection) {
                let Ok(content) = row.get_document("content") else { continue };
                let tier = if text(content, "tier") == Some("archive") { &self.archive } else { &self.hot };
                if !text(content, "key").is_some_and(|key| tier.contains(key)) {
                    wrong.push(format!("{collection}/{id}: its content is not where its row says"));
                }
                let document = text(row, "documentId").unwrap_or(id);
                let archived = self.row("documents", document).is_some_and(|d| text(d, "state") == Some("archived"));
                if archived && text(content, "tier") != Some("archive") {
                    wrong.push(format!("{collection}/{id}: its document is archived, its content is not"));
                }
                for (what, other) in [("base", text(content, "base")), ("predecessor", text(row, "previousVersionId"))]
                {
                    if other.is_some_and(|other| self.row("document_versions", other).is_none()) {
                        wrong.push(format!("{collection}/{id}: its {what} is gone"));
                    }
                }
            }
        }
        wrong
    }
}

/// What rules of anonymization leave of an AI interaction: figures, nothing that somebody wrote or is known by.
pub const AI_KEPT: &[&str] =
    &["timestamp", "promptTemplateId", "model", "acceptedSuggestions", "rejectedSuggestions", "decision", "decidedAt"];

const LOOKED_AT: [&str; 13] = [
    "sessions",
    "session_history",
    "documents",
    "document_versions",
    "users",
    "ai_interactions",
    "auth_logs",
    "dead_letters",
    "analyses",
    "typing_contexts",
    "interactions",
    "context_links",
    "job_runs",
];

fn shown(collection: &str) -> &'static [&'static str] {
    match collection {
        "documents" => &["state", "currentVersionId", "userId", "sessionId", "title"],
        "document_versions" => &["previousVersionId", "kind"],
        "users" => &["state", "anonymizedAt", "firstName", "lastName", "passwordHash", "metadata"],
        "ai_interactions" => &[
            "anonymizedAt",
            "userId",
            "sessionId",
            "documentId",
            "customPrompt",
            "aiResponse",
            "cacheKey",
            "model",
            "note",
        ],
        "interactions" => &["documentId", "sessionId"],
        "sessions" => &["state", "userId"],
        _ => &[],
    }
}

pub fn collection(rule: &str) -> &'static str {
    match rule {
        "session-archival" => "sessions",
        "minor-version" | "ai-version" => "document_versions",
        "deleted-user" => "users",
        "ai-interaction-30" | "ai-interaction-90" => "ai_interactions",
        "auth-log" => "auth_logs",
        "dead-letter" => "dead_letters",
        "analysis-result" => "analyses",
        "job-run" => "job_runs",
        _ => "documents",
    }
}

fn there(row: &Document, field: &str) -> bool {
    row.get(field).is_some_and(|value| *value != Bson::Null)
}

pub fn text<'a>(row: &'a Document, field: &str) -> Option<&'a str> {
    row.get_str(field).ok()
}

fn count(row: &Document) -> i64 {
    match row.get("holdCount") {
        Some(Bson::Int32(n)) => (*n).into(),
        Some(Bson::Int64(n)) => *n,
        _ => 0,
    }
}
