//! A user becomes nobody: everything that the user left goes or is nobody's, in every store, and a certificate says so.
//!
//! Fence (the row is `purging`, an open tombstone names the user: tasks about the user end as expired from here on), the
//! user's documents (each with a fence of its own), sessions and what happened in them, whatever else names the user,
//! the row, the certificate; then the tombstone is closed. Each step can be repeated, and what is left to do is looked up
//! in the stores, so that a run goes on from wherever another was cut off.

mod certificate;
pub mod documents;
mod fence;
pub mod ops;
mod traces;

use mongodb::bson::{Bson, Document, doc};

pub use certificate::{CERTIFICATES, Certificate};
pub use fence::{Stone, fence, has_traces, held_by};
pub use traces::indexes;

use super::{
    Acted, Engine, anonymize, archive_rows,
    guards::find,
    judge::{Due, Left, is_held},
    take::{AUDIT, TOMBSTONES, Take, now, stone_id, take},
};
use crate::{
    kit::{JobError, Run, chain::Entry, from_bson, strict},
    policy::{Action, Rule},
};
use ops::{Op, write};

pub const USERS: &str = "users";
/// Kept of a user, and replaced by random values, where the policy has no rule that anonymizes users.
const KEEP: [&str; 2] = ["createdAt", "deletedAt"];
const RANDOM: &str = "email";
/// Where sessions lie, and what names their user.
const SESSIONS_OF: [(&str, &str); 4] = [
    (traces::SESSIONS, "userId"),
    (traces::SESSIONS, "claimedBy"),
    (traces::HISTORY, "userId"),
    (traces::HISTORY, "claimedBy"),
];
/// Sessions whose traces are looked up together.
const SESSIONS: i64 = 100;

/// The user whose tombstone is open.
pub struct Person<'p> {
    pub engine: &'p Engine<'p>,
    pub run: &'p Run,
    pub user: &'p str,
    pub stone: &'p Document,
}

pub async fn act(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Acted, JobError> {
    let mut acted = Acted::default();
    let mut free = Vec::with_capacity(due.len());
    for item in due {
        match item.id.as_str() {
            Some(user) if !held_by(run, user).await?.is_empty() => acted.left.push((item.id, Left::Held)),
            _ => free.push(item),
        }
    }
    let set = Some(doc! { "state": "purging" });
    let how = Take { set, unset: &[], tombstone: Some("open"), audit: false, also: Document::new() };
    super::mark::forget(engine, run, rule, &free).await?;
    let taken = take(engine, run, rule, free, &how).await?;
    acted.left.extend(taken.left);
    for item in taken.rows {
        match finish(engine, run, &item.id).await? {
            None => acted.done += 1,
            Some(left) => acted.left.push((item.id, left)),
        }
    }
    Ok(acted)
}

/// Goes on with every user whose tombstone is open, whoever opened it.
pub async fn resume(engine: &Engine<'_>, run: &mut Run, rule: &Rule) -> Result<(), JobError> {
    let open = doc! { "state": "open", "_id": { "$gt": "users/", "$lt": "users0" } };
    let stones = find(run, "open users", TOMBSTONES, open, doc! { "key": 1 }).await?;
    let mut acted = Acted::default();
    for id in stones.into_iter().filter_map(|mut stone| stone.remove("key")) {
        match finish(engine, run, &id).await? {
            None => acted.done += 1,
            Some(left) => acted.left.push((id, left)),
        }
    }
    run.outcome.count(rule.action.name(), acted.done);
    run.outcome.rule(&rule.name).done += acted.done;
    engine.leave(run, rule, acted.left);
    Ok(())
}

/// Everything behind the fence. Safe to repeat from anywhere; the answer is what keeps the user fenced for now.
pub async fn finish(engine: &Engine<'_>, run: &Run, id: &Bson) -> Result<Option<Left>, JobError> {
    let stone = find(run, "user tombstone", TOMBSTONES, doc! { "_id": stone_id(USERS, id), "state": "open" }, doc! {});
    let (Some(stone), Some(user)) = (stone.await?.pop(), id.as_str()) else { return Ok(None) };
    let person = Person { engine, run, user, stone: &stone };
    if !stone.contains_key("finishedAt") {
        if let Some(left) = person.leave_nothing().await? {
            return Ok(Some(left));
        }
        person.become_nobody().await?;
    }
    certificate::write(engine, run, user).await?;
    Ok(None)
}

impl Person<'_> {
    async fn leave_nothing(&self) -> Result<Option<Left>, JobError> {
        let records = ["users", "user_preferences"].map(|of| (of.to_owned(), self.user.to_owned(), i64::MAX));
        self.run.call("forget", self.engine.world.caches.forget(&records)).await?;
        if let Some(left) = documents::go_on(self).await? {
            return Ok(Some(left));
        }
        if let Some(left) = documents::purge(self, doc! { "userId": self.user }).await? {
            return Ok(Some(left));
        }
        // First all that can be held, and only then what cannot be taken back.
        for sessions_go in [false, true] {
            for (collection, field) in SESSIONS_OF {
                if let Some(left) = self.sessions(collection, field, sessions_go).await? {
                    return Ok(Some(left));
                }
            }
        }
        traces::of_user(self).await?;
        documents::forget_holds(self).await?;
        self.forget_archived().await?;
        Ok(None)
    }

    /// The documents of the user's sessions, or all else of these sessions.
    async fn sessions(&self, collection: &str, field: &str, sessions_go: bool) -> Result<Option<Left>, JobError> {
        let mut after = Bson::MinKey;
        loop {
            let filter = doc! { field: self.user, "_id": { "$gt": after.clone() } };
            let page = self.page(collection, &filter, doc! { "_id": 1, "holdCount": 1 }, SESSIONS).await?;
            let ids: Vec<Bson> = page.iter().filter_map(|row| row.get("_id").cloned()).collect();
            let Some(last) = ids.last() else { return Ok(None) };
            after = last.clone();
            if page.iter().any(is_held) {
                return Ok(Some(Left::Held));
            }
            let left = if sessions_go {
                traces::of_sessions(self, collection, &ids).await?
            } else {
                let of_sessions = doc! { "sessionId": { "$in": ids }, "userId": null };
                documents::purge(self, of_sessions).await?
            };
            if left.is_some() {
                return Ok(left);
            }
        }
    }

    /// Rows of the user that lie in files of the archive tier.
    async fn forget_archived(&self) -> Result<(), JobError> {
        let erased = archive_rows::erase_user(self.engine.world, self.run, self.user).await?;
        let stones = strict(&self.run.db).collection::<Document>(TOMBSTONES);
        // A run that was cut off has changed files already: what it counted is added to.
        let mut update = doc! { "$set": { "unread": erased.unread } };
        if erased.rows > 0 {
            update.insert("$inc", doc! { "counts.archivedRows.anonymized": erased.rows as i64 });
        }
        let id = doc! { "_id": self.stone.get("_id") };
        self.run.call("count archived", async { stones.update_one(id, update).await }).await.map(|_| ())
    }

    /// The row is what the rule keeps, with its evidence.
    async fn become_nobody(&self) -> Result<(), JobError> {
        let rules = &self.engine.world.policy.rules;
        let rule = rules.iter().filter(|rule| rule.on == USERS).find_map(|rule| match &rule.action {
            Action::Anonymize { keep, random } => Some((keep.clone(), random.clone())),
            _ => None,
        });
        let (keep, random) = rule.unwrap_or_else(|| (KEEP.map(String::from).to_vec(), vec![RANDOM.to_owned()]));
        let stages = anonymize::remains(&keep, &random, now(self.run));
        let row = doc! { "q": { "_id": self.user, "state": "purging" }, "u": stages };
        let counts = certificate::counts(self.run, self.stone).await?;
        let finished = doc! {
            "$set": { "finishedAt": now(self.run), "counts": counts.clone() }, "$unset": { "documents": "" },
        };
        let open = doc! { "_id": self.stone.get("_id"), "state": "open", "finishedAt": null };
        let entry = self.entry(counts).document(self.engine.world.audit_key.as_ref());
        let id = doc! { "_id": entry.get("_id") };
        let mut ops = vec![
            Op::update("anonymize user", USERS, vec![row]),
            Op::update("finish tombstone", TOMBSTONES, vec![doc! { "q": open, "u": finished }]).exactly(1),
        ];
        if self.page(AUDIT, &id, id.clone(), 1).await?.is_empty() {
            ops.push(Op::insert("audit", AUDIT, entry));
        }
        if write(self.run, &ops).await? {
            return Ok(());
        }
        Err(JobError::Unconfirmed(format!("the tombstone of the user {:?} changed meanwhile", self.user)))
    }

    fn entry(&self, counts: Document) -> Entry {
        let of = |name: &str| self.stone.get(name).cloned().unwrap_or(Bson::Null);
        let text = |name: &str| self.stone.get_str(name).unwrap_or_default();
        let by = self.stone.get_document("request").ok().and_then(|request| request.get_str("by").ok());
        let date = self.stone.get_datetime("date").map_or(0, |at| at.timestamp_millis());
        Entry {
            id: format!("{}/{USERS}/{}/{date}", text("rule"), self.user),
            at: self.stone.get_datetime("fencedAt").map_or(self.run.now, |at| from_bson(*at)),
            action: format!("lifecycle.{}", text("action")),
            entity: (USERS.to_owned(), self.user.to_owned()),
            actor: Some(by.unwrap_or("contextd").to_owned()),
            detail: doc! {
                "rule": of("rule"), "job": of("job"), "policy": of("policy"), "cutoff": of("cutoff"),
                "date": of("date"), "counts": counts,
            },
        }
    }

    /// What tombstones of the user's things say of their end.
    fn evidence(&self) -> Document {
        let names = ["rule", "job", "policy", "cutoff", "date", "fencedAt"];
        names.into_iter().filter_map(|name| Some((name.to_owned(), self.stone.get(name)?.clone()))).collect()
    }

    async fn page(
        &self,
        collection: &str,
        filter: &Document,
        fields: Document,
        limit: i64,
    ) -> Result<Vec<Document>, JobError> {
        use futures::TryStreamExt;
        let rows = strict(&self.run.db).collection::<Document>(collection);
        let find = async {
            let find = rows.find(filter.clone()).projection(fields).sort(doc! { "_id": 1 }).limit(limit);
            find.await?.try_collect::<Vec<_>>().await
        };
        self.run.call("page of traces", find).await
    }

    async fn is_held(&self, collection: &str, filter: &Document) -> Result<bool, JobError> {
        let mut held = filter.clone();
        held.insert("holdCount", doc! { "$nin": [null, 0_i64, 0_i32] });
        self.page(collection, &held, doc! { "_id": 1 }, 1).await.map(|rows| !rows.is_empty())
    }

    /// Counts rows on the tombstone, within the transaction that changes them.
    fn count(&self, collection: &str, how: &str, rows: usize) -> Op {
        let update = doc! { "$inc": { format!("counts.{collection}.{how}"): rows as i64 } };
        let stone = doc! { "q": { "_id": self.stone.get("_id") }, "u": update };
        Op::update("count", TOMBSTONES, vec![stone])
    }
}
