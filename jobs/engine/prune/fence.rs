//! The transaction from which there is no way back.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, Document, doc};

use super::{DOCUMENTS, Group, VERSIONS, chain};
use crate::{
    engine::{
        Engine,
        guards::{self, key},
        judge::{Due, Left, is_held},
        purge::objects_of,
        take::{self, TOMBSTONES, Take, Txn, stone_id},
    },
    kit::{JobError, Run, Tier},
    policy::{Guard, Rule},
};

/// Versions that are fenced, by their tombstones, and those that stay.
#[derive(Default)]
pub struct Fenced {
    pub stones: Vec<Document>,
    pub left: Vec<(Bson, Left)>,
}

pub async fn fence(engine: &Engine<'_>, run: &Run, rule: &Rule, groups: &[Group]) -> Result<Fenced, JobError> {
    let mut txn = Txn::begin(run).await?;
    let due: Vec<&Due> = groups.iter().flatten().collect();
    match within(engine, run, rule, due, &mut txn).await {
        Ok(fenced) if fenced.stones.is_empty() => {
            txn.abort().await;
            Ok(fenced)
        }
        Ok(fenced) => {
            txn.commit().await?;
            Ok(fenced)
        }
        Err(e) => {
            txn.abort().await;
            Err(e)
        }
    }
}

async fn within(
    engine: &Engine<'_>,
    run: &Run,
    rule: &Rule,
    due: Vec<&Due>,
    txn: &mut Txn<'_>,
) -> Result<Fenced, JobError> {
    let mut fenced = Fenced::default();
    let parents = Parents::read(&due, txn).await?;
    let bases = bases(&due, txn).await?;
    let due = split(due, &mut fenced, |item| parents.bar(item).or_else(|| bars(&bases, item)));
    let held = parents.write(run, &due, txn).await?;
    let due = split(due, &mut fenced, |item| {
        parents.owners(&item.row).iter().any(|owner| held.contains(owner)).then_some(Left::Held)
    });
    if due.is_empty() {
        return Ok(fenced);
    }
    let (due, rows) = take_rows(run, rule, due, &mut fenced, txn).await?;
    let pruned: Vec<&Document> = due.iter().filter_map(|item| rows.get(&key(&item.id))).collect();
    let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
    let fields = doc! { "previousVersionId": 1, "_sync.rev": 1 };
    let next = txn.find("next versions", VERSIONS, chain::after(&ids), fields).await?;
    let links = chain::relinks(&pruned, &next);
    if !links.is_empty() {
        txn.update("links", VERSIONS, links).await?;
    }
    fenced.stones = due
        .iter()
        .map(|item| {
            let mut stone = take::tombstone(engine, run, rule, item, "open");
            stone.insert("owners", parents.names(item));
            stone.insert("objects", rows.get(&key(&item.id)).map(objects).unwrap_or_default());
            stone
        })
        .collect();
    let stones =
        fenced.stones.iter().map(|stone| doc! { "q": { "_id": stone.get("_id") }, "u": stone, "upsert": true });
    let stones: Vec<Document> = stones.collect();
    if !stones.is_empty() {
        txn.update("tombstones", TOMBSTONES, stones).await?;
    }
    Ok(fenced)
}

/// Fences the rows that meet the whole predicate; with them, their rows as they were.
async fn take_rows<'d>(
    run: &Run,
    rule: &Rule,
    due: Vec<&'d Due>,
    fenced: &mut Fenced,
    txn: &mut Txn<'_>,
) -> Result<(Vec<&'d Due>, HashMap<String, Document>), JobError> {
    let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
    let of_them = doc! { "_id": { "$in": &ids } };
    let fields = doc! { "previousVersionId": 1, "content": 1, "moveLeft": 1 };
    let rows = txn.find("rows", VERSIONS, of_them, fields).await?;
    let rows = rows.into_iter().filter_map(|row| Some((key(row.get("_id")?), row))).collect();
    let mark = take::mark(run, &due);
    // Without its content nobody reads the version any more, or stores another one as a difference to it.
    let how = Take {
        set: Some(doc! { "state": "purging" }),
        unset: &["content", "moveLeft"],
        tombstone: None,
        audit: false,
        also: Document::new(),
    };
    let set = doc! { "state": "purging" };
    let updates: Vec<Document> = due.iter().map(|item| take::update(rule, item, &how, &set, &mark)).collect();
    if txn.update("take", VERSIONS, updates).await? == due.len() as u64 {
        return Ok((due, rows));
    }
    let took = doc! { "_id": { "$in": &ids }, "state": "purging", "lifecycle": &mark };
    let took = txn.find("taken", VERSIONS, took, doc! { "_id": 1 }).await?;
    let took: HashSet<String> = took.iter().filter_map(|row| row.get("_id")).map(key).collect();
    let due = split(due, fenced, |item| (!took.contains(&key(&item.id))).then_some(Left::Changed));
    Ok((due, rows))
}

fn split<'d>(due: Vec<&'d Due>, fenced: &mut Fenced, bar: impl Fn(&Due) -> Option<Left>) -> Vec<&'d Due> {
    let mut free = Vec::with_capacity(due.len());
    for item in due {
        match bar(item) {
            Some(why) => fenced.left.push((item.id.clone(), why)),
            None => free.push(item),
        }
    }
    free
}

/// Those that other versions are stored as a difference to.
async fn bases(due: &[&Due], txn: &mut Txn<'_>) -> Result<HashSet<String>, JobError> {
    let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
    let filter = doc! { "content.base": { "$in": ids } };
    let rows = txn.find("delta bases", VERSIONS, filter, doc! { "content.base": 1 }).await?;
    Ok(rows.iter().filter_map(|row| row.get_document("content").ok()?.get("base").map(key)).collect())
}

fn bars(bases: &HashSet<String>, item: &Due) -> Option<Left> {
    bases.contains(&key(&item.id)).then_some(Left::Guarded(Guard::NoDeltaBase))
}

fn objects(row: &Document) -> Vec<Document> {
    let tier = |tier| if tier == Tier::Archive { "archive" } else { "hot" };
    objects_of(row).into_iter().map(|(of, key)| doc! { "tier": tier(of), "key": key }).collect()
}

/// The versions' documents, or of purged ones their tombstones.
struct Parents {
    rows: HashMap<String, Document>,
    gone: HashMap<String, Document>,
}

impl Parents {
    async fn read(due: &[&Due], txn: &mut Txn<'_>) -> Result<Self, JobError> {
        let ids: HashSet<String> = due.iter().map(|item| parent(&item.row)).collect();
        let names: Vec<&Bson> = due.iter().filter_map(|item| item.row.get("documentId")).collect();
        let fields =
            doc! { "userId": 1, "sessionId": 1, "state": 1, "holdCount": 1, "currentVersionId": 1, "_sync.rev": 1 };
        let rows = txn.find("documents", DOCUMENTS, doc! { "_id": { "$in": names } }, fields).await?;
        let rows: HashMap<String, Document> =
            rows.into_iter().filter_map(|row| Some((key(row.get("_id")?), row))).collect();
        let missing: Vec<String> = ids.iter().filter(|id| !rows.contains_key(*id)).cloned().collect();
        let mut gone = HashMap::new();
        if !missing.is_empty() {
            let stones: Vec<String> = missing.iter().map(|id| stone_id(DOCUMENTS, &Bson::from(id.as_str()))).collect();
            let stones = txn.find("purged", TOMBSTONES, doc! { "_id": { "$in": stones } }, doc! {}).await?;
            gone.extend(stones.into_iter().filter_map(|stone| Some((key(stone.get("key")?), stone))));
        }
        Ok(Self { rows, gone })
    }

    /// Why a version's document keeps it.
    fn bar(&self, item: &Due) -> Option<Left> {
        let document = parent(&item.row);
        let Some(row) = self.rows.get(&document) else {
            return (!self.gone.contains_key(&document)).then_some(Left::NoDocument);
        };
        if row.get_str("state").is_ok_and(|state| state == "purging") {
            return Some(Left::Purging);
        }
        if row.get("currentVersionId").is_some_and(|current| *current == item.id) {
            return Some(Left::Guarded(Guard::NotCurrent));
        }
        is_held(row).then_some(Left::Held)
    }

    /// Writes all that the versions belong to, so that this collides with whoever holds, purges or adds to it; answers
    /// what is held.
    async fn write(
        &self,
        run: &Run,
        due: &[&Due],
        txn: &mut Txn<'_>,
    ) -> Result<HashSet<(&'static str, String)>, JobError> {
        let owners: HashSet<(&'static str, String)> = due.iter().flat_map(|item| self.owners(&item.row)).collect();
        // Documents first: they are what others write, too.
        for collection in [DOCUMENTS, "users", "sessions"] {
            let ids: Vec<&String> = owners.iter().filter(|(of, _)| *of == collection).map(|(_, id)| id).collect();
            let with_rev = |id: &&String| {
                collection == DOCUMENTS && self.rows.get(*id).is_some_and(|row| row.contains_key("_sync"))
            };
            let (revised, others): (Vec<&String>, Vec<&String>) = ids.into_iter().partition(with_rev);
            let mut writes = Vec::with_capacity(2);
            for (ids, change) in
                [(revised, doc! { "fences": 1_i64, "_sync.rev": 1_i64 }), (others, doc! { "fences": 1_i64 })]
            {
                if !ids.is_empty() {
                    writes.push(doc! { "q": { "_id": { "$in": ids } }, "u": { "$inc": change }, "multi": true });
                }
            }
            if !writes.is_empty() {
                txn.update("owners", collection, writes).await?;
            }
        }
        guards::held(run, owners, Some(txn)).await
    }

    /// What a version belongs to: its document, and all that this belongs to.
    fn owners(&self, version: &Document) -> Vec<(&'static str, String)> {
        let document = self.rows.get(&parent(version));
        guards::belongs(version).chain(document.into_iter().flat_map(guards::belongs)).collect()
    }

    /// Whose prefixes the version's contents may lie below.
    fn names(&self, item: &Due) -> Vec<String> {
        let document = parent(&item.row);
        let text = |row: &Document, name: &str| row.get_str(name).ok().filter(|id| !id.is_empty()).map(str::to_owned);
        match (self.rows.get(&document), self.gone.get(&document)) {
            (Some(row), _) => ["userId", "sessionId"].iter().filter_map(|name| text(row, name)).collect(),
            (None, Some(stone)) => {
                stone.get_array("owners").into_iter().flatten().filter_map(Bson::as_str).map(str::to_owned).collect()
            }
            (None, None) => Vec::new(),
        }
    }
}

fn parent(version: &Document) -> String {
    version.get("documentId").map(key).unwrap_or_default()
}
