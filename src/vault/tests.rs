use std::{hint::black_box, time::Instant};

use mongodb::bson::{
    Binary, Bson, DbPointer, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc, oid::ObjectId,
    spec::BinarySubtype,
};
use proptest::prelude::*;

use super::{
    field,
    keyring::Keyring,
    seal::{self, Broken, Place, RANDOM},
    secret::Secret,
    tenants::{DataKey, name_of, new_key, unwrap},
    *,
};

const EMAIL: Place<'_> = Place::Field { collection: "users", id: "u1", field: "email" };

/// A vault with a key for tasks without a tenant, for tests without a MongoDB.
pub(crate) async fn vault() -> Vault {
    let config = crate::config::load(None, std::iter::empty()).unwrap();
    let store = Store::new(&config.mongodb).await.unwrap();
    let settings = Encryption { keys: format!("k1:{}", base64(1)) };
    let vault = Vault::with_lifetime(&settings, store, Duration::from_secs(3_600)).unwrap();
    vault.tenants.put("default", Secret::from_slice(&[9; 32]).unwrap());
    vault
}

fn key(id: &str, byte: u8) -> DataKey {
    DataKey { id: id.into(), secret: Secret::from_slice(&[byte; 32]).unwrap() }
}

/// A key in base64, made with another one than the decoder under test.
fn base64(seed: u8) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = (0..32_u8).flat_map(|i| (0..8).rev().map(move |bit| ((i ^ seed) >> bit) & 1)).collect();
    let digit = |six: &[u8]| char::from(DIGITS[(0..6).fold(0, |n, i| n << 1 | usize::from(*six.get(i).unwrap_or(&0)))]);
    bits.chunks(6).map(digit).chain(['=']).collect()
}

fn ring(ids: &[(&str, u8)]) -> Keyring {
    let lines: Vec<String> = ids.iter().map(|(id, seed)| format!("{id}:{}", base64(*seed))).collect();
    Keyring::parse(&lines.join("\n")).unwrap()
}

fn opened(key: &DataKey, place: Place<'_>, value: &Bson) -> Result<Bson, Broken> {
    field::read(&seal::open(&key.secret, place, is_sealed(value).unwrap())?).ok_or(Broken::Form)
}

fn bson() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<f64>().prop_map(Bson::Double),
        ".{0,40}".prop_map(Bson::String),
        any::<bool>().prop_map(Bson::Boolean),
        Just(Bson::Null),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<i64>().prop_map(|ms| Bson::DateTime(mongodb::bson::DateTime::from_millis(ms))),
        any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
        any::<[u8; 16]>().prop_map(|bytes| Bson::Decimal128(Decimal128::from_bytes(bytes))),
        (any::<u32>(), any::<u32>()).prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        prop::collection::vec(any::<u8>(), 0..60)
            .prop_map(|bytes| Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })),
        any::<[u8; 16]>().prop_map(|b| Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: b.to_vec() })),
        "[a-z]{0,9}".prop_map(Bson::Symbol),
        "[a-z]{0,9}".prop_map(Bson::JavaScriptCode),
        "[a-z]{0,9}".prop_map(|code| {
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope: doc! { "x": 1 } })
        }),
        "[a-z^]{0,9}".prop_map(|pattern| {
            let regex: Regex = serde_json::from_value(serde_json::json!({ "$regularExpression": { "pattern": pattern,
                "options": "i" } }))
            .unwrap();
            Bson::RegularExpression(regex)
        }),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        Just(Bson::Undefined),
        any::<[u8; 12]>().prop_map(|id| {
            let pointer: DbPointer =
                serde_json::from_value(serde_json::json!({ "$dbPointer": { "$ref": "c", "$id": { "$oid":
                    ObjectId::from_bytes(id).to_hex() } } }))
                .unwrap();
            Bson::DbPointer(pointer)
        }),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Bson::Array),
            prop::collection::vec(("[a-z$._]{0,6}", inner), 0..6)
                .prop_map(|pairs| Bson::Document(pairs.into_iter().collect::<Document>())),
        ]
    })
}

/// The value's bytes, so that NaN equals itself.
fn bytes(value: &Bson) -> Vec<u8> {
    doc! { "v": value }.to_vec().unwrap()
}

proptest! {
    #[test]
    fn a_value_of_any_kind_comes_back_as_it_was(value in bson(), random: [u8; RANDOM], name in "[a-z/0-9]{1,140}") {
        let key = key(&name, 7);
        let sealed = field::seal(&key, EMAIL, random, &value).unwrap();
        prop_assert_eq!(seal::key_id(is_sealed(&sealed).unwrap()), Ok(name.as_str()));
        prop_assert_eq!(bytes(&opened(&key, EMAIL, &sealed).unwrap()), bytes(&value));
    }

    #[test]
    fn any_changed_byte_is_refused(text in ".{0,40}", random: [u8; RANDOM], at: prop::sample::Index, flip in 1_u8..) {
        let key = key("acme/1", 7);
        let mut sealed = seal::seal(&key.secret, &key.id, EMAIL, random, text.as_bytes());
        let at = at.index(sealed.len());
        sealed[at] ^= flip;
        prop_assert!(seal::open(&key.secret, EMAIL, &sealed).is_err(), "byte {}", at);
    }

    #[test]
    fn bytes_of_any_kind_never_panic_and_never_open(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let key = key("acme/1", 7);
        prop_assert!(seal::open(&key.secret, EMAIL, &noise).is_err());
        let mut headed = vec![1, 6];
        headed.extend_from_slice(b"acme/1");
        headed.extend(noise);
        prop_assert!(seal::open(&key.secret, EMAIL, &headed).is_err());
    }
}

#[test]
fn every_part_that_is_cut_off_is_refused() {
    let key = key("acme/1", 7);
    let sealed = seal::seal(&key.secret, &key.id, EMAIL, [3; RANDOM], b"ann@example.org");
    for length in 0..sealed.len() {
        assert!(seal::open(&key.secret, EMAIL, &sealed[..length]).is_err(), "{length} bytes");
    }
    let longer = [sealed.as_slice(), &[0]].concat();
    assert_eq!(seal::open(&key.secret, EMAIL, &longer), Err(Broken::Tag));
}

#[test]
fn a_value_opens_in_its_own_place_only() {
    let key = key("acme/1", 7);
    let sealed = field::seal(&key, EMAIL, [3; RANDOM], &"ann@example.org".into()).unwrap();
    for other in [
        Place::Field { collection: "sessions", id: "u1", field: "email" },
        Place::Field { collection: "users", id: "u2", field: "email" },
        Place::Field { collection: "users", id: "u1", field: "name" },
        // The same text, cut elsewhere.
        Place::Field { collection: "user", id: "su1", field: "email" },
        Place::Field { collection: "users", id: "u1e", field: "mail" },
        Place::Content("u1"),
        Place::DataKey("u1"),
    ] {
        assert_eq!(opened(&key, other, &sealed), Err(Broken::Tag), "{other:?}");
    }
    assert_eq!(opened(&key, EMAIL, &sealed).unwrap(), "ann@example.org".into());
    // The same secret under another id, and another secret under the same id.
    let mut renamed = is_sealed(&sealed).unwrap().to_vec();
    renamed[2..8].copy_from_slice(b"acme/2");
    assert_eq!(seal::open(&key.secret, EMAIL, &renamed), Err(Broken::Tag));
    assert_eq!(opened(&self::key("acme/1", 8), EMAIL, &sealed), Err(Broken::Tag));
}

#[test]
fn nothing_repeats_between_values() {
    let key = key("acme/1", 7);
    let seal = || field::seal(&key, EMAIL, rand::random(), &"ann@example.org".into()).unwrap();
    let (one, two) = (seal(), seal());
    let tail = |value: &Bson| is_sealed(value).unwrap()[8..].to_vec();
    assert_ne!(tail(&one)[..28], tail(&two)[..28]);
    assert_ne!(tail(&one)[28..], tail(&two)[28..]);
}

#[test]
fn the_format_is_as_written() {
    // Computed with other implementations of BLAKE3 and AES-GCM. What was sealed by an earlier version has to open.
    let key = key("acme/1", 7);
    let sealed = seal::seal(&key.secret, &key.id, EMAIL, std::array::from_fn(|i| i as u8), b"hello");
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    let header = "010661636d652f31000102030405060708090a0b0c0d0e0f101112131415161718191a1b";
    assert_eq!(hex, format!("{header}4c6793cb31ea34f849e7b0841e9f329b142fdb819a"));
}

#[test]
fn data_keys_are_wrapped_for_their_own_id() {
    let old = ring(&[("k1", 1)]);
    let (stored, secret) = new_key(&old, "acme", 1, chrono::DateTime::UNIX_EPOCH).unwrap();
    assert_eq!(unwrap(&old, &stored).unwrap().bytes(), secret.bytes());
    assert_eq!(unwrap(&ring(&[("k2", 2), ("k1", 1)]), &stored).unwrap().bytes(), secret.bytes());
    let refused = |ring: &Keyring, stored: &crate::store::StoredKey| unwrap(ring, stored).map(drop).unwrap_err();
    let missing = refused(&ring(&[("k2", 2)]), &stored);
    assert_eq!(missing.kind, VaultFaultKind::NoKey);
    assert!(missing.message.contains("\"k1\"") && missing.message.contains("\"acme/1\""), "{missing}");
    let off = refused(&Keyring::default(), &stored);
    assert_eq!(off.kind, VaultFaultKind::NoKey);
    assert!(off.message.contains("`encryption.keys` is empty"), "{off}");
    let wrong = refused(&ring(&[("k1", 2)]), &stored);
    assert_eq!(wrong.kind, VaultFaultKind::WrongKey);
    assert!(wrong.message.contains("\"k1\""), "{wrong}");
    let moved = crate::store::StoredKey { number: 2, ..stored.clone() };
    assert_eq!(refused(&old, &moved).kind, VaultFaultKind::WrongKey);
    let cut = crate::store::StoredKey { wrapped: stored.wrapped[..20].to_vec(), ..stored.clone() };
    assert_eq!(refused(&old, &cut).kind, VaultFaultKind::Corrupt);
}

#[test]
fn keyrings_are_read() {
    let (a, b, c) = (base64(1), base64(2), base64(3));
    let ids = |text: &str| Keyring::parse(text).unwrap().ids().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(ids(&format!("k1:{a}")), ["k1"]);
    assert_eq!(ids(&format!("# of 2026\n\n k2 : {b} \nk1:{a},\r\nold_k.0-a:{c}\n")), ["k2", "k1", "old_k.0-a"]);
    assert_eq!(ids(&format!("k2:{b},k1:{a}")), ["k2", "k1"]);
    assert!(Keyring::parse("\n# nothing\n").unwrap().is_empty());
}

#[test]
fn keyrings_that_are_wrong_say_where_and_show_no_key() {
    let (a, b) = (base64(1), base64(2));
    let short = "c2VjcmV0LWh1bnRlcjI=";
    for (text, wrong) in [
        (a.clone(), "line 1, key 1: it has no id"),
        (format!("k1:{a}\nk2:{short}"), "line 2, key 1: it must be exactly 32 bytes"),
        (format!("k1:{a},k2:{b}{b}"), "line 1, key 2: what follows the colon is not base64"),
        (format!("k1:{}", &a[..20]), "line 1, key 1: it must be exactly 32 bytes"),
        ("k1:".to_owned(), "line 1, key 1: it must be exactly 32 bytes"),
        (format!("k1:{a}\n\nk1:{b}"), "line 3, key 1: its id is used twice"),
        (format!("k1:{a}\nk2:{a}"), "line 2, key 1: it is the same key as an earlier one"),
        (format!(":{a}"), "line 1, key 1: its id must be"),
        (format!("k/1:{a}"), "line 1, key 1: its id must be"),
        (format!("{}:{a}", "k".repeat(65)), "line 1, key 1: its id must be"),
        (format!("k1:{}=", "A".repeat(43)), "line 1, key 1: it is one byte 32 times"),
    ] {
        let error = Keyring::parse(&text).unwrap_err();
        assert!(error.starts_with(wrong), "{error:?} for {wrong:?}");
        for secret in [a.as_str(), b.as_str(), short] {
            assert!(!error.contains(&secret[..10]), "{error}");
        }
    }
}

#[test]
fn keys_are_never_printed() {
    let ring = ring(&[("k1", 1)]);
    let data = key("acme/1", 77);
    let printed = format!("{ring:?} {data:?}");
    assert!(printed.contains("k1") && printed.contains("acme/1"), "{printed}");
    assert!(!printed.contains("77") && !printed.contains(&base64(1)[..10]), "{printed}");
    assert!(!printed.contains("[0"), "{printed}");
}

#[test]
fn tenants_have_names_that_make_ids() {
    assert_eq!(name_of(None), "default");
    assert_eq!(name_of(Some("acme-2.eu_1")), "acme-2.eu_1");
    let odd = ["a/b", "a\u{0}", "", "~x", "Ünï", &"x".repeat(129), &"x".repeat(100_000)].map(|t| name_of(Some(t)));
    for name in &odd {
        assert!(name.starts_with('~') && name.len() == 33, "{name}");
    }
    assert_eq!(odd.iter().collect::<std::collections::BTreeSet<_>>().len(), odd.len());
}

/// `cargo test --release --lib vault -- --ignored --nocapture` prints the figure.
#[test]
#[ignore = "a measurement, not a check"]
fn speed_of_one_field() {
    let key = key("default/1", 7);
    let value = Bson::String("x".repeat(100));
    let n = 200_000;
    let start = Instant::now();
    for _ in 0..n {
        black_box(field::seal(&key, EMAIL, rand::random(), black_box(&value)).unwrap());
    }
    let sealing = start.elapsed() / n;
    let sealed = field::seal(&key, EMAIL, rand::random(), &value).unwrap();
    let start = Instant::now();
    for _ in 0..n {
        black_box(opened(&key, EMAIL, black_box(&sealed)).unwrap());
    }
    println!("100 bytes: sealed in {sealing:?}, opened in {:?}", start.elapsed() / n);
}
