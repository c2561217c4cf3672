//! The shipped schemas, and what they say about wrong data.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::{Schemas, Task, tests::decode};

/// Types whose effect is no declared record.
const EFFECTS: [&str; 2] = ["document.analyze.v1", "typing.context.v1"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn declared() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("config/records.toml")).unwrap();
    let settings: toml::Table = text.parse().unwrap();
    let records = settings["records"].as_table().unwrap().values();
    records.map(|record| record["type"].as_str().unwrap().to_owned()).collect()
}

/// The example of one type: `samples/records/TYPE.json`.
fn sample(kind: &str) -> Value {
    let path = root().join(format!("samples/records/{kind}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The data of the example with `name` set to `value`; null takes it away.
fn bent(kind: &str, name: &str, value: Value) -> Value {
    let mut data = sample(kind)["data"].clone();
    match value {
        Value::Null => drop(data.as_object_mut().unwrap().remove(name)),
        value => data[name] = value,
    }
    data
}

#[test]
fn every_file_is_compiled_in_under_its_own_name() {
    let schemas = Schemas::builtin();
    let files: BTreeSet<String> = fs::read_dir(root().join("config/schemas"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".json").to_owned())
        .collect();
    assert_eq!(schemas.types().map(str::to_owned).collect::<BTreeSet<_>>(), files);
    for kind in schemas.types() {
        let document = schemas.get(kind).unwrap().document();
        assert_eq!(document["$schema"], "https://json-schema.org/draft/2020-12/schema", "{kind}");
        assert_eq!(document["$id"], format!("urn:contextd:schema:{kind}"));
        assert_eq!(document["type"], "object", "{kind}");
    }
}

#[test]
fn every_declared_record_has_a_schema_and_every_schema_a_record() {
    let schemas = Schemas::builtin();
    let records: BTreeSet<_> = schemas.types().filter(|kind| !EFFECTS.contains(kind)).map(str::to_owned).collect();
    assert_eq!(declared(), records);
}

/// Fields that the declaration names are described by the schema, and the order field is a date.
#[test]
fn the_schemas_know_what_the_declarations_name() {
    let schemas = Schemas::builtin();
    let text = fs::read_to_string(root().join("config/records.toml")).unwrap();
    let settings: toml::Table = text.parse().unwrap();
    for (name, record) in settings["records"].as_table().unwrap() {
        let kind = record["type"].as_str().unwrap();
        let document = schemas.get(kind).unwrap().document();
        let required = document["required"].as_array().unwrap();
        let list = |setting: &str| -> Vec<String> {
            let items = record.get(setting).and_then(|v| v.as_array()).into_iter().flatten();
            items.map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        for field in list("key") {
            assert!(required.contains(&json!(field)), "{name}: the key `{field}` is not required");
        }
        for field in list("stamp").into_iter().chain([record["order"].as_str().unwrap().to_owned()]) {
            assert_eq!(document["properties"][&field]["format"], "date-time", "{name}: {field}");
        }
        for field in list("sensitive") {
            assert!(document["properties"][&field].is_object(), "{name}: {field}");
        }
    }
}

#[test]
fn everything_is_described_and_bounded() {
    fn check(schema: &Value, at: &str) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}/{name}");
            let words = property["description"].as_str().unwrap_or_else(|| panic!("{at} has no description"));
            assert!(words.len() > 8 && words.ends_with('.'), "{at}: {words:?} is no sentence");
            if name.ends_with("Id") && !EFFECTS.iter().any(|kind| at.starts_with(kind)) {
                assert_eq!((&property["minLength"], &property["maxLength"]), (&json!(1), &json!(256)), "{at}");
            }
            check(property, &at);
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(schema["properties"].get(name.as_str().unwrap()).is_some(), "{at}: {name} is not declared");
        }
    }
    let schemas = Schemas::builtin();
    for kind in schemas.types() {
        let document = schemas.get(kind).unwrap().document();
        assert!(document["description"].as_str().is_some_and(|d| d.ends_with('.')), "{kind}");
        check(document, kind);
    }
}

#[test]
fn every_record_has_an_example_that_is_taken() {
    let schemas = Schemas::builtin();
    let mut ids = BTreeSet::new();
    for kind in declared() {
        let event = sample(&kind);
        let Task { id, time, data, .. } = decode(&event.to_string()).unwrap_or_else(|e| panic!("{kind}: {}", e.error));
        assert_eq!(event["type"], kind.as_str());
        assert!(time.is_some() && ids.insert(id), "{kind}: no time, or an id that another example has");
        // The examples show a good part of what there is.
        let document = schemas.get(&kind).unwrap().document();
        let shown = document["properties"].as_object().unwrap().keys().filter(|name| data.contains_key(*name)).count();
        assert!(shown * 3 > document["properties"].as_object().unwrap().len(), "{kind}: the example shows {shown}");
    }
    let files = fs::read_dir(root().join("samples/records")).unwrap().count();
    assert_eq!(files, ids.len(), "an example without a record type");
}

/// Each required property taken away, each property of another type: refused, and the place is named.
#[test]
fn every_broken_example_is_refused_in_a_sentence_that_names_the_place() {
    let schemas = Schemas::builtin();
    for kind in declared() {
        let schema = schemas.get(&kind).unwrap();
        let refused = |data: &Value, name: &str| {
            assert!(!schema.is_valid(data), "{kind}: {name}");
            let error = schema.explain(data, "/data");
            assert!(error.contains(&format!("`/data/{name}`")), "{kind}: {name} is not in {error:?}");
            assert!(!error.contains("the schema's"), "{kind}: {error:?} is not for people");
        };
        for name in schema.document()["required"].as_array().unwrap() {
            refused(&bent(&kind, name.as_str().unwrap(), Value::Null), name.as_str().unwrap());
        }
        for (name, property) in schema.document()["properties"].as_object().unwrap() {
            let wrong = if property["type"] == "boolean" { json!(7) } else { json!(true) };
            refused(&bent(&kind, name, wrong), name);
            if property["format"] == "date-time" {
                refused(&bent(&kind, name, json!("yesterday")), name);
            }
            if property.get("enum").is_some() {
                refused(&bent(&kind, name, json!("of another kind")), name);
            }
            if name.ends_with("Id") {
                refused(&bent(&kind, name, json!("")), name);
                refused(&bent(&kind, name, json!("x".repeat(257))), name);
            }
        }
        assert!(schema.is_valid(&bent(&kind, "another", json!({"property": [1]}))), "{kind}");
    }
}

#[test]
fn the_sentences_say_what_is_expected() {
    let schemas = Schemas::builtin();
    for (kind, name, value, sentence) in [
        (
            "memory.save.v1",
            "confidence",
            json!(1.1),
            "`/data/confidence` must be at most 1 (How sure the source is, from 0 to 1)",
        ),
        ("memory.save.v1", "confidence", json!(-0.1), "`/data/confidence` must be at least 0 ("),
        ("memory.save.v1", "confidence", json!("high"), "`/data/confidence` must be a number ("),
        (
            "memory.save.v1",
            "type",
            json!("opinion"),
            r#"`/data/type` must be "fact", "preference", "context", "instruction" or "example" (What kind of memory it is)"#,
        ),
        ("memory.save.v1", "tags", json!(["a", ""]), "`/data/tags/1` must not be empty"),
        ("memory.save.v1", "tags", json!(vec!["a"; 257]), "`/data/tags` must have at most 256 items ("),
        ("context.relate.v1", "weight", json!(7), "`/data/weight` must be at most 1 ("),
        (
            "preference.save.v1",
            "fontSize",
            json!(3),
            "`/data/fontSize` must be at least 4 (The size of the text in points)",
        ),
        ("preference.save.v1", "fontSize", json!(12.5), "`/data/fontSize` must be an integer ("),
        ("interaction.persist.v1", "request", json!([]), "`/data/request` must be a string or an object ("),
        (
            "user.save.v1",
            "email",
            json!("private at example.org"),
            "`/data/email` does not have the form that is expected (The email address, with one `@`; ",
        ),
        (
            "ai_interaction.log.v1",
            "cacheKey",
            json!("a b"),
            "`/data/cacheKey` does not have the form that is expected (The producer's hash",
        ),
        (
            "user.delete.v1",
            "deletedAt",
            json!("2026-02-30T00:00:00Z"),
            "`/data/deletedAt` must be an RFC 3339 date-time such as 2026-01-31T12:00:00Z (",
        ),
        ("version.save.v1", "content", Value::Null, "`/data/content` is missing: it is required"),
    ] {
        let data = bent(kind, name, value);
        let error = schemas.get(kind).unwrap().explain(&data, "/data");
        assert!(error.starts_with(sentence), "{error}");
        assert!(!error.contains("private"), "{error}");
    }
    let mut data = bent("ai_interaction.log.v1", "userId", Value::Null);
    let schema = schemas.get("ai_interaction.log.v1").unwrap();
    assert!(schema.is_valid(&data));
    data.as_object_mut().unwrap().remove("sessionId");
    assert_eq!(schema.explain(&data, "/data"), "one of `/data/userId` or `/data/sessionId` is missing: it is required");
}

/// Keywords that only an operator's schema uses.
#[test]
fn an_operators_schema_is_explained_as_well() {
    let text = json!({
        "title": "note.save.v1", "type": "object", "additionalProperties": false, "maxProperties": 4,
        "properties": {
            "share": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "pages": {"multipleOf": 4},
            "unit": {"const": "cm"},
            "labels": {"minProperties": 2, "description": "Two labels at least."},
            "size": {"oneOf": [{"type": "integer"}, {"enum": ["small", "large"]}]}
        }
    });
    let schemas = Schemas::from_texts([text.to_string().as_str()]).unwrap();
    let schema = schemas.get("note.save.v1").unwrap();
    for (data, sentence) in [
        (json!({"share": 0}), "`/share` must be more than 0"),
        (json!({"share": 1}), "`/share` must be less than 1"),
        (json!({"pages": 3}), "`/pages` must be a multiple of 4"),
        (json!({"unit": "in"}), "`/unit` must be \"cm\""),
        (json!({"labels": {}}), "`/labels` must have at least 2 properties (Two labels at least)"),
        (json!({"size": "huge"}), "`/size` fits none of the shapes that are allowed here"),
        (json!({"colour": 1}), "the task must not have `colour`"),
    ] {
        assert_eq!(schema.explain(&data, ""), sentence);
    }
}
