//! Data keys: who makes them, who opens what.

use std::{collections::BTreeSet, time::Duration};

use contextd::vault::VaultFaultKind;
use futures::future::join_all;
use mongodb::bson::{Bson, Document, doc};

use crate::harness::{K1, K2, LONG, NOT_K1, World};

fn email() -> Bson {
    "ann@example.org".into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_that_make_a_tenants_key_at_once_use_the_same_one() {
    let world = World::new().await;
    for round in 0..5 {
        let tenant = format!("t{round}");
        let vaults = join_all((0..12).map(|_| world.vault(&[K1], LONG))).await;
        let seal = |v: usize| {
            let (vault, tenant) = (vaults[v].clone(), tenant.clone());
            async move { vault.seal_field(Some(&tenant), "users", "u1", "email", &email()).await.expect("sealed") }
        };
        let sealed = join_all((0..48).map(|i| seal(i % vaults.len()))).await;
        assert_eq!(world.db.collection::<Document>("data_keys").count_documents(doc! {}).await.unwrap(), round + 1);
        // Each opens what each of the others has sealed.
        for (i, value) in sealed.iter().enumerate() {
            let opened = vaults[(i + 1) % vaults.len()].open_field("users", "u1", "email", value).await;
            assert_eq!(opened.expect("opened"), email());
        }
        let hashes = join_all(vaults.iter().map(|v| v.blind(Some(&tenant), "users.email", " Ann@Example.ORG "))).await;
        let hashes: BTreeSet<_> = hashes.into_iter().map(|hash| hash.unwrap().unwrap()).collect();
        assert_eq!(hashes.len(), 1);
    }
    world.end().await;
}

#[tokio::test]
async fn a_value_opens_with_the_right_key_and_in_its_place_only() {
    let world = World::new().await;
    let vault = world.vault(&[K1], LONG).await;
    let sealed = vault.seal_field(Some("acme"), "users", "u1", "email", &email()).await.unwrap();
    let kind = |opened: Result<Bson, contextd::vault::VaultFault>| opened.unwrap_err();

    let missing = kind(world.vault(&[K2], LONG).await.open_field("users", "u1", "email", &sealed).await);
    assert_eq!(missing.kind, VaultFaultKind::NoKey);
    assert!(missing.message.contains("\"k1\"") && missing.message.contains("\"u1\""), "{missing}");
    let wrong = kind(world.vault(&[NOT_K1], LONG).await.open_field("users", "u1", "email", &sealed).await);
    assert_eq!(wrong.kind, VaultFaultKind::WrongKey);
    let off = world.vault(&[], LONG).await;
    let unset = kind(off.open_field("users", "u1", "email", &sealed).await);
    assert_eq!(unset.kind, VaultFaultKind::NoKey);
    assert!(unset.message.contains("`encryption.keys` is empty"), "{unset}");
    for fault in [&missing, &wrong, &unset] {
        assert!(!fault.message.contains("AAECAw") && !fault.message.contains("ann@"), "{fault}");
    }

    for (collection, id, field) in [("users", "u2", "email"), ("users", "u1", "name"), ("sessions", "u1", "email")] {
        assert_eq!(kind(vault.open_field(collection, id, field, &sealed).await).kind, VaultFaultKind::Corrupt);
    }
    world.db.collection::<Document>("data_keys").delete_many(doc! {}).await.unwrap();
    let gone = kind(world.vault(&[K1], LONG).await.open_field("users", "u1", "email", &sealed).await);
    assert_eq!(gone.kind, VaultFaultKind::NoKey, "{gone}");
    world.end().await;
}

#[tokio::test]
async fn off_changes_nothing_and_on_reads_what_was_plain() {
    let world = World::new().await;
    let (off, on) = (world.vault(&[], LONG).await, world.vault(&[K1], LONG).await);
    assert_eq!(off.seal_field(None, "users", "u1", "email", &email()).await.unwrap(), email());
    assert_eq!(off.seal_bytes(None, "documents/d1", b"text").await.unwrap(), None);
    assert_eq!(off.blind(None, "users.email", "ann@example.org").await.unwrap(), None);
    assert!(world.db.list_collection_names().await.unwrap().is_empty());

    let sealed = on.seal_field(None, "users", "u1", "lastName", &"Lee".into()).await.unwrap();
    let mut row = doc! { "_id": "u1", "email": email(), "lastName": sealed, "n": 1_i64 };
    on.open_document("users", &mut row).await.unwrap();
    assert_eq!(row, doc! { "_id": "u1", "email": "ann@example.org", "lastName": "Lee", "n": 1_i64 });
    world.end().await;
}

#[tokio::test]
async fn contents_open_under_their_name_only() {
    let world = World::new().await;
    let vault = world.vault(&[K1], LONG).await;
    let text = "The whole text. ".repeat(5_000);
    let sealed = vault.seal_bytes(Some("acme"), "documents/d1", text.as_bytes()).await.unwrap().unwrap();
    assert!(sealed.len() < text.len() + 100);
    assert_eq!(vault.open_bytes("documents/d1", &sealed).await.unwrap(), text.as_bytes());
    assert_eq!(vault.open_bytes("documents/d2", &sealed).await.unwrap_err().kind, VaultFaultKind::Corrupt);
    assert_eq!(vault.open_bytes("documents/d1", b"plain").await.unwrap_err().kind, VaultFaultKind::Corrupt);
    world.end().await;
}

#[tokio::test]
async fn tenants_and_fields_have_hashes_of_their_own() {
    let world = World::new().await;
    let vault = world.vault(&[K1], LONG).await;
    let mut seen = BTreeSet::new();
    for (tenant, field) in [(None, "users.email"), (Some("acme"), "users.email"), (None, "users.phone")] {
        let hash = vault.blind(tenant, field, "ann@example.org").await.unwrap().unwrap();
        assert_eq!(vault.blind(tenant, field, "  ANN@example.org").await.unwrap().unwrap(), hash);
        assert!(seen.insert(hash));
    }
    assert!(seen.insert(vault.blind(None, "users.email", "bob@example.org").await.unwrap().unwrap()));
    world.end().await;
}

#[tokio::test]
async fn the_check_names_the_key_that_is_missing_or_wrong() {
    let world = World::new().await;
    world.vault(&[], LONG).await.check().await.expect("nothing is sealed yet");
    world.vault(&[K1], LONG).await.seal_field(None, "users", "u1", "email", &email()).await.unwrap();
    world.vault(&[K2, K1], LONG).await.check().await.expect("both keys are there");
    for (keys, kind) in [
        (&[][..], VaultFaultKind::NoKey),
        (&[K2][..], VaultFaultKind::NoKey),
        (&[NOT_K1][..], VaultFaultKind::WrongKey),
    ] {
        let fault = world.vault(keys, LONG).await.check().await.unwrap_err();
        assert_eq!(fault.kind, kind);
        assert!(fault.message.contains("\"k1\""), "{fault}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_removed_data_key_is_noticed_after_its_time_in_memory() {
    let world = World::new().await;
    let vault = world.vault(&[K1], Duration::ZERO).await;
    let patient = world.vault(&[K1], LONG).await;
    let sealed = vault.seal_field(Some("acme"), "users", "u1", "email", &email()).await.unwrap();
    patient.open_field("users", "u1", "email", &sealed).await.unwrap();
    world.db.collection::<Document>("data_keys").delete_many(doc! {}).await.unwrap();
    let fault = vault.open_field("users", "u1", "email", &sealed).await.unwrap_err();
    assert_eq!(fault.kind, VaultFaultKind::NoKey, "{fault}");
    patient.open_field("users", "u1", "email", &sealed).await.expect("still in memory");
    world.end().await;
}
