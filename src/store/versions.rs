//! Look-ups of versions that are no look-ups by id.

use mongodb::bson::{Document, doc};

use super::{DOCUMENT_VERSIONS, Store, StoreFault};

impl Store {
    /// The newest version of a document that is stored as a full copy, along the index of numbers.
    pub async fn last_full_version(&self, document: &str) -> Result<Option<Document>, StoreFault> {
        let versions = self.db.collection::<Document>(DOCUMENT_VERSIONS);
        let full = doc! { "documentId": document, "content.codec": { "$in": ["zstd", "raw"] } };
        let find = versions.find_one(full).sort(doc! { "versionNumber": -1 });
        self.bounded("find", find.into_future()).await
    }
}
