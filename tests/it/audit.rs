//! The audit log's chain: what is done to it in MongoDB is found, and nothing that contextd does to it is held against it.

use std::{path::PathBuf, time::Duration};

use contextd::{lifecycle::Anchors, store::Store};
use contextd_jobs::kit::{
    Vaulted,
    chain::{self, Entry, Key, Verdict},
};
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use serde_json::{Value, json};

use crate::harness::{Env, Event, MongodServer, eventually, in_seconds, now, when};

mod tamper;

/// What `audit.key` makes of "a secret of the test".
const SECRET: &str = "a secret of the test";

/// A log of its own with its indexes, and a place for its copies.
pub struct Log {
    pub env: Env,
    pub key: Option<Key>,
    pub anchors: Anchors,
    pub dir: PathBuf,
}

impl Log {
    pub async fn new() -> Self {
        Self::on(Env::new().await, None).await
    }

    pub async fn keyed() -> Self {
        let env = Env::new().await.set("audit.key", SECRET);
        Self::on(env, Some(blake3::derive_key("contextd audit log 1", SECRET.as_bytes()))).await
    }

    async fn on(env: Env, key: Option<Key>) -> Self {
        env.command(&["migrate"]).end().await.code(0);
        let variables = env.variables();
        let url = &variables.iter().find(|(name, _)| name == "CONTEXTD_AUDIT__URL").unwrap().1;
        let config = contextd::config::load(None, std::iter::empty()).unwrap();
        Self { anchors: Anchors::new(url, &config.content), dir: PathBuf::from(url).join("anchors"), env, key }
    }

    /// Entries that wait to be linked, from number `from` on.
    pub async fn write(&self, from: i64, count: i64) {
        if count == 0 {
            return;
        }
        let entries: Vec<Document> = (from..from + count).map(|n| entry(n).document(self.key.as_ref())).collect();
        self.env.coll("audit_log").insert_many(entries).await.unwrap();
    }

    pub async fn link(&self) -> u64 {
        chain::link(&self.env.db(), self.key.as_ref()).await.unwrap()
    }

    pub async fn anchor(&self) -> chain::Anchored {
        chain::anchor(&self.env.db(), self.key.as_ref(), &self.anchors, now()).await.unwrap()
    }

    pub async fn verify(&self, with_anchors: bool) -> Verdict {
        let anchors = with_anchors.then_some(&self.anchors as &dyn Vaulted);
        chain::verify(&self.env.db(), self.key.as_ref(), anchors, now()).await.unwrap()
    }

    pub async fn sound(&self, entries: u64) {
        let verdict = self.verify(true).await;
        assert_eq!((verdict.told.as_slice(), verdict.entries), ([].as_slice(), entries));
    }

    pub async fn update(&self, n: i64, update: Document) {
        let done = self.env.coll("audit_log").update_one(doc! { "seq": n }, update).await.unwrap();
        assert_eq!(done.modified_count, 1);
    }

    pub async fn get(&self, n: i64) -> Document {
        self.env.coll("audit_log").find_one(doc! { "seq": n }).await.unwrap().unwrap()
    }

    pub async fn remove(&self, n: i64) {
        assert_eq!(self.env.coll("audit_log").delete_one(doc! { "seq": n }).await.unwrap().deleted_count, 1);
    }
}

pub fn entry(n: i64) -> Entry {
    Entry {
        id: format!("e-{n:06}@/it"),
        at: chrono::DateTime::from_timestamp(1_760_000_000 + n, 123_000_000).unwrap(),
        action: "document.delete".into(),
        entity: ("documents".into(), format!("d{n}")),
        actor: (n % 2 == 0).then(|| "u-admin".into()),
        detail: doc! { "outcome": "written", "count": n, "small": 7_i32, "share": 0.5, "list": ["a", { "b": true }] },
    }
}

#[tokio::test]
async fn an_empty_log_is_sound() {
    let log = Log::new().await;
    log.sound(0).await;
    assert_eq!(log.anchor().await, chain::Anchored::default());
    let ended = log.env.command(&["audit", "verify"]).end().await.code(0);
    assert!(ended.out.contains("0 entries are linked") && ended.out.contains("Nothing is wrong."), "{}", ended.out);
    let exported = log.env.command(&["audit", "export"]).end().await.code(0);
    assert_eq!(exported.out, "");
}

/// From the stored bytes, by the words of `docs/audit.md` and with none of the code that is tested.
#[tokio::test]
async fn the_chain_is_what_the_documentation_says() {
    for log in [Log::new().await, Log::keyed().await] {
        log.write(1, 7).await;
        assert_eq!(log.link().await, 7);
        let hash = |bytes: &[u8]| match &log.key {
            Some(key) => blake3::keyed_hash(key, bytes),
            None => blake3::hash(bytes),
        };
        let mut prev = [0_u8; 32];
        for n in 1..=7_i64 {
            let stored = log.get(n).await;
            let rest: Document = stored
                .iter()
                .filter(|(name, _)| !["digest", "seq", "prev", "hash"].contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            let digest = hash(RawDocumentBuf::try_from(&rest).unwrap().as_bytes());
            assert_eq!(stored.get_str("digest").unwrap(), digest.to_hex().as_str());
            let linked = hash(&[&prev[..], digest.as_bytes(), &n.to_be_bytes()].concat());
            let hex = prev.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(stored.get_str("prev").unwrap(), hex);
            assert_eq!(stored.get_str("hash").unwrap(), linked.to_hex().as_str());
            prev = *linked.as_bytes();
        }
        log.sound(7).await;
    }
}

/// Without the secret nothing that is written anew fits, and nothing is linked for those who do not know it.
#[tokio::test]
async fn a_keyed_log_takes_no_entries_of_those_without_the_key() {
    let log = Log::keyed().await;
    log.write(1, 5).await;
    assert_eq!(log.link().await, 5);
    log.env.coll("audit_log").insert_one(entry(6).document(None)).await.unwrap();
    assert_eq!(log.link().await, 0);
    let verdict = log.verify(false).await;
    assert_eq!(
        verdict.told,
        ["The entry \"e-000006@/it\" was altered or put in: it has no valid digest, and no number."]
    );
    log.env.command(&["audit", "verify"]).end().await.code(1).says(&["damaged in one place"]).readable();
    let other = log.env.command(&["audit", "verify"]).set("audit.key", "another secret, as long").end().await.code(1);
    assert!(other.out.starts_with("Entry 1 (\"e-000001@/it\") was altered"), "{}", other.out);
    log.env.command(&["audit", "verify"]).set("audit.key", "short").end().await.code(78).says(&["audit.key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_linkers_make_one_chain_while_entries_come_in() {
    let log = Log::new().await;
    let db = log.env.db();
    let writers = async {
        for batch in 0..40 {
            log.write(batch * 50 + 1, 50).await;
        }
    };
    let linkers: Vec<_> = (0..4)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                let mut linked = 0;
                while chain_length(&db).await < 2_000 {
                    linked += chain::link(&db, None).await.unwrap();
                }
                linked
            })
        })
        .collect();
    // A check beside them finds nothing wrong, wherever they are.
    let checks = async {
        let mut checks = 0;
        while chain_length(&db).await < 2_000 {
            let verdict = log.verify(true).await;
            assert_eq!(verdict.told, [""; 0], "{verdict:?}");
            checks += 1;
        }
        checks
    };
    let ((), checks) = tokio::join!(writers, checks);
    println!("{checks} checks beside the linkers");
    let mut linked = 0;
    for linker in linkers {
        linked += linker.await.unwrap();
    }
    // The check links what it finds overdue, which entries of this age are at once.
    assert!((1..=2_000).contains(&linked), "each entry is linked once: {linked}");
    log.sound(2_000).await;
}

async fn chain_length(db: &mongodb::Database) -> i64 {
    let head = db.collection::<Document>("audit_head").find_one(doc! { "_id": "head" }).await.unwrap();
    head.map_or(0, |head| head.get_i64("seq").unwrap())
}

/// Dropped where it stands, again and again: its transaction may be open, aborted or committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linker_that_is_cut_off_anywhere_leaves_a_sound_log() {
    let log = Log::new().await;
    log.write(1, 3_000).await;
    let db = log.env.db();
    for cut in 0..60_u64 {
        let cut = Duration::from_micros(400 + cut * 900);
        let _ = tokio::time::timeout(cut, chain::link(&db, None)).await;
    }
    log.write(3_001, 500).await;
    log.link().await;
    log.sound(3_500).await;
}

/// Answers of commits are lost, and connections break in the middle of transactions.
#[tokio::test]
async fn a_linker_finds_out_what_became_of_its_commits() {
    let Some(mongod) = MongodServer::start().await else { return };
    let shared = Env::new().await;
    let log = Log::on(Env::on(&shared.redis_url, &mongod.uri()).await, None).await;
    for commands in [vec!["commitTransaction"], vec!["update"], vec!["commitTransaction", "update", "find", "insert"]] {
        let from = chain_length(&log.env.db()).await + 1;
        log.write(from, 700).await;
        for data in [
            doc! { "failCommands": &commands, "closeConnection": true },
            doc! { "failCommands": &commands, "errorCode": 11_602, "errorLabels": ["UnknownTransactionCommitResult"] },
            doc! { "failCommands": &commands, "writeConcernError": { "code": 64, "errmsg": "made for the test" } },
        ] {
            mongod.fail_command(doc! { "times": 3 }, data).await;
            for _ in 0..20 {
                if chain::link(&log.env.db(), None).await.is_ok() {
                    break;
                }
            }
        }
        mongod.fail_command("off", doc! {}).await;
        log.link().await;
        log.sound(from as u64 + 699).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_entries_are_linked_checked_and_copied() {
    let log = Log::new().await;
    for batch in 0..20 {
        log.write(batch * 1_000 + 1, 1_000).await;
    }
    let start = std::time::Instant::now();
    assert_eq!(log.link().await, 20_000);
    let linked = start.elapsed();
    let copied = log.anchor().await;
    assert_eq!((copied.segments, copied.entries), (4, 20_000));
    let anchored = start.elapsed() - linked;
    let verdict = log.verify(true).await;
    let verified = start.elapsed() - linked - anchored;
    assert_eq!((verdict.told.as_slice(), verdict.anchors, verdict.anchored), ([].as_slice(), 4, 20_000));
    println!("20,000 entries: linked in {linked:?}, copied in {anchored:?}, checked with copies in {verified:?}");
    // One look into an index, however long the log.
    let plan = log.env.db().run_command(doc! { "explain": { "find": "audit_log", "filter": { "seq": null }, "sort": { "at": 1, "_id": 1 }, "limit": 1 }, "verbosity": "executionStats" }).await.unwrap();
    let stats = plan.get_document("executionStats").unwrap();
    let examined = ["totalKeysExamined", "totalDocsExamined"].map(|name| stats.get_i32(name).unwrap());
    assert_eq!(examined, [0, 0], "{stats}");
}

/// Two jobs copy at once: each segment is made once, and they follow each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_made_at_once_are_one_chain() {
    let log = Log::new().await;
    for round in 0..6 {
        log.write(round * 100 + 1, 100).await;
        let db = log.env.db();
        let anchor = || chain::anchor(&db, None, &log.anchors, now());
        let (one, two) = tokio::join!(anchor(), anchor());
        assert_eq!(one.unwrap().entries + two.unwrap().entries, 100);
    }
    log.sound(600).await;
}

/// The real thing: tasks that are audited, on a real worker, killed and started again.
#[tokio::test]
async fn what_the_effects_record_is_linked_by_the_worker() {
    let env = Env::new().await.short_lease();
    let document = |n: i64| {
        let at = in_seconds(n - 600);
        let times = json!({ "createdAt": at, "updatedAt": at, "lastAccessedAt": at });
        let data = json!({ "documentId": format!("d{n}"), "userId": "u1", "title": "T", "content": "x" });
        let event = Event::new("document.save.v1", &format!("save-{n}"), data);
        times.as_object().unwrap().iter().fold(event, |event, (name, at)| event.data(name, at.clone()))
    };
    let delete = |n: i64| {
        let data = json!({ "documentId": format!("d{n}"), "deletedAt": in_seconds(n - 300), "actor": "u-admin" });
        Event::new("document.delete.v1", &format!("delete-{n}"), data)
    };
    let mut worker = env.worker("records").ready().await;
    env.push("records", "normal", &(0..30).map(document).collect::<Vec<_>>()).await;
    env.drained("records").await;
    env.push("records", "normal", &(0..30).map(delete).collect::<Vec<_>>()).await;
    worker.kill();
    let worker = env.worker("records").ready().await;
    let other = env.worker("records").ready().await;
    env.drained("records").await;
    let audited = env.size("audit_log").await;
    assert!(audited >= 30, "{audited} entries");
    eventually("all entries are linked", || async {
        let waiting = env.coll("audit_log").count_documents(doc! { "seq": null }).await.ok()?;
        when(waiting == 0)
    })
    .await;
    worker.stop().await;
    other.stop().await;
    let verdict = env.command(&["audit", "verify", "--json"]).end().await.code(0).json();
    assert_eq!((verdict["entries"].as_u64(), verdict["faults"].as_u64()), (Some(audited), Some(0)));

    let run = env.command(&["jobs", "run", "audit-anchor", "--dry-run", "--json"]).end().await.code(0);
    assert!(run.json().to_string().contains(&format!("\"copy_entries\":{audited}")), "{}", run.out);
    env.command(&["jobs", "run", "audit-anchor"]).end().await.code(0);
    let verdict = env.command(&["audit", "verify", "--json"]).end().await.code(0).json();
    assert_eq!((verdict["anchors"].as_u64(), verdict["anchored"].as_u64()), (Some(1), Some(audited)));
}

#[tokio::test]
async fn entries_are_exported_as_lines() {
    let log = Log::new().await;
    log.write(1, 12).await;
    let lines = |out: &str| -> Vec<Value> { out.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    // What waits is linked first.
    let all = lines(&log.env.command(&["audit", "export"]).end().await.code(0).out);
    let seqs: Vec<&str> = all.iter().map(|line| line["seq"]["$numberLong"].as_str().unwrap()).collect();
    assert_eq!(seqs, (1..=12).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(all[2]["detail"]["share"], json!({ "$numberDouble": "0.5" }));
    assert_eq!(all[2]["at"], json!({ "$date": { "$numberLong": "1760000003123" } }));
    let first = log.env.command(&["audit", "export"]).end().await.out;
    assert!(first.starts_with("{\"_id\":\"e-000001@/it\",\"at\":{"), "fields in their order: {first}");

    let some = log.env.command(&["audit", "export", "--from", "11"]).end().await.code(0);
    assert_eq!(lines(&some.out), all[10..]);
    let one = log.env.command(&["audit", "export", "--entity", "documents/d4"]).end().await.code(0);
    assert_eq!(lines(&one.out), all[3..4]);
    log.env.command(&["audit", "export", "--entity", "d4"]).end().await.code(64).says(&["a slash"]);
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("log.jsonl");
    let to_file = ["audit", "export", "--out", path.to_str().unwrap()];
    log.env.command(&to_file).end().await.code(0);
    assert_eq!(lines(&std::fs::read_to_string(&path).unwrap()), all);
    log.env.command(&to_file).end().await.code(64).says(&["cannot be made"]);
}

/// Entries from before there was a chain get their digests by the migration, once; later ones without are strangers.
#[tokio::test]
async fn an_older_log_is_taken_over_by_the_migration() {
    let env = Env::new().await;
    let old = |n: i64| {
        let mut old = entry(n).document(None);
        old.remove("digest");
        old
    };
    env.coll("audit_log").insert_many((1..=2_500).map(old)).await.unwrap();
    env.command(&["migrate"]).end().await.code(0);
    let verdict = env.command(&["audit", "verify", "--json"]).end().await.code(0).json();
    assert_eq!(verdict["entries"], 2_500);
    env.coll("audit_log").insert_one(old(2_501)).await.unwrap();
    env.coll("schema_migrations").delete_one(doc! { "_id": "0007-audit" }).await.unwrap();
    env.command(&["migrate"]).end().await.code(0);
    let ended = env.command(&["audit", "verify"]).end().await.code(1);
    assert!(ended.out.contains("\"e-002501@/it\" was altered or put in"), "{}", ended.out);
}

/// An id of another type than text, as another program may write it, does not hold up the others.
#[tokio::test]
async fn strange_entries_hold_nothing_up() {
    let log = Log::new().await;
    let strange = [
        doc! { "_id": 7 },
        doc! { "_id": mongodb::bson::oid::ObjectId::new(), "at": Bson::Null, "digest": 3 },
        doc! { "_id": "list", "seq": [Bson::Null] },
        doc! { "_id": "text", "seq": "one" },
    ];
    log.env.coll("audit_log").insert_many(strange).await.unwrap();
    log.write(1, 20).await;
    assert_eq!(log.link().await, 20);
    let verdict = log.verify(false).await;
    assert_eq!((verdict.entries, verdict.faults), (22, 4), "{:?}", verdict.told);
}

/// Through the library, which the worker writes with.
#[tokio::test]
async fn the_store_writes_digests() {
    let log = Log::keyed().await;
    let mut config = contextd::config::load(None, std::iter::empty()).unwrap();
    (config.mongodb.uri, config.mongodb.database) = (log.env.mongodb_uri.clone(), log.env.database.clone());
    let store = Store::new(&config.mongodb).await.unwrap().with_audit_key(log.key);
    store.audit(&[entry(1), entry(2)]).await.unwrap();
    store.audit(&[entry(2)]).await.unwrap();
    assert_eq!((store.link_audit().await.unwrap(), store.link_audit().await.unwrap()), (2, 0));
    log.sound(2).await;
}
