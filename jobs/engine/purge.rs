//! Documents are purged with all that belongs to them, in three stores, so that a kill anywhere is made good by the next
//! run: fence, caches, objects, children, row, evidence.
//!
//! Nothing is touched before the fence is acknowledged by a majority; from then on the tombstone says what is left to do.

use std::collections::{BTreeMap, HashSet};

use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture, stream};
use mongodb::bson::{Bson, Document, doc};

use super::{
    Acted, Engine,
    guards::{self, find},
    judge::{Due, Left},
    take::{AUDIT, TOMBSTONES, Take, stone_id, take},
};
use crate::{
    kit::{JobError, OutsideError, Run, Tier, chain::Entry, strict},
    policy::Rule,
};

pub const DOCUMENTS: &str = "documents";
const VERSIONS: &str = "document_versions";
const TYPING: &str = "typing_contexts";
/// Rows of one command that deletes by id.
const CHUNK: usize = 1_000;
/// Objects that are listed or deleted at once.
const AT_ONCE: usize = 16;
/// Documents whose objects are removed at once.
const TOGETHER: usize = 8;
/// Documents whose purge is brought to its end together.
const PAGE: usize = 200;

/// Rows that go with a document, by the field that names it.
const CHILDREN: [(&str, &str); 4] =
    [(TYPING, "documentId"), ("analyses", "documentId"), ("context_links", "from"), ("context_links", "to")];
/// Rows that stay and forget it.
const REFERENCES: [(&str, &str); 2] = [("interactions", "documentId"), ("ai_interactions", "documentId")];

pub async fn act(engine: &Engine<'_>, run: &Run, rule: &Rule, due: Vec<Due>) -> Result<Acted, JobError> {
    let how = Take {
        set: Some(doc! { "state": "purging" }),
        unset: &[],
        tombstone: Some("open"),
        audit: false,
        also: Document::new(),
    };
    let taken = take(engine, run, rule, due, &how).await?;
    let ids: Vec<Bson> = taken.rows.iter().map(|item| stone_id(DOCUMENTS, &item.id).into()).collect();
    let mut acted = Acted { done: 0, left: taken.left };
    for page in ids.chunks(PAGE) {
        let done = finish(engine, run, doc! { "_id": { "$in": page }, "state": "open" }).await?;
        acted.done += done.done;
        acted.left.extend(done.left);
    }
    Ok(acted)
}

/// Goes on with documents of the rule whose fence was written by a run that did not come to its end.
pub async fn resume(engine: &Engine<'_>, run: &mut Run, rule: &Rule) -> Result<(), JobError> {
    let mut after = Bson::MinKey;
    loop {
        let filter = doc! { "state": "open", "rule": &rule.name, "_id": { "$gt": after.clone() } };
        let stones = run.db.collection::<Document>(TOMBSTONES);
        let ids = async {
            let find = stones.find(filter).sort(doc! { "_id": 1 }).limit(PAGE as i64).projection(doc! { "_id": 1 });
            find.await?.try_collect::<Vec<Document>>().await
        };
        let ids: Vec<Bson> =
            run.call("open tombstones", ids).await?.into_iter().filter_map(|mut s| s.remove("_id")).collect();
        let Some(last) = ids.last() else { return Ok(()) };
        after = last.clone();
        let acted = finish(engine, run, doc! { "_id": { "$in": &ids }, "state": "open" }).await?;
        run.outcome.count(rule.action.name(), acted.done);
        run.outcome.rule(&rule.name).done += acted.done;
        engine.leave(run, rule, acted.left);
    }
}

/// One document on its way out.
struct Going {
    key: String,
    id: Bson,
    stone: Document,
    /// Objects that its rows name: tier and key.
    objects: HashSet<(Tier, String)>,
    /// The prefixes below which more may lie.
    prefixes: Vec<String>,
    versions: Vec<Bson>,
    /// Objects of it cannot be removed now.
    stuck: bool,
}

/// Everything behind the fence, for the documents of these tombstones. Safe to repeat from anywhere.
pub async fn finish(engine: &Engine<'_>, run: &Run, stones: Document) -> Result<Acted, JobError> {
    let mut going = look(engine, run, stones).await?;
    if going.is_empty() {
        return Ok(Acted::default());
    }
    let documents: Vec<String> = going.iter().map(|g| g.key.clone()).collect();
    forget(engine, run, &documents).await?;
    let removals: Vec<BoxFuture<'_, Result<(), JobError>>> =
        going.iter_mut().map(|going| remove_objects(engine, run, going).boxed()).collect();
    stream::iter(removals).buffer_unordered(TOGETHER).try_collect::<Vec<()>>().await?;
    let (stuck, gone): (Vec<Going>, Vec<Going>) = going.into_iter().partition(|g| g.stuck);
    let left = stuck.into_iter().map(|g| (g.id, Left::Stuck)).collect();
    if gone.is_empty() {
        return Ok(Acted { done: 0, left });
    }
    remove_rows(run, &gone).await?;
    record(engine, run, &gone).await?;
    Ok(Acted { done: gone.len() as u64, left })
}

/// Removes what came of these documents after their purge: rows that belong to them, and objects. Answers how many; with
/// `dry_run` it only counts.
pub async fn echo(engine: &Engine<'_>, run: &Run, stones: Document, dry_run: bool) -> Result<u64, JobError> {
    let mut gone = look(engine, run, stones).await?;
    if gone.is_empty() {
        return Ok(0);
    }
    let mut found = gone.iter().map(|g| g.versions.len() as u64).sum::<u64>();
    let documents: Vec<&Bson> = gone.iter().map(|g| &g.id).collect();
    for (collection, field) in CHILDREN {
        let of = doc! { field: { "$in": &documents } };
        found += find(run, "echoes", collection, of, doc! { "_id": 1 }).await?.len() as u64;
    }
    let mut objects = 0;
    for going in &mut gone {
        objects += list(engine, run, going).await?.len() as u64;
        if !dry_run {
            remove_objects(engine, run, going).await?;
        }
    }
    if found > 0 && !dry_run {
        let documents: Vec<String> = gone.iter().map(|g| g.key.clone()).collect();
        forget(engine, run, &documents).await?;
        remove_rows(run, &gone).await?;
    }
    Ok(found + objects)
}

/// What is there of the documents: their rows' objects, versions, owners.
async fn look(engine: &Engine<'_>, run: &Run, stones: Document) -> Result<Vec<Going>, JobError> {
    let stones = find(run, "tombstones", TOMBSTONES, stones, doc! {}).await?;
    let ids: Vec<Bson> = stones.iter().filter_map(|stone| stone.get("key").cloned()).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = find(
        run,
        "documents",
        DOCUMENTS,
        doc! { "_id": { "$in": &ids } },
        doc! { "content": 1, "moveLeft": 1, "userId": 1, "sessionId": 1 },
    )
    .await?;
    let fields = doc! { "documentId": 1, "content": 1, "moveLeft": 1 };
    let versions = find(run, "versions", VERSIONS, doc! { "documentId": { "$in": &ids } }, fields).await?;
    let mut going: BTreeMap<String, Going> = BTreeMap::new();
    for stone in stones {
        let id = stone.get("key").cloned().unwrap_or(Bson::Null);
        let key = guards::key(&id);
        let owners = stone.get_array("owners").into_iter().flatten().filter_map(Bson::as_str);
        let mut prefixes: Vec<String> = owners.flat_map(|owner| engine.world.objects.prefixes(owner, &key)).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let objects = HashSet::new();
        going.insert(key.clone(), Going { key, id, stone, objects, prefixes, versions: Vec::new(), stuck: false });
    }
    for row in &rows {
        if let Some(going) = row.get("_id").and_then(|id| going.get_mut(&guards::key(id))) {
            going.objects.extend(objects_of(row));
        }
    }
    for version in versions {
        let Some(going) = version.get("documentId").and_then(|id| going.get_mut(&guards::key(id))) else { continue };
        going.objects.extend(objects_of(&version));
        going.versions.extend(version.get("_id").cloned());
    }
    Ok(going.into_values().collect())
}

/// The objects that a row names: its content, and copies that a move left behind.
pub fn objects_of(row: &Document) -> Vec<(Tier, String)> {
    let of = |content: &Document| {
        let key = content.get_str("key").ok()?.to_owned();
        let tier = if content.get_str("tier").is_ok_and(|tier| tier == "archive") { Tier::Archive } else { Tier::Hot };
        Some((tier, key))
    };
    let content = row.get_document("content").ok().and_then(of);
    let left = row.get_array("moveLeft").into_iter().flatten().filter_map(|left| of(left.as_document()?));
    content.into_iter().chain(left).collect()
}

/// Drops every key in Redis about the documents.
async fn forget(engine: &Engine<'_>, run: &Run, documents: &[String]) -> Result<(), JobError> {
    let typing = find(
        run,
        "typing contexts",
        TYPING,
        doc! { "documentId": { "$in": documents } },
        doc! { "documentId": 1, "sessionId": 1 },
    )
    .await?;
    let text = |row: &Document, name: &str| row.get_str(name).unwrap_or_default().to_owned();
    let pairs: Vec<(String, String)> =
        typing.iter().map(|row| (text(row, "documentId"), text(row, "sessionId"))).collect();
    // Results of analyses are cached by what was analysed.
    let caches = &engine.world.caches;
    let by = caches.cached_by("analyses");
    if !by.is_empty() {
        let fields: Document = by.iter().map(|name| (name.clone(), Bson::Int32(1))).collect();
        let filter = doc! { "documentId": { "$in": documents } };
        let rows = find(run, "analyses", "analyses", filter, fields).await?;
        run.call("forget by", caches.forget_by("analyses", &rows)).await?;
    }
    // The row is not written again: no value may come back, of whatever revision.
    let records: Vec<_> = documents.iter().map(|id| (DOCUMENTS.to_owned(), id.clone(), i64::MAX)).collect();
    run.call("forget", engine.world.caches.forget(&records)).await?;
    if !pairs.is_empty() {
        run.call("forget typing", engine.world.caches.forget_typing(&pairs)).await?;
    }
    Ok(())
}

/// Deletes the objects that rows name and all that lies below the document's prefixes, and looks that they are gone.
/// What cannot be removed for good keeps the document fenced, and nobody else waits for it.
async fn remove_objects(engine: &Engine<'_>, run: &Run, going: &mut Going) -> Result<(), JobError> {
    let objects = &engine.world.objects;
    let mut found = list(engine, run, going).await?;
    let nothing = found.is_empty();
    found.extend(going.objects.iter().cloned());
    let deletions: Vec<BoxFuture<'_, Result<(), JobError>>> =
        found.iter().map(|(tier, key)| run.call("delete object", objects.delete(*tier, key)).boxed()).collect();
    let deleted = stream::iter(deletions).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    for result in deleted {
        match result {
            Ok(()) => {}
            Err(JobError::Outside(OutsideError { message, passes: false })) => {
                tracing::error!(
                    document = going.key,
                    message,
                    "an object cannot be deleted; its document stays fenced"
                );
                going.stuck = true;
            }
            Err(e) => return Err(e),
        }
    }
    if !nothing && !going.stuck {
        let left = list(engine, run, going).await?;
        if !left.is_empty() {
            let text = format!("{} objects of {} are still listed after they were deleted", left.len(), going.key);
            return Err(JobError::Outside(OutsideError { message: text, passes: true }));
        }
    }
    Ok(())
}

async fn list(engine: &Engine<'_>, run: &Run, going: &Going) -> Result<HashSet<(Tier, String)>, JobError> {
    let objects = &engine.world.objects;
    let places = going.prefixes.iter().flat_map(|prefix| [Tier::Hot, Tier::Archive].map(|tier| (tier, prefix)));
    let listings: Vec<BoxFuture<'_, Result<_, JobError>>> = places
        .map(|(tier, prefix)| {
            let listed = run.call("list objects", objects.list(tier, prefix));
            listed.map_ok(move |objects| (tier, objects)).boxed()
        })
        .collect();
    let lists: Vec<_> = stream::iter(listings).buffer_unordered(AT_ONCE).try_collect().await?;
    let keys = lists.into_iter().flat_map(|(tier, objects)| objects.into_iter().map(move |object| (tier, object.key)));
    Ok(keys.collect())
}

/// Children first, then the rows, each only if it is fenced.
async fn remove_rows(run: &Run, gone: &[Going]) -> Result<(), JobError> {
    let documents: Vec<&Bson> = gone.iter().map(|g| &g.id).collect();
    for (collection, field) in CHILDREN {
        let rows = find(run, "children", collection, doc! { field: { "$in": &documents } }, doc! { "_id": 1 }).await?;
        let ids: Vec<Bson> = rows.into_iter().filter_map(|mut row| row.remove("_id")).collect();
        delete(run, collection, &ids).await?;
    }
    for (collection, field) in REFERENCES {
        let rows = run.db.collection::<Document>(collection);
        let update = doc! { "$unset": { field: "" }, "$inc": { "_sync.rev": 1_i64 } };
        let filter = doc! { field: { "$in": &documents } };
        run.call("references", async { rows.update_many(filter, update).await }).await?;
    }
    let versions: Vec<Bson> = gone.iter().flat_map(|g| g.versions.iter().cloned()).collect();
    delete(run, VERSIONS, &versions).await?;
    let rows = run.db.collection::<Document>(DOCUMENTS);
    let filter = doc! { "_id": { "$in": &documents }, "state": "purging" };
    run.call("delete documents", async { rows.delete_many(filter).await }).await?;
    Ok(())
}

/// Deletes rows by their ids, page by page.
pub async fn delete(run: &Run, collection: &str, ids: &[Bson]) -> Result<(), JobError> {
    let rows = run.db.collection::<Document>(collection);
    for page in ids.chunks(CHUNK) {
        run.call("delete rows", async { rows.delete_many(doc! { "_id": { "$in": page } }).await }).await?;
    }
    Ok(())
}

/// The evidence, and then the tombstones are closed: cut off before, the same entries are written once more, and are one.
async fn record(engine: &Engine<'_>, run: &Run, gone: &[Going]) -> Result<(), JobError> {
    let key = engine.world.audit_key.as_ref();
    let entries: Vec<Document> = gone.iter().map(|going| entry(going, run).document(key)).collect();
    insert_once(run, AUDIT, entries).await?;
    let ids: Vec<Bson> = gone.iter().map(|g| Bson::from(stone_id(DOCUMENTS, &g.id))).collect();
    let stones = strict(&run.db).collection::<Document>(TOMBSTONES);
    let close = doc! { "$set": { "state": "closed", "closedAt": super::take::now(run) } };
    run.call("close tombstones", async { stones.update_many(doc! { "_id": { "$in": ids } }, close).await }).await?;
    Ok(())
}

fn entry(going: &Going, run: &Run) -> Entry {
    let stone = &going.stone;
    let of = |name: &str| stone.get(name).cloned().unwrap_or(Bson::Null);
    let text = |name: &str| stone.get_str(name).unwrap_or_default();
    let date = stone.get_datetime("date").map_or(0, |at| at.timestamp_millis());
    Entry {
        id: format!("{}/{DOCUMENTS}/{}/{date}", text("rule"), going.key),
        at: stone.get_datetime("fencedAt").map_or(run.now, |at| crate::kit::from_bson(*at)),
        action: format!("lifecycle.{}", text("action")),
        entity: (DOCUMENTS.to_owned(), going.key.clone()),
        actor: Some("contextd".into()),
        detail: doc! {
            "rule": of("rule"), "job": of("job"), "policy": of("policy"), "cutoff": of("cutoff"), "date": of("date"),
        },
    }
}

/// Inserts documents; those that are there already stay as they are.
pub async fn insert_once(run: &Run, collection: &str, documents: Vec<Document>) -> Result<(), JobError> {
    let rows = run.db.collection::<Document>(collection);
    match run.call("insert", async { rows.insert_many(documents).ordered(false).await }).await {
        Err(JobError::Mongo(e)) if only_duplicates(&e) => Ok(()),
        other => other.map(|_| ()),
    }
}

fn only_duplicates(error: &mongodb::error::Error) -> bool {
    match &*error.kind {
        mongodb::error::ErrorKind::InsertMany(many) => {
            many.write_concern_error.is_none() && many.write_errors.iter().flatten().all(|e| e.code == 11000)
        }
        _ => false,
    }
}
