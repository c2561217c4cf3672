//! What scheduled jobs reach besides MongoDB: the object stores, Redis, the place of the audit chain's copy.
//!
//! Nothing is opened or connected before a job uses it, so that commands that only name jobs need none of it.

mod anchors;
mod caches;
mod objects;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use contextd_jobs::kit::{OutsideError, World};

pub use anchors::Anchors;
pub use caches::Caches;
pub use objects::Tiers;

use crate::{
    cache::LifecycleCache,
    config::Config,
    content::{ContentFault, FaultKind},
    intake::{Fault, Link},
    record::cached::Kinds,
};

/// The world of a process's jobs.
///
/// # Errors
/// A setting that cannot be used, said in a full sentence.
pub fn world(config: &Config) -> Result<World, String> {
    let link = Link::new(&config.redis)?;
    let kinds = Arc::new(Kinds::new(&config.cache)?);
    Ok(World {
        policy: Arc::new(config.policy.clone()),
        objects: Arc::new(Tiers::new(&config.content)),
        caches: Arc::new(Caches(LifecycleCache::new(link, &config.namespace, kinds))),
        anchors: Arc::new(Anchors::new(&config.audit.url, &config.content)),
        audit_key: config.audit.secret(),
    })
}

fn of_redis(fault: Fault) -> OutsideError {
    OutsideError { passes: fault.is_transient(), message: fault.to_string() }
}

fn of_objects(fault: ContentFault) -> OutsideError {
    OutsideError { passes: fault.kind == FaultKind::Unavailable, message: fault.message }
}
