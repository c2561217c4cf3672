use std::{sync::Arc, time::Duration};

use contextd::{
    config::{self, Config, Encryption},
    store::Store,
    vault::Vault,
};
use mongodb::{Client, Database};

/// A database of its own; dropped by the test.
pub struct World {
    pub db: Database,
    config: Config,
}

pub const K1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const K2: &str = "k2:IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Another key under the id of the first.
pub const NOT_K1: &str = "k1:MAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

impl World {
    pub async fn new() -> Self {
        let uri = crate::services::uri();
        let client = Client::with_uri_str(uri).await.expect("MongoDB answers");
        let db = client.database(&format!("vault_{}", uuid::Uuid::now_v7().simple()));
        let vars = [("CONTEXTD_MONGODB__URI", uri), ("CONTEXTD_MONGODB__DATABASE", db.name())];
        let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = config::load(None, vars).expect("valid settings");
        Self { db, config }
    }

    /// As another process would have it: connections and memory of its own. Looks keys up anew after `lifetime`.
    pub async fn vault(&self, keys: &[&str], lifetime: Duration) -> Arc<Vault> {
        let store = Store::new(&self.config.mongodb).await.expect("a usable URI");
        let settings = Encryption { keys: keys.join("\n") };
        Arc::new(Vault::with_lifetime(&settings, store, lifetime).expect("usable keys"))
    }

    pub async fn end(self) {
        self.db.drop().await.expect("dropped");
    }
}

pub const LONG: Duration = Duration::from_secs(3600);
