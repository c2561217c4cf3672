//! Erasing a user on request: at once what the rules would do in the course of time, by the same steps.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document, doc};

use super::{
    Engine, clock, force,
    guards::find,
    judge::Left,
    person::{self, Certificate, Stone, USERS},
    take::{TOMBSTONES, stone_id},
};
use crate::kit::{JobError, Run, chain};

/// The name under which the evidence has it, in the place of a rule's.
pub const ERASE: &str = "erase-user";

/// Who asked for what.
#[derive(Debug, Clone)]
pub struct Request {
    pub user: String,
    pub by: String,
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Erased {
    /// Done now, or earlier.
    Done(Certificate),
    /// Nothing was changed: the user is held, or what is the user's, as COLLECTION/ID.
    Held(Vec<String>),
    /// The erasure has begun, and what keeps it from its end for now; ask again, or wait for the scheduled job.
    Begun(Left),
    /// Nothing anywhere is about this user.
    Unknown,
}

impl Engine<'_> {
    /// Erases a user. Safe to repeat: one that was cut off goes on, one that is done answers its certificate.
    pub async fn erase(&self, run: &Run, request: &Request) -> Result<Erased, JobError> {
        clock::check(run, self.world.policy.skew).await?;
        force::check(run, &self.world.policy).await?;
        let id = Bson::from(request.user.as_str());
        let stones = find(run, "user tombstone", TOMBSTONES, doc! { "_id": stone_id(USERS, &id) }, doc! {}).await?;
        match stones.first().map(|stone| stone.get_str("state").unwrap_or_default()) {
            Some("open") => {}
            Some(_) if !self.is_there(run, &request.user).await? => return self.certified(run, &request.user).await,
            _ => {
                if let Some(refused) = self.refuse(run, &request.user).await? {
                    return Ok(refused);
                }
                let stone = Stone { rule: ERASE, action: "anonymize", request: Some(request), date: request.at };
                if !person::fence(self, run, &request.user, &stone).await? {
                    let held = self.refuse(run, &request.user).await?;
                    return Ok(held.unwrap_or(Erased::Begun(Left::Busy)));
                }
            }
        }
        if let Some(left) = person::finish(self, run, &id).await? {
            return Ok(Erased::Begun(left));
        }
        self.certified(run, &request.user).await
    }

    /// Whether anything is about the user that is not anonymized.
    pub(super) async fn is_there(&self, run: &Run, user: &str) -> Result<bool, JobError> {
        let row = doc! { "_id": user, "state": { "$ne": "anonymized" } };
        if !find(run, "user", USERS, row, doc! { "_id": 1 }).await?.is_empty() {
            return Ok(true);
        }
        person::has_traces(self, run, user).await
    }

    async fn refuse(&self, run: &Run, user: &str) -> Result<Option<Erased>, JobError> {
        let held = person::held_by(run, user).await?;
        if !held.is_empty() {
            return Ok(Some(Erased::Held(held.into_iter().map(|(of, id)| format!("{of}/{id}")).collect())));
        }
        Ok((!self.is_there(run, user).await?).then_some(Erased::Unknown))
    }

    async fn certified(&self, run: &Run, user: &str) -> Result<Erased, JobError> {
        // The hourly copy has it otherwise; the certificate is outside of the database already.
        let copied = chain::anchor(&run.db, self.world.audit_key.as_ref(), self.world.anchors.as_ref(), run.now);
        if let Err(error) = copied.await {
            tracing::warn!(%error, "the audit log is not copied yet; the next hourly copy has it");
        }
        let found = Certificate::find(run, user).await?.pop();
        found.map(Erased::Done).ok_or_else(|| {
            JobError::Failed(anyhow::anyhow!(
                "the user {user:?} was erased, and its certificate is not in the database"
            ))
        })
    }
}

/// What a request leaves on the tombstone until the certificate has it.
pub(super) fn noted(request: &Request) -> Document {
    let at = crate::kit::to_bson(request.at);
    doc! { "by": &request.by, "at": at, "reason": request.reason.clone() }
}
