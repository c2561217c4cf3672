//! Leases: how a run gets its owner, keeps it, changes it and ends. Each is one transaction or one write.

use std::time::Duration;

use chrono::{DateTime, Utc};
use contextd_jobs::kit::{Guard, durable, from_bson, to_bson};
use mongodb::{
    ClientSession,
    bson::{Bson, Document, doc},
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::ReturnDocument,
};
use serde::Deserialize;

use super::{
    ScheduleError,
    due::Plan,
    job::ScheduledJob,
    record::{RunOutcome, RunReport, Running, Trigger, counts, finished, run_id},
    schedules::{Schedules, State, is_duplicate, literal, parse},
};

/// The right to run one job, got from [`Schedules::claim`] and its like.
#[derive(Debug)]
pub(super) struct Lease {
    pub job: &'static str,
    pub epoch: i64,
    pub running: Running,
}

/// What came of trying to claim a slot.
#[derive(Debug)]
pub(super) enum Claim {
    Mine(Box<Lease>),
    /// Another worker was first, or the slot has not come by MongoDB's clock.
    Not,
    /// The slot has a record already.
    RanBefore,
}

impl Schedules {
    pub fn guard(&self, lease: &Lease) -> Guard {
        Guard::new(&self.db, lease.job, lease.epoch, &self.me.worker)
    }

    /// Claims the planned slot: the lease, the next slot and the run's record, all or nothing, and only if MongoDB's clock
    /// agrees that the slot has come and the lease is free.
    pub async fn claim(
        &self,
        job: &ScheduledJob,
        state: &State,
        plan: &Plan,
        slot: DateTime<Utc>,
    ) -> Result<Claim, ScheduleError> {
        let mut filter = self.unowned(state);
        filter.insert("nextAt", state.next_at);
        filter.insert("running", Bson::Null);
        let due = doc! { "$lte": [to_bson(slot), "$$NOW"] };
        filter.insert("$and", vec![doc! { "$expr": { "$lte": ["$nextAt", "$$NOW"] } }, doc! { "$expr": due }]);
        let set = doc! { "nextAt": to_bson(plan.next) };
        self.start(job.name(), state, filter, set, slot, Trigger::Schedule).await
    }

    /// Claims the job for a run by hand. What is left of a run whose worker died is closed first.
    pub async fn claim_by_hand(&self, job: &ScheduledJob, state: &State) -> Result<Claim, ScheduleError> {
        let mut filter = self.unowned(state);
        filter.insert("running", Bson::Null);
        self.start(job.name(), state, filter, doc! {}, from_bson(state.now), Trigger::Manual).await
    }

    async fn start(
        &self,
        job: &'static str,
        state: &State,
        filter: Document,
        also: Document,
        slot: DateTime<Utc>,
        trigger: Trigger,
    ) -> Result<Claim, ScheduleError> {
        let run_id = run_id(job, trigger, slot);
        let cutoff = (self.me.clock)().min(from_bson(state.now));
        let running = doc! {
            "runId": &run_id, "slot": to_bson(slot), "trigger": trigger.as_str(), "cutoff": to_bson(cutoff),
            "cursor": null, "counts": null,
        };
        let mut set = doc! {
            "epoch": state.epoch + 1, "owner": literal(&self.me.worker), "leaseUntil": self.lease_end(),
            "running": { "$mergeObjects": [{ "$literal": running }, { "startedAt": "$$NOW" }] },
        };
        set.extend(also);
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(filter, set, &mut session).await? else { return Ok(None) };
            let started = after.get_document("running").ok().and_then(|r| r.get_datetime("startedAt").ok()).copied();
            let record = doc! {
                "_id": &run_id, "job": job, "slot": to_bson(slot), "trigger": trigger.as_str(), "dryRun": false,
                "epoch": state.epoch + 1, "worker": &self.me.worker, "cutoff": to_bson(cutoff), "startedAt": started,
                "outcome": RunOutcome::Running.as_str(),
            };
            self.runs.insert_one(record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(Some(after))
        };
        match self.timed(work).await {
            Ok(Some(after)) => mine(job, after),
            Ok(None) => Ok(Claim::Not),
            Err(ScheduleError::Mongo(e)) if is_duplicate(&e) => Ok(Claim::RanBefore),
            Err(e) if was_raced(&e) => Ok(Claim::Not),
            Err(e) => Err(e),
        }
    }

    /// Goes on with the run of a worker that died or gave it back, from where it had come to.
    pub async fn take_over(&self, job: &ScheduledJob, state: &State) -> Result<Claim, ScheduleError> {
        let Some(run) = &state.running else { return Ok(Claim::Not) };
        let epoch = state.epoch + 1;
        let set = doc! { "epoch": epoch, "owner": literal(&self.me.worker), "leaseUntil": self.lease_end() };
        let record = doc! { "$set": { "epoch": epoch, "worker": &self.me.worker, "outcome": RunOutcome::Running.as_str() },
        "$push": { "takenOverFrom": state.owner.clone() } };
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(self.abandoned(state, run), set, &mut session).await? else {
                return Ok(None);
            };
            self.runs.update_one(doc! { "_id": &run.run_id }, record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(Some(after))
        };
        match self.timed(work).await {
            Ok(Some(after)) => mine(job.name(), after),
            Ok(None) => Ok(Claim::Not),
            Err(e) if was_raced(&e) => Ok(Claim::Not),
            Err(e) => Err(e),
        }
    }

    /// Ends the record of a run that nobody goes on with. Says whether it was this process that did it.
    pub async fn close(&self, state: &State) -> Result<bool, ScheduleError> {
        let Some(run) = &state.running else { return Ok(false) };
        let set = doc! { "epoch": state.epoch + 1, "owner": null, "running": null, "busyUntil": "$$NOW" };
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(self.abandoned(state, run), set, &mut session).await? else {
                return Ok(false);
            };
            let end = after.get_datetime("busyUntil").ok().copied();
            let record = vec![doc! { "$set": {
                "finishedAt": end,
                // A run that was told to stop did stop; any other was cut off.
                "outcome": { "$cond": [
                    { "$eq": ["$outcome", RunOutcome::Running.as_str()] }, RunOutcome::Crashed.as_str(), "$outcome",
                ] },
            } }];
            self.runs.update_one(doc! { "_id": &run.run_id }, record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(true)
        };
        match self.timed(work).await {
            Err(e) if was_raced(&e) => Ok(false),
            closed => closed,
        }
    }

    /// Prolongs the lease. False: it is lost.
    pub async fn renew(&self, guard: &Guard) -> Result<bool, ScheduleError> {
        let set = vec![doc! { "$set": { "leaseUntil": self.lease_end() } }];
        Ok(self.timed(self.schedules.update_one(guard.filter(), set)).await?.matched_count == 1)
    }

    /// Ends the run and frees the job. None: the lease was lost, and with it the right to say how the run ended.
    pub async fn finish(&self, guard: &Guard, report: &RunReport) -> Result<Option<DateTime<Utc>>, ScheduleError> {
        let last = doc! {
            "runId": &report.run_id, "slot": to_bson(report.slot), "trigger": report.trigger.as_str(),
            "worker": &report.worker, "startedAt": to_bson(report.started_at), "outcome": report.outcome.as_str(),
            "durationMs": i64::try_from(report.duration_ms).unwrap_or(i64::MAX), "error": report.error.clone(),
        };
        let mut set = doc! {
            "owner": null, "leaseUntil": "$$NOW", "busyUntil": "$$NOW", "running": null, "lastCompletionAt": "$$NOW",
            "last": { "$mergeObjects": [{ "$literal": last }, { "finishedAt": "$$NOW" }] },
        };
        if report.outcome == RunOutcome::Ok {
            set.insert("lastSuccessAt", "$$NOW");
        }
        let work = async {
            let mut session = self.begin().await?;
            let Some(after) = self.change(guard.filter(), set, &mut session).await? else { return Ok(None) };
            let Some(end) = after.get_datetime("busyUntil").ok().copied() else { return Ok(None) };
            let ended = RunReport { finished_at: Some(from_bson(end)), ..report.clone() };
            let record = doc! { "$set": finished(&ended) };
            self.runs.update_one(doc! { "_id": &report.run_id }, record).session(&mut session).await?;
            commit(&mut session).await?;
            Ok(Some(from_bson(end)))
        };
        if let Some(end) = self.timed(work).await? {
            return Ok(Some(end));
        }
        // An earlier try may have succeeded without an answer.
        let last = self.read_one(report.job).await?.and_then(|state| state.last);
        Ok(last
            .filter(|last| last.run_id == report.run_id && last.worker == report.worker)
            .map(|last| last.finished_at))
    }

    /// Gives the run back: the next process that looks goes on with it.
    pub async fn hand_over(&self, guard: &Guard, report: &RunReport) -> Result<(), ScheduleError> {
        let set =
            doc! { "owner": null, "leaseUntil": "$$NOW", "running.counts": { "$literal": counts(&report.counts) } };
        let record = doc! { "$set": { "outcome": RunOutcome::Stopped.as_str(), "counts": counts(&report.counts) } };
        let work = async {
            let mut session = self.begin().await?;
            if self.change(guard.filter(), set, &mut session).await?.is_some() {
                self.runs.update_one(doc! { "_id": &report.run_id }, record).session(&mut session).await?;
                commit(&mut session).await?;
            }
            Ok(())
        };
        self.timed(work).await
    }

    /// `state`'s document, if it is still as it was read and nobody holds its lease. What this very process holds it does
    /// not hold any more when it asks: a claim whose answer was lost.
    fn unowned(&self, state: &State) -> Document {
        doc! {
            "_id": &state.job, "epoch": state.epoch, "schedule": &state.schedule,
            "$or": [{ "owner": &self.me.worker }, { "$expr": { "$lte": ["$leaseUntil", "$$NOW"] } }],
        }
    }

    /// As [`Self::unowned`], with this run still in it.
    fn abandoned(&self, state: &State, run: &Running) -> Document {
        let mut filter = self.unowned(state);
        filter.insert("running.runId", &run.run_id);
        filter
    }

    async fn begin(&self) -> mongodb::error::Result<ClientSession> {
        let mut session = self.db.client().start_session().await?;
        session.start_transaction().write_concern(durable()).await?;
        Ok(session)
    }

    async fn change(
        &self,
        filter: Document,
        set: Document,
        session: &mut ClientSession,
    ) -> mongodb::error::Result<Option<Document>> {
        let update = vec![doc! { "$set": set }];
        self.schedules.find_one_and_update(filter, update).return_document(ReturnDocument::After).session(session).await
    }
}

/// Another worker changed the same document at the same time; that one's change counts.
fn was_raced(error: &ScheduleError) -> bool {
    matches!(error, ScheduleError::Mongo(e) if e.contains_label(TRANSIENT_TRANSACTION_ERROR))
}

/// Commits; asks again for as long as the answer is unknown (the caller limits the time).
async fn commit(session: &mut ClientSession) -> mongodb::error::Result<()> {
    loop {
        match session.commit_transaction().await {
            Err(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            done => return done,
        }
    }
}

fn mine(job: &'static str, after: Document) -> Result<Claim, ScheduleError> {
    #[derive(Deserialize)]
    struct Claimed {
        epoch: i64,
        running: Running,
    }
    let Claimed { epoch, running } = parse(after)?;
    Ok(Claim::Mine(Box::new(Lease { job, epoch, running })))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
