//! A session's row, wherever it lies: archived ones are in `session_history`, under the same id.

use mongodb::bson::Document;

use crate::store::{Rows, RowsError, SESSION_HISTORY, SESSIONS, Store, StoreFault};

/// Its collection and the row, seen in one snapshot.
pub async fn row(rows: &mut Rows<'_>, id: &str) -> Result<Option<(&'static str, Document)>, RowsError> {
    for collection in [SESSIONS, SESSION_HISTORY] {
        if let Some(row) = rows.get(collection, id).await? {
            return Ok(Some((collection, row)));
        }
    }
    Ok(None)
}

/// The row outside of a transaction. One that is moved between the two looks is found by the second.
pub async fn find(store: &Store, id: &str) -> Result<Option<Document>, StoreFault> {
    for collection in [SESSIONS, SESSION_HISTORY] {
        if let Some(row) = store.records_by_id(collection, &[id]).await?.remove(id) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}
