//! Rows in the shape in which contextd stores them, with their contents and keys; one item for every case of every rule.

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::kit::to_bson;
use mongodb::bson::{Bson, Document, doc};

use crate::model::{DAY, HOUR, MINUTE, SLACK};

/// What belongs together: rows with their collections, objects, keys of Redis without the namespace.
#[derive(Debug, Clone, Default)]
pub struct Item {
    pub rows: Vec<(String, Document)>,
    pub objects: Vec<(String, Vec<u8>)>,
    pub keys: Vec<(String, String)>,
}

impl Item {
    pub fn row(mut self, collection: &str, row: Document) -> Self {
        self.rows.push((collection.into(), row));
        self
    }

    pub fn key(mut self, key: String, value: &str) -> Self {
        self.keys.push((key, value.into()));
        self
    }

    pub fn and(mut self, other: Item) -> Self {
        self.rows.extend(other.rows);
        self.objects.extend(other.objects);
        self.keys.extend(other.keys);
        self
    }

    /// The row in this collection with this id.
    pub fn edit(&mut self, collection: &str, id: &str) -> &mut Document {
        let found = self.rows.iter_mut().find(|(c, row)| c == collection && row.get_str("_id").ok() == Some(id));
        &mut found.unwrap_or_else(|| panic!("no {collection}/{id}")).1
    }

    fn cached(self, kind: &str, collection: &str, id: &str) -> Self {
        let value = format!(
            "{{\"f\":1,\"rev\":1,\"at\":0,\"s\":\"FULL\",\"z\":0,\"n\":\"{collection}\"}}\n{{\"_id\":\"{id}\"}}"
        );
        self.key(format!("cache:{kind}:{id}"), &value)
    }
}

pub fn synced(mut row: Document) -> Document {
    row.insert("_sync", doc! { "rev": 1_i64, "order": 1_i64, "task": "made@/test" });
    row
}

/// A content that lies under `key`, as a row tells it.
fn content(key: &str, bytes: &[u8], base: Option<&str>) -> Document {
    let size = bytes.len() as i64;
    let hash = blake3::hash(bytes).to_hex();
    let mut content = doc! {
        "key": key, "codec": "raw", "hash": hash.as_str(), "size": size, "stored": size, "sealed": false,
    };
    if let Some(base) = base {
        content.insert("base", base);
    }
    content
}

pub fn session(id: &str, user: Option<&str>, seen: DateTime<Utc>) -> Item {
    let mut row = synced(doc! {
        "_id": id, "sessionId": id, "state": "active", "createdAt": to_bson(seen - TimeDelta::minutes(5)),
        "lastActivityAt": to_bson(seen), "updatedAt": to_bson(seen),
    });
    if let Some(user) = user {
        row.insert("userId", user);
    }
    Item::default().row("sessions", row).cached("session", "sessions", id)
}

pub fn user(id: &str, at: DateTime<Utc>) -> Item {
    let row = synced(doc! {
        "_id": id, "userId": id, "state": "active", "email": format!("{id}@example.org"), "firstName": "Ada",
        "lastName": "Lovelace", "passwordHash": "x", "accountStatus": "active", "metadata": { "note": "private" },
        "createdAt": to_bson(at), "updatedAt": to_bson(at),
    });
    Item::default().row("users", row).cached("user", "users", id)
}

/// A user's document (`user`), or an anonymous one (`session`), with its content.
pub fn document(id: &str, user: Option<&str>, session: Option<&str>, seen: DateTime<Utc>) -> Item {
    let owner = user.or(session).unwrap_or("nobody");
    let key = format!("documents/{owner}/{id}/0123456789abcdef");
    let bytes = format!("The content of {id}.").into_bytes();
    let mut row = synced(doc! {
        "_id": id, "documentId": id, "state": "active", "title": "A title",
        "ownerType": if user.is_some() { "user" } else { "anon" },
        "content": content(&key, &bytes, None),
        "createdAt": to_bson(seen), "updatedAt": to_bson(seen), "lastAccessedAt": to_bson(seen), "versionCounter": 0,
    });
    for (name, value) in [("userId", user), ("sessionId", session)] {
        if let Some(value) = value {
            row.insert(name, value);
        }
    }
    let mut item = Item::default().row("documents", row).cached("document", "documents", id);
    item.objects.push((key, bytes));
    item
}

pub struct Version<'a> {
    pub id: &'a str,
    pub document: &'a str,
    pub owner: &'a str,
    pub kind: &'a str,
    pub number: i64,
    pub previous: Option<&'a str>,
    pub base: Option<&'a str>,
}

pub fn version(of: &Version<'_>, at: DateTime<Utc>) -> Item {
    let Version { id, document, owner, kind, number, previous, base } = *of;
    let key = format!("versions/{owner}/{document}/{id}.0123456789abcdef");
    let bytes = format!("Version {id} of {document}.").into_bytes();
    let mut row = synced(doc! {
        "_id": id, "versionId": id, "documentId": document, "kind": kind, "versionNumber": number,
        "content": content(&key, &bytes, base), "createdAt": to_bson(at),
    });
    if let Some(previous) = previous {
        row.insert("previousVersionId", previous);
    }
    let mut item = Item::default().row("document_versions", row);
    item.objects.push((key, bytes));
    item
}

pub fn analysis(id: &str, document: &str, at: DateTime<Utc>) -> Item {
    let row = doc! {
        "_id": id, "documentId": document, "cacheKey": format!("hash-{id}"), "language": { "code": "en" },
        "createdAt": to_bson(at), "analyzedAt": to_bson(at),
    };
    Item::default().row("analyses", row).key(format!("cache:analysis:hash-{id}"), "{}")
}

pub fn ai(id: &str, user: Option<&str>, document: Option<&str>, at: DateTime<Utc>) -> Item {
    let mut row = synced(doc! {
        "_id": id, "aiInteractionId": id, "customPrompt": "what was asked", "aiResponse": "what was answered",
        "note": "what a producer added", "model": "m1", "cacheKey": format!("key-{id}"), "acceptedSuggestions": 1_i64,
        "timestamp": to_bson(at), "createdAt": to_bson(at),
    });
    for (name, value) in [("userId", user), ("documentId", document)] {
        if let Some(value) = value {
            row.insert(name, value);
        }
    }
    let value = format!(
        "{{\"f\":1,\"rev\":1,\"at\":0,\"s\":\"FULL\",\"z\":0,\"n\":\"ai_interactions\"}}\n{{\"_id\":\"{id}\"}}"
    );
    Item::default().row("ai_interactions", row).key(format!("cache:ai:key-{id}"), &value)
}

pub fn auth(id: &str, user: &str, at: DateTime<Utc>) -> Item {
    let row = doc! {
        "_id": id, "userId": user, "event": "login", "success": true, "ip": "192.0.2.1", "timestamp": to_bson(at),
        "createdAt": to_bson(at),
    };
    Item::default().row("auth_logs", synced(row))
}

pub fn dead(id: &str, at: DateTime<Utc>) -> Item {
    let row = doc! {
        "_id": id, "queue": "records", "priority": "normal", "eventId": id, "source": "/t", "type": "x.v1",
        "reason": "schema", "error": "no", "attempts": 1, "crashes": 0, "deadAt": to_bson(at), "body": "{}",
    };
    Item::default().row("dead_letters", row)
}

pub fn job_run(id: &str, at: DateTime<Utc>) -> Item {
    let row = doc! { "_id": id, "job": "retention", "startedAt": to_bson(at), "finishedAt": to_bson(at) };
    Item::default().row("job_runs", row)
}

/// What hangs on a document beside its versions: an analysis, a typing context, an interaction, links, keys.
pub fn family(document: &str, session: &str, at: DateTime<Utc>) -> Item {
    let link = |from: &str, to: &str| {
        synced(doc! { "_id": format!("{from}:RELATES_TO:{to}"), "from": from, "to": to, "relation": "RELATES_TO",
        "updatedAt": to_bson(at) })
    };
    let other = format!("{document}-other");
    let mut analysis = analysis(&format!("{document}-analysis"), document, at);
    analysis.keys.clear();
    analysis
        .row(
            "typing_contexts",
            doc! {
                "_id": format!("{document}:{session}"), "documentId": document, "sessionId": session, "sequence": 1_i64,
                "updatedAt": to_bson(at),
            },
        )
        .row(
            "interactions",
            synced(doc! {
                "_id": format!("{document}-interaction"), "sessionId": session, "documentId": document, "request": "r",
                "timestamp": to_bson(at),
            }),
        )
        .row("context_links", link(document, &other))
        .row("context_links", link(&other, document))
        .key(format!("typing:{document}:{session}"), "{}")
}

/// One case of one rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    pub rule: &'static str,
    pub case: &'static str,
    pub job: &'static str,
    /// The field whose date counts, and where.
    pub on: &'static str,
    pub field: &'static str,
    /// Milliseconds, with the declared slack.
    pub term: i64,
}

const fn case(
    rule: &'static str,
    case: &'static str,
    job: &'static str,
    on: &'static str,
    field: &'static str,
    term: i64,
) -> Case {
    Case { rule, case, job, on, field, term }
}

pub const CASES: [Case; 18] = [
    case("session-archival", "user", "session-archival", "sessions", "lastActivityAt", 30 * MINUTE),
    case("session-archival", "anonymous", "session-archival", "sessions", "lastActivityAt", 24 * HOUR),
    case("session-archival", "ended", "session-archival", "sessions", "endedAt", 0),
    case("minor-version", "", "version-pruning", "document_versions", "createdAt", 24 * HOUR),
    case("ai-version", "", "version-pruning", "document_versions", "decidedAt", 0),
    case("anonymous-mark", "", "anonymous-cleanup", "documents", "lastAccessedAt", 0),
    case("anonymous-cleanup", "marked", "anonymous-cleanup", "documents", "lastAccessedAt", 7 * DAY + SLACK),
    case("anonymous-cleanup", "unmarked", "anonymous-cleanup", "documents", "lastAccessedAt", 7 * DAY + SLACK),
    case("inactive-document", "", "document-archival", "documents", "lastAccessedAt", 90 * DAY + SLACK),
    case("archive-end", "", "document-archival", "documents", "archivedAt", 365 * DAY),
    case("deleted-document", "", "retention", "documents", "deletedAt", 30 * DAY),
    case("deleted-user", "", "anonymization", "users", "deletedAt", 30 * DAY),
    case("ai-interaction-30", "", "anonymization", "ai_interactions", "timestamp", 30 * DAY),
    case("ai-interaction-90", "", "retention", "ai_interactions", "timestamp", 90 * DAY),
    case("auth-log", "", "auth-log-archival", "auth_logs", "timestamp", 365 * DAY),
    case("dead-letter", "", "retention", "dead_letters", "deadAt", 30 * DAY),
    case("analysis-result", "", "retention", "analyses", "createdAt", 30 * DAY),
    case("job-run", "", "retention", "job_runs", "finishedAt", 90 * DAY),
];

/// Everything that a rule which is off by default needs to be tried.
pub const OPTED_IN: &str = "[policy.rules.archive-end]\nenabled = true\n";

impl Case {
    /// An item named `id` that this case takes `term` after `date`, and no other rule at about that time.
    pub fn item(&self, id: &str, date: DateTime<Utc>) -> Item {
        let session_of = format!("{id}-session");
        let anon = || document(id, None, Some(&session_of), date).and(family(id, &session_of, date));
        let owned = || {
            let major = Version {
                id: &format!("{id}-v1"),
                document: id,
                owner: "u1",
                kind: "major",
                number: 1,
                previous: None,
                base: None,
            };
            let mut item = document(id, Some("u1"), None, date).and(version(&major, date)).and(family(id, "s1", date));
            item.edit("documents", id).extend(doc! { "currentVersionId": format!("{id}-v1"), "versionCounter": 1_i64 });
            item
        };
        match (self.rule, self.case) {
            ("session-archival", "anonymous") => session(id, None, date),
            ("session-archival", "ended") => {
                let mut item = session(id, Some("u1"), date - TimeDelta::minutes(1));
                item.edit("sessions", id).extend(doc! { "state": "ended", "endedAt": to_bson(date) });
                item
            }
            ("session-archival", _) => session(id, Some("u1"), date),
            ("minor-version" | "ai-version", _) => self.versions(id, date),
            ("anonymous-cleanup", "marked") => {
                let mut item = anon();
                item.edit("documents", id).insert("state", "pending_cleanup");
                item
            }
            ("anonymous-cleanup", _) => {
                // Its session is still there and active, though without a live key: nothing marks it.
                anon().and(session(&session_of, None, date))
            }
            ("anonymous-mark", _) => anon(),
            ("inactive-document", _) => owned(),
            ("archive-end", _) => {
                let mut item = document(id, Some("u1"), None, date);
                item.objects.clear();
                item.edit("documents", id).remove("content");
                item.edit("documents", id).extend(doc! { "state": "archived", "archivedAt": to_bson(date) });
                item
            }
            ("deleted-document", _) => {
                let mut item = owned();
                item.edit("documents", id).extend(doc! { "state": "deleted", "deletedAt": to_bson(date) });
                item
            }
            ("deleted-user", _) => {
                let mut item = user(id, date - TimeDelta::days(1));
                item.edit("users", id).extend(doc! { "state": "deleted", "deletedAt": to_bson(date) });
                item
            }
            ("ai-interaction-30" | "ai-interaction-90", _) => ai(id, Some("u1"), Some("d1"), date),
            ("auth-log", _) => auth(id, "u1", date),
            ("dead-letter", _) => dead(id, date),
            ("job-run", _) => job_run(id, date),
            ("analysis-result", _) => {
                let document = format!("{id}-document");
                let older = analysis(id, &document, date - TimeDelta::hours(1));
                older.and(analysis(&format!("{id}-newer"), &document, date))
            }
            other => panic!("no item for {other:?}"),
        }
    }

    /// A document with a current major version, the one that is due, and one after it.
    fn versions(&self, id: &str, date: DateTime<Utc>) -> Item {
        let document_id = format!("{id}-document");
        let current = format!("{id}-current");
        let after = format!("{id}-after");
        let of = |version: &'_ str, kind: &'static str, number: i64, previous: Option<&'_ str>, at: DateTime<Utc>| {
            let owner = "u1";
            let document = document_id.as_str();
            self::version(&Version { id: version, document, owner, kind, number, previous, base: None }, at)
        };
        let kind = if self.rule == "minor-version" { "minor" } else { "ai" };
        let mut item = document(&document_id, Some("u1"), None, date)
            .and(of(&current, "major", 1, None, date))
            .and(of(id, kind, 2, Some(&current), date))
            .and(of(&after, "major", 3, Some(id), date));
        item.edit("documents", &document_id)
            .extend(doc! { "currentVersionId": current.as_str(), "versionCounter": 3_i64 });
        if kind == "ai" {
            item.edit("document_versions", id).extend(doc! { "decision": "rejected", "decidedAt": to_bson(date) });
        }
        item
    }

    /// The row that the case is about.
    pub fn with_date(&self, id: &str, date: DateTime<Utc>, value: Option<Bson>) -> Item {
        let mut item = self.item(id, date);
        let row = item.edit(self.on, id);
        match value {
            Some(value) => drop(row.insert(self.field, value)),
            None => drop(row.remove(self.field)),
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{boundaries::at, model::Stores};

    /// The table of cases and the model were written apart from each other.
    #[test]
    fn the_model_takes_every_case_at_its_boundary_and_not_before() {
        for case in CASES {
            for (off, due) in [(1, false), (0, true), (-1, true)] {
                let mut stores = Stores::default();
                let date = at() - TimeDelta::milliseconds(case.term) + TimeDelta::milliseconds(off);
                for (collection, row) in case.item("x", date).rows {
                    stores.put(&collection, row);
                }
                assert_eq!(stores.due(case.rule, at()).contains("x"), due, "{case:?} {off} ms");
            }
        }
    }
}
