//! Which process looks for due slots first.

use std::time::Duration;

use mongodb::bson::{self, doc};
use serde::Deserialize;

use super::{
    ScheduleError,
    schedules::{Schedules, is_duplicate, literal, parse},
};

/// `_id` of the document that says who. No job has this name.
const LEADER: &str = "(leader)";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leader {
    owner: String,
    lease_until: bson::DateTime,
    now: bson::DateTime,
}

impl Schedules {
    /// Whether this process looks for due slots first. It is so until it has not asked for the length of a lease.
    pub async fn lead(&self) -> Result<bool, ScheduleError> {
        let found = self.timed(async { self.matching(doc! { "_id": LEADER }).await }).await?.pop();
        let leader = found.map(parse::<Leader>).transpose()?;
        let mine = leader.as_ref().is_some_and(|l| l.owner == self.me.worker);
        if let Some(leader) = &leader {
            let left = Duration::from_millis(
                (leader.lease_until.timestamp_millis() - leader.now.timestamp_millis()).max(0).unsigned_abs(),
            );
            if !mine && !left.is_zero() {
                return Ok(false);
            }
            if mine && left > self.me.lease * 2 / 3 {
                return Ok(true);
            }
        }
        // An upsert may not ask for the time, and need not: it makes what is not there.
        let free = match &leader {
            None => doc! { "_id": LEADER, "owner": &self.me.worker },
            Some(_) => doc! { "_id": LEADER, "$or": [
                { "owner": &self.me.worker }, { "$expr": { "$lte": ["$leaseUntil", "$$NOW"] } },
            ] },
        };
        let set = vec![doc! { "$set": { "owner": literal(&self.me.worker), "leaseUntil": self.lease_end() } }];
        match self.timed(self.schedules.update_one(free, set).upsert(leader.is_none())).await {
            Ok(done) => Ok(done.matched_count == 1 || done.upserted_id.is_some()),
            Err(ScheduleError::Mongo(e)) if is_duplicate(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lets another process look first at once.
    pub async fn resign(&self) -> Result<(), ScheduleError> {
        self.timed(self.schedules.delete_one(doc! { "_id": LEADER, "owner": &self.me.worker })).await?;
        Ok(())
    }
}
