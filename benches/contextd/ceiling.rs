//! The ceiling: the statements that the worker sends, sent by the bare driver. The documents are those that the
//! worker wrote, into a database with the same indexes, prepared before the clock starts.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use mongodb::bson::RawDocumentBuf;

use crate::{
    drain::{Clocks, Cost},
    input::{self, BURST, Shape},
    proc,
    world::{BATCH, IN_FLIGHT, LIST, World},
};

/// Inserts what remains of each batch of [`BATCH`] tasks, [`IN_FLIGHT`] batches at once. Costs are per task.
pub fn ceiling(world: &mut World, shape: Shape, documents: &[RawDocumentBuf], tasks: usize) -> Result<Cost> {
    let stage = world.stage()?;
    let collection = world.database(&stage).collection::<RawDocumentBuf>("typing_contexts");
    let per_batch = match shape {
        Shape::Distinct => BATCH,
        Shape::Bursts => BATCH / BURST,
    };
    let batches: Vec<Vec<RawDocumentBuf>> = documents.chunks(per_batch).map(<[_]>::to_vec).collect();
    let before = Clocks::read(&world.servers, proc::own_cpu()?)?;
    world.runtime.block_on(async {
        let sends = batches.into_iter().map(|batch| {
            let collection = collection.clone();
            // On its own task, as the worker does it, so that two cores can take part.
            tokio::spawn(async move { collection.insert_many(batch).ordered(false).await.map(drop) })
        });
        futures::stream::iter(sends)
            .buffer_unordered(IN_FLIGHT)
            .map(|joined| anyhow::Ok(joined??))
            .try_collect::<()>()
            .await
    })?;
    let end = Clocks::read(&world.servers, proc::own_cpu()?)?;
    let cost = before.cost(&end, tasks, true);
    world.clear(&stage)?;
    Ok(cost)
}

/// A loop that pops a batch from the list and inserts one, and does nothing of the rest: it decodes nothing, and loses
/// what it holds when it dies. Shows what taking the tasks out of Redis costs alone.
pub fn popping_loop(world: &mut World, documents: &[RawDocumentBuf], tasks: usize) -> Result<Cost> {
    let stage = world.stage()?;
    let time = input::now();
    let events = (0..tasks).map(|index| input::typing_event(Shape::Distinct, index, &time));
    input::push(&mut world.redis, &stage, LIST, events)?;
    let collection = world.database(&stage).collection::<RawDocumentBuf>("typing_contexts");
    let batches: Arc<[Vec<RawDocumentBuf>]> = documents.chunks(BATCH).map(<[_]>::to_vec).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let before = Clocks::read(&world.servers, proc::own_cpu()?)?;
    world.runtime.block_on(async {
        let redis = redis::Client::open(world.redis_url.as_str())?;
        let loops = (0..IN_FLIGHT).map(|_| {
            let (collection, batches, next, redis) = (collection.clone(), batches.clone(), next.clone(), redis.clone());
            let key = stage.key(LIST, "normal");
            tokio::spawn(async move {
                let mut redis = redis.get_multiplexed_async_connection().await?;
                loop {
                    let popped: Option<Vec<Vec<u8>>> =
                        redis::cmd("RPOP").arg(&key).arg(BATCH).query_async(&mut redis).await?;
                    let batch = batches.get(next.fetch_add(1, Ordering::Relaxed));
                    let (Some(_), Some(batch)) = (popped, batch) else { return anyhow::Ok(()) };
                    collection.insert_many(batch).ordered(false).await?;
                }
            })
        });
        futures::future::try_join_all(loops).await?.into_iter().collect::<Result<()>>()
    })?;
    let end = Clocks::read(&world.servers, proc::own_cpu()?)?;
    let cost = before.cost(&end, tasks, true);
    world.clear(&stage)?;
    Ok(cost)
}
