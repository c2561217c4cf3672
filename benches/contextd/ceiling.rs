//! The ceiling: the statements that the worker sends, sent by the bare driver. The documents are those that the
//! worker wrote, into a database with the same indexes, prepared before the clock starts.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use mongodb::bson::RawDocumentBuf;

use crate::{
    drain::{Clocks, Cost},
    input::{BURST, Shape},
    proc,
    world::{BATCH, IN_FLIGHT, World},
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
