//! Sensitive fields are sealed before a change meets the record: MongoDB and the caches only ever see sealed values.
//!
//! What is newer is decided by clocks alone, so that sealed bytes, which are never the same twice, are never compared.

use mongodb::bson::{Bson, Document};

use super::{Patience, Records, patiently, records::Due};
use crate::{
    config::WriteMode,
    record::{Action, Change},
    vault::{Vault, VaultFault, VaultFaultKind},
};

/// Users are found by their address, and have it to themselves.
const USERS: &str = "users";
const EMAIL: &str = "email";
/// Stands in for a sealed address; see [`Vault::blind`].
const EMAIL_HASH: &str = "emailHash";

/// Where a record lies, and whose keys seal it.
pub(super) struct Place<'a> {
    pub tenant: Option<&'a str>,
    pub collection: &'a str,
    pub key: &'a str,
    /// The fields that are sealed.
    pub fields: &'a [String],
}

impl Records {
    /// Seals what `change` sets of the type's sensitive fields. Call it once: what is sealed would be sealed again.
    /// Keys that cannot be had are waited for. `None`: the worker stops. An error is for the task's producer.
    pub(super) async fn seal(
        &self,
        due: &Due<'_>,
        collection: &str,
        key: &str,
        change: &mut Change,
        patience: &Patience<'_>,
    ) -> Option<Result<(), String>> {
        if due.declared.sensitive.is_empty() || !self.vault.is_on() {
            return Some(Ok(()));
        }
        // Contents are sealed as objects.
        let stored_apart = matches!(due.declared.write, WriteMode::DocumentSave | WriteMode::VersionSave);
        let is_field = |name: &&String| !(stored_apart && *name == "content");
        let fields: Vec<String> = due.declared.sensitive.iter().filter(is_field).cloned().collect();
        let place = Place { tenant: due.task.tenant.as_deref(), collection, key, fields: &fields };
        patiently!(patience, "encryption", async {
            match place.seal(&self.vault, change).await {
                Err(fault) if fault.kind == VaultFaultKind::Corrupt => Ok(Err(fault.to_string())),
                other => other.map(Ok),
            }
        })
    }
}

impl Place<'_> {
    /// On an error `change` is as it was.
    pub async fn seal(&self, vault: &Vault, change: &mut Change) -> Result<(), VaultFault> {
        let (prefix, is_element, replaces) = match &change.action {
            Action::Append { array, .. } => (format!("{array}."), true, false),
            action => (String::new(), false, matches!(action, Action::Replace(_))),
        };
        let Some(fields) = fields(&mut change.action) else { return Ok(()) };
        let mut sealed = Document::new();
        for name in self.fields {
            if let Some(value) = fields.get(name) {
                let place = format!("{prefix}{name}");
                let value = vault.seal_field(self.tenant, self.collection, self.key, &place, value).await?;
                sealed.insert(name, value);
            }
        }
        let has_email = self.collection == USERS && !is_element && self.fields.iter().any(|name| name == EMAIL);
        if has_email {
            let hash = match fields.get(EMAIL) {
                Some(Bson::String(email)) => vault.blind(self.tenant, "users.email", email).await?,
                _ => None,
            };
            // An address that is taken away leaves no stand-in.
            if hash.is_some() || replaces || fields.contains_key(EMAIL) {
                fields.insert(EMAIL_HASH, hash.map_or(Bson::Null, Bson::String));
            }
        }
        fields.extend(sealed);
        Ok(())
    }
}

/// What a change sets of the task's data.
fn fields(action: &mut Action) -> Option<&mut Document> {
    match action {
        Action::Insert(fields) | Action::Replace(fields) | Action::Merge(fields) => Some(fields),
        Action::Append { element, .. } => Some(element),
        Action::Delete(_) | Action::Restore(_) => None,
    }
}
