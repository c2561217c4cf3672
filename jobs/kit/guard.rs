use mongodb::{
    Collection, Database,
    bson::{Bson, Document, doc, serialize_to_bson},
};

use super::{JobError, Outcome, in_time, strict};

/// The collection with one document per job: next slot, lease, epoch, cursor.
pub const SCHEDULES: &str = "job_schedules";

/// A run's right to write: valid while its epoch is the job's epoch and its lease has not ended, by MongoDB's clock.
#[derive(Debug, Clone)]
pub struct Guard {
    schedules: Collection<Document>,
    job: String,
    epoch: i64,
    owner: String,
}

impl Guard {
    pub fn new(db: &Database, job: &str, epoch: i64, owner: &str) -> Self {
        Self { schedules: strict(db).collection(SCHEDULES), job: job.into(), epoch, owner: owner.into() }
    }

    /// Which document of [`SCHEDULES`] this is, for as long as the run owns it.
    pub fn filter(&self) -> Document {
        doc! {
            "_id": &self.job, "epoch": self.epoch, "owner": &self.owner,
            "$expr": { "$gt": ["$leaseUntil", "$$NOW"] },
        }
    }

    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Confirms the right to write with a majority of the members and stores, in the same write, how far the run has come.
    pub async fn check_in(&self, cursor: Option<&Document>, outcome: &Outcome) -> Result<(), JobError> {
        let counts = serialize_to_bson(outcome).map_err(|e| JobError::Failed(e.into()))?;
        let cursor = cursor.map_or(Bson::Null, |c| Bson::Document(c.clone()));
        let set = doc! { "$set": { "running.cursor": cursor, "running.counts": counts } };
        match in_time(async { self.schedules.update_one(self.filter(), set).await }).await? {
            r if r.matched_count == 1 => Ok(()),
            _ => Err(JobError::LeaseLost),
        }
    }
}
