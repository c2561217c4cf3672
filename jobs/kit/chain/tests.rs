use mongodb::bson::{Bson, oid::ObjectId};

use super::{judge::Judge, *};

const KEY: Key = [7; 32];

fn entry(n: i64) -> Entry {
    Entry {
        id: format!("e{n}"),
        at: DateTime::from_timestamp(1_760_000_000 + n, 0).expect("in range"),
        action: "document.delete".into(),
        entity: ("documents".into(), format!("d{n}")),
        actor: None,
        detail: doc! { "n": n },
    }
}

/// Linked entries, by hand.
fn chain(count: i64, key: Option<&Key>) -> Vec<Document> {
    let mut prev = START;
    (1..=count)
        .map(|seq| {
            let mut entry = entry(seq).document(key);
            let digest = blake3::Hash::from_hex(entry.get_str(DIGEST).expect("a digest")).expect("a hash");
            let hash = link_hash(&prev, &digest, seq, key);
            entry.extend(doc! { SEQ: seq, PREV: prev.to_hex().as_str(), HASH: hash.to_hex().as_str() });
            prev = hash;
            entry
        })
        .collect()
}

fn raw(entry: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(entry).expect("BSON")
}

fn faults(chain: &[Document], key: Option<&Key>) -> Vec<String> {
    let mut judge = Judge::new(key);
    chain.iter().flat_map(|entry| judge.next(&raw(entry))).collect()
}

#[test]
fn a_chain_is_sound_under_its_own_key_only() {
    for key in [None, Some(&KEY)] {
        let chain = chain(5, key);
        assert_eq!(faults(&chain, key), [""; 0]);
        let other = if key.is_some() { None } else { Some(&KEY) };
        assert_eq!(faults(&chain, other).len(), 5);
    }
}

/// Each bit of each byte of a stored entry, turned: where that is still BSON, it is found.
#[test]
fn every_changed_bit_is_found() {
    let chain = chain(3, None);
    let stored = raw(&chain[1]).into_bytes();
    let mut read = 0;
    for at in 0..stored.len() {
        for bit in 0..8 {
            let mut bytes = stored.clone();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = RawDocumentBuf::from_bytes(bytes) else { continue };
            read += 1;
            let mut judge = Judge::new(None);
            let documents = [raw(&chain[0]), changed, raw(&chain[2])];
            assert!(documents.iter().any(|entry| !judge.next(entry).is_empty()), "byte {at}, bit {bit}");
        }
    }
    assert!(read > 1_000, "{read}");
}

#[test]
fn repeated_fields_are_found() {
    let chain = chain(1, None);
    for field in [DIGEST, SEQ, PREV, HASH, "action"] {
        let mut twice = raw(&chain[0]);
        let name = mongodb::bson::raw::CString::try_from(field).expect("a name");
        twice.append(&name, twice.clone().get(field).expect("BSON").expect("the field"));
        assert_eq!(Judge::new(None).next(&twice).len(), 1, "{field}");
    }
}

#[test]
fn one_sentence_tells_what_came_first() {
    let whole = chain(6, None);
    let without_two = [&whole[..2], &whole[4..]].concat();
    assert_eq!(faults(&without_two, None), ["The entries 3 to 4 are missing: they were removed from the log."]);
    let mut altered = whole.clone();
    altered[2].insert("action", "document.touch");
    altered[4].insert("actor", "x");
    let altered = faults(&altered, None);
    assert!(altered.len() == 2 && altered[0].starts_with("Entry 3 (\"e3\") was altered"), "{altered:?}");
    assert_eq!(faults(&[], None), [""; 0]);
}

#[test]
fn lines_keep_every_type_and_the_order() {
    let entry = doc! {
        "z": 1_i32, "a": 2_i64, "half": 0.5, "whole": 3.0, "none": Bson::Null, "yes": true,
        "no": [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0],
        "at": mongodb::bson::DateTime::from_millis(-1),
        "id": ObjectId::from_bytes([1; 12]),
        "text": "\"quoted\"\n",
    };
    assert_eq!(
        line(&raw(&entry)).expect("JSON"),
        r#"{"z":{"$numberInt":"1"},"a":{"$numberLong":"2"},"half":{"$numberDouble":"0.5"},"#.to_owned()
            + r#""whole":{"$numberDouble":"3.0"},"none":null,"yes":true,"#
            + r#""no":[{"$numberDouble":"NaN"},{"$numberDouble":"Infinity"},{"$numberDouble":"-Infinity"},{"$numberDouble":"-0.0"}],"#
            + r#""at":{"$date":{"$numberLong":"-1"}},"id":{"$oid":"010101010101010101010101"},"#
            + r#""text":"\"quoted\"\n"}"#
    );
}
