//! The command for keys. The data keys were wrapped by another implementation of the format, so that nothing here rests
//! on the code that is tested.

use mongodb::bson::{Binary, DateTime, Document, doc, spec::BinarySubtype};
use serde_json::{Value, json};

use crate::harness::Env;

const K1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const K2: &str = "k2:IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Another key under the id of the first.
const NOT_K1: &str = "k1:MAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Data keys of two tenants, wrapped by [`K1`].
const WRAPPED: [(&str, &str); 2] = [
    (
        "acme/1",
        "01026b31000102030405060708090a0b0c0d0e0f101112131415161718191a1b753c4fd64d0ec9e197892f4332cccf942009b7842c46dba9c4121211869296e8e7a6306c5b4e17ab83b3d6a73cdb2710",
    ),
    (
        "default/1",
        "01026b310102030405060708090a0b0c0d0e0f101112131415161718191a1b1c4ba79346728c3e0b5ed906b49ca810986853a58f15cf880588de1d3f084486ec1e7125d27bbe372717e781ebc1f2ccf9",
    ),
];

async fn with_data_keys() -> Env {
    let env = Env::new().await;
    for (id, hex) in WRAPPED {
        let bytes = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let wrapped = Binary { subtype: BinarySubtype::Generic, bytes };
        let row =
            doc! { "_id": id, "kek": "k1", "wrapped": wrapped, "createdAt": DateTime::from_millis(1_700_000_000_000) };
        env.coll("data_keys").insert_one(row).await.unwrap();
    }
    env
}

async fn json_of(env: &Env, keys: &[&str], args: &[&str]) -> Value {
    env.command(args).set("encryption.keys", keys.join(",")).end().await.code(0).json()
}

async fn keks(env: &Env) -> Vec<(String, String)> {
    let text = |row: &Document, field: &str| row.get_str(field).unwrap().to_owned();
    let mut keks: Vec<_> = env.all("data_keys").await.iter().map(|r| (text(r, "_id"), text(r, "kek"))).collect();
    keks.sort();
    keks
}

#[tokio::test]
async fn keys_are_listed_with_what_they_wrap() {
    let env = with_data_keys().await;
    let listed = json_of(&env, &[K2, K1], &["keys", "list", "--json"]).await;
    assert_eq!(
        listed["keys"],
        json!([
            { "id": "k2", "configured": true, "current": true, "wraps": 0 },
            { "id": "k1", "configured": true, "current": false, "wraps": 2 },
        ])
    );
    let first = json!({ "id": "acme/1", "tenant": "acme", "wrappedBy": "k1", "createdAt": "2023-11-14T22:13:20Z",
        "current": true, "error": null });
    assert_eq!((listed["dataKeys"].as_array().unwrap().len(), &listed["dataKeys"][0]), (2, &first));
    let table = env.command(&["keys", "list"]).set("encryption.keys", [K2, K1].join("\n")).end().await.code(0);
    for part in ["k1", "k2", "acme/1", "default/1", "current", "old"] {
        assert!(table.out.contains(part), "{part}:\n{}", table.out);
    }
    assert!(!table.out.contains("AAECAw"), "a key is printed:\n{}", table.out);
}

#[tokio::test]
async fn a_list_with_keys_that_are_missing_or_wrong_says_which() {
    let env = with_data_keys().await;
    for keys in ["", K2, NOT_K1] {
        let ended = env.command(&["keys", "list"]).set("encryption.keys", keys).end().await.code(1).readable();
        assert!(ended.out.contains("cannot be unwrapped"), "{}", ended.out);
        ended.says(&["\"k1\"", "acme/1", "encryption.keys"]);
    }
}

#[tokio::test]
async fn a_rotation_rewraps_all_and_can_be_run_again() {
    let env = with_data_keys().await;
    let before = env.all("data_keys").await;
    let rotate = ["keys", "rotate", "--json", "--actor", "ops"];
    let done = json_of(&env, &[K2, K1], &rotate).await;
    assert_eq!(done, json!({ "key": "k2", "rewrapped": 2, "created": 0, "dataKeys": 2 }));
    assert_eq!(keks(&env).await, [("acme/1".into(), "k2".into()), ("default/1".into(), "k2".into())]);
    assert!(
        env.all("data_keys").await.iter().all(|row| !before.iter().any(|b| b.get("wrapped") == row.get("wrapped")))
    );
    // The old key is not needed any more, and there is nothing left to do.
    let again = json_of(&env, &[K2], &rotate).await;
    assert_eq!(again, json!({ "key": "k2", "rewrapped": 0, "created": 0, "dataKeys": 2 }));

    let made = json_of(&env, &[K2], &["keys", "rotate", "--data-keys", "--json"]).await;
    assert_eq!(made, json!({ "key": "k2", "rewrapped": 0, "created": 2, "dataKeys": 4 }));
    let listed = json_of(&env, &[K2], &["keys", "list", "--json"]).await;
    let current = |key: &Value| key["current"] == true;
    let ids: Vec<_> = listed["dataKeys"].as_array().unwrap().iter().filter(|k| current(k)).map(|k| &k["id"]).collect();
    assert_eq!(ids, ["acme/2", "default/2"]);

    let mut log = env.all("audit_log").await;
    log.sort_by_key(|entry| entry.get_str("_id").unwrap().to_owned());
    assert_eq!(log.len(), 3);
    let first = &log[0];
    assert_eq!((first.get_str("action").unwrap(), first.get_str("actor").unwrap()), ("keys.rotate", "ops"));
    assert_eq!(first.get_document("entity").unwrap(), &doc! { "kind": "data_keys", "id": "k2" });
    let detail = doc! { "rewrapped": 2_i64, "created": 0_i64, "dataKeys": 2_i64 };
    assert_eq!(first.get_document("detail").unwrap(), &detail);
    assert!(first.get_datetime("at").is_ok());
    assert_eq!(log[2].get("actor"), None);
}

#[tokio::test]
async fn a_rotation_without_the_right_keys_is_refused_and_changes_nothing() {
    let env = with_data_keys().await;
    let before = env.all("data_keys").await;
    for (keys, says) in [("", "encryption is off"), (K2, "\"k1\""), (&*[K2, NOT_K1].join("\n"), "\"k1\"")] {
        let ended = env.command(&["keys", "rotate", "--data-keys"]).set("encryption.keys", keys).end().await;
        let ended = ended.code(78).readable().says(&[says, "encryption.keys"]);
        assert_eq!(ended.out, "");
    }
    assert_eq!(env.all("data_keys").await, before);
    assert_eq!(env.size("audit_log").await, 0);
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_refused_and_not_shown() {
    let env = Env::new().await;
    for (keys, says) in
        [(format!("{K1}\nk2:{}", &K2[3..20]), "line 2"), (K1[3..].to_owned(), "no id"), (format!("{K1},{K1}"), "twice")]
    {
        let ended = env.command(&["keys", "list"]).set("encryption.keys", keys).end().await;
        let ended = ended.code(78).readable().says(&["CONTEXTD_ENCRYPTION__KEYS", says]);
        assert!(!ended.err.contains("AECAwQ"), "a key is printed:\n{}", ended.err);
    }
    let file = crate::harness::cli::config_file(&format!("# The keys.\n{K2}\n{K1}\n"));
    let ended = env.command(&["keys", "list", "--json"]).set("encryption.keys_file", file.path().display()).end().await;
    let json = ended.code(0).json();
    assert_eq!(
        (&json["encryption"], &json["keys"][0]["id"], &json["dataKeys"]),
        (&json!(true), &json!("k2"), &json!([]))
    );
}
