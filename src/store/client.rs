//! The connection to MongoDB.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use mongodb::{
    Client, Database,
    bson::{Document, doc},
    options::{ClientOptions, ReadConcern, SelectionCriteria, WriteConcern},
};

use super::{ANALYSES, AUDIT_LOG, DEAD_LETTERS, StoreFault, TYPING_CONTEXTS};
use crate::{config, metrics::MongoMetrics};

/// MongoDB with the concerns that contextd's promises need; clones share the driver's pool.
#[derive(Clone)]
pub struct Store {
    pub(super) db: Database,
    pub(super) timeout: Duration,
    /// Hosts without credentials, for messages.
    pub(super) address: String,
    pub(super) metrics: Arc<MongoMetrics>,
    /// How many batches are still to look before they insert; see `bulk`.
    pub(super) looks: Arc<AtomicU32>,
    /// The same for the collections of records.
    pub(super) record_looks: Arc<HashMap<&'static str, AtomicU32>>,
    /// Keys the digests of audit entries.
    pub(super) audit_key: Option<contextd_jobs::kit::chain::Key>,
}

impl Store {
    /// Prepares the driver; connections are made when they are needed.
    ///
    /// # Errors
    /// A URI that cannot be used, in a full sentence without the URI's secrets.
    pub async fn new(settings: &config::MongoDb) -> Result<Self, String> {
        Self::with_records(settings, &[]).await
    }

    /// [`Store::new`] for a worker that writes to `collections` of records.
    pub async fn with_records(settings: &config::MongoDb, collections: &[&'static str]) -> Result<Self, String> {
        let mut options = ClientOptions::parse(&settings.uri)
            .await
            .map_err(|e| format!("`mongodb.uri` cannot be used: {}", without_userinfo(&e.to_string())))?;
        options.app_name.get_or_insert_with(|| "contextd".into());
        // Selection is bounded like every other step, so that a missing primary is noticed and reported.
        options.server_selection_timeout.get_or_insert(settings.timeout.min(Duration::from_secs(5)));
        options.connect_timeout.get_or_insert(settings.timeout.min(Duration::from_secs(5)));
        let address = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let client = Client::with_options(options)
            .map_err(|e| format!("`mongodb.uri` cannot be used: {}", without_userinfo(&e.to_string())))?;
        let majority = WriteConcern::builder()
            .w(mongodb::options::Acknowledgment::Majority)
            .journal(true)
            .w_timeout(settings.timeout)
            .build();
        let concerns = mongodb::options::DatabaseOptions::builder()
            .write_concern(majority)
            .read_concern(ReadConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(mongodb::options::ReadPreference::Primary))
            .build();
        Ok(Self {
            db: client.database_with_options(&settings.database, concerns),
            timeout: settings.timeout,
            address,
            metrics: Arc::new(MongoMetrics::new(
                &[&[ANALYSES, TYPING_CONTEXTS, DEAD_LETTERS, AUDIT_LOG][..], collections].concat(),
            )),
            looks: Arc::default(),
            record_looks: Arc::new(collections.iter().map(|name| (*name, AtomicU32::new(0))).collect()),
            audit_key: None,
        })
    }

    /// Hosts without credentials.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The database, for the schedule and the jobs.
    pub fn database(&self) -> &Database {
        &self.db
    }

    /// Bounds a driver call in time: the driver has no socket time-out of its own.
    pub(super) async fn bounded<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, mongodb::error::Error>>,
    ) -> Result<T, StoreFault> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result.map_err(StoreFault::from),
            Err(_) => Err(StoreFault::timeout(what, self.timeout)),
        }
    }

    /// Asks the primary for a sign of life.
    pub async fn ping(&self) -> Result<(), StoreFault> {
        let hello: Document = self.bounded("hello", self.db.run_command(doc! { "hello": 1 }).into_future()).await?;
        if hello.get_str("setName").is_err() && hello.get_str("msg").ok() != Some("isdbgrid") {
            let message = "this MongoDB is not a replica set: majority writes and transactions need one; \
                           start it with --replSet and initiate it (one member is enough)";
            return Err(StoreFault::answer(crate::metrics::ErrorClass::Rejected, message.into()));
        }
        Ok(())
    }
}

/// Cuts `user:password@` out of a text that may quote a URI.
fn without_userinfo(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if end > start => format!("{}...{}", &text[..start + 3], &text[end..]),
        _ => text.to_string(),
    }
}
