//! One policy at a time in a database.

use mongodb::{
    bson::{Document, doc},
    error::ErrorKind,
};

use crate::{
    kit::{JobError, Run},
    policy::Policy,
};

/// Holds the policy in force: `_id: "policy"`, `version`, `hash`, `since`.
pub const IN_FORCE: &str = "lifecycle_state";
const ID: &str = "policy";

/// Goes on only under the policy in force; a newer version takes its place. Fleets of different policies would purge by
/// each other's terms otherwise.
pub async fn check(run: &Run, policy: &Policy) -> Result<(), JobError> {
    let state = run.db.collection::<Document>(IN_FORCE);
    let version = i64::from(policy.version);
    for _ in 0..2 {
        let found = run.call("policy", async { state.find_one(doc! { "_id": ID }).await }).await?;
        let (known, hash) = match &found {
            Some(found) => (found.get_i64("version").unwrap_or(0), found.get_str("hash").unwrap_or_default()),
            None => (0, ""),
        };
        if known == version && hash == policy.hash {
            return Ok(());
        }
        if known >= version {
            return Err(refuse(known, hash, policy));
        }
        if run.dry_run {
            return Ok(());
        }
        let filter =
            doc! { "_id": ID, "version": if found.is_some() { known.into() } else { mongodb::bson::Bson::Null } };
        let set = doc! { "$set": { "version": version, "hash": &policy.hash }, "$currentDate": { "since": true } };
        let put = run.call("policy in force", async { state.update_one(filter, set).upsert(true).await }).await;
        match put {
            Ok(_) => tracing::info!(version, hash = policy.hash, "a new policy is in force"),
            // Another process was quicker.
            Err(JobError::Mongo(e)) if is_duplicate(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Err(JobError::Unconfirmed("the policy in force changed twice meanwhile".into()))
}

fn refuse(known: i64, hash: &str, policy: &Policy) -> JobError {
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let what = if known == i64::from(policy.version) {
        format!(
            "this worker's policy has the same version {known} but another content ({} here, {} there): raise \
             `policy.version` when a policy changes, and give all workers the same file",
            short(&policy.hash),
            short(hash)
        )
    } else {
        format!("version {known} is in force and this worker has version {}: give it the newer file", policy.version)
    };
    JobError::Failed(anyhow::anyhow!("two policies for one database: {what}. Nothing was changed"))
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    matches!(&*error.kind, ErrorKind::Write(mongodb::error::WriteFailure::WriteError(e)) if e.code == 11000)
}
