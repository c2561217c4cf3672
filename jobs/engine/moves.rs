//! Moving a document's contents, its own and its versions', from one tier of the object store to the other: copies that
//! are read back and compared, one transaction that points the rows at them, and then the old ones go.
//!
//! Cut off before the transaction, the rows name the old objects, which are all there; the copies are found by the orphan
//! sweep. Cut off after it, the row's `moveLeft` says what is left to remove. While a document has a `moveLeft` no other
//! move of it begins: both tiers have the same keys, and what one move removes another one may just have put there.

use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use mongodb::bson::{Bson, Document, doc};

use super::{
    guards::{self, find},
    judge::Left,
    purge::{DOCUMENTS, objects_of},
    take::{AUDIT, Txn, is_conflict},
};
use crate::kit::{JobError, Objects, OutsideError, Run, Tier, World, chain::Entry};

pub const VERSIONS: &str = "document_versions";
/// The document's list of contents that have moved and are to be removed where they were.
pub const LEFT: &str = "moveLeft";
/// When the list was written, or taken over, by MongoDB's clock.
pub const MOVED: &str = "movedAt";
/// BLAKE3 of the stored bytes, hexadecimal: of contents in the archive, so that a damaged one is never brought back.
const STORED_HASH: &str = "storedHash";
/// Contents of one document that are copied at once.
const AT_ONCE: usize = 4;
/// No content is larger, compressed and sealed.
const LARGEST: u64 = 20 << 20;
/// A transaction that meets others is tried this often.
const TRIES: u32 = 4;
/// Who wrote a `moveLeft` removes the objects within this time, or leaves it to others.
const OWN: Duration = Duration::from_secs(60);
/// Others go on with it when it is so old: longer than [`OWN`] and the longest call together.
const ABANDONED_MS: i64 = 5 * 60 * 1_000;
/// Documents of which moves are gone on with at once.
const PAGE: i64 = 200;

/// A document, its versions, and where they are.
pub struct Moving {
    pub id: Bson,
    pub row: Document,
    pub versions: Vec<Document>,
}

/// A content on its way.
struct Copied {
    key: String,
    hash: String,
}

/// What a move does to the rows besides.
pub struct Change {
    pub to: Tier,
    /// What the document has to meet, besides being as it was seen.
    pub filter: Document,
    /// Fields of the document that are set and removed.
    pub set: Document,
    pub unset: Vec<&'static str>,
    /// The greatest of these and what is there.
    pub max: Document,
    /// Leave it when it or its owner is held.
    pub obeys_holds: bool,
    pub entry: Entry,
}

/// What became of one document.
#[derive(Debug)]
pub enum Moved {
    /// So many contents are in their new place.
    Done(u64),
    Left(Left),
    /// A content is damaged or not there; nothing was changed.
    Damaged(String),
}

impl Moving {
    pub fn new(id: Bson, row: Document) -> Self {
        Self { id, row, versions: Vec::new() }
    }

    pub fn key(&self) -> String {
        guards::key(&self.id)
    }

    pub fn rev(&self) -> Bson {
        rev(&self.row)
    }

    /// Reads what is known of the versions.
    pub async fn with_versions(mut self, run: &Run) -> Result<Self, JobError> {
        let fields = doc! { "content": 1, "_sync.rev": 1 };
        let of = doc! { "documentId": self.id.clone() };
        self.versions = find(run, "versions", VERSIONS, of, fields).await?;
        Ok(self)
    }

    /// What rows say of the contents that lie in `tier`.
    pub fn contents(&self, tier: Tier) -> impl Iterator<Item = &Document> {
        let rows = std::iter::once(&self.row).chain(&self.versions);
        rows.filter_map(|row| row.get_document("content").ok()).filter(move |content| tier_of(content) == tier)
    }
}

fn rev(row: &Document) -> Bson {
    row.get_document("_sync").ok().and_then(|sync| sync.get("rev")).cloned().unwrap_or(Bson::Null)
}

fn tier_of(content: &Document) -> Tier {
    if content.get_str("tier").is_ok_and(|tier| tier == Tier::Archive.name()) { Tier::Archive } else { Tier::Hot }
}

/// Moves the document's contents to `change.to`.
pub async fn move_contents(world: &World, run: &Run, moving: Moving, change: &Change) -> Result<Moved, JobError> {
    if moving.row.contains_key(LEFT) {
        return Ok(Moved::Left(Left::Busy));
    }
    let moving = moving.with_versions(run).await?;
    let copied = match copy(world, run, &moving, change.to).await {
        Ok(copied) => copied,
        Err(JobError::Outside(OutsideError { message, passes: false })) => return Ok(Moved::Damaged(message)),
        Err(e) => return Err(e),
    };
    forget(world, run, &moving, change.to).await?;
    if let Some(left) = take(world, run, &moving, &copied, change).await? {
        if left == Left::Changed {
            withdraw(world, run, &moving, &copied, change.to).await?;
        }
        return Ok(Moved::Left(left));
    }
    if !copied.is_empty() {
        clear(world, run, &moving.id, Instant::now()).await?;
    }
    Ok(Moved::Done(copied.len() as u64))
}

async fn copy(world: &World, run: &Run, moving: &Moving, to: Tier) -> Result<Vec<Copied>, JobError> {
    let objects = &*world.objects;
    let copies: Vec<BoxFuture<'_, Result<Copied, JobError>>> =
        moving.contents(to.other()).map(|content| copy_one(objects, run, content, to).boxed()).collect();
    stream::iter(copies).buffer_unordered(AT_ONCE).try_collect().await
}

/// Copies an object and looks that the copy is what was read.
async fn copy_one(objects: &dyn Objects, run: &Run, content: &Document, to: Tier) -> Result<Copied, JobError> {
    let damaged = |message: String| JobError::Outside(OutsideError { message, passes: false });
    let key = content.get_str("key").map_err(|_| damaged("a row says of its content no key".into()))?.to_owned();
    let stored = content.get("stored").and_then(|n| n.as_i64().or(n.as_i32().map(i64::from)));
    let stored = stored.and_then(|n| u64::try_from(n).ok());
    let from = to.other();
    let bytes = run.call("get object", objects.get(from, &key, stored.unwrap_or(LARGEST))).await?;
    let hash = blake3::hash(&bytes).to_hex().to_string();
    let is_raw =
        content.get_str("codec").is_ok_and(|codec| codec == "raw") && !content.get_bool("sealed").unwrap_or(true);
    let wanted = match content.get_str(STORED_HASH) {
        Ok(known) => Some(known),
        Err(_) if is_raw => content.get_str("hash").ok(),
        Err(_) => None,
    };
    let short = stored.is_some_and(|stored| stored != bytes.len() as u64);
    if short || wanted.is_some_and(|wanted| wanted != hash) {
        return Err(damaged(format!(
            "the object {key} of the {} tier is damaged: {} bytes, hash {hash}; restore it from a backup of the object store",
            from.name(),
            bytes.len()
        )));
    }
    run.call("put object", objects.put(to, &key, bytes.clone())).await?;
    let back = run.call("get copy", objects.get(to, &key, bytes.len() as u64)).await?;
    if back != bytes {
        return Err(damaged(format!("the {} tier gave back something else than was stored as {key}", to.name())));
    }
    Ok(Copied { key, hash })
}

/// Keeps cached values of the rows as they are now from being read.
async fn forget(world: &World, run: &Run, moving: &Moving, to: Tier) -> Result<(), JobError> {
    let next = |row: &Document| rev(row).as_i64().unwrap_or(0) + 1;
    let mut records = vec![(DOCUMENTS.to_owned(), moving.key(), next(&moving.row))];
    let moves = |row: &&Document| row.get_document("content").is_ok_and(|content| tier_of(content) != to);
    records.extend(
        moving
            .versions
            .iter()
            .filter(moves)
            .filter_map(|row| Some((VERSIONS.to_owned(), guards::key(row.get("_id")?), next(row)))),
    );
    run.call("forget", world.caches.forget(&records)).await
}

/// Points the rows at the copies, if all of them are as they were seen.
async fn take(
    world: &World,
    run: &Run,
    moving: &Moving,
    copied: &[Copied],
    change: &Change,
) -> Result<Option<Left>, JobError> {
    for tries in 1..=TRIES {
        let mut txn = Txn::begin(run).await?;
        match within(world, run, moving, copied, change, &mut txn).await {
            Ok(None) => match txn.commit().await {
                Err(e) if is_conflict(&e) => {}
                ended => return ended.map(|()| None),
            },
            Ok(left) => {
                txn.abort().await;
                return Ok(left);
            }
            Err(e) => {
                txn.abort().await;
                if !is_conflict(&e) {
                    return Err(e);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(u64::from(tries) * 5)).await;
    }
    Ok(Some(Left::Busy))
}

async fn within(
    world: &World,
    run: &Run,
    moving: &Moving,
    copied: &[Copied],
    change: &Change,
    txn: &mut Txn<'_>,
) -> Result<Option<Left>, JobError> {
    let (from, to) = (change.to.other(), change.to);
    if change.obeys_holds {
        let owners = guards::owners(std::iter::once(&moving.row));
        if !guards::held(run, owners, Some(&mut *txn)).await?.is_empty() {
            return Ok(Some(Left::Held));
        }
    }
    let seen = |row: &Document| (row.get("_id").map(guards::key), rev(row));
    let of = doc! { "documentId": moving.id.clone() };
    let versions = txn.find("versions now", VERSIONS, of, doc! { "_sync.rev": 1 }).await?;
    let same = versions.len() == moving.versions.len()
        && versions.iter().all(|now| moving.versions.iter().any(|then| seen(then) == seen(now)));
    if !same {
        return Ok(Some(Left::Changed));
    }
    let mut filter = doc! { "_id": moving.id.clone() };
    filter.extend(change.filter.clone());
    filter.insert("_sync.rev", moving.rev());
    filter.insert(LEFT, doc! { "$exists": false });
    let mut update = placed(&moving.row, copied, to);
    let left: Vec<Bson> = moving.contents(from).map(|content| Bson::from(content.clone())).collect();
    let mut set = change.set.clone();
    if !left.is_empty() {
        set.insert(LEFT, left);
        update.insert("$currentDate", doc! { MOVED: true });
    }
    merge(&mut update, "$set", set);
    merge(&mut update, "$unset", change.unset.iter().map(|name| ((*name).to_owned(), Bson::from(""))).collect());
    merge(&mut update, "$max", change.max.clone());
    if txn.update("move document", DOCUMENTS, vec![doc! { "q": filter, "u": update }]).await? == 0 {
        return Ok(Some(Left::Changed));
    }
    let moves = moving.versions.iter().filter(|row| row.get_document("content").is_ok_and(|c| tier_of(c) == from));
    let updates: Vec<Document> = moves
        .map(|row| {
            let id = row.get("_id").cloned().unwrap_or(Bson::Null);
            doc! { "q": { "_id": id, "_sync.rev": rev(row) }, "u": placed(row, copied, to) }
        })
        .collect();
    let wanted = updates.len() as u64;
    if wanted > 0 && txn.update("move versions", VERSIONS, updates).await? != wanted {
        return Ok(Some(Left::Changed));
    }
    txn.insert("audit", AUDIT, vec![change.entry.document(world.audit_key.as_ref())]).await?;
    Ok(None)
}

fn merge(update: &mut Document, operator: &str, fields: Document) {
    if fields.is_empty() {
        return;
    }
    match update.get_document_mut(operator) {
        Ok(there) => there.extend(fields),
        Err(_) => drop(update.insert(operator, fields)),
    }
}

/// The update of a row whose content, if it has one that moves, is at its new place.
fn placed(row: &Document, copied: &[Copied], to: Tier) -> Document {
    let mut update = doc! { "$inc": { "_sync.rev": 1_i64 } };
    let content = row.get_document("content").ok().filter(|content| tier_of(content) != to);
    let key = content.and_then(|content| content.get_str("key").ok());
    if let Some(copy) = key.and_then(|key| copied.iter().find(|copy| copy.key == key)) {
        match to {
            Tier::Archive => merge(
                &mut update,
                "$set",
                doc! { "content.tier": to.name(), format!("content.{STORED_HASH}"): &copy.hash },
            ),
            Tier::Hot => {
                merge(&mut update, "$unset", doc! { "content.tier": "", format!("content.{STORED_HASH}"): "" });
            }
        }
    }
    update
}

/// Removes the copies of a document that was purged meanwhile: its purge may have looked before they came.
async fn withdraw(world: &World, run: &Run, moving: &Moving, copied: &[Copied], to: Tier) -> Result<(), JobError> {
    let there = doc! { "_id": moving.id.clone(), "state": { "$ne": "purging" } };
    if !find(run, "document", DOCUMENTS, there, doc! { "_id": 1 }).await?.is_empty() {
        return Ok(());
    }
    for copy in copied {
        run.call("withdraw copy", world.objects.delete(to, &copy.key)).await?;
    }
    Ok(())
}

/// Removes what a move left behind, and forgets about it. `since`: when the right to do so began.
async fn clear(world: &World, run: &Run, id: &Bson, since: Instant) -> Result<(), JobError> {
    for _ in 0..TRIES {
        let fields = doc! { "content": 1, LEFT: 1, "_sync.rev": 1 };
        let Some(row) =
            find(run, "left", DOCUMENTS, doc! { "_id": id.clone(), LEFT: { "$exists": true } }, fields).await?.pop()
        else {
            return Ok(());
        };
        let moving = Moving::new(id.clone(), row).with_versions(run).await?;
        let mut bare = moving.row.clone();
        let left = bare.remove(LEFT).unwrap_or(Bson::Null);
        let named: Vec<(Tier, String)> = std::iter::once(&bare).chain(&moving.versions).flat_map(objects_of).collect();
        for (tier, key) in objects_of(&doc! { LEFT: left }) {
            if named.contains(&(tier, key.clone())) {
                continue;
            }
            if since.elapsed() > OWN {
                return Ok(());
            }
            run.call("delete moved", world.objects.delete(tier, &key)).await?;
        }
        // The revision is raised: whoever holds the row with its list does not write the list back.
        let filter = doc! { "_id": id.clone(), "_sync.rev": moving.rev(), LEFT: { "$exists": true } };
        let update = doc! { "$unset": { LEFT: "", MOVED: "" }, "$inc": { "_sync.rev": 1_i64 } };
        let rows = run.db.collection::<Document>(DOCUMENTS);
        if run.call("clear moved", async { rows.update_one(filter, update).await }).await?.matched_count == 1 {
            return Ok(());
        }
    }
    Ok(())
}

/// Goes on with moves whose process has not come to their end. Answers how many.
pub async fn finish(world: &World, run: &Run) -> Result<u64, JobError> {
    let (mut done, mut after) = (0, Bson::MinKey);
    loop {
        let old = doc! { "$lt": [format!("${MOVED}"), { "$subtract": ["$$NOW", ABANDONED_MS] }] };
        let filter = doc! {
            MOVED: { "$exists": true }, "$expr": old, "_id": { "$gt": after.clone() }, "state": { "$ne": "purging" },
        };
        let rows = run.db.collection::<Document>(DOCUMENTS);
        let page = async {
            let find = rows.find(filter).sort(doc! { "_id": 1 }).limit(PAGE);
            find.projection(doc! { MOVED: 1, "_sync.rev": 1 }).await?.try_collect::<Vec<_>>().await
        };
        let page: Vec<Document> = run.call("moves", page).await?;
        let Some(last) = page.last().and_then(|row| row.get("_id")) else { return Ok(done) };
        after = last.clone();
        for row in page {
            let id = row.get("_id").cloned().unwrap_or(Bson::Null);
            // Whoever sets the date anew is the one that goes on.
            let filter = doc! { "_id": id.clone(), MOVED: row.get(MOVED).cloned(), "_sync.rev": rev(&row) };
            let update = doc! { "$currentDate": { MOVED: true }, "$inc": { "_sync.rev": 1_i64 } };
            let since = Instant::now();
            if run.call("take move", async { rows.update_one(filter, update).await }).await?.matched_count == 1 {
                clear(world, run, &id, since).await?;
                done += 1;
            }
        }
    }
}
