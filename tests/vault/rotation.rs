//! Rotation beside others that seal and open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use contextd::{
    clock,
    vault::{Vault, VaultFaultKind},
};
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use crate::harness::{K1, K2, LONG, NOT_K1, World};

async fn seal(vault: &Vault, tenant: &str, id: &str) -> Bson {
    vault.seal_field(Some(tenant), "users", id, "email", &id.into()).await.expect("sealed")
}

async fn opens(vault: &Vault, id: &str, sealed: &Bson) {
    assert_eq!(vault.open_field("users", id, "email", sealed).await.expect("opened"), id.into());
}

/// The id of the data key in the sealed bytes.
fn data_key(sealed: &Bson) -> String {
    let Bson::Binary(binary) = sealed else { panic!("not sealed: {sealed}") };
    let length = usize::from(binary.bytes[1]);
    String::from_utf8(binary.bytes[2..2 + length].to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn others_go_on_sealing_and_opening_while_keys_are_rotated() {
    let world = World::new().await;
    let tenants = ["acme", "bolt", "core"];
    let first = world.vault(&[K1], LONG).await;
    let mut early = Vec::new();
    for tenant in tenants {
        early.push((tenant, seal(&first, tenant, tenant).await));
    }
    // Workers that have the new key and look keys up all the time, and one that has the old key alone.
    let busy = [world.vault(&[K2, K1], Duration::ZERO).await, world.vault(&[K1, K2], Duration::ZERO).await];
    let old_only = world.vault(&[K1], Duration::ZERO).await;
    for (id, sealed) in &early {
        opens(&old_only, id, sealed).await;
    }
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let loops: Vec<_> = busy
        .into_iter()
        .enumerate()
        .map(|(n, vault)| {
            let (stop, count, early) = (stop.clone(), count.clone(), early.clone());
            tokio::spawn(async move {
                let mut sealed = early.iter().map(|(id, value)| ((*id).to_owned(), value.clone())).collect::<Vec<_>>();
                while !stop.load(Ordering::Relaxed) {
                    let i = count.fetch_add(1, Ordering::Relaxed);
                    // New tenants, too: their keys are made in the middle of it all.
                    let tenant = if i % 7 == 0 { format!("new{n}-{i}") } else { tenants[i as usize % 3].to_owned() };
                    let id = format!("u{i}");
                    sealed.push((id.clone(), seal(&vault, &tenant, &id).await));
                    let (id, value) = &sealed[i as usize * 31 % sealed.len()];
                    opens(&vault, id, value).await;
                }
                sealed
            })
        })
        .collect();
    let operator = world.vault(&[K2, K1], LONG).await;
    while count.load(Ordering::Relaxed) < 50 {
        tokio::task::yield_now().await;
    }
    let mut created = 0;
    for _ in 0..4 {
        let before = count.load(Ordering::Relaxed);
        created += operator.rotate(true, Some("it"), clock::now()).await.expect("rotated").created;
        while count.load(Ordering::Relaxed) < before + 50 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in loops {
        all.extend(task.await.expect("no value was refused"));
    }
    assert!(created >= 12, "each of four rotations makes a key for each of three tenants: {created}");
    // The second worker still wraps with the old key: one more rotation after it has ended.
    let last = operator.rotate(false, None, clock::now()).await.expect("rotated");
    let keys = world.db.collection::<Document>("data_keys");
    assert_eq!(keys.count_documents(doc! { "kek": { "$ne": "k2" } }).await.unwrap(), 0);
    assert_eq!(keys.count_documents(doc! {}).await.unwrap(), last.data_keys, "no mark of a rotation is left");
    let new_only = world.vault(&[K2], LONG).await;
    new_only.check().await.expect("the old key is not needed any more");
    for (id, sealed) in &all {
        opens(&new_only, id, sealed).await;
    }
    // What it had in memory stays good for a worker that was not given the new key yet.
    for (id, sealed) in &early {
        opens(&old_only, id, sealed).await;
    }
    assert_eq!(world.db.collection::<Document>("audit_log").count_documents(doc! {}).await.unwrap(), 5);
    world.end().await;
}

#[tokio::test]
async fn new_data_keys_seal_from_then_on_and_old_ones_still_open() {
    let world = World::new().await;
    let vault = world.vault(&[K1], Duration::ZERO).await;
    let before = seal(&vault, "acme", "u1").await;
    let hash = vault.blind(Some("acme"), "users.email", "u1").await.unwrap();
    for expected in 2..12 {
        let done = vault.rotate(true, None, clock::now()).await.unwrap();
        assert_eq!((done.created, done.rewrapped, done.data_keys), (1, 0, expected));
        // Past nine: by number, not by text.
        assert_eq!(data_key(&seal(&vault, "acme", "u2").await), format!("acme/{expected}"));
        opens(&vault, "u1", &before).await;
    }
    assert_eq!(vault.blind(Some("acme"), "users.email", "u1").await.unwrap(), hash, "hashes stay as they are");
    world.end().await;
}

#[tokio::test]
async fn a_rotation_that_was_ended_midway_is_gone_on_with() {
    let world = World::new().await;
    let vault = world.vault(&[K1], Duration::ZERO).await;
    for tenant in ["a", "b", "c"] {
        seal(&vault, tenant, "u").await;
    }
    // As a rotation leaves it that was killed after the first tenant's new key.
    let now = clock::now();
    let keys = world.db.collection::<Document>("data_keys");
    let mark = doc! { "_id": "rotation", "startedAt": mongodb::bson::DateTime::from_millis(now.timestamp_millis()) };
    keys.insert_one(mark).await.unwrap();
    let mut done = keys.find_one(doc! { "_id": "a/1" }).await.unwrap().unwrap();
    done.insert("createdAt", mongodb::bson::DateTime::from_millis(now.timestamp_millis()));
    keys.replace_one(doc! { "_id": "a/1" }, done).await.unwrap();
    let rotated = vault.rotate(true, None, clock::now()).await.unwrap();
    assert_eq!((rotated.created, rotated.data_keys), (2, 5));
    // The next one is a new one.
    assert_eq!(vault.rotate(true, None, clock::now()).await.unwrap().created, 3);
    world.end().await;
}

#[tokio::test]
async fn a_rotation_that_cannot_be_done_changes_nothing() {
    let world = World::new().await;
    seal(&*world.vault(&[K1], LONG).await, "acme", "u1").await;
    let rows = || async {
        let keys = world.db.collection::<Document>("data_keys");
        keys.find(doc! {}).await.unwrap().try_collect::<Vec<Document>>().await.unwrap()
    };
    let before = rows().await;
    for (keys, kind) in [
        (&[][..], VaultFaultKind::Configuration),
        (&[K2][..], VaultFaultKind::NoKey),
        (&[K2, NOT_K1][..], VaultFaultKind::WrongKey),
    ] {
        let fault = world.vault(keys, LONG).await.rotate(true, None, clock::now()).await.unwrap_err();
        assert_eq!(fault.kind, kind, "{fault}");
    }
    assert_eq!(rows().await, before);
    assert_eq!(world.db.collection::<Document>("audit_log").count_documents(doc! {}).await.unwrap(), 0);
    world.end().await;
}
