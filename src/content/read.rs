//! From a row in MongoDB to the content that it describes.

use mongodb::bson::{Document, deserialize_from_document};

use super::{Content, ContentFault, ContentRef, FaultKind};
use crate::store::{DOCUMENT_VERSIONS, Store, StoreFault};

/// A row that moves on while its content is read is read again; so often at most.
const TRIES: usize = 4;

/// Why a content cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error(transparent)]
    Content(#[from] ContentFault),
}

impl ReadError {
    /// Whether waiting and asking again can help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Store(_) => true,
            Self::Content(fault) => fault.kind.passes(),
        }
    }
}

/// What `row` says of its content; none when it has no content (yet).
pub fn described(row: &Document) -> Option<ContentRef> {
    deserialize_from_document(row.get_document("content").ok()?.clone()).ok()
}

/// The content of the row `id` of `collection` (`documents` or `document_versions`); none when there is no such row or
/// it has no content.
pub async fn read(store: &Store, content: &Content, collection: &str, id: &str) -> Result<Option<Vec<u8>>, ReadError> {
    let mut seen: Option<String> = None;
    for _ in 0..TRIES {
        let Some(row) = store.by_ids(collection, &[id.to_owned()]).await?.pop() else { return Ok(None) };
        let Some(described) = described(&row) else { return Ok(None) };
        match load(store, content, &described).await {
            // A newer save or a claim has moved on meanwhile, and the object is gone: what is there now?
            Err(ReadError::Content(fault))
                if fault.kind == FaultKind::Missing && seen.as_ref() != Some(&described.key) =>
            {
                seen = Some(described.key);
            }
            loaded => return loaded.map(Some),
        }
    }
    let text = format!("the content of {id:?} changed again and again while it was read: try again");
    Err(ContentFault::new(FaultKind::Unavailable, text).into())
}

async fn load(store: &Store, content: &Content, described: &ContentRef) -> Result<Vec<u8>, ReadError> {
    let base = match &described.base {
        Some(id) => {
            let row = store.by_ids(DOCUMENT_VERSIONS, std::slice::from_ref(id)).await?.pop();
            row.as_ref().and_then(self::described)
        }
        None => None,
    };
    Ok(content.load(described, base.as_ref()).await?)
}
