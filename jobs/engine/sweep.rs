//! What writers that were cut off, or that raced a purge, left behind: objects that no row names, files that never became
//! objects, rows whose object is gone, and rows that came after their document was purged.

use std::{collections::HashSet, time::Duration};

use chrono::TimeDelta;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use mongodb::bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::{
    Engine, Settings as Pace, clock,
    guards::{self, find},
    moves::LEFT,
    purge::{self, DOCUMENTS, objects_of},
    take::{AUDIT, TOMBSTONES},
    throttle::Throttle,
};
use crate::{
    kit::{JobError, Object, OutsideError, Run, Tier, World, chain::Entry, to_bson},
    policy::Cap,
};

pub const ORPHAN: &str = "delete_orphans";
pub const STAGING: &str = "delete_staging";
pub const ECHO: &str = "delete_echoes";
/// Everything that a run counts.
pub const ACTIONS: [&str; 3] = [ORPHAN, STAGING, ECHO];

/// Below these contents lie, each with the rows that name them.
const CONTENTS: [&str; 2] = ["documents", "versions"];
const ROWS: [&str; 2] = [DOCUMENTS, "document_versions"];
const SESSIONS: &str = "sessions";
/// A session's list of contents that its claim has copied and is to remove.
const CLAIMED: &str = "claimLeft";
/// Rows that are looked at, objects that are asked for at once.
const PAGE: usize = 500;
const AT_ONCE: usize = 16;
/// Objects that a message names as an example.
const SAMPLES: usize = 5;

/// The sweep's own figures.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Settings {
    #[serde(flatten)]
    pub pace: Pace,
    /// Objects that no row names are deleted when they are so old. No writer may take longer from an object to its row.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// After a page of orphans is deleted, its rows are looked for once more after this time, for one may have come at
    /// the last moment; its object is put back then.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// What came late of a document is looked for so long after its purge.
    #[serde(with = "humantime_serde")]
    pub echo: Duration,
    /// At most this share of the objects is deleted at once, never less than `cap_floor` and never more than `cap_objects`.
    pub cap_share: f64,
    pub cap_floor: u64,
    pub cap_objects: u64,
}

/// All of it, in an order in which each part may be cut off.
pub async fn run(world: &World, settings: &Settings, run: &mut Run) -> Result<(), JobError> {
    clock::check(run, world.policy.skew).await?;
    let sweep = Sweep { world, settings };
    let mut throttle = Throttle::new(&settings.pace);
    sweep.echoes(run, &mut throttle).await?;
    sweep.orphans(run, &mut throttle).await?;
    sweep.lost(run, &mut throttle).await
}

struct Sweep<'s> {
    world: &'s World,
    settings: &'s Settings,
}

/// The key of an object, and what it was.
type Deleted = (String, Vec<u8>);

/// What a pass over the objects found.
#[derive(Debug, Default)]
struct Pass {
    objects: u64,
    orphans: u64,
}

impl Sweep<'_> {
    /// Objects that no row names. Counted first: over the cap nothing is deleted.
    async fn orphans(&self, run: &mut Run, throttle: &mut Throttle<'_>) -> Result<(), JobError> {
        let found = self.pass(run, throttle, false).await?;
        let cap =
            Cap { share: self.settings.cap_share, floor: self.settings.cap_floor, rows: self.settings.cap_objects }
                .of(found.objects);
        run.outcome.examined += found.objects;
        if run.dry_run {
            run.outcome.count(ORPHAN, found.orphans);
            return Ok(());
        }
        if found.orphans > cap && !run.over_cap {
            return Err(JobError::Failed(anyhow::anyhow!(
                "{} of {} objects have no row, and at most {cap} are deleted at once: nothing was deleted. Look whether rows \
                 were lost or the wrong store is set; if it is right, run `contextd jobs run {} --over-cap`",
                found.orphans,
                found.objects,
                run.job
            )));
        }
        if found.orphans > 0 {
            self.pass(run, throttle, true).await?;
        }
        let before = run.now - TimeDelta::from_std(self.settings.grace).unwrap_or(TimeDelta::MAX);
        for tier in [Tier::Hot, Tier::Archive] {
            let removed = run.call("remove staging", self.world.objects.remove_staging(tier, before)).await?;
            if removed > 0 {
                run.outcome.count(STAGING, removed);
            }
        }
        Ok(())
    }

    async fn pass(&self, run: &mut Run, throttle: &mut Throttle<'_>, act: bool) -> Result<Pass, JobError> {
        let mut pass = Pass::default();
        for (tier, prefix) in CONTENTS.into_iter().flat_map(|prefix| [Tier::Hot, Tier::Archive].map(|t| (t, prefix))) {
            let mut walk = self.world.objects.walk(tier, prefix).chunks(self.settings.pace.page.max(1) as usize);
            loop {
                run.page(None).await?;
                let Some(page) = run.call("walk objects", async { Ok::<_, JobError>(walk.next().await) }).await? else {
                    break;
                };
                let page: Vec<Object> = page.into_iter().collect::<Result<_, _>>()?;
                throttle.wait(run).await?;
                let began = std::time::Instant::now();
                pass.objects += page.len() as u64;
                let orphans = self.orphans_of(run, tier, page).await?;
                pass.orphans += orphans.len() as u64;
                if act {
                    self.delete(run, tier, orphans).await?;
                } else if run.dry_run {
                    for orphan in &orphans {
                        run.outcome.sample(ORPHAN, &orphan.key, orphan.modified);
                    }
                }
                throttle.worked(began.elapsed());
            }
        }
        Ok(pass)
    }

    /// Those of the objects that are old and that no row names where they are.
    async fn orphans_of(&self, run: &Run, tier: Tier, page: Vec<Object>) -> Result<Vec<Object>, JobError> {
        let grace = TimeDelta::from_std(self.settings.grace).unwrap_or(TimeDelta::MAX);
        let old = |object: &Object| object.modified.checked_add_signed(grace).is_some_and(|end| end < run.now);
        let old: Vec<Object> = page.into_iter().filter(old).collect();
        if old.is_empty() {
            return Ok(old);
        }
        let named = named(run, tier, old.iter().map(|object| object.key.as_str()).collect()).await?;
        Ok(old.into_iter().filter(|object| !named.contains(&object.key)).collect())
    }

    async fn delete(&self, run: &mut Run, tier: Tier, orphans: Vec<Object>) -> Result<(), JobError> {
        for few in orphans.chunks(AT_ONCE) {
            let deletions: Vec<BoxFuture<'_, Result<Option<Deleted>, JobError>>> =
                few.iter().map(|orphan| self.delete_one(run, tier, orphan).boxed()).collect();
            let deleted: Vec<_> = stream::iter(deletions).buffer_unordered(AT_ONCE).try_collect().await?;
            let deleted: Vec<Deleted> = deleted.into_iter().flatten().collect();
            if deleted.is_empty() {
                continue;
            }
            tokio::time::sleep(self.settings.settle).await;
            let named = named(run, tier, deleted.iter().map(|(key, _)| key.as_str()).collect()).await?;
            let mut gone = deleted.len() as u64;
            for (key, bytes) in deleted.into_iter().filter(|(key, _)| named.contains(key)) {
                tracing::info!(key, "an object got its row at the last moment, and is put back");
                run.call("put back", self.world.objects.put(tier, &key, bytes)).await?;
                gone -= 1;
            }
            run.outcome.count(ORPHAN, gone);
        }
        Ok(())
    }

    /// Deletes an object that is as it was listed; answers what it was.
    async fn delete_one(&self, run: &Run, tier: Tier, orphan: &Object) -> Result<Option<Deleted>, JobError> {
        let objects = &self.world.objects;
        // Written again since: somebody is about to name it.
        if run.call("look again", objects.stat(tier, &orphan.key)).await?.as_ref() != Some(orphan) {
            return Ok(None);
        }
        let bytes = match run.call("get orphan", objects.get(tier, &orphan.key, orphan.size)).await {
            Err(JobError::Outside(OutsideError { message, passes: false })) => {
                tracing::warn!(message, "an object without a row cannot be read, and is left");
                return Ok(None);
            }
            got => got?,
        };
        let entry = Entry {
            id: format!("orphan/{}/{}/{}", tier.name(), orphan.key, orphan.modified.timestamp_millis()),
            at: run.now,
            action: "lifecycle.orphan".into(),
            entity: ("objects".into(), orphan.key.clone()),
            actor: Some("contextd".into()),
            detail: doc! { "job": run.job, "tier": tier.name(), "modified": to_bson(orphan.modified) },
        };
        purge::insert_once(run, AUDIT, vec![entry.document(self.world.audit_key.as_ref())]).await?;
        run.call("delete orphan", objects.delete(tier, &orphan.key)).await?;
        Ok(Some((orphan.key.clone(), bytes)))
    }

    /// Rows whose object is in neither tier: told, and left for an operator to restore.
    async fn lost(&self, run: &mut Run, throttle: &mut Throttle<'_>) -> Result<(), JobError> {
        let (mut lost, mut sample) = (0_u64, Vec::new());
        for collection in ROWS {
            let mut after = Bson::MinKey;
            loop {
                run.page(None).await?;
                throttle.wait(run).await?;
                let began = std::time::Instant::now();
                let filter = doc! { "_id": { "$gt": after.clone() } };
                let rows = run.db.collection::<Document>(collection);
                let page = async {
                    let find = rows.find(filter).sort(doc! { "_id": 1 }).limit(PAGE as i64);
                    find.projection(doc! { "content.key": 1, "content.tier": 1, "state": 1 }).await?.try_collect().await
                };
                let page: Vec<Document> = run.call("rows", page).await?;
                let Some(last) = page.last().and_then(|row| row.get("_id")) else { break };
                after = last.clone();
                let looks: Vec<BoxFuture<'_, Result<Option<String>, JobError>>> =
                    page.iter().map(|row| self.lost_one(run, collection, row).boxed()).collect();
                let found: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
                for name in found.into_iter().flatten() {
                    lost += 1;
                    if sample.len() < SAMPLES {
                        sample.push(name);
                    }
                }
                throttle.worked(began.elapsed());
            }
        }
        *run.outcome.rule("rows-without-objects").left.entry("lost".into()).or_default() += lost;
        if lost > 0 {
            tracing::error!(
                lost,
                ?sample,
                "contents are missing: restore their objects from a backup of the object store"
            );
        }
        run.outcome.remaining = Some(0);
        Ok(())
    }

    async fn lost_one(&self, run: &Run, collection: &str, row: &Document) -> Result<Option<String>, JobError> {
        if row.get_str("state").is_ok_and(|state| state == "purging") || !self.is_lost(run, row).await? {
            return Ok(None);
        }
        // It may have moved on, or gone, since the page was read.
        let id = row.get("_id").cloned().unwrap_or(Bson::Null);
        let fields = doc! { "content.key": 1, "content.tier": 1 };
        let now = find(run, "row again", collection, doc! { "_id": id.clone() }, fields).await?.pop();
        match now {
            Some(now) if self.is_lost(run, &now).await? => Ok(Some(format!("{collection}/{}", guards::key(&id)))),
            _ => Ok(None),
        }
    }

    async fn is_lost(&self, run: &Run, row: &Document) -> Result<bool, JobError> {
        let Some((tier, key)) = objects_of(row).pop() else { return Ok(false) };
        for tier in [tier, tier.other()] {
            if run.call("look for object", self.world.objects.stat(tier, &key)).await?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What came of documents after they were purged, by writers that raced the purge.
    async fn echoes(&self, run: &mut Run, throttle: &mut Throttle<'_>) -> Result<(), JobError> {
        let since = run.now - TimeDelta::from_std(self.settings.echo).unwrap_or(TimeDelta::zero());
        let engine = Engine { world: self.world, settings: &self.settings.pace };
        let mut after = (Bson::from(to_bson(since)), Bson::MinKey);
        loop {
            run.page(None).await?;
            throttle.wait(run).await?;
            let (date, id) = after;
            let filter = doc! {
                "state": "closed", "closedAt": { "$gte": date.clone() }, "collection": DOCUMENTS,
                "$or": [{ "closedAt": { "$gt": date.clone() } }, { "closedAt": date, "_id": { "$gt": id } }],
            };
            let stones = run.db.collection::<Document>(TOMBSTONES);
            let page = async {
                let find = stones.find(filter).sort(doc! { "closedAt": 1, "_id": 1 }).limit(PAGE as i64);
                find.projection(doc! { "key": 1, "closedAt": 1 }).await?.try_collect().await
            };
            let page: Vec<Document> = run.call("closed tombstones", page).await?;
            let Some(last) = page.last() else { return Ok(()) };
            let place = |name: &str| last.get(name).cloned().unwrap_or(Bson::Null);
            after = (place("closedAt"), place("_id"));
            // A document that is there again, by a restore, is not touched.
            let keys: Vec<&Bson> = page.iter().filter_map(|stone| stone.get("key")).collect();
            let there = find(run, "restored", DOCUMENTS, doc! { "_id": { "$in": keys } }, doc! { "_id": 1 }).await?;
            let there: HashSet<String> = there.iter().filter_map(|row| row.get("_id")).map(guards::key).collect();
            let gone =
                page.iter().filter(|stone| stone.get("key").is_some_and(|key| !there.contains(&guards::key(key))));
            let ids: Vec<Bson> = gone.filter_map(|stone| stone.get("_id").cloned()).collect();
            let removed = purge::echo(&engine, run, doc! { "_id": { "$in": ids } }, run.dry_run).await?;
            if removed > 0 {
                run.outcome.count(ECHO, removed);
            }
        }
    }
}

/// Those of the keys that a row names, as being in this tier. The rows are found by the ids in the keys; only of ids too
/// long to be whole in a key are all rows looked at.
async fn named(run: &Run, tier: Tier, keys: Vec<&str>) -> Result<HashSet<String>, JobError> {
    let fields = doc! { "content.key": 1, "content.tier": 1, LEFT: 1, CLAIMED: 1 };
    let (mut owners, mut documents, mut odd) = (HashSet::new(), HashSet::new(), Vec::new());
    for key in &keys {
        match ids_of(key) {
            Some((owner, document)) => {
                owners.insert(owner);
                documents.insert(document);
            }
            None => odd.push(*key),
        }
    }
    let (owners, documents): (Vec<_>, Vec<_>) = (owners.into_iter().collect(), documents.into_iter().collect());
    let mut looks = vec![
        (ROWS[0], doc! { "_id": { "$in": &documents } }),
        (ROWS[1], doc! { "documentId": { "$in": &documents }, "content.key": { "$in": &keys } }),
        (SESSIONS, doc! { "_id": { "$in": owners }, CLAIMED: { "$exists": true } }),
    ];
    if !odd.is_empty() {
        looks.push((ROWS[0], doc! { "content.key": { "$in": &odd } }));
        looks.push((ROWS[1], doc! { "content.key": { "$in": &odd } }));
        looks.push((ROWS[0], doc! { format!("{LEFT}.key"): { "$in": &odd } }));
        looks.push((SESSIONS, doc! { format!("{CLAIMED}.key"): { "$in": &odd } }));
    }
    let mut named = HashSet::new();
    for (collection, filter) in looks {
        for row in find(run, "rows of objects", collection, filter, fields.clone()).await? {
            let claimed = doc! { LEFT: row.get_array(CLAIMED).cloned().unwrap_or_default() };
            let objects = objects_of(&row).into_iter().chain(objects_of(&claimed));
            named.extend(objects.filter(|(at, _)| *at == tier).map(|(_, key)| key));
        }
    }
    Ok(named)
}

/// The owner and the document of a content's key; none when they are not whole in it. Pure.
fn ids_of(key: &str) -> Option<(String, String)> {
    let mut segments = key.split('/').skip(1);
    Some((decoded(segments.next()?)?, decoded(segments.next()?)?))
}

fn decoded(segment: &str) -> Option<String> {
    // What was shortened has a `~`, which is encoded everywhere else.
    if segment.contains('~') {
        return None;
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(segment.len()), segment.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_whose_it_is() {
        let ids = |key| ids_of(key).map(|(owner, document)| format!("{owner} {document}"));
        assert_eq!(ids("documents/u1/d1/0123").as_deref(), Some("u1 d1"));
        assert_eq!(ids("versions/a%20b/%2E.%2Fx/v1.0123").as_deref(), Some("a b ../x"));
        assert_eq!(ids("documents/u1/ddd~0123/x"), None);
        for odd in ["documents", "documents/u1", "documents/%F/d/x", "documents/%ZZ/d/x", "documents/%FF/d/x"] {
            assert_eq!(ids(odd), None, "{odd}");
        }
    }
}
