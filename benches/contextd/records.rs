//! Plain records through the worker, against the bare driver that sends the same writes: new interactions (inserts), and
//! changes of sessions that are there (replacements guarded by the revision).

use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt};
use mongodb::{
    Database,
    bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc},
};

use crate::{
    drain::{Clocks, Cost, resume_and_wait},
    input::{self, scatter},
    proc,
    worker::Worker,
    world::{BATCH, IN_FLIGHT, LIST, World},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Insert,
    Merge,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Insert, Kind::Merge];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Insert => "records, new (interaction.persist)",
            Kind::Merge => "records, changed (session.persist)",
        }
    }

    fn collection(self) -> &'static str {
        match self {
            Kind::Insert => "interactions",
            Kind::Merge => "sessions",
        }
    }

    /// An event of about 700 bytes; of a changed record in its `round`.
    fn event(self, index: usize, round: usize) -> String {
        let (id, key) = (format!("{index:012x}-{round}"), format!("{:016x}", scatter(index)));
        let time = format!("2026-01-01T00:{:02}:{:02}.{:03}Z", round, index % 60, index % 1000);
        let text = "The committee met again on Tuesday to go through the findings of the report, and everybody agreed.";
        let (kind, data) = match self {
            Kind::Insert => (
                "interaction.persist.v1",
                format!(
                    "\"interactionId\":\"i-{key}\",\"sessionId\":\"s-{:06x}\",\"role\":\"assistant\",\"request\":\"{text}\",\
                     \"response\":\"{text}\",\"context\":{{\"intent\":\"question\"}},\"processingTimeMs\":{},\
                     \"cacheStrategy\":\"NONE\"",
                    index / 20,
                    index % 900
                ),
            ),
            Kind::Merge => (
                "session.persist.v1",
                format!(
                    "\"sessionId\":\"s-{key}\",\"userId\":\"u-{}\",\"status\":\"active\",\"context\":{{\"topic\":\"{text}\",\
                     \"turn\":{round}}},\"metadata\":{{\"source\":\"web\",\"note\":\"{text}\"}},\"cacheStrategy\":\"NONE\"",
                    index % 5_000
                ),
            ),
        };
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/bench\",\"type\":\"{kind}\",\"time\":\"{time}\",\
             \"data\":{{{data}}}}}"
        )
    }
}

/// Drains `tasks` tasks, and the bare driver's cost of the same writes.
pub fn pair(world: &mut World, kind: Kind, tasks: usize) -> Result<(Cost, Cost)> {
    let stage = world.stage()?;
    let database = world.database(&stage);
    let mut first = Vec::new();
    if kind == Kind::Merge {
        input::push(&mut world.redis, &stage, LIST, (0..tasks).map(|i| kind.event(i, 0)))?;
        Worker::start(&stage, LIST, &["--until-drained"])?.finish()?;
        first = documents(world, &database, kind, tasks)?;
    }
    stage.pause(&mut world.redis, LIST)?;
    input::push(&mut world.redis, &stage, LIST, (0..tasks).map(|i| kind.event(i, 1)))?;
    let mut worker = Worker::start(&stage, LIST, &["--until-drained"])?;
    let cost = resume_and_wait(world, &stage, LIST, &mut worker, tasks)?;
    worker.finish()?;
    let written = documents(world, &database, kind, tasks)?;
    world.clear(&stage)?;
    let bare = match kind {
        Kind::Insert => bare_inserts(world, kind, &written)?,
        Kind::Merge => bare_replacements(world, kind, first, &written)?,
    };
    Ok((cost, bare))
}

fn documents(world: &World, database: &Database, kind: Kind, tasks: usize) -> Result<Vec<RawDocumentBuf>> {
    let collection = database.collection::<RawDocumentBuf>(kind.collection());
    let found: Vec<RawDocumentBuf> =
        world.runtime.block_on(async { collection.find(doc! {}).batch_size(5_000).await?.try_collect().await })?;
    let letters = database.collection::<Document>("dead_letters");
    let dead = world.runtime.block_on(letters.count_documents(doc! {}).into_future())?;
    if found.len() != tasks || dead != 0 {
        bail!(
            "{tasks} records were due, {} are there and {dead} dead letters: no figures from wrong results",
            found.len()
        );
    }
    Ok(found)
}

fn bare_inserts(world: &mut World, kind: Kind, written: &[RawDocumentBuf]) -> Result<Cost> {
    let stage = world.stage()?;
    let database = world.database(&stage);
    prepare(world, &database, kind)?;
    let commands = written.chunks(BATCH).map(|chunk| {
        let mut documents = RawArrayBuf::new();
        chunk.iter().for_each(|d| documents.push(d.clone()));
        rawdoc! { "insert": kind.collection(), "ordered": false, "documents": documents }
    });
    let cost = send(world, &database, commands.collect(), written.len())?;
    world.clear(&stage)?;
    Ok(cost)
}

fn bare_replacements(
    world: &mut World,
    kind: Kind,
    first: Vec<RawDocumentBuf>,
    written: &[RawDocumentBuf],
) -> Result<Cost> {
    let stage = world.stage()?;
    let database = world.database(&stage);
    prepare(world, &database, kind)?;
    let collection = database.collection::<RawDocumentBuf>(kind.collection());
    world.runtime.block_on(async { collection.insert_many(first).ordered(false).await })?;
    let mut commands = Vec::new();
    for chunk in written.chunks(BATCH) {
        let mut updates = RawArrayBuf::new();
        for document in chunk {
            let rev = document.get_document("_sync")?.get_i64("rev")?;
            let filter = rawdoc! { "_id": document.get_str("_id")?, "_sync.rev": rev - 1 };
            updates.push(rawdoc! { "q": filter, "u": document.clone() });
        }
        commands.push(rawdoc! { "update": kind.collection(), "ordered": false, "updates": updates });
    }
    let cost = send(world, &database, commands, written.len())?;
    world.clear(&stage)?;
    Ok(cost)
}

/// The indexes that the worker's collection has.
fn prepare(world: &World, database: &Database, kind: Kind) -> Result<()> {
    let keys = match kind {
        Kind::Insert => vec![doc! { "sessionId": 1, "timestamp": 1 }],
        Kind::Merge => vec![doc! { "userId": 1, "state": 1 }],
    };
    let collection = database.collection::<Document>(kind.collection());
    for keys in keys {
        let index = mongodb::IndexModel::builder().keys(keys).build();
        world.runtime.block_on(collection.create_index(index).into_future())?;
    }
    Ok(())
}

fn send(world: &World, database: &Database, commands: Vec<RawDocumentBuf>, tasks: usize) -> Result<Cost> {
    let before = Clocks::read(&world.servers, proc::own_cpu()?)?;
    world.runtime.block_on(async {
        let sends = commands.into_iter().map(|mut command| {
            let database = database.clone();
            command.append(mongodb::bson::cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true });
            tokio::spawn(async move { database.run_raw_command(command).await })
        });
        futures::stream::iter(sends)
            .buffer_unordered(IN_FLIGHT)
            .map(|joined| {
                let reply = joined??;
                let done = reply.get_i32("n").unwrap_or(0);
                anyhow::ensure!(!reply.contains_key("writeErrors") && done > 0, "the bare driver's writes failed");
                Ok(())
            })
            .try_collect::<()>()
            .await
    })?;
    let end = Clocks::read(&world.servers, proc::own_cpu()?)?;
    Ok(before.cost(&end, tasks, true))
}
