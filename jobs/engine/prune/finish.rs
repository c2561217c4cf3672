//! Behind the fence: caches, objects, rows, evidence. Safe to repeat from anywhere.

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use mongodb::bson::{Bson, Document, doc};

use super::VERSIONS;
use crate::{
    engine::{
        Acted, Engine,
        guards::key,
        judge::Left,
        purge::insert_once,
        take::{AUDIT, TOMBSTONES, now},
    },
    kit::{JobError, OutsideError, Run, Tier, chain::Entry, from_bson},
};

/// Objects that are deleted at once.
const AT_ONCE: usize = 16;

/// Brings the versions of these open tombstones to their end.
pub async fn finish(engine: &Engine<'_>, run: &Run, stones: &[Document]) -> Result<Acted, JobError> {
    if stones.is_empty() {
        return Ok(Acted::default());
    }
    // The row is not written again: no value may come back, of whatever revision.
    let gone: Vec<_> = stones.iter().map(|stone| (VERSIONS.to_owned(), id(stone), i64::MAX)).collect();
    run.call("forget", engine.world.caches.forget(&gone)).await?;
    let mut deletions: Vec<BoxFuture<'_, (usize, Result<(), JobError>)>> = Vec::new();
    for (at, stone) in stones.iter().enumerate() {
        for (tier, key) in objects(stone) {
            let deletion = run.call("delete object", engine.world.objects.delete(tier, key));
            deletions.push(deletion.map(move |done| (at, done)).boxed());
        }
    }
    let mut stuck = vec![false; stones.len()];
    for (at, done) in stream::iter(deletions).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        match done {
            Ok(()) => {}
            Err(JobError::Outside(OutsideError { message, passes: false })) => {
                tracing::error!(
                    version = id(&stones[at]),
                    message,
                    "an object cannot be deleted; its version stays fenced"
                );
                stuck[at] = true;
            }
            Err(e) => return Err(e),
        }
    }
    let (stuck, gone): (Vec<_>, Vec<_>) = stones.iter().zip(stuck).partition(|(_, stuck)| *stuck);
    let gone: Vec<&Document> = gone.into_iter().map(|(stone, _)| stone).collect();
    let left = stuck.into_iter().filter_map(|(stone, _)| Some((stone.get("key")?.clone(), Left::Stuck))).collect();
    if !gone.is_empty() {
        remove(engine, run, &gone).await?;
    }
    Ok(Acted { done: gone.len() as u64, left })
}

async fn remove(engine: &Engine<'_>, run: &Run, gone: &[&Document]) -> Result<(), JobError> {
    let keys: Vec<&Bson> = gone.iter().filter_map(|stone| stone.get("key")).collect();
    let rows = run.db.collection::<Document>(VERSIONS);
    let fenced = doc! { "_id": { "$in": keys }, "state": "purging" };
    run.call("delete versions", async { rows.delete_many(fenced).await }).await?;
    let key = engine.world.audit_key.as_ref();
    insert_once(run, AUDIT, gone.iter().map(|stone| entry(stone, run).document(key)).collect()).await?;
    let ids: Vec<&Bson> = gone.iter().filter_map(|stone| stone.get("_id")).collect();
    let stones = run.db.collection::<Document>(TOMBSTONES);
    let close = doc! { "$set": { "state": "closed", "closedAt": now(run) } };
    run.call("close tombstones", async { stones.update_many(doc! { "_id": { "$in": ids } }, close).await }).await?;
    Ok(())
}

fn id(stone: &Document) -> String {
    stone.get("key").map(key).unwrap_or_default()
}

fn objects(stone: &Document) -> impl Iterator<Item = (Tier, &str)> {
    stone.get_array("objects").into_iter().flatten().filter_map(|object| {
        let object = object.as_document()?;
        let tier = if object.get_str("tier").is_ok_and(|tier| tier == "archive") { Tier::Archive } else { Tier::Hot };
        Some((tier, object.get_str("key").ok()?))
    })
}

/// The same entry whichever run writes it.
fn entry(stone: &Document, run: &Run) -> Entry {
    let of = |name: &str| stone.get(name).cloned().unwrap_or(Bson::Null);
    let text = |name: &str| stone.get_str(name).unwrap_or_default();
    let date = stone.get_datetime("date").map_or(0, |at| at.timestamp_millis());
    Entry {
        id: format!("{}/{VERSIONS}/{}/{date}", text("rule"), id(stone)),
        at: stone.get_datetime("fencedAt").map_or(run.now, |at| from_bson(*at)),
        action: format!("lifecycle.{}", text("action")),
        entity: (VERSIONS.to_owned(), id(stone)),
        actor: Some("contextd".into()),
        detail: doc! {
            "rule": of("rule"), "job": of("job"), "policy": of("policy"), "cutoff": of("cutoff"), "date": of("date"),
            "documentId": of("documentId"),
        },
    }
}
