//! `user.erase`: a user is erased at once, by the lifecycle's engine.

use chrono::{DateTime, TimeDelta, Utc};
use contextd_jobs::{
    JobError, Run,
    engine::{Engine, Erased, Request, Settings},
    kit::World,
};

use super::{
    Patience, Planned, Records,
    records::{Due, missing},
};
use crate::{
    metrics::{ErrorClass, Outcome},
    record::Change,
    store::StoreFault,
    task::Reason,
};

/// What an erasure reaches, and the figures that it works by.
pub struct Erasing {
    pub world: World,
    pub settings: Settings,
}

/// A store that is away is asked again after this long; nothing is counted against the task.
const AGAIN: TimeDelta = TimeDelta::seconds(10);

pub(super) async fn run(records: &Records, due: &Due<'_>, now: DateTime<Utc>, patience: &Patience<'_>) -> Planned {
    let (user, change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Planned::Dead(Reason::Schema, e.to_string()),
    };
    let by = Some(due.text("requestedBy")).filter(|by| !by.is_empty()).unwrap_or(&due.task.source);
    let request = Request {
        user: user.clone(),
        by: by.to_owned(),
        reason: Some(due.text("reason")).filter(|text| !text.is_empty()).map(str::to_owned),
        at: change.at,
    };
    let mut run = Run::new(records.store.database(), "erase", now, now, patience.abort.clone(), None);
    run.dry_run = false;
    let engine = Engine { world: &records.erasing.world, settings: &records.erasing.settings };
    let erased = tokio::select! {
        erased = engine.erase(&run, &request) => erased,
        // What is begun goes on with the task, or with the scheduled job.
        () = patience.abort.cancelled() => return Planned::Released,
    };
    match erased {
        Ok(Erased::Done(certificate)) => {
            let asked = certificate.0.get_datetime("requestedAt").map(|at| at.timestamp_millis());
            let is_own = asked.is_ok_and(|asked| asked == request.at.timestamp_millis());
            Planned::Done(if is_own { Outcome::Written } else { Outcome::Duplicate })
        }
        // Fenced: nothing comes in any more, and the scheduled job brings it to its end when it can.
        Ok(Erased::Begun(_)) => Planned::Done(Outcome::Written),
        Ok(Erased::Held(by)) => {
            let text =
                format!("the user is not erased: a legal hold is on {}; requeue this when it is lifted", by.join(", "));
            Planned::Dead(Reason::Rejected, text)
        }
        Ok(Erased::Unknown) => missing("users", &user),
        Err(JobError::Mongo(e)) if !JobError::Mongo(e.clone()).is_transient() => {
            Planned::Failed(ErrorClass::Other, StoreFault::from(e).to_string())
        }
        Err(JobError::Failed(e)) => Planned::Failed(ErrorClass::Other, e.to_string()),
        Err(error) => {
            tracing::warn!(%error, "an erasure waits for a store");
            Planned::Later { at_ms: (now + AGAIN).timestamp_millis() }
        }
    }
}
