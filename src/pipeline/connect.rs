//! The start: both stores answer, the schema is up to date.

use std::{sync::Arc, time::Duration};

use super::error::RunError;
use crate::{
    clock,
    intake::{FaultKind, Link},
    status::Health,
    store::{Store, StoreFault},
    vault::Vault,
};

/// What the worker needs before it can work.
pub(super) struct Stores {
    pub link: Link,
    pub store: Store,
    pub vault: Arc<Vault>,
    pub health: Arc<Health>,
    /// How long to wait for them.
    pub wait: Duration,
    /// Whether indexes and schema are brought up to date.
    pub migrate: bool,
    /// Those that serve the lifecycle's rules; they follow the settings.
    pub indexes: Vec<contextd_jobs::policy::Index>,
}

impl Stores {
    /// Waits for both stores; says so once, and gives up after `worker.start_wait`.
    pub async fn connect(&self) -> Result<(), RunError> {
        let limit = tokio::time::sleep(self.wait);
        tokio::pin!(limit);
        let mut told = false;
        loop {
            let both = async { tokio::join!(self.redis_answers(), self.mongodb_answers()) };
            let (redis, mongodb) = tokio::select! {
                both = both => both,
                () = &mut limit => return Err(self.unreachable()),
            };
            if redis? & mongodb? {
                break;
            }
            if !told {
                tracing::warn!("waiting up to {:?} for the services: {}", self.wait, self.missing());
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
                () = &mut limit => return Err(self.unreachable()),
            }
        }
        if self.migrate {
            self.bring_up_to_date(&mut limit).await?;
        }
        self.keys_fit(&mut limit).await?;
        self.health.ready("mongodb", clock::now());
        Ok(())
    }

    /// Sealed fields that no key opens would be found out one by one.
    async fn keys_fit(&self, limit: &mut std::pin::Pin<&mut tokio::time::Sleep>) -> Result<(), RunError> {
        loop {
            let checked = tokio::select! {
                checked = self.vault.check() => checked,
                () = &mut *limit => return Err(self.unreachable()),
            };
            match checked {
                Ok(()) => return Ok(()),
                Err(fault) if fault.is_transient() => {
                    self.health.unready("mongodb", &fault.to_string(), clock::now());
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(fault) => return Err(RunError::Configuration(fault.to_string())),
            }
        }
    }

    /// Takes the missing steps of the schema.
    async fn bring_up_to_date(&self, limit: &mut std::pin::Pin<&mut tokio::time::Sleep>) -> Result<(), RunError> {
        loop {
            let steps = async {
                let taken = self.store.migrate(clock::now()).await?;
                self.store.index(&self.indexes).await?;
                Ok::<_, StoreFault>(taken)
            };
            let migrated = tokio::select! {
                migrated = steps => migrated,
                () = &mut *limit => return Err(self.unreachable()),
            };
            match migrated {
                Ok(taken) => {
                    if !taken.is_empty() {
                        tracing::info!(?taken, "the schema is up to date");
                    }
                    break;
                }
                Err(fault) if fault.is_configuration() => {
                    return Err(RunError::Configuration(format!("the schema cannot be brought up to date: {fault}")));
                }
                // A failover in the middle: every step can be repeated.
                Err(fault) => {
                    self.health.unready("mongodb", &fault.to_string(), clock::now());
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
        }
        Ok(())
    }

    async fn redis_answers(&self) -> Result<bool, RunError> {
        match self.link.ping().await {
            Ok(()) => self.health.ready("redis", clock::now()),
            Err(fault) if fault.kind == FaultKind::Denied => {
                let address = self.link.address();
                return Err(RunError::Configuration(format!(
                    "Redis at {address} refuses the credentials; check user and password in `redis.url`: {fault}"
                )));
            }
            Err(fault) => {
                self.health.unready("redis", &fault.to_string(), clock::now());
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn mongodb_answers(&self) -> Result<bool, RunError> {
        match self.store.ping().await {
            Ok(()) => self.health.ready("mongodb", clock::now()),
            Err(fault) if fault.is_configuration() => {
                return Err(RunError::Configuration(format!("{fault}; check `mongodb.uri`")));
            }
            Err(fault) => {
                self.health.unready("mongodb", &fault.to_string(), clock::now());
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is missing, in the words of those who miss it.
    fn missing(&self) -> String {
        let components = self.health.components();
        let stores = ["redis", "mongodb"].iter().filter_map(|name| components.get(*name)?.reason.clone());
        stores.collect::<Vec<_>>().join("; ")
    }

    fn unreachable(&self) -> RunError {
        RunError::Unreachable(format!(
            "gave up after {:?}: {}. Start the services, or set `redis.url` and `mongodb.uri`",
            self.wait,
            self.missing()
        ))
    }
}
