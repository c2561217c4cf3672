//! Contents in effects: stored before the row that describes them, removed when no row does.

use mongodb::bson::Document;

use super::{Patience, Planned, Records};
use crate::{
    content::{ContentFault, ContentRef, Tier},
    metrics::ErrorClass,
};

/// So many documents of a batch have their contents stored at once.
pub const AT_ONCE: usize = 16;

/// Waits as long as waiting helps: `None` when the worker stops first, `Err` when it would not help.
macro_rules! stored {
    ($patience:expr, $call:expr) => {
        $crate::effect::patiently!($patience, "objects", async {
            match $call.await {
                Err(fault) if fault.kind.passes() => Err(fault),
                other => Ok(other),
            }
        })
    };
}
pub(super) use stored;

/// An object that is damaged or gone: an operator restores it, the task is tried again.
pub fn failed(fault: &ContentFault) -> Planned {
    tracing::error!(%fault, "a content cannot be read or stored");
    Planned::Failed(ErrorClass::Effect, fault.to_string())
}

/// Whose contents these are, for keys: the user's, else the session's.
pub fn owner(row: &Document) -> Option<&str> {
    let of = |name| row.get_str(name).ok().filter(|id| !id.is_empty());
    of("userId").or_else(|| of("sessionId"))
}

/// Removes an object that no row describes (any more). If the worker stops first, it stays, and only takes room.
pub async fn remove(records: &Records, tier: Tier, key: &str, patience: &Patience<'_>) {
    let removed = stored!(patience, records.content.objects(tier).delete(key));
    if let Some(Err(fault)) = removed {
        tracing::warn!(%fault, "an object that is not needed any more stays");
    }
}

/// As a row keeps it.
pub fn to_row(content: &ContentRef) -> Document {
    // It has texts, numbers below 2^63 and a flag: nothing that BSON lacks.
    mongodb::bson::serialize_to_document(content).unwrap_or_default()
}
