//! What people and producers do meanwhile, written straight into the stores in the documented shape.

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::kit::to_bson;
use mongodb::bson::{Bson, Document, doc};

use super::Simulation;
use crate::{
    model::text,
    rows::{self, Item, Version},
};

impl Simulation {
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    /// An id of a row for which `is` holds.
    fn pick(&mut self, collection: &str, is: impl Fn(&Document) -> bool) -> Option<String> {
        let all: Vec<String> =
            self.stores.of(collection).filter(|(_, row)| is(row)).map(|(id, _)| id.clone()).collect();
        (!all.is_empty()).then(|| all[self.random.usize(0..all.len())].clone())
    }

    fn row(&mut self, collection: &str, id: &str) -> &mut Document {
        self.dirty.insert((collection.into(), id.into()));
        self.stores.rows.get_mut(collection).and_then(|rows| rows.get_mut(id)).expect("it was picked")
    }

    async fn add(&mut self, mut item: Item) {
        // The producer knows whose text it is.
        let owner = |document: &str, item: &Item| {
            let mut rows = item.rows.iter().filter(|(c, row)| c == "documents" && text(row, "_id") == Some(document));
            let row = rows.next().map(|(_, row)| row).or(self.stores.row("documents", document))?;
            text(row, "userId").map(str::to_owned)
        };
        for at in 0..item.rows.len() {
            let row = &item.rows[at].1;
            if item.rows[at].0 == "analyses"
                && let Some(user) = text(row, "documentId").and_then(|d| owner(d, &item))
            {
                item.rows[at].1.insert("userId", user);
            }
        }
        self.place.put(std::slice::from_ref(&item)).await;
        for (collection, row) in item.rows {
            self.stores.put(&collection, row);
        }
        self.stores.hot.extend(item.objects.into_iter().map(|(key, _)| key));
        self.stores.keys.extend(item.keys.into_iter().map(|(key, _)| key));
    }

    /// Writes the changed rows, each with its next revision.
    async fn flush(&mut self) {
        for (collection, id) in std::mem::take(&mut self.dirty) {
            let row = self.stores.rows.get_mut(&collection).and_then(|rows| rows.get_mut(&id)).expect("it is there");
            if let Ok(sync) = row.get_document_mut("_sync") {
                let rev = sync.get_i64("rev").unwrap_or_default();
                sync.insert("rev", rev + 1);
            }
            let done =
                self.place.coll(&collection).replace_one(doc! { "_id": &id }, row.clone()).await.expect("written");
            assert_eq!(done.matched_count, 1, "{collection}/{id}");
        }
        self.place.settled().await;
    }

    async fn is_live(&mut self, session: &str, until: DateTime<Utc>) {
        self.place.set_key(&format!("session:{session}"), "1").await;
        self.stores.live.insert(session.into());
        self.live_until.insert(session.into(), until);
    }

    /// Keys in Redis end on the simulated clock.
    pub async fn live_until_now(&mut self, now: DateTime<Utc>) {
        let ended: Vec<String> =
            self.live_until.iter().filter(|(_, until)| **until <= now).map(|(id, _)| id.clone()).collect();
        for id in ended {
            self.live_until.remove(&id);
            if self.stores.live.remove(&id) {
                self.place.drop_key(&format!("session:{id}")).await;
            }
        }
    }

    pub async fn something_happens(&mut self, hour: DateTime<Utc>) {
        // Any millisecond of the last hour.
        let now = hour - TimeDelta::milliseconds(self.random.i64(1..3_600_000));
        let at = || to_bson(now);
        let active = |row: &Document| text(row, "state") == Some("active");
        match self.random.u8(0..100) {
            0..=4 => {
                if self.stores.of("users").filter(|(_, row)| active(row)).count() < 5 {
                    let id = self.name("u");
                    self.add(rows::user(&id, now)).await;
                }
            }
            5..=16 => {
                let owner = if self.random.bool() { self.pick("users", active) } else { None };
                let id = self.name("s");
                let mut item = rows::session(&id, owner.as_deref(), now);
                if owner.is_none() && self.random.bool() {
                    let document = self.name("d");
                    item = item
                        .and(rows::document(&document, None, Some(&id), now))
                        .and(rows::family(&document, &id, now));
                }
                self.add(item).await;
                let limit = if owner.is_some() { TimeDelta::minutes(30) } else { TimeDelta::hours(24) };
                // Some producers keep it live for longer.
                let more = if self.random.u8(0..4) == 0 { TimeDelta::hours(3) } else { TimeDelta::zero() };
                self.is_live(&id, now + limit + more).await;
            }
            17..=22 => {
                if let Some(id) = self.pick("sessions", active) {
                    self.row("sessions", &id).extend(doc! { "lastActivityAt": at() });
                    let limit = if self.stores.row("sessions", &id).is_some_and(|row| row.contains_key("userId")) {
                        TimeDelta::minutes(30)
                    } else {
                        TimeDelta::hours(24)
                    };
                    self.is_live(&id, now + limit).await;
                }
            }
            23..=25 => {
                if let Some(id) = self.pick("sessions", active) {
                    self.row("sessions", &id).extend(doc! { "state": "ended", "endedAt": at() });
                }
            }
            26..=31 => {
                if let Some(owner) = self.pick("users", active) {
                    let id = self.name("d");
                    self.add(rows::document(&id, Some(&owner), None, now)).await;
                    let session = format!("{id}-session");
                    self.add(rows::family(&id, &session, now)).await;
                }
            }
            32..=38 => {
                let alive = |row: &Document| {
                    ["active", "archived", "pending_cleanup"].contains(&text(row, "state").unwrap_or_default())
                };
                if let Some(id) = self.pick("documents", alive) {
                    // What an access does: it also brings back what was marked or archived.
                    let row = self.row("documents", &id);
                    row.extend(doc! { "lastAccessedAt": at(), "state": "active" });
                    row.remove("archivedAt");
                }
            }
            39..=54 => self.save_version(now).await,
            55..=58 => {
                let undecided = |row: &Document| text(row, "kind") == Some("ai") && !row.contains_key("decision");
                if let Some(id) = self.pick("document_versions", undecided) {
                    let rejected = self.random.bool();
                    let row = self.row("document_versions", &id);
                    row.extend(doc! { "decidedAt": at(), "decision": if rejected { "rejected" } else { "accepted" } });
                    if !rejected {
                        row.insert("kind", "major");
                    }
                }
            }
            59..=62 => {
                if let Some(id) = self.pick("documents", active) {
                    self.row("documents", &id).extend(doc! { "state": "deleted", "deletedAt": at() });
                }
            }
            63..=64 => {
                if let Some(id) = self.pick("documents", |row| text(row, "state") == Some("deleted")) {
                    let row = self.row("documents", &id);
                    row.extend(doc! { "state": "active", "lastAccessedAt": at() });
                    row.remove("deletedAt");
                }
            }
            65 => self.delete_user(now),
            66..=71 => self.hold(),
            72..=75 => self.claim(now),
            76..=81 => {
                let (owner, document) = (self.pick("users", active), self.pick("documents", active));
                let id = self.name("a");
                self.add(rows::ai(&id, owner.as_deref(), document.as_deref(), now)).await;
            }
            82..=84 => {
                let owner = self.pick("users", active).unwrap_or_else(|| "nobody".into());
                let id = self.name("l");
                self.add(rows::auth(&id, &owner, now)).await;
            }
            85..=87 => {
                let id = self.name("x");
                self.add(rows::dead(&id, now)).await;
            }
            88..=90 => {
                let id = self.name("r");
                self.add(rows::job_run(&id, now)).await;
            }
            _ => {
                if let Some(document) = self.pick("documents", active) {
                    let id = self.name("n");
                    let mut analysis = rows::analysis(&id, &document, now);
                    analysis.keys.clear();
                    self.add(analysis).await;
                }
            }
        }
        self.flush().await;
    }

    async fn save_version(&mut self, now: DateTime<Utc>) {
        let Some(document) = self.pick("documents", |row| text(row, "state") == Some("active")) else { return };
        let row = self.stores.row("documents", &document).cloned().expect("it was picked");
        let owner = text(&row, "userId").or(text(&row, "sessionId")).unwrap_or("nobody").to_owned();
        let of_it: Vec<(i64, String, bool)> = self
            .stores
            .of("document_versions")
            .filter(|(_, v)| text(v, "documentId") == Some(&document))
            .map(|(id, v)| {
                let full = v.get_document("content").is_ok_and(|content| !content.contains_key("base"));
                (v.get_i64("versionNumber").unwrap_or_default(), id.clone(), full)
            })
            .collect();
        let number =
            row.get_i64("versionCounter").or(row.get_i32("versionCounter").map(i64::from)).unwrap_or_default() + 1;
        let previous = of_it.iter().max().map(|(_, id, _)| id.clone());
        let base = of_it.iter().filter(|(.., full)| *full).max().map(|(_, id, _)| id.clone());
        let base = base.filter(|_| self.random.bool());
        let id = self.name("v");
        let kind = ["major", "minor", "minor", "ai"][self.random.usize(0..4)];
        let version = Version {
            id: &id,
            document: &document,
            owner: &owner,
            kind,
            number,
            previous: previous.as_deref(),
            base: base.as_deref(),
        };
        self.add(rows::version(&version, now)).await;
        let row = self.row("documents", &document);
        row.extend(doc! { "versionCounter": number, "lastAccessedAt": to_bson(now) });
        if kind != "ai" {
            row.insert("currentVersionId", id);
        }
    }

    /// Deleting a user deletes the documents and ends the sessions.
    fn delete_user(&mut self, now: DateTime<Utc>) {
        let Some(user) = self.pick("users", |row| text(row, "state") == Some("active")) else { return };
        self.row("users", &user).extend(doc! { "state": "deleted", "deletedAt": to_bson(now) });
        for (collection, state, date) in [("documents", "deleted", "deletedAt"), ("sessions", "ended", "endedAt")] {
            let theirs = self
                .stores
                .of(collection)
                .filter(|(_, row)| text(row, "userId") == Some(&user) && text(row, "state") != Some(state));
            let ids: Vec<String> = theirs.map(|(id, _)| id.clone()).collect();
            for id in ids {
                self.row(collection, &id).extend(doc! { "state": state, date: to_bson(now) });
            }
        }
    }

    /// Holds, or lifts what is held.
    fn hold(&mut self) {
        let collection = ["documents", "users", "sessions"][self.random.usize(0..3)];
        let is_held = |row: &Document| row.get_i64("holdCount").unwrap_or_default() > 0;
        let lift = self.random.u8(0..3) > 0;
        let Some(id) = self.pick(collection, |row| is_held(row) == lift) else { return };
        self.row(collection, &id).insert("holdCount", i64::from(!lift));
    }

    /// What an anonymous session made becomes a user's.
    fn claim(&mut self, now: DateTime<Utc>) {
        let Some(user) = self.pick("users", |row| text(row, "state") == Some("active")) else { return };
        let open = |row: &Document| text(row, "state") == Some("active") && !row.contains_key("userId");
        let Some(session) = self.pick("sessions", open) else { return };
        self.row("sessions", &session).extend(doc! {
            "userId": &user, "claimedBy": &user, "claimedAt": to_bson(now), "lastActivityAt": to_bson(now),
        });
        let theirs = self.stores.of("documents").filter(|(_, row)| text(row, "sessionId") == Some(&session));
        let documents: Vec<String> = theirs.map(|(id, _)| id.clone()).collect();
        for document in documents {
            let row = self.row("documents", &document);
            row.extend(doc! { "userId": &user, "ownerType": "user" });
            if text(row, "state") == Some("pending_cleanup") {
                row.insert("state", "active");
            }
            self.give("documents", &document, &session, &user);
            let versions =
                self.stores.of("document_versions").filter(|(_, row)| text(row, "documentId") == Some(&document));
            let versions: Vec<String> = versions.map(|(id, _)| id.clone()).collect();
            for version in versions {
                self.give("document_versions", &version, &session, &user);
            }
        }
    }

    /// A content moves under its new owner's name.
    fn give(&mut self, collection: &str, id: &str, from: &str, to: &str) {
        let row = self.row(collection, id);
        let Some(Bson::Document(content)) = row.get_mut("content") else { return };
        let Some(key) = text(content, "key").map(str::to_owned) else { return };
        let moved = key.replacen(&format!("/{from}/"), &format!("/{to}/"), 1);
        content.insert("key", &moved);
        let bytes = std::fs::read(self.place.hot().join(&key)).expect("the content is there");
        self.place.object(&moved, &bytes);
        std::fs::remove_file(self.place.hot().join(&key)).expect("removed");
        self.stores.hot.remove(&key);
        self.stores.hot.insert(moved);
    }
}
