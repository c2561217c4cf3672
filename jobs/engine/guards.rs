//! Conditions that take another look than at the row itself. Those that a write can fall into are repeated there.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use super::judge::{Due, Left};
use crate::{
    kit::{JobError, Run, World, to_bson},
    policy::{Action, Guard, Rule},
};

#[derive(Debug)]
pub struct Guarded {
    pub due: Vec<Due>,
    pub left: Vec<(Bson, Left)>,
}

/// Splits the rows by the rule's guards and by the holds on what they belong to.
pub async fn check(run: &Run, world: &World, rule: &Rule, due: Vec<Due>) -> Result<Guarded, JobError> {
    let mut all = Guarded { due, left: Vec::new() };
    if all.due.is_empty() {
        return Ok(all);
    }
    for guard in &rule.guards {
        let barred: HashSet<String> = match guard {
            Guard::NoLiveSession => live(run, world, rule, &all.due).await?,
            Guard::SessionExpired => {
                let mut barred = live(run, world, rule, &all.due).await?;
                barred.extend(active(run, rule, &all.due).await?);
                barred
            }
            Guard::NotCurrent => current(run, &all.due).await?,
            Guard::NoDeltaBase => bases(run, &all.due).await?,
            Guard::Superseded => newest(run, &all.due).await?,
        };
        all.split(Left::Guarded(*guard), |item| barred.contains(&key(&item.id)));
        if all.due.is_empty() {
            return Ok(all);
        }
    }
    let kin = Kin::of(run, all.due.iter().map(|item| &item.row), None).await?;
    let owners = all.due.iter().flat_map(|item| kin.owners(&item.row)).collect();
    let held = held(run, owners, None).await?;
    all.split(Left::Held, |item| kin.owners(&item.row).iter().any(|owner| held.contains(owner)));
    if rule.on == "users" && matches!(rule.action, Action::Anonymize { .. }) && !all.due.is_empty() {
        let waiting = waiting(run, world, &all.due).await?;
        all.split(Left::Documents, |item| waiting.contains(&key(&item.id)));
    }
    Ok(all)
}

/// Users with documents that a rule of their own will take, but not yet: with the user they would go early. Without
/// such a rule they go with the user.
async fn waiting(run: &Run, world: &World, due: &[Due]) -> Result<HashSet<String>, JobError> {
    let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
    let rules = world.policy.rules.iter().filter(|rule| rule.enabled && rule.on == "documents");
    let purges = rules.filter(|rule| rule.action == Action::Purge).flat_map(|rule| &rule.cases);
    let mut gone: Vec<Document> = purges.map(|case| case.predicate(case.cutoff(run.now))).collect();
    if gone.is_empty() {
        return Ok(HashSet::new());
    }
    gone.push(doc! { "state": "purging" });
    let filter = doc! { "userId": { "$in": ids }, "$nor": gone };
    let rows = find(run, "documents of users", "documents", filter, doc! { "userId": 1 }).await?;
    Ok(rows.iter().filter_map(|row| row.get("userId")).map(key).collect())
}

impl Guarded {
    fn split(&mut self, why: Left, barred: impl Fn(&Due) -> bool) {
        let (out, due) = std::mem::take(&mut self.due).into_iter().partition(|item| barred(item));
        self.due = due;
        let out: Vec<Due> = out;
        self.left.extend(out.into_iter().map(|item| (item.id, why)));
    }
}

/// An id as a key of a map.
pub fn key(id: &Bson) -> String {
    super::plain(id)
}

fn text<'r>(row: &'r Document, name: &str) -> Option<&'r str> {
    row.get_str(name).ok().filter(|value| !value.is_empty())
}

/// The session that a row is about.
fn session<'d>(rule: &Rule, item: &'d Due) -> Option<&'d str> {
    if rule.on == "sessions" { item.id.as_str() } else { text(&item.row, "sessionId") }
}

async fn live(run: &Run, world: &World, rule: &Rule, due: &[Due]) -> Result<HashSet<String>, JobError> {
    let mut ids: Vec<String> = due.iter().filter_map(|item| session(rule, item)).map(str::to_owned).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let live = run.call("live sessions", world.caches.live(&ids)).await?;
    Ok(due.iter().filter(|i| session(rule, i).is_some_and(|s| live.contains(s))).map(|i| key(&i.id)).collect())
}

/// Rows whose session is there and active.
async fn active(run: &Run, rule: &Rule, due: &[Due]) -> Result<HashSet<String>, JobError> {
    let ids: Vec<&str> = due.iter().filter_map(|item| session(rule, item)).collect();
    let filter = doc! { "_id": { "$in": ids }, "state": "active" };
    let active = ids_of(run, "active sessions", "sessions", filter).await?;
    Ok(due.iter().filter(|i| session(rule, i).is_some_and(|s| active.contains(s))).map(|i| key(&i.id)).collect())
}

/// Versions that their documents name as current.
async fn current(run: &Run, due: &[Due]) -> Result<HashSet<String>, JobError> {
    let documents: Vec<&str> = due.iter().filter_map(|item| text(&item.row, "documentId")).collect();
    let filter = doc! { "_id": { "$in": documents } };
    let rows = find(run, "current versions", "documents", filter, doc! { "currentVersionId": 1 }).await?;
    Ok(rows.iter().filter_map(|row| text(row, "currentVersionId")).map(str::to_owned).collect())
}

/// Versions that others are stored as a difference to.
async fn bases(run: &Run, due: &[Due]) -> Result<HashSet<String>, JobError> {
    let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
    let filter = doc! { "content.base": { "$in": ids } };
    let rows = find(run, "delta bases", "document_versions", filter, doc! { "content.base": 1 }).await?;
    Ok(rows.iter().filter_map(|row| text(row.get_document("content").ok()?, "base")).map(str::to_owned).collect())
}

/// Rows of which no newer one of the same document has been there for the whole term.
async fn newest(run: &Run, due: &[Due]) -> Result<HashSet<String>, JobError> {
    let documents: HashSet<&str> = due.iter().filter_map(|item| text(&item.row, "documentId")).collect();
    let Some(cutoff) = due.iter().map(|item| item.cutoff).min() else { return Ok(HashSet::new()) };
    let mut newest: HashMap<String, Bson> = HashMap::new();
    let newer = doc! { "documentId": { "$in": documents.into_iter().collect::<Vec<_>>() }, "createdAt": { "$lte": to_bson(cutoff) } };
    let stages = [
        doc! { "$match": newer },
        doc! { "$sort": { "documentId": 1, "createdAt": -1 } },
        doc! { "$group": { "_id": "$documentId", "newest": { "$first": "$createdAt" } } },
    ];
    let analyses = run.db.collection::<Document>("analyses");
    let groups: Vec<Document> =
        run.call("newest analyses", async { analyses.aggregate(stages).await?.try_collect().await }).await?;
    for group in groups {
        if let (Ok(document), Some(at)) = (group.get_str("_id"), group.get("newest")) {
            newest.insert(document.to_owned(), at.clone());
        }
    }
    let is_newest = |item: &&Due| {
        let Some(document) = text(&item.row, "documentId") else { return true };
        match (newest.get(document).and_then(Bson::as_datetime), item.row.get_datetime("createdAt")) {
            (Some(newest), Ok(own)) => own >= newest,
            _ => true,
        }
    };
    Ok(due.iter().filter(is_newest).map(|item| key(&item.id)).collect())
}

/// What a row belongs to: (collection, id). A hold there holds the row.
pub fn belongs(row: &Document) -> impl Iterator<Item = (&'static str, String)> {
    // A row may name itself: a document's `documentId`.
    let own = row.get_str("_id").unwrap_or_default();
    let of = |collection, name: &str| text(row, name).filter(|id| *id != own).map(|id| (collection, id.to_owned()));
    // A session's hold is about what is nobody else's.
    let anonymous = text(row, "userId").is_none();
    let session = of("sessions", "sessionId").filter(|_| anonymous);
    [of("users", "userId"), of("documents", "documentId"), session].into_iter().flatten()
}

/// Where owners lie, and what they are called: a session is held in its history as well.
pub const OWNERS: [(&str, &str); 4] =
    [("users", "users"), ("documents", "documents"), ("sessions", "sessions"), ("session_history", "sessions")];

/// What rows belong to through their documents: a user's hold is about what lies in the user's documents, too.
#[derive(Debug, Default)]
pub struct Kin(HashMap<String, Vec<(&'static str, String)>>);

impl Kin {
    pub async fn of<'r>(
        run: &Run,
        rows: impl Iterator<Item = &'r Document>,
        within: Option<&mut super::take::Txn<'_>>,
    ) -> Result<Self, JobError> {
        let document = |row: &'r Document| text(row, "documentId").filter(|id| row.get_str("_id").ok() != Some(*id));
        let documents: HashSet<&str> = rows.filter_map(document).collect();
        if documents.is_empty() {
            return Ok(Self::default());
        }
        let filter = doc! { "_id": { "$in": documents.into_iter().collect::<Vec<_>>() } };
        let fields = doc! { "userId": 1, "sessionId": 1 };
        let rows = match within {
            None => find(run, "owners", "documents", filter, fields).await?,
            Some(txn) => txn.find("owners", "documents", filter, fields).await?,
        };
        Ok(Self(rows.iter().filter_map(|row| Some((key(row.get("_id")?), belongs(row).collect()))).collect()))
    }

    /// All that a row belongs to.
    pub fn owners(&self, row: &Document) -> Vec<(&'static str, String)> {
        let through = text(row, "documentId").and_then(|document| self.0.get(document));
        belongs(row).chain(through.into_iter().flatten().cloned()).collect()
    }
}

/// All that these rows belong to.
pub fn owners<'r>(rows: impl Iterator<Item = &'r Document>) -> HashSet<(&'static str, String)> {
    rows.flat_map(belongs).collect()
}

/// Those of the owners that are held.
pub async fn held(
    run: &Run,
    owners: HashSet<(&'static str, String)>,
    mut within: Option<&mut super::take::Txn<'_>>,
) -> Result<HashSet<(&'static str, String)>, JobError> {
    let mut held = HashSet::new();
    for (collection, of) in OWNERS {
        let ids: Vec<&str> = owners.iter().filter(|owner| owner.0 == of).map(|(_, id)| id.as_str()).collect();
        if ids.is_empty() {
            continue;
        }
        let filter = doc! { "_id": { "$in": ids }, "holdCount": { "$nin": [null, 0_i64, 0_i32] } };
        let rows = match within.as_deref_mut() {
            None => find(run, "holds", collection, filter, doc! { "_id": 1 }).await?,
            Some(txn) => txn.find("holds", collection, filter, doc! { "_id": 1 }).await?,
        };
        held.extend(rows.iter().filter_map(|row| row.get("_id")).map(|id| (of, key(id))));
    }
    Ok(held)
}

pub async fn find(
    run: &Run,
    call: &'static str,
    collection: &str,
    filter: Document,
    fields: Document,
) -> Result<Vec<Document>, JobError> {
    let rows = run.db.collection::<Document>(collection);
    let find = async { rows.find(filter).projection(fields).await?.try_collect::<Vec<_>>().await };
    run.call(call, find).await
}

async fn ids_of(
    run: &Run,
    call: &'static str,
    collection: &str,
    filter: Document,
) -> Result<HashSet<String>, JobError> {
    let rows = find(run, call, collection, filter, doc! { "_id": 1 }).await?;
    Ok(rows.iter().filter_map(|row| row.get("_id")).map(key).collect())
}
