//! After a restore from a backup: what was destroyed since is there again, and goes again.
//!
//! What was destroyed is known outside of the database, from the copies of the audit log and from the certificates. First
//! the log itself is brought back to where its copies end; then whatever of it is there again goes by the same steps as
//! the first time, under the same holds, with evidence of its own.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::{
    Engine, clock, force,
    guards::{find, key},
    judge::Left,
    person::{
        self, Stone, USERS,
        documents::{self, REPLAY},
        ops::{Op, write},
    },
    purge,
    take::{AUDIT, TOMBSTONES, now, stone_id},
};
use crate::kit::{JobError, Run, chain, from_bson, strict};

/// Items that are looked up together.
const PAGE: usize = 500;
/// Items that are named in the answer.
const NAMED: usize = 1_000;

/// What a replay did, or (dry) would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Files that were read.
    pub files: u64,
    /// Entries of the audit log that were put back.
    pub rejoined: u64,
    /// Items that were destroyed once and are there again.
    pub again: u64,
    /// Those of them that were destroyed again (dry: that would be), by collection.
    pub gone: BTreeMap<String, u64>,
    /// Those that stay, by reason.
    pub left: BTreeMap<String, u64>,
    /// The items, as COLLECTION/ID; the first thousand.
    pub items: Vec<String>,
}

#[derive(Deserialize)]
struct Segment {
    to: i64,
    entries: Vec<Document>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certified {
    user: String,
    finished_at: DateTime<Utc>,
}

impl Engine<'_> {
    /// Destroys again what was destroyed since `since` (without: ever) and is there. A dry run only says what that is.
    pub async fn replay(&self, run: &mut Run, since: Option<DateTime<Utc>>) -> Result<Replayed, JobError> {
        clock::check(run, self.world.policy.skew).await?;
        force::check(run, &self.world.policy).await?;
        let mut done = Replayed::default();
        let names = run.call("list copies", self.world.anchors.list()).await?;
        let mut users = BTreeSet::new();
        for name in names.iter().filter(|name| name.starts_with("certificate-")) {
            let certified: Certified = self.read(run, name).await?;
            done.files += 1;
            if since.is_none_or(|since| certified.finished_at >= since) {
                users.insert(certified.user);
            }
        }
        let segments: Vec<&String> = names.iter().filter(|name| name.starts_with("anchor-")).collect();
        if !run.dry_run {
            for name in &segments {
                let segment: Segment = self.read(run, name).await?;
                done.rejoined += rejoin(run, segment).await?;
            }
        }
        let is_late = |entry: &Document| {
            let at = entry.get_datetime("at").ok().copied().map(from_bson);
            since.is_none_or(|since| at.is_none_or(|at| at >= since))
        };
        // Users first: with a user's documents goes what only leads to the user through them.
        for name in &segments {
            let segment: Segment = self.read(run, name).await?;
            done.files += 1;
            let gone = segment.entries.iter().filter(|entry| is_late(entry)).filter_map(destroyed);
            users.extend(gone.filter(|(kind, ..)| kind == USERS).map(|(_, id, _)| id));
        }
        for user in users {
            run.page(None).await?;
            self.user_again(run, &mut done, &user).await?;
        }
        for name in segments {
            let segment: Segment = self.read(run, name).await?;
            let mut items: BTreeMap<(String, String), Vec<Bson>> = BTreeMap::new();
            let gone = segment.entries.iter().filter(|entry| is_late(entry)).filter_map(destroyed);
            for (kind, id, rule) in gone.filter(|(kind, ..)| kind != USERS) {
                items.entry((kind, rule)).or_default().push(id.into());
            }
            for ((kind, rule), ids) in items {
                for page in ids.chunks(PAGE) {
                    run.page(None).await?;
                    self.again(run, &mut done, &kind, &rule, page).await?;
                }
            }
        }
        if !run.dry_run {
            let key = self.world.audit_key.as_ref();
            run.call("copy log", chain::anchor(&run.db, key, self.world.anchors.as_ref(), run.now)).await?;
        }
        Ok(done)
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, run: &Run, name: &str) -> Result<T, JobError> {
        let bytes = run.call("read copy", self.world.anchors.get(name)).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            JobError::Failed(anyhow::anyhow!("{name} at `audit.url` cannot be read ({e}): run `contextd audit verify`"))
        })
    }

    async fn again(
        &self,
        run: &mut Run,
        done: &mut Replayed,
        kind: &str,
        rule: &str,
        ids: &[Bson],
    ) -> Result<(), JobError> {
        let there = doc! { "_id": { "$in": ids }, "state": { "$ne": "anonymized" } };
        let rows = find(run, "there again", kind, there, doc! {}).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<Bson> = rows.iter().filter_map(|row| row.get("_id").cloned()).collect();
        if kind == purge::DOCUMENTS {
            done.found(kind, &ids);
            let left = match run.dry_run {
                true => Vec::new(),
                false => documents::purge_again(self, run, &name(run), &ids).await?,
            };
            done.ended(kind, ids.len(), left);
            return Ok(());
        }
        // Others met a rule's predicate, and do still: a backup has their dates.
        let Some(rule) = self.world.policy.rules.iter().find(|known| known.name == rule && known.on == kind).cloned()
        else {
            done.found(kind, &ids);
            *done.left.entry("no-rule".into()).or_default() += ids.len() as u64;
            return Ok(());
        };
        let mut due = Vec::new();
        let mut by_case: Vec<Vec<Document>> = vec![Vec::new(); rule.cases.len()];
        for row in rows {
            if let Some(case) = rule.cases.iter().position(|case| case.meets(&row)) {
                by_case[case].push(row);
            }
        }
        for (case, rows) in by_case.into_iter().enumerate() {
            due.extend(self.judge(run, &rule, case, rows).await?);
        }
        // Something newer under the same id is not what was destroyed; the rule has its own time for that.
        let due_ids: Vec<Bson> = due.iter().map(|item| item.id.clone()).collect();
        done.found(kind, &due_ids);
        if run.dry_run || due.is_empty() {
            done.ended(kind, due_ids.len(), Vec::new());
            return Ok(());
        }
        let stones: Vec<String> = due_ids.iter().map(|id| stone_id(kind, id)).collect();
        let tombstones = strict(&run.db).collection::<Document>(TOMBSTONES);
        let stale = doc! { "_id": { "$in": stones }, "state": "closed" };
        run.call("stale tombstones", async { tombstones.delete_many(stale).await }).await?;
        let acted = self.act(run, &rule, due).await?;
        self.note_replay(run, kind, &rule.name, &due_ids).await?;
        done.ended(kind, due_ids.len(), acted.left);
        Ok(())
    }

    async fn user_again(&self, run: &Run, done: &mut Replayed, user: &str) -> Result<(), JobError> {
        let id = Bson::from(user);
        let open = doc! { "_id": stone_id(USERS, &id), "state": "open" };
        let is_open = !find(run, "user tombstone", TOMBSTONES, open, doc! { "_id": 1 }).await?.is_empty();
        if !is_open && !self.is_there(run, user).await? {
            return Ok(());
        }
        done.found(USERS, std::slice::from_ref(&id));
        if run.dry_run {
            done.ended(USERS, 1, Vec::new());
            return Ok(());
        }
        let left = if !is_open && !person::held_by(run, user).await?.is_empty() {
            Some(Left::Held)
        } else {
            let stone = Stone { rule: REPLAY, action: REPLAY, request: None, date: run.now };
            match is_open || person::fence(self, run, user, &stone).await? {
                true => person::finish(self, run, &id).await?,
                false => Some(Left::Busy),
            }
        };
        done.ended(USERS, 1, left.map(|why| (id, why)).into_iter().collect());
        Ok(())
    }

    /// One entry for each item that went again, beside that of its rule.
    async fn note_replay(&self, run: &Run, kind: &str, rule: &str, ids: &[Bson]) -> Result<(), JobError> {
        let entries = ids.iter().map(|id| chain::Entry {
            id: format!("{REPLAY}/{kind}/{}/{}", key(id), run.now.timestamp_millis()),
            at: run.now,
            action: format!("lifecycle.{REPLAY}"),
            entity: (kind.to_owned(), key(id)),
            actor: Some("contextd".into()),
            detail: doc! { "rule": rule, "job": run.job, "policy": &self.world.policy.hash },
        });
        let audit_key = self.world.audit_key.as_ref();
        purge::insert_once(run, AUDIT, entries.map(|entry| entry.document(audit_key)).collect()).await
    }
}

impl Replayed {
    fn found(&mut self, kind: &str, ids: &[Bson]) {
        self.again += ids.len() as u64;
        let room = NAMED.saturating_sub(self.items.len());
        self.items.extend(ids.iter().take(room).map(|id| format!("{kind}/{}", key(id))));
    }

    fn ended(&mut self, kind: &str, all: usize, left: Vec<(Bson, Left)>) {
        let gone = all.saturating_sub(left.len()) as u64;
        if gone > 0 {
            *self.gone.entry(kind.to_owned()).or_default() += gone;
        }
        for (_, why) in left {
            *self.left.entry(why.as_str().to_owned()).or_default() += 1;
        }
    }
}

/// What an entry says was destroyed: collection, id, and by which rule.
fn destroyed(entry: &Document) -> Option<(String, String, String)> {
    let action = entry.get_str("action").ok()?.strip_prefix("lifecycle.")?;
    if !["purge", "prune", "anonymize", REPLAY].contains(&action) {
        return None;
    }
    let of = entry.get_document("entity").ok()?;
    let rule = entry.get_document("detail").ok().and_then(|detail| detail.get_str("rule").ok()).unwrap_or_default();
    Some((of.get_str("kind").ok()?.to_owned(), of.get_str("id").ok()?.to_owned(), rule.to_owned()))
}

/// In whose name documents go again.
fn name(run: &Run) -> Document {
    doc! { "rule": REPLAY, "action": REPLAY, "date": now(run), "cutoff": now(run) }
}

/// Puts back entries of the audit log that a restored database lacks.
async fn rejoin(run: &Run, segment: Segment) -> Result<u64, JobError> {
    let head = find(run, "audit head", chain::AUDIT_HEAD, doc! { "_id": "head" }, doc! {}).await?.pop();
    let seq = head.as_ref().and_then(|head| head.get_i64("seq").ok()).unwrap_or(0);
    if segment.to <= seq {
        return Ok(0);
    }
    let missing: Vec<Document> =
        segment.entries.into_iter().filter(|entry| entry.get_i64("seq").is_ok_and(|n| n > seq)).collect();
    let of = |entry: &Document, name: &str| entry.get_str(name).unwrap_or_default().to_owned();
    let hash = head.as_ref().map(|head| of(head, "hash"));
    if let (Some(hash), Some(first)) = (&hash, missing.first())
        && *hash != of(first, "prev")
    {
        return Err(JobError::Failed(anyhow::anyhow!(
            "the audit log went on after the restore: its entry {seq} is not the one that the copies at `audit.url` hold. \
             Stop all workers, restore again, and run `contextd policy replay` before they start"
        )));
    }
    let (mut from, rejoined) = (seq, missing.len() as u64);
    for page in missing.chunks(PAGE) {
        let Some(last) = page.last() else { break };
        let to = last.get_i64("seq").unwrap_or(from);
        let puts =
            page.iter().map(|entry| doc! { "q": { "_id": entry.get("_id") }, "u": entry.clone(), "upsert": true });
        let known = if from == 0 {
            doc! { "_id": "head" }
        } else {
            doc! { "_id": "head", "seq": from }
        };
        let set = doc! { "$set": { "seq": to, "hash": of(last, "hash") } };
        let head = doc! { "q": known, "u": set, "upsert": from == 0 };
        let ops = [
            Op::update("audit head", chain::AUDIT_HEAD, vec![head]).exactly(1),
            Op::update("put back", AUDIT, puts.collect()),
        ];
        if !write(run, &ops).await? {
            return Err(JobError::Unconfirmed("the audit log went on meanwhile".into()));
        }
        from = to;
    }
    Ok(rejoined)
}
