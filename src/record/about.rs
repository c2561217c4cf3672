//! What a record is about, as far as that may have been purged. Pure.

use mongodb::bson::Document;

use super::{Action, Change};

/// Ids of tombstones; with one of them there, no record of `collection` with the fields of `get` is made any more.
///
/// A session outlives the document that it began with, and what happened in a session is kept when that is archived.
pub fn about<'d>(collection: &str, get: impl Fn(&str) -> Option<&'d str>) -> impl Iterator<Item = String> {
    let document = get("documentId").filter(|_| collection != "sessions").map(|id| tombstone("documents", id));
    let user = get("userId").map(|id| tombstone("users", id));
    document.into_iter().chain(user)
}

/// The `_id` of what says that a record was purged.
pub fn tombstone(collection: &str, key: &str) -> String {
    format!("{collection}/{key}")
}

impl Change {
    /// The tombstones that keep this change from making the record `key`.
    pub fn forbidden_by(&self, collection: &str, key: &str) -> impl Iterator<Item = String> {
        let given = match &self.action {
            Action::Insert(fields) | Action::Replace(fields) | Action::Merge(fields) => Some(fields),
            _ => None,
        };
        let text = |fields: &'_ Document, name: &str| fields.get_str(name).ok().map(str::to_owned);
        let get = |name: &str| given.and_then(|fields| text(fields, name)).or_else(|| text(&self.create, name));
        let (document, user) = (get("documentId"), get("userId"));
        let named = about(collection, |name| if name == "userId" { user.as_deref() } else { document.as_deref() });
        std::iter::once(tombstone(collection, key)).chain(named.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use mongodb::bson::doc;

    use super::*;
    use crate::record::Clock;

    fn ids(collection: &str, action: Action, create: Document) -> Vec<String> {
        let at = DateTime::UNIX_EPOCH;
        let change = Change { clock: Clock(1), at, task: "t@/s".into(), action, create, required: false };
        change.forbidden_by(collection, "k").collect()
    }

    #[test]
    fn a_record_is_about_its_document_and_user() {
        let fields = doc! { "documentId": "d", "userId": "u", "sessionId": "s" };
        let all = ["interactions/k", "documents/d", "users/u"];
        assert_eq!(ids("interactions", Action::Insert(fields.clone()), doc! {}), all);
        assert_eq!(ids("sessions", Action::Merge(fields), doc! {}), ["sessions/k", "users/u"]);
        // Parts of the key are with what a new record gets.
        let preference = ids("user_preferences", Action::Merge(doc! {}), doc! { "userId": "u" });
        assert_eq!(preference, ["user_preferences/k", "users/u"]);
        assert_eq!(ids("contexts", Action::Delete(doc! {}), doc! {}), ["contexts/k"]);
        assert_eq!(ids("contexts", Action::Merge(doc! { "userId": 7 }), doc! {}), ["contexts/k"]);
    }
}
