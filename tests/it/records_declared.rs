//! Record types that an operator declares: a section of the settings file and a JSON Schema, no code.

use std::path::Path;

use mongodb::bson::Document;
use serde_json::json;

use crate::{
    harness::{Event, ports, services},
    records_common::{Feed, World, at, rev, state},
};

/// One type for each plain write mode: `item.merge.v1`, `item.replace.v1`, `item.delete.v1`, `item.restore.v1` on the
/// collection `items`, `thing.insert.v1` on `things`, `journal.append.v1` on `journals`, whose array `entries` keeps the
/// newest five. The key is `key`, the order the number `seq`.
pub fn types(dir: &Path) -> String {
    let mut toml = String::new();
    for (name, collection, more) in [
        ("item.merge", "items", ""),
        ("item.replace", "items", ""),
        ("item.delete", "items", "audit = true\n"),
        ("item.restore", "items", ""),
        ("thing.insert", "things", ""),
        ("journal.append", "journals", "array = \"entries\"\nkeep = 5\n"),
    ] {
        let kind = format!("{name}.v1");
        let schema = schema(&kind);
        let path = dir.join(format!("{kind}.json"));
        std::fs::write(&path, schema.to_string()).expect("the schema can be written");
        let (section, write) = (name.replace('.', "_"), name.split_once('.').expect("a write mode").1);
        toml += &format!(
            "[records.{section}]\ntype = \"{kind}\"\nschema = \"{}\"\ncollection = \"{collection}\"\nkey = [\"key\"]\n\
             write = \"{write}\"\norder = \"seq\"\n{more}\n",
            path.display()
        );
    }
    toml
}

fn schema(kind: &str) -> serde_json::Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind, "type": "object", "required": ["key"],
        "properties": {
            "key": { "type": "string", "minLength": 1, "maxLength": 64, "description": "What it is about." },
            "seq": { "type": "integer", "minimum": 0, "description": "Grows with every change." },
            "mark": { "enum": ["red", "green"], "description": "A mark." }
        }
    })
}

pub async fn feed() -> Feed {
    let world = World::new().await;
    let toml = types(world.dir());
    world.feed_with(&toml).await
}

pub fn task(kind: &str, id: &str, key: &str, seq: i64) -> Event {
    Event::new(&format!("{kind}.v1"), id, json!({ "key": key, "seq": seq })).with("time", at(1))
}

fn entry(id: &str, key: &str, seq: i64) -> Event {
    task("journal.append", id, key, seq).data("text", format!("entry {seq}"))
}

/// The numbers of a journal's entries, in the order in which they stand there.
pub fn entries(journal: &Document) -> Vec<i64> {
    let array = journal.get_array("entries").unwrap_or_else(|e| panic!("{e}: {journal}"));
    array.iter().map(|entry| entry.as_document().and_then(|e| e.get_i64("seq").ok()).expect("an entry's seq")).collect()
}

#[tokio::test]
async fn an_operators_type_works_like_a_shipped_one() {
    let mut feed = feed().await;
    feed.one(task("item.merge", "m-5", "k", 5).data("a", "five"), "written").await;
    feed.one(task("item.merge", "m-4", "k", 4).data("a", "four").data("b", "four"), "written").await;
    feed.one(task("item.merge", "m-3", "k", 3).data("a", "three"), "superseded").await;
    let found = feed.record("items", "k").await;
    assert_eq!((found.get_str("a").ok(), found.get_str("b").ok(), rev(&found)), (Some("five"), Some("four"), 2));
    feed.one(task("item.replace", "r-6", "k", 6).data("c", "six"), "written").await;
    let found = feed.record("items", "k").await;
    assert!(!found.contains_key("a") && !found.contains_key("b"), "{found}");
    feed.one(task("item.delete", "d-7", "k", 7), "written").await;
    assert_eq!(state(&feed.record("items", "k").await), "deleted");
    feed.one(task("item.merge", "m-6", "k", 6).data("c", "late"), "superseded").await;
    feed.one(task("item.restore", "s-8", "k", 8), "written").await;
    let found = feed.record("items", "k").await;
    assert_ne!(state(&found), "deleted");
    assert_eq!(found.get_str("c").ok(), Some("six"));
    feed.one(task("thing.insert", "i-1", "k", 1).data("a", 1), "written").await;
    feed.one(task("thing.insert", "i-1", "k", 1).data("a", 1), "duplicate").await;
    assert_eq!(feed.size("audit_log").await, 1);

    let (reason, error) = feed.dies(task("item.merge", "bad", "k", 9).data("mark", "blue")).await;
    assert_eq!(reason, "schema");
    assert!(error.contains("`/data/mark` must be \"red\" or \"green\" (A mark)"), "{error}");
}

#[tokio::test]
async fn append_keeps_the_newest_in_order_and_each_once() {
    let mut feed = feed().await;
    feed.one(entry("e-3", "k", 3), "written").await;
    feed.one(entry("e-1", "k", 1), "written").await;
    feed.one(entry("e-2", "k", 2), "written").await;
    let journal = feed.record("journals", "k").await;
    assert_eq!(entries(&journal), [1, 2, 3]);
    let first = journal.get_array("entries").unwrap()[0].as_document().unwrap().clone();
    assert_eq!(first.get_str("text").ok(), Some("entry 1"));
    feed.one(entry("e-2", "k", 2), "duplicate").await;
    assert_eq!(feed.record("journals", "k").await, journal);

    let ended = feed.apply(&[4, 5, 6, 7].map(|seq| entry(&format!("e-{seq}"), "k", seq))).await;
    assert_eq!((ended.all(), ended.dead), (4, 0));
    assert_eq!(entries(&feed.record("journals", "k").await), [3, 4, 5, 6, 7]);
    // Older than all that are kept, and what has fallen out, delivered again: neither comes in.
    let before = feed.record("journals", "k").await;
    let ended = feed.apply(&[entry("e-0", "k", 0), entry("e-1", "k", 1)]).await;
    assert_eq!((ended.written, ended.dead, ended.all()), (0, 0, 2), "{ended:?}");
    assert_eq!(feed.record("journals", "k").await, before);
}

#[tokio::test]
async fn a_burst_on_one_array_by_two_workers_loses_nothing() {
    let feed = feed().await;
    let toml = types(feed.dir());
    let other = feed.world.worker("records").config(&toml).ready().await;
    let events: Vec<Event> = (0..600).map(|i| entry(&format!("e-{i}"), &format!("k{}", i % 3), i)).collect();
    feed.send(&events).await;
    feed.send(&events).await;
    feed.settled(&[&feed.worker, &other]).await;
    for key in 0..3 {
        let wanted: Vec<i64> = (0..600).filter(|i| i % 3 == key).collect();
        assert_eq!(entries(&feed.record("journals", &format!("k{key}")).await), wanted[195..], "key {key}");
    }
    assert_eq!(feed.size("dead_letters").await, 0);
}

/// Each mistake is refused before anything is done, with the line and what to do.
#[tokio::test]
async fn a_misdeclared_type_is_refused_at_start_with_the_line() {
    let dir = services::scratch();
    std::fs::write(dir.path().join("good.json"), schema("note.save.v1").to_string()).unwrap();
    std::fs::write(dir.path().join("other.json"), schema("other.save.v1").to_string()).unwrap();
    std::fs::write(dir.path().join("broken.json"), "{\"title\":").unwrap();
    std::fs::write(dir.path().join("wrong.json"), r#"{"title":"note.save.v1","type":"objekt"}"#).unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let good = |write: &str, more: &str| declaration("note.save.v1", &file("good.json"), write, more);
    let world = World::new().await;
    let mut wrong = String::new();
    for (toml, line, says) in [
        (good("merg", ""), 6, "merg"),
        (good("merge", "colour = \"red\"\n"), 8, "colour"),
        (good("append", ""), 1, "array"),
        (good("append", "array = \"notes\"\n"), 1, "keep"),
        (good("append", "array = \"notes\"\nkeep = 0\n"), 9, "keep"),
        (good("merge", "keep = 3\narray = \"notes\"\n"), 8, "keep"),
        (good("merge", "order = \"mark\"\n"), 8, "order"),
        (good("merge", "queue = \"nowhere\"\n"), 8, "queue"),
        (good("merge", "cache = \"nothing\"\n"), 8, "cache"),
        (good("merge", "create = [\"active\"]\n"), 8, "create"),
        (good("merge", "stamp = [\"mark\"]\n"), 8, "stamp"),
        (good("merge", "cascade = [\"documents.userId=deleted\"]\n"), 8, "cascade"),
        (good("delete", "cascade = [\"documents\"]\n"), 8, "cascade"),
        (good("merge", "sensitive = [\"key\"]\n"), 8, "sensitive"),
        (good("merge", "").replace("[\"key\"]", "[]"), 5, "key"),
        (good("merge", "").replace("[\"key\"]", "[\"kee\"]"), 5, "kee"),
        (good("merge", "").replace("\"notes\"", "\"no$tes\""), 4, "collection"),
        (good("merge", "").replace("\"notes\"", "\"dead_letters\""), 4, "collection"),
        (good("merge", "").replace("note.save.v1", "session.persist.v1"), 2, "type"),
        (good("merge", "").replace("note.save.v1", "typing.context.v1"), 2, "type"),
        (declaration("note.save.v1", &file("other.json"), "merge", ""), 3, "schema"),
        (declaration("note.save.v1", &file("broken.json"), "merge", ""), 3, "schema"),
        (declaration("note.save.v1", &file("wrong.json"), "merge", ""), 3, "schema"),
        (declaration("note.save.v1", &file("absent.json"), "merge", ""), 3, "schema"),
        (declaration("note.save.v1", "", "merge", ""), 3, "schema"),
        ("[records.note_save]\ntype = \"note.save.v1\"\nwrite = \"merge\"\n".to_owned(), 1, "collection"),
    ] {
        // It would end at once if it were accepted: its queue is empty.
        let run = world.command(&["run", "--queues", "records", "--until-drained"]);
        let ended = run.set("http.listen", format!("127.0.0.1:{}", ports::free())).config(&toml).end().await;
        let lines: Vec<usize> = ended
            .err
            .split(".toml:")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect();
        let said = ["note_save", says].iter().all(|word| ended.err.contains(word));
        if ended.code != 78 || !lines.contains(&line) || !said || ended.err.contains("panicked") {
            wrong += &format!("exit {}, wanted line {line} and {says:?}:\n{toml}\n{}\n", ended.code, ended.err);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    world.command(&["check"]).config(&good("merge", "")).end().await.code(0);
}

/// Line 1 the section, 2 the type, 3 the schema, 4 the collection, 5 the key, 6 the write mode, 7 the queue, 8 and on `more`.
fn declaration(kind: &str, schema: &str, write: &str, more: &str) -> String {
    format!(
        "[records.note_save]\ntype = \"{kind}\"\nschema = \"{schema}\"\ncollection = \"notes\"\nkey = [\"key\"]\n\
         write = \"{write}\"\n# More:\n{more}"
    )
}

/// The schema's path counts from the settings file.
#[tokio::test]
async fn a_schema_lies_beside_the_settings_file() {
    let world = World::new().await;
    std::fs::write(world.dir().join("note.save.v1.json"), schema("note.save.v1").to_string()).unwrap();
    let settings = world.dir().join("settings.toml");
    std::fs::write(&settings, declaration("note.save.v1", "note.save.v1.json", "merge", "order = \"seq\"\n")).unwrap();
    let settings = settings.display().to_string();
    let data = r#"{"key":"k","seq":1,"text":"A note."}"#;
    let push = ["--config", &settings, "enqueue", "--type", "note.save.v1", "--id", "n-1", "--data", data];
    world.command(&push).end().await.code(0);
    let run = world.command(&["--config", &settings, "run", "--queues", "records", "--until-drained"]);
    run.set("http.listen", format!("127.0.0.1:{}", ports::free())).end().await.code(0);
    let found = world.one("notes", "k").await.expect("the note is there");
    assert_eq!(found.get_str("text").ok(), Some("A note."));
}
