//! Everything that can be done to the log by someone who may write to the database, one by one.

use mongodb::bson::{Document, doc};

use super::{Log, entry};
use crate::harness::now;

const ENTRIES: i64 = 60;

/// A sound log with copies of its first `anchored` entries, and what it holds, to be put back after each attempt.
struct Victim {
    log: Log,
    entries: Vec<Document>,
    head: Document,
}

impl Victim {
    async fn new(anchored: i64) -> Self {
        let log = Log::new().await;
        log.write(1, anchored).await;
        if anchored > 0 {
            log.anchor().await;
        }
        log.write(anchored + 1, ENTRIES - anchored).await;
        log.link().await;
        log.sound(ENTRIES as u64).await;
        let entries = log.env.all("audit_log").await;
        let head = log.env.all("audit_head").await.remove(0);
        Self { log, entries, head }
    }

    /// What the check says first; then everything is as before.
    async fn found(&self, how: &str) -> String {
        let verdict = self.log.verify(true).await;
        assert!(!verdict.is_sound(), "{how}: not found");
        assert_eq!(verdict.faults, verdict.told.len() as u64);
        let ended = self.log.env.command(&["audit", "verify"]).end().await.code(1);
        assert!(ended.out.starts_with(&verdict.told[0]), "{how}: {}", ended.out);
        self.put_back().await;
        verdict.told[0].clone()
    }

    async fn put_back(&self) {
        for (name, documents) in [("audit_log", &self.entries), ("audit_head", &vec![self.head.clone()])] {
            let collection = self.log.env.coll(name);
            collection.delete_many(doc! {}).await.unwrap();
            collection.insert_many(documents).await.unwrap();
        }
    }

    async fn set_head(&self, n: i64) {
        let hash = self.log.get(n).await.get_str("hash").unwrap().to_owned();
        let heads = self.log.env.coll("audit_head");
        heads.update_one(doc! { "_id": "head" }, doc! { "$set": { "seq": n, "hash": hash } }).await.unwrap();
    }

    /// Everything behind `last` is taken off the chain and linked anew: what someone can do who knows how.
    async fn link_anew(&self, last: i64) {
        let off = doc! { "$unset": { "seq": "", "prev": "", "hash": "" } };
        self.log.env.coll("audit_log").update_many(doc! { "seq": { "$gt": last } }, off).await.unwrap();
        if last == 0 {
            self.log.env.coll("audit_head").delete_many(doc! {}).await.unwrap();
        } else {
            self.set_head(last).await;
        }
        self.log.link().await;
    }
}

#[tokio::test]
async fn altered_fields_are_found() {
    let victim = Victim::new(0).await;
    let log = &victim.log;
    let altered = "Entry 17 (\"e-000017@/it\") was altered: its digest is not that of its fields.";
    for update in [
        doc! { "$set": { "actor": "somebody else" } },
        doc! { "$set": { "detail.outcome": "Written" } },
        doc! { "$set": { "at": mongodb::bson::DateTime::from_millis(1) } },
        doc! { "$set": { "entity.id": "d18" } },
        doc! { "$set": { "detail.small": 7_i64 } },
        doc! { "$set": { "more": 1 } },
        doc! { "$unset": { "detail": "" } },
        doc! { "$unset": { "digest": "" } },
        doc! { "$set": { "digest": "0".repeat(64) } },
        doc! { "$rename": { "action": "Action" } },
        doc! { "$push": { "detail.list": 1 } },
    ] {
        log.update(17, update.clone()).await;
        assert_eq!(victim.found(&update.to_string()).await, altered, "{update}");
    }
    // The same fields in another order.
    let mut turned = log.get(17).await;
    let action = turned.remove("action").unwrap();
    turned.insert("action", action);
    log.env.coll("audit_log").replace_one(doc! { "seq": 17_i64 }, turned).await.unwrap();
    assert_eq!(victim.found("fields in another order").await, altered);
    // With a digest that fits: the hash does not.
    let mut forged = entry(17);
    forged.entity.1 = "another".into();
    let digest = forged.document(None).get_str("digest").unwrap().to_owned();
    log.update(17, doc! { "$set": { "entity.id": "another", "digest": digest } }).await;
    assert_eq!(
        victim.found("with its digest").await,
        "Entry 17 (\"e-000017@/it\") is not in its place: its hash is not that of its digest, its number and the entry before it."
    );
    log.update(17, doc! { "$set": { "hash": "0".repeat(64) } }).await;
    assert!(victim.found("its hash").await.starts_with("Entry 17 (\"e-000017@/it\") is not in its place"));
    log.update(17, doc! { "$unset": { "prev": "" } }).await;
    assert!(victim.found("no prev").await.starts_with("Entry 17 (\"e-000017@/it\") was altered: `prev`"));
}

#[tokio::test]
async fn removed_entries_are_found() {
    let victim = Victim::new(40).await;
    let log = &victim.log;
    log.remove(30).await;
    assert_eq!(victim.found("one of the middle").await, "Entry 30 is missing: it was removed from the log.");
    for n in [10, 11, 12] {
        log.remove(n).await;
    }
    assert_eq!(victim.found("three").await, "The entries 10 to 12 are missing: they were removed from the log.");
    log.remove(1).await;
    assert_eq!(victim.found("the first").await, "Entry 1 is missing: it was removed from the log.");
    log.remove(ENTRIES).await;
    assert_eq!(victim.found("the last").await, "Entry 60 is missing: it was removed from the log.");
    log.env.coll("audit_log").delete_many(doc! { "seq": { "$gt": 39 } }).await.unwrap();
    victim.set_head(39).await;
    let file = "anchor-000000000001.json";
    assert_eq!(
        victim.found("the last ones, with the head put back").await,
        format!("The log ends too early: {file} holds the entries 40 to 40.")
    );
    log.env.coll("audit_log").delete_many(doc! {}).await.unwrap();
    assert!(victim.found("all entries").await.starts_with("The entries 1 to 60 are missing"));
    log.env.coll("audit_log").delete_many(doc! {}).await.unwrap();
    log.env.coll("audit_head").delete_many(doc! {}).await.unwrap();
    assert_eq!(victim.found("everything").await, format!("The log ends too early: {file} holds the entries 1 to 40."));
}

#[tokio::test]
async fn entries_that_are_put_in_are_found() {
    let victim = Victim::new(0).await;
    let log = &victim.log;
    let all = log.env.coll("audit_log");
    let mut put_in = entry(900).document(None);
    put_in.remove("digest");
    all.insert_one(&put_in).await.unwrap();
    let stranger = "The entry \"e-000900@/it\" was altered or put in: it has no valid digest, and no number.";
    assert_eq!(victim.found("without digest and number").await, stranger);
    // The index has every number once.
    let mut twin = log.get(20).await;
    twin.insert("_id", "twin");
    assert!(all.insert_one(&twin).await.is_err());
    all.drop_index("seq_1").await.unwrap();
    all.insert_one(&twin).await.unwrap();
    let found = victim.found("with a number that is taken").await;
    assert!(found.contains("\"twin\") was altered") || found.contains("was put in: its number 20"), "{found}");
    log.env.coll("schema_migrations").delete_one(doc! { "_id": "0007-audit" }).await.unwrap();
    log.env.command(&["migrate"]).end().await.code(0);
    // Behind the head, well linked.
    let mut next = entry(61).document(None);
    let digest = blake3::Hash::from_hex(next.get_str("digest").unwrap()).unwrap();
    let prev = blake3::Hash::from_hex(victim.head.get_str("hash").unwrap()).unwrap();
    let hash = blake3::hash(&[&prev.as_bytes()[..], digest.as_bytes(), &61_i64.to_be_bytes()].concat());
    next.extend(doc! { "seq": 61_i64, "prev": prev.to_hex().as_str(), "hash": hash.to_hex().as_str() });
    all.insert_one(&next).await.unwrap();
    let behind = victim.found("behind the head").await;
    assert_eq!(behind, "The log goes on behind its head: what follows number 60 was put in.");
    next.insert("seq", 70_i64);
    all.insert_one(&next).await.unwrap();
    assert!(victim.found("far behind the head").await.starts_with("The entries 61 to 69 are missing"));
    next.insert("seq", 0_i64);
    all.insert_one(&next).await.unwrap();
    assert!(victim.found("before the first").await.starts_with("The entry \"e-000061@/it\" was put in: its number 0"));
    next.insert("seq", 61_i32);
    all.insert_one(&next).await.unwrap();
    assert!(victim.found("with a number of another type").await.contains("is not one of the log's"));
}

#[tokio::test]
async fn moved_entries_are_found() {
    let victim = Victim::new(0).await;
    let log = &victim.log;
    for (a, b) in [(20, 21), (5, 50), (1, 60)] {
        log.update(a, doc! { "$set": { "seq": 1_000_000_i64 } }).await;
        log.update(b, doc! { "$set": { "seq": a } }).await;
        log.update(1_000_000, doc! { "$set": { "seq": b } }).await;
        let found = victim.found("numbers").await;
        let id = entry(b).id;
        assert!(found.starts_with(&format!("Entry {a} ({id:?}) ")), "{found}");
    }
    // With all that belongs to a place.
    let places = [20, 21].map(|n| {
        let entry = &victim.entries[n - 1];
        doc! { "seq": n as i64, "prev": entry.get("prev").unwrap(), "hash": entry.get("hash").unwrap() }
    });
    log.update(20, doc! { "$set": { "seq": 1_000_000_i64 } }).await;
    log.update(21, doc! { "$set": places[0].clone() }).await;
    log.update(1_000_000, doc! { "$set": places[1].clone() }).await;
    let found = victim.found("places").await;
    assert!(found.starts_with("Entry 20 (\"e-000021@/it\") is not in its place"), "{found}");
}

#[tokio::test]
async fn the_head_is_checked() {
    let victim = Victim::new(0).await;
    let heads = victim.log.env.coll("audit_head");
    let head = doc! { "_id": "head" };
    heads.delete_one(head.clone()).await.unwrap();
    assert_eq!(victim.found("removed").await, "The head of the log was removed.");
    heads.update_one(head.clone(), doc! { "$set": { "hash": "1".repeat(64) } }).await.unwrap();
    assert!(victim.found("hash").await.starts_with("The head of the log does not fit entry 60"));
    heads.update_one(head.clone(), doc! { "$set": { "hash": "x" } }).await.unwrap();
    assert_eq!(victim.found("no hash").await, "The head of the log was altered: it is not readable.");
    heads.update_one(head, doc! { "$set": { "seq": 64_i64 } }).await.unwrap();
    assert_eq!(victim.found("seq").await, "The entries 61 to 64 are missing: they were removed from the log.");
    victim.set_head(50).await;
    assert_eq!(victim.found("back").await, "The log goes on behind its head: what follows number 50 was put in.");
    // Nothing is linked behind a head that was moved, and nothing of what waits is lost.
    victim.set_head(50).await;
    victim.log.write(61, 3).await;
    let error = contextd_jobs::kit::chain::link(&victim.log.env.db(), None).await.unwrap_err().to_string();
    assert!(error.contains("the head of the audit log is behind the entries"), "{error}");
    victim.set_head(60).await;
    assert_eq!(victim.log.link().await, 3);
    victim.log.sound(63).await;
}

/// Someone who links the whole log anew without a key is given away by the copies.
#[tokio::test]
async fn a_log_that_is_written_anew_does_not_fit_its_copies() {
    let victim = Victim::new(40).await;
    let log = &victim.log;
    log.remove(30).await;
    victim.link_anew(29).await;
    assert!(log.verify(false).await.is_sound(), "by itself it is well linked");
    let file = "anchor-000000000001.json";
    let anew =
        |n: i64, id: &str| format!("Entry {n} ({id:?}) is not the one that {file} holds: the log was written anew.");
    assert_eq!(victim.found("one removed").await, anew(30, "e-000031@/it"));
    log.update(3, doc! { "$set": { "actor": "nobody" } }).await;
    let mut forged = log.get(3).await;
    for field in ["digest", "seq", "prev", "hash"] {
        forged.remove(field);
    }
    let raw = mongodb::bson::RawDocumentBuf::try_from(&forged).unwrap();
    let digest = blake3::hash(raw.as_bytes()).to_hex().to_string();
    log.update(3, doc! { "$set": { "digest": digest } }).await;
    victim.link_anew(0).await;
    assert!(log.verify(false).await.is_sound(), "by itself it is well linked");
    assert_eq!(victim.found("one altered").await, anew(3, "e-000003@/it"));
    // What does not go on where the copies end is not copied.
    log.remove(40).await;
    victim.link_anew(39).await;
    let error = contextd_jobs::kit::chain::anchor(&log.env.db(), None, &log.anchors, now()).await.unwrap_err();
    assert!(error.to_string().contains("entry 40 is not the one that the last segment ends with"), "{error}");
}

#[tokio::test]
async fn altered_copies_are_found() {
    let log = Log::new().await;
    for round in 0..3 {
        log.write(round * 10 + 1, 10).await;
        log.anchor().await;
    }
    log.sound(30).await;
    let path = |n: i64| log.dir.join(format!("anchor-{n:012}.json"));
    let read = |n: i64| std::fs::read_to_string(path(n)).unwrap();
    let whole = [1, 11, 21].map(read);
    let restore = || {
        for (n, text) in [1, 11, 21].into_iter().zip(&whole) {
            std::fs::write(path(n), text).unwrap();
        }
    };
    let first = async || {
        let verdict = log.verify(true).await;
        restore();
        verdict.told.first().cloned().expect("a fault is found")
    };

    std::fs::write(path(11), read(11).replace("u-admin", "u-other")).unwrap();
    let changed = first().await;
    assert_eq!(changed, "anchor-000000000021.json does not follow the segment before it: one of the two was altered.");
    std::fs::remove_file(path(11)).unwrap();
    let gap = first().await;
    assert_eq!(gap, "A segment before anchor-000000000021.json is missing: it held the entries 11 to 20.");
    std::fs::write(path(11), "{}").unwrap();
    assert!(first().await.starts_with("anchor-000000000011.json was altered: it cannot be read"));
    let hash = log.get(15).await.get_str("hash").unwrap().to_owned();
    std::fs::write(path(11), read(11).replace(&hash, &"2".repeat(64))).unwrap();
    let broken = first().await;
    assert_eq!(broken, "anchor-000000000011.json was altered: it has entries that do not follow each other.");
    std::fs::write(path(21), read(11)).unwrap();
    assert!(!first().await.is_empty());
    log.sound(30).await;
}
