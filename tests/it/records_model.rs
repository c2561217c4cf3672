//! Random tasks of every plain write mode, duplicated, shuffled and done by two workers of which some die, held against
//! a plain model of what must come out. `MODEL_SEED` repeats a run, `MODEL_ROUNDS` makes it longer.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use mongodb::bson::{Bson, Document, doc};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    harness::{Event, Worker, var},
    records_common::{QUEUE, World, rev, state},
    records_declared::{entries, task, types},
};

const FIELDS: [&str; 3] = ["a", "b", "c"];
const KEPT: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Merge,
    Replace,
    Delete,
    Restore,
    Insert,
    Append,
}

/// One task; its fields hold its id.
#[derive(Debug, Clone)]
struct Task {
    what: What,
    id: String,
    key: String,
    seq: i64,
    fields: Vec<&'static str>,
}

impl Task {
    fn event(&self) -> Event {
        let kind = match self.what {
            What::Merge => "item.merge",
            What::Replace => "item.replace",
            What::Delete => "item.delete",
            What::Restore => "item.restore",
            What::Insert => "thing.insert",
            What::Append => "journal.append",
        };
        let event = task(kind, &self.id, &self.key, self.seq);
        self.fields.iter().fold(event, |event, field| event.data(field, self.id.as_str()))
    }
}

/// How a round goes.
struct Round {
    /// A part of all names, so that rounds share a database.
    name: String,
    tasks: usize,
    keys: usize,
    /// How much of the items' tasks are deletions, restorations and replacements.
    deletions: f64,
    replacements: f64,
    duplicates: f64,
    kill: bool,
}

impl Round {
    fn new(number: usize, rng: &mut StdRng, kill: bool) -> Self {
        let rare = [0.0, 0.03, 0.2];
        Self {
            name: format!("r{number}"),
            tasks: rng.random_range(40..240),
            keys: rng.random_range(1..6),
            deletions: rare[rng.random_range(0..3)],
            replacements: rare[rng.random_range(0..3)],
            duplicates: [0.0, 0.3, 1.0][rng.random_range(0..3)],
            kill,
        }
    }

    fn generate(&self, rng: &mut StdRng) -> Vec<Task> {
        // Of one key no two have the same order: which of equals wins is nobody's to say.
        let mut seqs: Vec<i64> = (1..=self.tasks as i64).collect();
        shuffle(&mut seqs, rng);
        let pick = |rng: &mut StdRng| match rng.random_range(0..10) {
            0 => What::Insert,
            1..=3 => What::Append,
            _ if rng.random_bool(self.deletions) => [What::Delete, What::Restore][rng.random_range(0..2)],
            _ if rng.random_bool(self.replacements) => What::Replace,
            _ => What::Merge,
        };
        seqs.into_iter()
            .enumerate()
            .map(|(index, seq)| {
                let what = pick(rng);
                let mut fields: Vec<&str> = FIELDS.into_iter().filter(|_| rng.random_bool(0.4)).collect();
                match what {
                    What::Delete | What::Restore => fields.clear(),
                    _ if fields.is_empty() => fields.push("a"),
                    _ => {}
                }
                let key = format!("{}-k{}", self.name, rng.random_range(0..self.keys));
                Task { what, id: format!("{}-{index}", self.name), key, seq, fields }
            })
            .collect()
    }
}

fn shuffle<T>(items: &mut [T], rng: &mut StdRng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.random_range(0..=i));
    }
}

/// What a record of `items` must be after these tasks, in whatever order they came. `first` made the record.
///
/// Deleted is what was deleted after it was last restored or replaced. A field has the value of the newest task that set
/// it; a replacement takes away what is older. Only what is older than a deletion depends on arrival: it is ignored when it
/// comes after it, so such a field may have any of these values, or none.
fn check_item(found: Option<&Document>, tasks: &[&Task]) -> Result<(), String> {
    let found = found.ok_or("it is not there")?;
    let newest = |what: What| tasks.iter().filter(|t| t.what == what).map(|t| t.seq).max().unwrap_or(-1);
    let (deleted, restored, base) = (newest(What::Delete), newest(What::Restore), newest(What::Replace));
    let is_deleted = deleted > restored.max(base);
    if (state(found) == "deleted") != is_deleted {
        return Err(format!("state {:?}: deleted {deleted}, restored {restored}, replaced {base}", state(found)));
    }
    if found.contains_key("deletedAt") != is_deleted {
        return Err(format!("`deletedAt` {:?} does not go with the state", found.get("deletedAt")));
    }
    for field in FIELDS {
        let sets: Vec<&&Task> = tasks.iter().filter(|t| t.fields.contains(&field)).collect();
        let value = found.get(field).and_then(Bson::as_str);
        let newest = sets.iter().filter(|t| t.seq >= base).max_by_key(|t| t.seq);
        let wanted = newest.map(|t| t.id.as_str());
        let certain = match newest {
            Some(task) => task.seq > deleted,
            None => base > deleted,
        };
        let possible = !certain && value.is_none_or(|value| sets.iter().any(|t| t.id == value && t.seq < deleted));
        if value != wanted && !possible {
            return Err(format!("`{field}` is {value:?}, not {wanted:?} (deleted {deleted}, replaced {base})"));
        }
    }
    let extra: Vec<&String> = found
        .keys()
        .filter(|name| !name.starts_with('_') && !FIELDS.contains(&name.as_str()))
        .filter(|name| !["key", "seq", "state", "createdAt", "updatedAt", "deletedAt"].contains(&name.as_str()))
        .collect();
    if !extra.is_empty() || rev(found) > tasks.len() as i64 {
        return Err(format!("{} writes for {} tasks, or too much: {extra:?}", rev(found), tasks.len()));
    }
    Ok(())
}

fn check_thing(found: Option<&Document>, tasks: &[&Task]) -> Result<(), String> {
    let found = found.ok_or("it is not there")?;
    let same = |task: &&&Task| {
        FIELDS
            .iter()
            .all(|f| found.get(f).and_then(Bson::as_str) == task.fields.contains(f).then_some(task.id.as_str()))
    };
    match tasks.iter().filter(same).count() {
        1 if rev(found) == 1 => Ok(()),
        _ => Err("it is none of the inserted, or was written again".to_owned()),
    }
}

fn check_journal(found: Option<&Document>, tasks: &[&Task]) -> Result<(), String> {
    let found = found.ok_or("it is not there")?;
    let mut wanted: Vec<&&Task> = tasks.iter().collect();
    wanted.sort_by_key(|task| task.seq);
    let wanted = &wanted[wanted.len().saturating_sub(KEPT)..];
    if entries(found) != wanted.iter().map(|t| t.seq).collect::<Vec<_>>() {
        return Err(format!("its entries are {:?}", entries(found)));
    }
    let array = found.get_array("entries").expect("it has just been read");
    for (entry, task) in array.iter().zip(wanted) {
        let entry = entry.as_document().expect("it has just been read");
        if task.fields.iter().any(|field| entry.get_str(field).ok() != Some(task.id.as_str())) {
            return Err(format!("the entry {} has other fields: {entry}", task.seq));
        }
    }
    Ok(())
}

/// Two workers and what they are held against.
struct Trial {
    world: World,
    toml: String,
    workers: Vec<Worker>,
    seed: u64,
}

impl Trial {
    async fn new(seed: u64, batch: usize) -> Self {
        println!("MODEL_SEED={seed}");
        let world = World::new()
            .await
            .short_lease()
            .set("worker.poll_max", "20ms")
            .set("retry.crashes", 100)
            .set("retry.attempts", 20)
            // Small batches: more of them meet.
            .set("queues.records.batch.tasks", batch);
        let toml = types(world.dir());
        let mut trial = Self { world, toml, workers: vec![], seed };
        for _ in 0..2 {
            let worker = trial.start();
            trial.workers.push(worker);
        }
        trial
    }

    fn start(&self) -> Worker {
        self.world.worker(QUEUE).config(&self.toml).start()
    }

    async fn round(&mut self, round: &Round, rng: &mut StdRng) {
        let mut tasks = round.generate(rng);
        // What is restored was there.
        let mut firsts: Vec<Task> = (0..round.keys)
            .map(|k| Task {
                what: What::Merge,
                id: format!("{}-first{k}", round.name),
                key: format!("{}-k{k}", round.name),
                seq: 0,
                fields: vec![],
            })
            .collect();
        self.world.send(&firsts.iter().map(Task::event).collect::<Vec<_>>()).await;
        self.world.drained(QUEUE).await;

        let mut deliveries = tasks.clone();
        for task in &tasks {
            while rng.random_bool(round.duplicates / 2.0) {
                deliveries.push(task.clone());
            }
        }
        shuffle(&mut deliveries, rng);
        let victim = rng.random_range(0..2);
        let kill_at = round.kill.then(|| rng.random_range(0..deliveries.len()));
        let mut sent = 0;
        while sent < deliveries.len() {
            let part = rng.random_range(1..=60).min(deliveries.len() - sent);
            let priority = ["critical", "high", "normal", "low"][rng.random_range(0..4)];
            let events: Vec<Event> = deliveries[sent..sent + part].iter().map(Task::event).collect();
            self.world.push(QUEUE, priority, &events).await;
            if kill_at.is_some_and(|at| (sent..sent + part).contains(&at)) {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..30))).await;
                self.workers[victim].kill();
                self.workers[victim] = self.start();
            }
            sent += part;
        }
        self.world.settled(&self.workers.iter().collect::<Vec<_>>()).await;
        tasks.append(&mut firsts);
        self.check(round, &tasks).await;
    }

    async fn check(&self, round: &Round, tasks: &[Task]) {
        let filter = || doc! { "_id": { "$regex": format!("^{}-", round.name) } };
        let mut wrong = String::new();
        for (collection, kinds, check) in [
            (
                "items",
                &[What::Merge, What::Replace, What::Delete, What::Restore][..],
                check_item as fn(Option<&Document>, &[&Task]) -> Result<(), String>,
            ),
            ("things", &[What::Insert], check_thing),
            ("journals", &[What::Append], check_journal),
        ] {
            use futures::TryStreamExt;
            let found: Vec<Document> =
                self.world.coll(collection).find(filter()).await.unwrap().try_collect().await.unwrap();
            let mut by_key: BTreeMap<&str, Vec<&Task>> = BTreeMap::new();
            for task in tasks.iter().filter(|task| kinds.contains(&task.what)) {
                by_key.entry(&task.key).or_default().push(task);
            }
            if found.len() != by_key.len() {
                writeln!(wrong, "{collection} has {} records, not {}", found.len(), by_key.len()).unwrap();
            }
            for (key, tasks) in by_key {
                let record = found.iter().find(|record| record.get_str("_id").ok() == Some(key));
                if let Err(what) = check(record, &tasks) {
                    writeln!(wrong, "{collection} {key}: {what}\n  {record:?}\n  {tasks:?}").unwrap();
                }
            }
        }
        let dead = self.world.letters().await;
        assert!(wrong.is_empty() && dead.is_empty(), "MODEL_SEED={} {}\n{wrong}{dead:?}", self.seed, round.name);
    }

    /// What producers have said, of the records whose key begins with `prefix`.
    async fn visible(&self, prefix: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for collection in ["items", "journals"] {
            for record in self.world.all(collection).await {
                let key = record.get_str("_id").expect("a string").to_owned();
                if key.starts_with(prefix) {
                    let fields = FIELDS.map(|field| record.get(field).cloned());
                    let what = format!("{fields:?} {:?} {:?}", record.get("seq"), record.get("entries"));
                    found.insert(format!("{collection}/{key}"), what);
                }
            }
        }
        found
    }

    async fn end(self) {
        for mut worker in self.workers {
            worker.becomes_ready().await;
            worker.at_rest().await;
            worker.stop().await;
        }
        // Each deletion of an item, once.
        let audited: Vec<String> =
            self.world.all("audit_log").await.iter().map(|entry| entry.get_str("_id").unwrap().to_owned()).collect();
        println!("{} audit entries", audited.len());
    }
}

async fn rounds(default: usize, kill_every: usize) {
    let given = |name: &str| var(name).and_then(|v| v.parse::<u64>().ok());
    let seed = given("MODEL_SEED").unwrap_or_else(rand::random);
    let rounds = given("MODEL_ROUNDS").map_or(default, |n| n as usize);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut trial = Trial::new(seed, [3, 20, 500][rng.random_range(0..3)]).await;
    for number in 0..rounds {
        let round = Round::new(number, &mut rng, number % kill_every == kill_every - 1);
        trial.round(&round, &mut rng).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_tasks_come_out_as_the_model_says() {
    rounds(20, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --test it -- --ignored many_random_tasks"]
async fn many_random_tasks_come_out_as_the_model_says() {
    rounds(400, 8).await;
}

/// The same tasks in two worlds, in another order and number, many of them of one order: the records are the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_worlds_converge() {
    let given = var("MODEL_SEED").and_then(|v| v.parse::<u64>().ok());
    let seed = given.unwrap_or_else(rand::random);
    let mut rng = StdRng::seed_from_u64(seed);
    // In one batch, the later one of equals wins: each comes in a batch of its own.
    let trials = [Trial::new(seed, 1).await, Trial::new(seed, 1).await];
    for round in 0..6 {
        let tasks: Vec<Task> = (0..150)
            .map(|index| {
                let what = [What::Merge, What::Merge, What::Replace, What::Append][rng.random_range(0..4)];
                let fields: Vec<&str> = FIELDS.into_iter().filter(|_| rng.random_bool(0.5)).collect();
                let key = format!("w{round}-k{}", rng.random_range(0..4));
                Task { what, id: format!("w{round}-{index}"), key, seq: rng.random_range(0..8), fields }
            })
            .collect();
        let mut seen = Vec::new();
        for trial in &trials {
            let mut deliveries = tasks.clone();
            deliveries.extend(tasks.iter().filter(|_| rng.random_bool(0.3)).cloned());
            shuffle(&mut deliveries, &mut rng);
            let mut rest = &deliveries[..];
            while !rest.is_empty() {
                let (part, more) = rest.split_at(rng.random_range(1..=40).min(rest.len()));
                trial.world.send(&part.iter().map(Task::event).collect::<Vec<_>>()).await;
                rest = more;
            }
            trial.world.settled(&trial.workers.iter().collect::<Vec<_>>()).await;
            seen.push(trial.visible(&format!("w{round}-")).await);
        }
        for (key, record) in &seen[0] {
            assert_eq!(Some(record), seen[1].get(key), "MODEL_SEED={seed} {key}");
        }
        assert_eq!(seen[0].len(), seen[1].len(), "MODEL_SEED={seed}");
    }
}

/// The checks are checked: what a wrong worker would leave is found.
#[test]
fn the_model_finds_what_is_wrong() {
    let task = |what, id: &str, seq, fields: &[&'static str]| Task {
        what,
        id: id.to_owned(),
        key: "k".to_owned(),
        seq,
        fields: fields.to_vec(),
    };
    let (old, new) = (task(What::Merge, "old", 1, &["a", "b"]), task(What::Merge, "new", 2, &["a"]));
    let sync = doc! { "rev": 1i64 };
    let record = |fields: Document| {
        let mut record = doc! { "_id": "k", "_sync": sync.clone() };
        record.extend(fields);
        record
    };
    let right = record(doc! { "a": "new", "b": "old" });
    check_item(Some(&right), &[&old, &new]).unwrap();
    let (delete, restore) = (task(What::Delete, "x", 3, &[]), task(What::Restore, "y", 4, &[]));
    let replace = task(What::Replace, "whole", 2, &["c"]);
    for (wrong, tasks) in [
        (None, vec![&old]),
        (Some(doc! { "a": "old", "b": "old" }), vec![&old, &new]),
        (Some(doc! { "a": "new" }), vec![&old, &new]),
        (Some(doc! { "a": "new", "b": "old", "zz": 1 }), vec![&old, &new]),
        (Some(doc! { "a": "new", "b": "old" }), vec![&old, &new, &delete]),
        (
            Some(doc! { "a": "new", "b": "old", "state": "deleted", "deletedAt": 1 }),
            vec![&old, &new, &delete, &restore],
        ),
        (Some(doc! { "a": "old", "b": "old", "c": "whole" }), vec![&old, &replace]),
    ] {
        assert!(check_item(wrong.clone().map(&record).as_ref(), &tasks).is_err(), "{wrong:?}");
    }
    check_item(Some(&record(doc! { "c": "whole" })), &[&old, &replace]).unwrap();
    let deleted = record(doc! { "a": "new", "state": "deleted", "deletedAt": 1 });
    check_item(Some(&deleted), &[&old, &new, &delete]).unwrap();

    let entry = |seq: i64| task(What::Append, &format!("e{seq}"), seq, &["a"]);
    let all: Vec<Task> = (1..=7).map(entry).collect();
    let all: Vec<&Task> = all.iter().collect();
    let journal = |seqs: &[i64]| {
        let entries: Vec<Document> = seqs.iter().map(|seq| doc! { "seq": *seq, "a": format!("e{seq}") }).collect();
        record(doc! { "entries": entries })
    };
    check_journal(Some(&journal(&[3, 4, 5, 6, 7])), &all).unwrap();
    for wrong in [&[2, 3, 4, 5, 6, 7][..], &[3, 4, 5, 7, 6], &[4, 5, 6, 7], &[3, 4, 5, 6, 6, 7]] {
        assert!(check_journal(Some(&journal(wrong)), &all).is_err(), "{wrong:?}");
    }
    assert!(check_thing(Some(&record(doc! { "a": "other" })), &[&entry(1)]).is_err());
}
