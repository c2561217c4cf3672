//! Contents of documents and versions are sealed like fields, before the object store sees them.

use futures::{FutureExt, future::BoxFuture};

use super::{Vault, VaultFault, VaultFaultKind, off};
use crate::content::{ContentFault, FaultKind, Seal, Sealing};

impl Seal for Vault {
    fn seal<'a>(
        &'a self,
        tenant: Option<&'a str>,
        context: &'a str,
        plain: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, ContentFault>> {
        async move { Ok(self.seal_bytes(tenant, context, &plain).await?.ok_or_else(off)?) }.boxed()
    }

    fn open<'a>(&'a self, context: &'a str, sealed: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, ContentFault>> {
        async move { Ok(self.open_bytes(context, sealed).await?) }.boxed()
    }
}

impl Vault {
    /// Whether a content is to be sealed: its type declares `content` as sensitive, and encryption is on.
    pub fn sealing<'a>(&self, sensitive: &[String], tenant: Option<&'a str>) -> Sealing<'a> {
        let seals = self.is_on() && sensitive.iter().any(|field| field == "content");
        if seals { Sealing::For(tenant) } else { Sealing::Off }
    }
}

impl From<VaultFault> for ContentFault {
    fn from(fault: VaultFault) -> Self {
        let kind = match fault.kind {
            VaultFaultKind::Unavailable => FaultKind::Unavailable,
            VaultFaultKind::Corrupt => FaultKind::Corrupt,
            VaultFaultKind::NoKey | VaultFaultKind::WrongKey | VaultFaultKind::Configuration => {
                FaultKind::Configuration
            }
        };
        ContentFault::new(kind, fault.message)
    }
}
