//! Finding records, with their sealed fields opened.

use super::ReadError;
use crate::{
    store::{CONTEXT_LINKS, CONTEXTS, Direction, Page, Related, Search, Store},
    vault::Vault,
};

/// One page of contexts and memories; see [`Store::search`]. Sealed fields are not searched.
///
/// # Errors
/// Those of the search, and a sealed field without its key.
pub async fn find(store: &Store, vault: &Vault, search: &Search) -> Result<Page, ReadError> {
    let mut page = store.search(search).await?;
    for hit in &mut page.hits {
        vault.open_document(CONTEXTS, &mut hit.document).await?;
    }
    Ok(page)
}

/// What a record is related to; see [`Store::related`].
///
/// # Errors
/// As [`find`].
pub async fn related(
    store: &Store,
    vault: &Vault,
    id: &str,
    relations: &[String],
    depth: u32,
    direction: Direction,
) -> Result<Related, ReadError> {
    let mut related = store.related(id, relations, depth, direction).await?;
    for link in &mut related.links {
        vault.open_document(CONTEXT_LINKS, &mut link.document).await?;
    }
    for (collection, record) in &mut related.ends {
        vault.open_document(collection, record).await?;
    }
    Ok(related)
}
