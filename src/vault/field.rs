//! The value of a field, and its sealed form: a BSON Binary of the generic subtype. Pure.
//!
//! Tasks are JSON, so that a record holds no Binary but sealed ones.

use mongodb::bson::{Binary, Bson, Document, doc, spec::BinarySubtype};
use zeroize::Zeroizing;

use super::{
    VaultFault, VaultFaultKind,
    seal::{self, Place, RANDOM},
    tenants::DataKey,
};

/// The sealed bytes, if the value is sealed.
pub(super) fn is_sealed(value: &Bson) -> Option<&[u8]> {
    match value {
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes }) => Some(bytes),
        _ => None,
    }
}

/// Whether a record has something sealed that [`super::Vault::open_document`] opens.
pub fn has_sealed(record: &Document) -> bool {
    let in_element = |e: &Bson| e.as_document().is_some_and(|d| d.values().any(|value| is_sealed(value).is_some()));
    record.values().any(|value| match value {
        Bson::Array(elements) => elements.iter().any(in_element),
        value => is_sealed(value).is_some(),
    })
}

/// Seals a value of any kind; it keeps its kind.
pub(super) fn seal(key: &DataKey, place: Place<'_>, random: [u8; RANDOM], value: &Bson) -> Result<Bson, VaultFault> {
    let plain = doc! { "v": value }.to_vec().map(Zeroizing::new).map_err(|e| {
        VaultFault::new(VaultFaultKind::Corrupt, format!("a value that is to be sealed cannot be stored: {e}"))
    })?;
    let bytes = seal::seal(&key.secret, &key.id, place, random, &plain);
    Ok(Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes }))
}

/// The value in what was opened.
pub(super) fn read(plain: &[u8]) -> Option<Bson> {
    Document::from_reader(plain).ok()?.remove("v")
}
