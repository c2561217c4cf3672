//! What jobs are built from: the run that a job is given, and deleting in pages.

pub mod chain;
mod guard;
mod pages;
mod run;
mod world;

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use mongodb::{
    Database, bson,
    options::{Acknowledgment, DatabaseOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};

pub use guard::{Guard, SCHEDULES};
pub use pages::PageSize;
#[cfg(debug_assertions)]
pub use run::Faults;
pub use run::{Job, JobError, Noted, Outcome, RuleCounts, Run, Sample, WorkerClock};
pub use world::{Caches, Object, Objects, OutsideError, Tier, Vaulted, World};

/// The same database, read from the primary with majority and written with majority and journal: the only way to
/// look at or change what must not be lost or seen too early.
pub fn strict(db: &Database) -> Database {
    let options = DatabaseOptions::builder()
        .read_concern(ReadConcern::majority())
        .write_concern(durable())
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .build();
    db.client().database_with_options(db.name(), options)
}

/// Acknowledged by a majority of the members, in their journals.
pub fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// As MongoDB stores it: whole milliseconds, rounded down.
pub fn to_bson(time: DateTime<Utc>) -> bson::DateTime {
    bson::DateTime::from_millis(time.timestamp_millis())
}

/// The instant of a stored date; one outside of chrono's range (some 260,000 years) becomes the nearest inside.
pub fn from_bson(time: bson::DateTime) -> DateTime<Utc> {
    let millis = time.timestamp_millis();
    DateTime::from_timestamp_millis(millis).unwrap_or(if millis < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

/// No page, and no step of one, may take longer than this.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The driver waits for an answer for ever; a job does not.
pub async fn in_time<T>(work: impl Future<Output = mongodb::error::Result<T>>) -> Result<T, JobError> {
    match tokio::time::timeout(TIME_LIMIT, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(JobError::Unconfirmed(format!("no answer within {TIME_LIMIT:?}"))),
    }
}
