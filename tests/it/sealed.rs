//! Personal data: sealed on the way in, readable for those who have the keys and for nobody else.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf, doc, spec::ElementType};
use serde_json::{Value, json};

use crate::harness::{Env, Event, MongodServer, eventually, services, when};

const K1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const K2: &str = "k2:IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NOT_K1: &str = "k1:MAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Without compression, so that what is in Redis can be searched.
async fn world() -> Env {
    Env::new().await.set("cache.compress_over", "15MiB")
}

async fn sealed_world() -> Env {
    world().await.set("encryption.keys", K1)
}

/// The same world for processes with other keys.
fn with_keys(env: &mut Env, keys: &str) {
    env.settings.retain(|(name, _)| name != "CONTEXTD_ENCRYPTION__KEYS");
    env.settings.push(("CONTEXTD_ENCRYPTION__KEYS".into(), keys.into()));
}

fn user(event: &str, id: &str, second: u32, data: Value) -> Event {
    let mut event = Event::new(
        "user.save.v1",
        event,
        json!({ "userId": id, "updatedAt": format!("2026-01-01T00:00:{second:02}Z") }),
    );
    for (name, value) in data.as_object().unwrap() {
        event = event.data(name, value.clone());
    }
    event
}

/// Everything that MongoDB has in this database, as bytes.
async fn stored(env: &Env) -> Vec<u8> {
    let mut all = Vec::new();
    for name in env.db().list_collection_names().await.unwrap() {
        let mut rows = env.db().collection::<RawDocumentBuf>(&name).find(doc! {}).await.unwrap();
        while let Some(row) = rows.try_next().await.unwrap() {
            all.extend_from_slice(row.as_bytes());
        }
    }
    all
}

/// Everything that Redis has of cached records.
async fn cached(env: &Env) -> Vec<u8> {
    let mut all = Vec::new();
    for key in env.keys("cache:*").await {
        let value: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query_async(&mut env.redis()).await.unwrap();
        all.extend(value.unwrap_or_default());
    }
    all
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

async fn get(env: &Env, id: &str) -> Value {
    let mut shown = env.command(&["get", "user", id, "--json"]).end().await.code(0).json();
    shown["record"].take()
}

fn is_sealed(row: &Document, field: &str) -> bool {
    row.get(field).is_some_and(|value| value.element_type() == ElementType::Binary)
}

#[tokio::test]
async fn nothing_plain_is_left_in_mongodb_or_redis() {
    let env = sealed_world().await;
    let ann = json!({ "email": "Ann.Lee@secret.example", "firstName": "Annabelle", "lastName": "Leeward", "accountStatus": "active" });
    let of_acme =
        user("e2", "u2", 1, json!({ "email": "bob@secret.example", "firstName": "Bobward" })).with("tenant", "acme");
    env.push("records", "normal", &[user("e1", "u1", 1, ann), of_acme]).await;
    env.drain("records").await;
    let row = env.one("users", "u1").await.unwrap();
    for field in ["email", "firstName", "lastName"] {
        assert!(is_sealed(&row, field), "{field}: {row}");
    }
    assert_eq!(row.get_str("accountStatus").unwrap(), "active");
    for tier in 0..2 {
        // The second time it comes from Redis.
        let shown = get(&env, "u1").await;
        assert_eq!(shown["email"], "Ann.Lee@secret.example", "tier {tier}: {shown}");
        assert_eq!((&shown["firstName"], &shown["lastName"]), (&json!("Annabelle"), &json!("Leeward")));
        assert_eq!(get(&env, "u2").await["email"], "bob@secret.example");
    }
    let (stored, cached) = (stored(&env).await, cached(&env).await);
    assert!(holds(&stored, "accountStatus") && holds(&cached, "accountStatus"), "the search finds what is plain");
    for secret in ["secret.example", "ann.lee", "annabelle", "leeward", "bobward"] {
        assert!(!holds(&stored, secret), "{secret} is in MongoDB");
        assert!(!holds(&cached, secret), "{secret} is in Redis");
    }
    let tenants: BTreeSet<String> =
        env.all("data_keys").await.iter().map(|k| k.get_str("_id").unwrap().into()).collect();
    assert_eq!(tenants, BTreeSet::from(["acme/1".to_owned(), "default/1".to_owned()]));
}

#[tokio::test]
async fn without_the_right_key_nothing_starts_nothing_is_lost_and_the_key_is_named() {
    let mut env = sealed_world().await;
    env.push("records", "normal", &[user("e1", "u1", 1, json!({ "email": "ann@secret.example" }))]).await;
    env.drain("records").await;
    env.push("records", "normal", &[user("e2", "u2", 1, json!({ "email": "bob@secret.example" }))]).await;
    for keys in ["", K2, NOT_K1] {
        with_keys(&mut env, keys);
        for command in [&["run", "--until-drained"][..], &["check"], &["get", "user", "u1"]] {
            let ended = env.command(command).set("http.listen", "127.0.0.1:0").end().await;
            let said = format!("{}{}", ended.out, ended.err);
            assert_eq!(ended.code, 78, "{command:?} with {keys:?}: {said}");
            assert!(said.contains("k1") && said.contains("encryption.keys"), "{said}");
            assert!(!said.contains("AECAw") && !said.contains("secret.example"), "{said}");
        }
    }
    with_keys(&mut env, K1);
    env.drain("records").await;
    assert_eq!(get(&env, "u2").await["email"], "bob@secret.example");
}

#[tokio::test]
async fn after_rotations_beside_a_worker_all_is_read_with_the_new_key_alone() {
    let mut env = sealed_world().await;
    with_keys(&mut env, &format!("{K2}\n{K1}"));
    let worker = env.worker("records").set("encryption.keys", format!("{K1}\n{K2}")).ready().await;
    let mut users = Vec::new();
    for round in 0..4 {
        let batch: Vec<Event> = (0..25)
            .map(|i| {
                let id = format!("u{round}-{i}");
                let event = user(&id, &id, 1, json!({ "email": format!("{id}@secret.example") }));
                users.push(id);
                event.with("tenant", format!("t{}", i % 3 + round))
            })
            .collect();
        env.push("records", "normal", &batch).await;
        let rotate = env.command(&["keys", "rotate", "--data-keys", "--json"]).end().await.code(0).json();
        assert_eq!(rotate["key"], "k2");
    }
    env.drained("records").await;
    worker.stop().await;
    env.command(&["keys", "rotate"]).end().await.code(0);
    with_keys(&mut env, K2);
    env.command(&["check"]).end().await.code(0);
    assert_eq!(env.size("users").await, users.len() as u64);
    for id in users.iter().step_by(9) {
        assert_eq!(get(&env, id).await["email"], format!("{id}@secret.example"));
    }
    assert_eq!(env.coll("audit_log").count_documents(doc! { "action": "keys.rotate" }).await.unwrap(), 5);
}

#[tokio::test]
async fn turned_on_later_it_reads_what_was_plain_and_seals_what_is_written_again() {
    let mut env = world().await;
    let data = |n: &str| json!({ "email": format!("{n}@secret.example"), "lastName": format!("Name{n}") });
    env.push("records", "normal", &[user("e1", "u1", 1, data("ann")), user("e2", "u2", 1, data("bob"))]).await;
    env.drain("records").await;
    assert!(holds(&stored(&env).await, "ann@secret.example"), "without keys it is plain");
    with_keys(&mut env, K1);
    let later = user("e3", "u1", 2, json!({ "lastName": "Newname" }));
    env.push("records", "normal", &[later]).await;
    env.drain("records").await;
    let row = env.one("users", "u1").await.unwrap();
    assert!(is_sealed(&row, "lastName") && !is_sealed(&row, "email"), "{row}");
    let shown = get(&env, "u1").await;
    assert_eq!((&shown["email"], &shown["lastName"]), (&json!("ann@secret.example"), &json!("Newname")));
    assert_eq!(get(&env, "u2").await["lastName"], "Namebob");
    env.push("records", "normal", &[user("e4", "u1", 3, json!({ "email": "ann@secret.example" }))]).await;
    env.drain("records").await;
    assert!(!holds(&stored(&env).await, "ann@secret.example"));
    assert_eq!(get(&env, "u1").await["email"], "ann@secret.example");
}

#[tokio::test]
async fn an_address_belongs_to_one_user_whether_it_is_sealed_or_not() {
    for env in [world().await, sealed_world().await] {
        let save = |event: &str, id: &str, second, email: Value| user(event, id, second, json!({ "email": email }));
        env.push("records", "normal", &[save("e1", "u1", 1, json!("ann@secret.example"))]).await;
        env.drain("records").await;
        env.push("records", "normal", &[save("e2", "u2", 1, json!("ann@secret.example"))]).await;
        env.drain("records").await;
        let letter = env.dead("e2").await;
        assert_eq!(letter.get_str("reason").unwrap(), "rejected");
        let error = letter.get_str("error").unwrap();
        assert!(error.contains("email") && !error.contains("ann@"), "{error}");
        assert!(env.one("users", "u2").await.is_none());
        // Users without an address do not stand in each other's way, and one that is given up is free.
        let moved = [
            save("e3", "u1", 2, json!("new@secret.example")),
            user("e4", "u3", 1, json!({ "firstName": "Cy" })),
            user("e5", "u4", 1, json!({ "firstName": "Di" })),
        ];
        env.push("records", "normal", &moved).await;
        env.drain("records").await;
        env.push("records", "normal", &[save("e6", "u2", 3, json!("ann@secret.example"))]).await;
        env.drain("records").await;
        assert_eq!(env.size("users").await, 4);
        assert_eq!(get(&env, "u2").await["email"], "ann@secret.example");
    }
}

#[tokio::test]
async fn sealed_addresses_are_compared_without_case_and_by_tenant() {
    let env = sealed_world().await;
    let save = |event: &str, id: &str, email: &str| user(event, id, 1, json!({ "email": email }));
    env.push("records", "normal", &[save("e1", "u1", "ann@secret.example")]).await;
    env.drain("records").await;
    let of_tenant = save("e3", "u3", "ann@secret.example").with("tenant", "acme");
    env.push("records", "normal", &[save("e2", "u2", "ANN@Secret.example"), of_tenant]).await;
    env.drain("records").await;
    assert_eq!(env.dead("e2").await.get_str("reason").unwrap(), "rejected");
    assert!(env.one("users", "u3").await.is_some());
    // The stand-in is contextd's own.
    env.push("records", "normal", &[save("e4", "u4", "di@secret.example").data("emailHash", "0")]).await;
    env.drain("records").await;
    assert_eq!(env.dead("e4").await.get_str("reason").unwrap(), "schema");
}

#[tokio::test]
async fn an_older_value_never_goes_over_a_newer_sealed_one() {
    let env = sealed_world().await;
    let save = |event: &str, second, data| user(event, "u1", second, data);
    env.push("records", "normal", &[save("e1", 30, json!({ "email": "new@secret.example", "n": 1 }))]).await;
    env.drain("records").await;
    let sealed = env.one("users", "u1").await.unwrap();
    let older = save("e2", 10, json!({ "email": "old@secret.example" }));
    let again = save("e1", 30, json!({ "email": "new@secret.example", "n": 1 }));
    env.push("records", "normal", &[older, again]).await;
    let metrics = env.drain("records").await;
    assert_eq!((metrics.finished("records", "superseded"), metrics.finished("records", "duplicate")), (1.0, 1.0));
    assert_eq!(env.one("users", "u1").await.unwrap(), sealed, "nothing was written anew");
    env.push("records", "normal", &[save("e3", 20, json!({ "firstName": "Ann" }))]).await;
    env.drain("records").await;
    let shown = get(&env, "u1").await;
    assert_eq!((&shown["email"], &shown["firstName"]), (&json!("new@secret.example"), &json!("Ann")));
}

#[tokio::test]
async fn workers_that_start_together_use_one_key_per_tenant() {
    let env = sealed_world().await;
    let users: Vec<Event> = (0..400)
        .map(|i| {
            let id = format!("u{i}");
            user(&id, &id, 1, json!({ "email": format!("{id}@secret.example") })).with("tenant", format!("t{}", i % 40))
        })
        .collect();
    env.push("records", "normal", &users).await;
    let workers: Vec<_> =
        (0..3).map(|_| env.worker("records").set("queues.records.batch.tasks", "10").start()).collect();
    env.drained("records").await;
    env.size_is("users", 400).await;
    assert_eq!(env.size("data_keys").await, 40);
    assert_eq!(env.size("dead_letters").await, 0);
    for id in ["u0", "u39", "u123", "u399"] {
        assert_eq!(get(&env, id).await["email"], format!("{id}@secret.example"));
    }
    for mut worker in workers {
        worker.becomes_ready().await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn what_one_type_seals_every_type_of_the_collection_seals() {
    let dir = tempfile::tempdir().unwrap();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object", "required": ["noteId"], "properties": { "noteId": { "type": "string" } },
    });
    let mut toml = String::new();
    let types = [
        ("log", "write = \"append\"\narray = \"entries\"\nkeep = 5\nsensitive = [\"text\"]"),
        ("save", "write = \"replace\""),
        ("amend", "write = \"merge\""),
    ];
    for (name, write) in types {
        let path = dir.path().join(format!("{name}.json"));
        let mut schema = schema.clone();
        schema["title"] = format!("note.{name}.v1").into();
        std::fs::write(&path, schema.to_string()).unwrap();
        toml.push_str(&format!(
            "[records.note_{name}]\ntype = \"note.{name}.v1\"\nschema = {path:?}\ncollection = \"notes\"\nkey = [\"noteId\"]\n{write}\n"
        ));
    }
    let env = sealed_world().await;
    let event = |name: &str, id: &str, note: &str, text: &str| {
        let data = json!({ "noteId": note, "text": text, "plain": "plain-part" });
        Event::new(&format!("note.{name}.v1"), id, data).with("time", "2026-01-01T00:00:00Z")
    };
    let events = [
        event("log", "e1", "n1", "secret-one"),
        event("log", "e2", "n1", "secret-two"),
        event("save", "e3", "n2", "secret-three"),
        event("amend", "e4", "n3", "secret-four"),
    ];
    env.push("records", "normal", &events).await;
    let worker = env.worker("records").config(&toml).ready().await;
    env.drained("records").await;
    worker.stop().await;
    assert_eq!((env.size("notes").await, env.size("dead_letters").await), (3, 0));
    let stored = stored(&env).await;
    assert!(holds(&stored, "plain-part") && !holds(&stored, "secret-"));
    let log = env.one("notes", "n1").await.unwrap();
    assert_eq!(log.get_array("entries").unwrap().len(), 2);
}

#[tokio::test]
async fn a_dead_letter_keeps_the_original_bytes_whatever_they_hold() {
    let env = sealed_world().await;
    env.push("records", "normal", &[user("e1", "u1", 1, json!({ "email": 7, "lastName": "secret-name" }))]).await;
    env.drain("records").await;
    assert_eq!(env.dead("e1").await.get_str("reason").unwrap(), "schema");
    // Said in the documentation of the setting; `dead purge` removes it.
    assert!(holds(&stored(&env).await, "secret-name"));
    env.command(&["dead", "purge", "--queue", "records"]).end().await.code(0);
    eventually("the purged letter is gone", || async { when(!holds(&stored(&env).await, "secret-name")) }).await;
}

#[tokio::test]
async fn keys_that_cannot_be_had_for_a_while_are_waited_for() {
    let Some(mut mongod) = MongodServer::start().await else { return };
    let env = Env::on(&services::shared().redis, &mongod.uri()).await;
    let env = env.set("mongodb.timeout", "2s").set("encryption.keys", K1);
    let mut worker = env.worker("records").ready().await;
    mongod.kill();
    // Tenants that have no key yet: nothing can be sealed for them while MongoDB is away.
    let users: Vec<Event> = (0..30)
        .map(|i| {
            let id = format!("u{i}");
            user(&id, &id, 1, json!({ "email": format!("{id}@secret.example") })).with("tenant", format!("t{i}"))
        })
        .collect();
    env.push("records", "normal", &users).await;
    let reasons = worker.becomes_unready().await;
    assert!(reasons.contains("MongoDB"), "{reasons}");
    assert!(!reasons.contains("secret.example"), "{reasons}");
    mongod.restart();
    mongod.is_primary().await;
    worker.becomes_ready().await;
    env.drained("records").await;
    env.size_is("users", 30).await;
    assert_eq!((env.size("data_keys").await, env.size("dead_letters").await), (30, 0));
    let metrics = worker.at_rest().await;
    assert_eq!(metrics.sum("task_retries_total", &[]), 0.0, "an outage is no attempt");
    assert!(!holds(&stored(&env).await, "secret.example"));
    worker.stop().await;
}
