//! Look-ups of versions that are no look-ups by id.

use std::collections::HashMap;

use mongodb::bson::{Document, doc};

use super::{DOCUMENT_VERSIONS, SESSION_HISTORY, SESSIONS, Store, StoreFault};

impl Store {
    /// Those of `sessions` that have been claimed, with their users; archived ones, too.
    pub async fn claimed(&self, sessions: &[&str]) -> Result<HashMap<String, String>, StoreFault> {
        // In this order: who is archived meanwhile is found in the one or the other.
        let mut found = self.claimed_in(SESSIONS, sessions).await?;
        found.extend(self.claimed_in(SESSION_HISTORY, sessions).await?);
        Ok(found)
    }

    async fn claimed_in(&self, collection: &str, sessions: &[&str]) -> Result<HashMap<String, String>, StoreFault> {
        let find = async {
            let rows = self.db.collection::<Document>(collection);
            let filter = doc! { "_id": { "$in": sessions }, "claimedBy": { "$exists": true } };
            let mut cursor = rows.find(filter).projection(doc! { "claimedBy": 1 }).await?;
            let mut found = HashMap::new();
            while cursor.advance().await? {
                let row = cursor.current();
                if let (Ok(session), Ok(user)) = (row.get_str("_id"), row.get_str("claimedBy")) {
                    found.insert(session.to_owned(), user.to_owned());
                }
            }
            Ok(found)
        };
        self.bounded("find", find).await
    }

    /// The newest version of a document that is stored as a full copy, along the index of numbers.
    pub async fn last_full_version(&self, document: &str) -> Result<Option<Document>, StoreFault> {
        let versions = self.db.collection::<Document>(DOCUMENT_VERSIONS);
        let full = doc! { "documentId": document, "content.codec": { "$in": ["zstd", "raw"] } };
        let find = versions.find_one(full).sort(doc! { "versionNumber": -1 });
        self.bounded("find", find.into_future()).await
    }
}
