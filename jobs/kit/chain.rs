//! Entries of the audit log.

use chrono::{DateTime, Utc};
use mongodb::bson::{Document, doc};

use super::to_bson;

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: String,
    pub at: DateTime<Utc>,
    pub action: String,
    pub entity: (String, String),
    pub actor: Option<String>,
    pub detail: Document,
}

impl Entry {
    pub fn document(&self, _key: Option<&[u8; 32]>) -> Document {
        doc! { "_id": &self.id, "at": to_bson(self.at), "action": &self.action,
        "entity": { "kind": &self.entity.0, "id": &self.entity.1 }, "actor": self.actor.clone(), "detail": self.detail.clone() }
    }
}
