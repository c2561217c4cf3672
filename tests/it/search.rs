//! `contextd search` and `contextd related`.

use contextd::{config, store::Store, vault::Vault};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use crate::harness::{Env, Event, PATIENCE, within};

/// Any hour will do; the records are a second apart.
const NOON_MS: i64 = 1_769_860_800_000;

fn context(id: &str, second: i64, fields: Document) -> Document {
    let mut context = doc! {
        "_id": id, "kind": "context", "type": "note", "title": format!("title of {id}"), "content": "nothing much",
        "state": "active", "updatedAt": DateTime::from_millis(NOON_MS + second * 1_000), "_sync": { "rev": 1_i64 },
    };
    context.extend(fields);
    context
}

fn memory(id: &str, second: i64, fields: Document) -> Document {
    let mut memory = context(id, second, doc! { "kind": "memory", "type": "fact" });
    memory.remove("title");
    memory.extend(fields);
    memory
}

async fn migrated() -> Env {
    let env = Env::new().await;
    env.command(&["migrate"]).end().await.code(0);
    env
}

async fn search(env: &Env, args: &[&str]) -> Value {
    env.command(&[&["search", "--json"], args].concat()).end().await.code(0).json()
}

fn ids(found: &Value) -> Vec<&str> {
    found["hits"].as_array().expect("hits").iter().map(|hit| hit["_id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn text_and_filters_find_what_they_say() {
    let env = migrated().await;
    let records = [
        context("in-title", 1, doc! { "title": "Migration of the billing service", "userId": "u1", "tags": ["plan"] }),
        context("in-content", 2, doc! { "content": "the migrations took long", "userId": "u2", "importance": "high" }),
        context("in-tags", 3, doc! { "tags": ["migration", "plan"], "sessionId": "s1" }),
        memory("remembered", 4, doc! { "content": "prefers a slow migration", "type": "preference", "userId": "u1" }),
        memory("critical", 5, doc! { "content": "allergic to nuts", "importance": "critical", "userId": "u1" }),
        context("deleted", 6, doc! { "title": "migration", "state": "deleted", "userId": "u1", "tags": ["plan"] }),
        memory("purging", 7, doc! { "content": "migration", "state": "purging", "userId": "u1" }),
        // Texts are read in one language, whatever a producer's own `language` says.
        context("klingon", 8, doc! { "language": "klingon", "content": "Qapla'" }),
    ];
    env.coll("contexts").insert_many(records).await.expect("inserted");

    let all = search(&env, &["migration"]).await;
    assert_eq!(ids(&all), ["in-title", "in-tags", "in-content", "remembered"], "a title weighs more than tags or text");
    let scores: Vec<f64> = all["hits"].as_array().unwrap().iter().map(|h| h["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] > scores[3], "{scores:?}");
    assert_eq!(all["next"], Value::Null);
    assert!(all["hits"][0].get("_sync").is_none(), "{all}");
    assert_eq!(all["hits"][0]["updatedAt"], "2026-01-31T12:00:01.000Z");

    for (args, expected) in [
        (&["migration", "--kind", "memory"][..], &["remembered"][..]),
        (&["migration", "--user", "u1"], &["in-title", "remembered"]),
        (&["migration", "--", "-billing", "-slow"], &["in-tags", "in-content"]),
        (&["\"slow migration\""], &["remembered"]),
        (&["nowhere"], &[]),
        (&[], &["klingon", "critical", "remembered", "in-tags", "in-content", "in-title"]),
        (&["--kind", "memory"], &["critical", "remembered"]),
        (&["--user", "u1"], &["critical", "remembered", "in-title"]),
        (&["--session", "s1"], &["in-tags"]),
        (&["--tag", "plan"], &["in-tags", "in-title"]),
        (&["--tag", "plan", "--tag", "migration"], &["in-tags"]),
        (&["--type", "fact", "--type", "preference"], &["critical", "remembered"]),
        (&["--importance", "high"], &["critical", "in-content"]),
        (&["--importance", "medium", "--kind", "memory"], &["critical", "remembered"]),
    ] {
        assert_eq!(ids(&search(&env, args).await), expected, "{args:?}");
    }

    let table = env.command(&["search", "migration"]).end().await.code(0);
    assert!(table.out.contains("in-title") && table.out.contains("Migration of the billing service"), "{}", table.out);
    let nothing = env.command(&["search", "nowhere"]).end().await.code(0);
    assert!(nothing.out.contains("nothing was found"), "{}", nothing.out);
    env.command(&["search", "--after", "garbage"]).end().await.code(64).says(&["`next`"]).readable();
    env.command(&["search", "--limit", "0"]).end().await.code(64).readable();
}

#[tokio::test]
async fn pages_hold_every_hit_once() {
    let env = migrated().await;
    // Many of one score and of one date: only the id tells them apart.
    let records =
        (0..57).map(|i| memory(&format!("m{i:02}"), i / 10, doc! { "content": "one of many", "userId": "u" }));
    env.coll("contexts").insert_many(records).await.expect("inserted");
    for words in [&["many"][..], &[]] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let mut args = vec!["--limit", "10", "--user", "u"];
            args.extend(words);
            args.extend(after.iter().flat_map(|after| ["--after", after.as_str()]));
            let page = search(&env, &args).await;
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            pages += 1;
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, 6);
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((seen.len(), sorted.len()), (57, 57), "{words:?}: {seen:?}");
    }
    let page = search(&env, &["--limit", "1"]).await;
    let newest = page["next"].as_str().unwrap();
    let other = env.command(&["search", "many", "--after", newest]).end().await;
    other.code(1).says(&["another search"]).readable();
}

#[tokio::test]
async fn no_search_reads_the_whole_collection() {
    let env = migrated().await;
    let importances = ["low", "medium", "high", "critical"];
    let records = (0..2_000).map(|i: i64| {
        let fields = doc! {
            "kind": if i % 2 == 0 { "memory" } else { "context" }, "type": format!("t{}", i % 40), "content": format!("word{}", i % 50),
            "userId": format!("u{}", i % 100), "sessionId": format!("s{}", i % 200), "tags": [format!("g{}", i % 100)],
            "importance": importances[(i % 4) as usize],
        };
        context(&format!("c{i}"), i, fields)
    });
    env.coll("contexts").insert_many(records).await.expect("inserted");
    env.db().run_command(doc! { "profile": 2 }).await.expect("the profiler runs");
    let searches: [&[&str]; 12] = [
        &[],
        &["--kind", "memory"],
        &["--type", "t7"],
        &["--kind", "context", "--type", "t7"],
        &["--importance", "critical"],
        &["--user", "u7"],
        &["--user", "u7", "--kind", "memory", "--importance", "high"],
        &["--session", "s7"],
        &["--tag", "g7"],
        &["--tag", "g7", "--tag", "g8"],
        &["word7"],
        &["word7", "--user", "u7", "--limit", "5"],
    ];
    for args in searches {
        let found = search(&env, args).await;
        if let Some(next) = found["next"].as_str() {
            search(&env, &[args, &["--after", next]].concat()).await;
        }
    }
    env.db().run_command(doc! { "profile": 0 }).await.expect("the profiler stops");
    let filter = doc! { "ns": format!("{}.contexts", env.database), "command.aggregate": "contexts" };
    let mut cursor = env.coll("system.profile").find(filter).await.expect("profiled");
    let mut profiled = 0;
    while cursor.advance().await.expect("profiled") {
        let seen = Document::try_from(cursor.current()).expect("a document");
        let plan = seen.get_str("planSummary").unwrap_or_default();
        assert!(plan.contains("IXSCAN") || plan.contains("TEXT"), "{seen}");
        assert!(!plan.contains("COLLSCAN"), "{seen}");
        let examined =
            seen.get_i32("docsExamined").map(i64::from).or_else(|_| seen.get_i64("docsExamined")).unwrap_or(0);
        assert!(examined <= 120, "{examined} documents were read for a page of 20: {seen}");
        profiled += 1;
    }
    assert!(profiled >= searches.len(), "{profiled} searches were profiled");
}

fn link(from: &str, relation: &str, to: &str) -> Document {
    doc! {
        "_id": format!("{from}:{relation}:{to}"), "from": from, "relation": relation, "to": to, "weight": 0.5,
        "updatedAt": DateTime::from_millis(NOON_MS), "_sync": { "rev": 1_i64 },
    }
}

async fn related(env: &Env, args: &[&str]) -> Vec<(String, i64)> {
    let found = env.command(&[&["related", "--json"], args].concat()).end().await.code(0).json();
    let links = found["links"].as_array().expect("links").iter();
    let mut ways: Vec<_> = links
        .map(|l| {
            (format!("{}>{}", l["from"].as_str().unwrap(), l["to"].as_str().unwrap()), l["depth"].as_i64().unwrap())
        })
        .collect();
    ways.sort();
    ways
}

#[tokio::test]
async fn relations_are_followed_and_circles_end() {
    let env = migrated().await;
    let mut contexts: Vec<Document> = ["a", "b", "c", "d", "p"].iter().map(|id| context(id, 1, doc! {})).collect();
    contexts.push(context("gone", 1, doc! { "state": "deleted" }));
    env.coll("contexts").insert_many(contexts).await.expect("inserted");
    let links = [
        link("a", "RELATES_TO", "b"),
        link("b", "RELATES_TO", "c"),
        link("c", "RELATES_TO", "a"),
        link("c", "INFLUENCES", "d"),
        link("p", "CONTAINS", "a"),
        link("a", "RELATES_TO", "gone"),
        link("gone", "RELATES_TO", "behind"),
    ];
    env.coll("context_links").insert_many(links).await.expect("inserted");
    let way = |way: &str, depth| (way.to_owned(), depth);
    assert_eq!(related(&env, &["a"]).await, [way("a>b", 1)]);
    assert_eq!(related(&env, &["a", "--depth", "2"]).await, [way("a>b", 1), way("b>c", 2)]);
    let far = [way("a>b", 1), way("b>c", 2), way("c>a", 3), way("c>d", 3)];
    assert_eq!(related(&env, &["a", "--depth", "8"]).await, far, "a circle ends, what is deleted leads nowhere");
    let one = related(&env, &["a", "--depth", "8", "--relation", "RELATES_TO"]).await;
    assert_eq!(one, [way("a>b", 1), way("b>c", 2), way("c>a", 3)]);
    assert_eq!(related(&env, &["a", "--direction", "in"]).await, [way("c>a", 1), way("p>a", 1)]);
    assert_eq!(related(&env, &["a", "--direction", "both"]).await, [way("a>b", 1), way("c>a", 1), way("p>a", 1)]);
    assert_eq!(related(&env, &["nobody"]).await, []);
    // A text, not an expression.
    assert_eq!(related(&env, &["$from"]).await, []);

    let shown = env.command(&["related", "a"]).end().await.code(0);
    assert!(shown.out.contains("RELATES_TO") && shown.out.contains("title of b"), "{}", shown.out);
    env.command(&["related", "a", "--depth", "9"]).end().await.code(64).readable();
}

#[tokio::test]
async fn an_answer_about_a_dense_graph_is_bounded() {
    let env = migrated().await;
    let all: Vec<Document> = (0..60)
        .flat_map(|a| {
            (0..60).filter(move |b| *b != a).map(move |b| link(&format!("n{a}"), "RELATES_TO", &format!("n{b}")))
        })
        .collect();
    env.coll("context_links").insert_many(all).await.expect("inserted");
    let found = env.command(&["related", "--json", "n0", "--depth", "8"]).end().await.code(0).json();
    assert_eq!((found["links"].as_array().unwrap().len(), &found["cut"]), (1_000, &json!(true)));
}

#[tokio::test]
async fn what_tasks_save_is_found() {
    let env = Env::new().await;
    let at = |second: u32| format!("2026-01-31T12:00:{second:02}Z");
    let save = |id: &str, title: &str, second| {
        let data = json!({ "contextId": id, "title": title, "content": "text", "type": "note", "userId": "u", "updatedAt": at(second) });
        Event::new("context.save.v1", &format!("save-{id}-{second}"), data)
    };
    let remember = json!({ "memoryId": "m1", "type": "fact", "content": "the harbour freezes in winter", "userId": "u", "updatedAt": at(3) });
    let relate = json!({ "from": "c1", "to": "m1", "relation": "INFLUENCES", "weight": 0.75, "updatedAt": at(4) });
    let events = [
        save("c1", "Harbour plan", 1),
        save("c2", "Harbour history", 2),
        Event::new("memory.save.v1", "m1", remember),
        Event::new("context.relate.v1", "r1", relate),
        Event::new("context.delete.v1", "d1", json!({ "contextId": "c2", "deletedAt": at(5) })),
    ];
    env.push("records", "normal", &events).await;
    env.drain("records").await;
    let found = within(PATIENCE, "both are found", || async {
        let found = search(&env, &["harbour"]).await;
        (ids(&found).len() == 2).then_some(found)
    })
    .await;
    assert_eq!(ids(&found), ["c1", "m1"]);
    assert_eq!(related(&env, &["c1", "--relation", "INFLUENCES"]).await, [("c1>m1".to_owned(), 1)]);
}

#[tokio::test]
async fn sealed_fields_are_shown_opened_and_never_without_their_key() {
    let key = "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let env = Env::new().await;
    env.command(&["migrate"]).end().await.code(0);
    let config = config::load(None, env.variables().into_iter()).expect("valid settings");
    let store = Store::new(&config.mongodb).await.expect("a usable URI");
    let vault = Vault::new(&config::Encryption { keys: key.into() }, store).expect("a usable key");
    let secret = Bson::from("the safe is behind the picture");
    let sealed = vault.seal_field(None, "contexts", "m1", "content", &secret).await.expect("sealed");
    let mut remembered = memory("m1", 1, doc! { "tags": ["house"] });
    remembered.insert("content", sealed);
    env.coll("contexts").insert_one(remembered).await.expect("inserted");

    let opened = env.command(&["search", "--json", "house"]).set("encryption.keys", key).end().await.code(0).json();
    assert_eq!(opened["hits"][0]["content"], "the safe is behind the picture");
    assert_eq!(ids(&search(&env, &["picture"]).await), [""; 0], "what is sealed is not searched");
    let keyless = env.command(&["search", "--json", "house"]).end().await;
    assert_eq!(keyless.out, "");
    assert!(keyless.code != 0 && keyless.err.contains("encryption.keys"), "{} {}", keyless.code, keyless.err);
}
