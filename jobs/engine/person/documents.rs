//! A user's documents go by the same purge as all others, under the user's evidence.

use mongodb::bson::{Bson, Document, doc};

use super::{Person, traces};
use crate::{
    engine::{
        Engine,
        anonymize::forget_by,
        guards::{find, key},
        judge::{Due, Left, is_held},
        purge,
        take::{TOMBSTONES, Take, stone_id, take},
    },
    kit::{JobError, Run, from_bson, strict},
    policy::{Action, Cap, Rule},
};

pub const DOCUMENTS: &str = purge::DOCUMENTS;
const PAGE: i64 = 200;
/// The action of what goes again after a restore, in the evidence.
pub const REPLAY: &str = "replay";
/// Looks at documents that others keep writing to.
const TRIES: u32 = 20;

/// Purges the documents that the filter finds; held ones stay, and are the reason that is answered.
pub async fn purge(person: &Person<'_>, filter: Document) -> Result<Option<Left>, JobError> {
    let mut tries = 0;
    loop {
        let page = person.page(DOCUMENTS, &filter, fields(), PAGE).await?;
        if page.is_empty() {
            return Ok(None);
        }
        if page.iter().any(is_held) {
            return Ok(Some(Left::Held));
        }
        note(person, &page).await?;
        let rows = page.len();
        let left = page_of(person.engine, person.run, person.stone, page).await?;
        if let Some((_, why)) = left.iter().find(|(_, why)| matches!(why, Left::Held | Left::Stuck)) {
            return Ok(Some(*why));
        }
        tries = if left.len() < rows { 0 } else { tries + 1 };
        if tries > TRIES {
            return Ok(Some(Left::Busy));
        }
    }
}

/// Purges documents by their ids, in the name of a tombstone's rule; what stays is answered with its reason.
pub async fn purge_again(
    engine: &Engine<'_>,
    run: &Run,
    stone: &Document,
    ids: &[Bson],
) -> Result<Vec<(Bson, Left)>, JobError> {
    let page = find(run, "documents", DOCUMENTS, doc! { "_id": { "$in": ids } }, fields()).await?;
    let (held, free): (Vec<Document>, Vec<Document>) = page.into_iter().partition(is_held);
    let mut left = page_of(engine, run, stone, free).await?;
    left.extend(held.into_iter().filter_map(|mut row| row.remove("_id")).map(|id| (id, Left::Held)));
    Ok(left)
}

fn fields() -> Document {
    let names =
        ["content", "moveLeft", "userId", "sessionId", "state", "holdCount", "tenant", "_sync.rev", "deletedAt"];
    names.map(|name| (name.to_owned(), Bson::Int32(1))).into_iter().collect()
}

/// `stone`: in whose name.
async fn page_of(
    engine: &Engine<'_>,
    run: &Run,
    stone: &Document,
    page: Vec<Document>,
) -> Result<Vec<(Bson, Left)>, JobError> {
    let stones: Vec<Bson> =
        page.iter().filter_map(|row| row.get("_id")).map(|id| stone_id(DOCUMENTS, id).into()).collect();
    let (fenced, free): (Vec<Document>, Vec<Document>) =
        page.into_iter().partition(|row| row.get_str("state").is_ok_and(|state| state == "purging"));
    // A document of which a tombstone says that it is gone came back with a backup: it goes again.
    let again: Vec<Bson> =
        fenced.iter().filter_map(|row| row.get("_id")).map(|id| stone_id(DOCUMENTS, id).into()).collect();
    let tombstones = strict(&run.db).collection::<Document>(TOMBSTONES);
    let reopen = doc! { "$set": { "state": "open" } };
    run.call("reopen", async {
        tombstones.update_many(doc! { "_id": { "$in": again }, "state": "closed" }, reopen).await
    })
    .await?;
    let stale: Vec<Bson> =
        free.iter().filter_map(|row| row.get("_id")).map(|id| stone_id(DOCUMENTS, id).into()).collect();
    let gone = doc! { "_id": { "$in": stale }, "state": "closed" };
    run.call("stale tombstones", async { tombstones.delete_many(gone).await }).await?;
    let at = |name: &str| stone.get_datetime(name).map_or(run.now, |at| from_bson(*at));
    let due = free
        .into_iter()
        .map(|row| {
            let id = row.get("_id").cloned().unwrap_or(Bson::Null);
            Due { id, case: 0, date: at("date"), cutoff: at("cutoff"), row }
        })
        .collect();
    let how = Take {
        set: Some(doc! { "state": "purging" }),
        unset: &[],
        tombstone: Some("open"),
        audit: false,
        also: doc! { "state": { "$ne": "purging" }, "holdCount": { "$in": [null, 0_i64, 0_i32] } },
    };
    let taken = take(engine, run, &rule(stone.get_str("rule").unwrap_or_default()), due, &how).await?;
    let action = stone.get_str("action").unwrap_or_default();
    if action == REPLAY && !taken.rows.is_empty() {
        let named = doc! { "$set": { "action": action } };
        let of = doc! { "_id": { "$in": &stones }, "state": "open" };
        run.call("name action", async { tombstones.update_many(of, named).await }).await?;
    }
    let mut left = taken.left;
    left.extend(purge::finish(engine, run, doc! { "_id": { "$in": stones }, "state": "open" }).await?.left);
    Ok(left)
}

/// The rule in whose name a user's documents go: without a condition but that they are the user's.
fn rule(name: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        job: String::new(),
        enabled: true,
        on: DOCUMENTS.to_owned(),
        cases: Vec::new(),
        guards: Vec::new(),
        action: Action::Purge,
        cap: Cap { share: 1.0, floor: 0, rows: u64::MAX },
        tenants: Default::default(),
    }
}

/// Writes down what goes with these documents, for the certificate, and drops their cached analyses.
async fn note(person: &Person<'_>, page: &[Document]) -> Result<(), JobError> {
    let ids: Vec<&Bson> = page.iter().filter_map(|row| row.get("_id")).collect();
    let of_them = doc! { "documentId": { "$in": &ids } };
    let fields = doc! { "documentId": 1, "content": 1, "moveLeft": 1 };
    let versions = find(person.run, "versions", "document_versions", of_them.clone(), fields).await?;
    let mut noted = Vec::with_capacity(page.len());
    for row in page {
        let Some(id) = row.get("_id") else { continue };
        let own = versions.iter().filter(|version| version.get("documentId") == Some(id));
        let objects = purge::objects_of(row).len() + own.clone().map(|v| purge::objects_of(v).len()).sum::<usize>();
        noted.push(doc! { "id": id.clone(), "versions": own.count() as i64, "objects": objects as i64 });
    }
    let stones = strict(&person.run.db).collection::<Document>(TOMBSTONES);
    let add = doc! { "$addToSet": { "documents": { "$each": noted } } };
    let add = async { stones.update_one(doc! { "_id": person.stone.get("_id") }, add).await };
    person.run.call("note documents", add).await?;
    let mut fields = doc! { "_sync": 1 };
    fields.extend(person.engine.world.caches.cached_by("analyses").into_iter().map(|field| (field, Bson::Int32(1))));
    let analyses = find(person.run, "analyses", "analyses", of_them, fields).await?;
    forget_by(person.engine, person.run, "analyses", analyses.iter()).await
}

/// Documents, versions and objects that went with the user.
pub fn counts(stone: &Document) -> (i64, i64, i64) {
    let mut most: std::collections::BTreeMap<String, (i64, i64)> = Default::default();
    // Written down again by a run that was cut off, a document may have less left: the first look counts.
    for noted in stone.get_array("documents").into_iter().flatten().filter_map(Bson::as_document) {
        let of = |name: &str| noted.get_i64(name).unwrap_or(0);
        let entry = most.entry(key(noted.get("id").unwrap_or(&Bson::Null))).or_default();
        *entry = (entry.0.max(of("versions")), entry.1.max(of("objects")));
    }
    let sum = |of: fn(&(i64, i64)) -> i64| most.values().map(of).sum();
    (most.len() as i64, sum(|counts| counts.0), sum(|counts| counts.1))
}

/// Brings to their end purges of documents whose rows are gone already; nothing else leads to them.
pub async fn go_on(person: &Person<'_>) -> Result<Option<Left>, JobError> {
    for page in noted(person).await?.chunks(PAGE as usize) {
        let stones: Vec<String> = page.iter().map(|id| stone_id(DOCUMENTS, id)).collect();
        let open = doc! { "_id": { "$in": stones }, "state": "open" };
        if let Some((_, why)) = purge::finish(person.engine, person.run, open).await?.left.pop() {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

/// Lifted holds on the documents that went.
pub async fn forget_holds(person: &Person<'_>) -> Result<(), JobError> {
    for page in noted(person).await?.chunks(PAGE as usize) {
        traces::holds(person, "document", page).await?;
    }
    Ok(())
}

/// Documents that were written down before they went.
async fn noted(person: &Person<'_>) -> Result<Vec<Bson>, JobError> {
    let id = person.stone.get("_id").cloned().unwrap_or(Bson::Null);
    let stones = find(person.run, "user tombstone", TOMBSTONES, doc! { "_id": id }, doc! { "documents": 1 }).await?;
    let noted = stones.iter().flat_map(|stone| stone.get_array("documents").into_iter().flatten());
    let mut ids: Vec<Bson> = noted.filter_map(|noted| noted.as_document()?.get("id").cloned()).collect();
    ids.dedup();
    Ok(ids)
}
