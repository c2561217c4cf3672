//! `kill -9` at random moments under load: nothing is lost, nothing happens twice.

use std::{collections::BTreeSet, time::Duration};

use mongodb::bson::doc;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    harness::{Env, Event, Metrics, Worker, analyze, typing, var, when, within},
    list_queue::number,
};

const QUEUES: &str = "analysis,typing";

/// How much of it; `KILLS` and `KILL_TASKS` change it, `KILL_SEED` repeats a run.
struct Load {
    kills: usize,
    tasks: usize,
    seed: u64,
}

impl Load {
    fn new(kills: usize, tasks: usize) -> Self {
        let given = |name: &str| var(name).and_then(|v| v.parse::<u64>().ok());
        let load = Self {
            kills: given("KILLS").map_or(kills, |n| n as usize),
            tasks: given("KILL_TASKS").map_or(tasks, |n| n as usize),
            seed: given("KILL_SEED").unwrap_or_else(rand::random),
        };
        println!("{} kills over {} tasks, KILL_SEED={}", load.kills, load.tasks, load.seed);
        load
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_kills() {
    kill_and_check(Load::new(12, 12_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: cargo test --test it -- --ignored fifty_kills"]
async fn fifty_kills() {
    kill_and_check(Load::new(50, 50_000)).await;
}

/// Half of the tasks are analyses on all four priorities, half typing contexts: most with a key of their own (one effect
/// each), the rest in bursts that go on over all batches (the newest must win).
async fn kill_and_check(load: Load) {
    let Load { kills, tasks, seed } = load;
    let mut rng = StdRng::seed_from_u64(seed);
    let env = Env::new()
        .await
        .short_lease()
        .set("worker.poll_max", "20ms")
        // Kills hit the same innocent tasks again and again: that is not what crash isolation is about.
        .set("retry.crashes", 100);
    let analyses = tasks / 2;
    let single = tasks / 4;
    let burst_keys = 40;
    let bursts = tasks - analyses - single;

    let mut lists: Vec<(&str, Event)> = (0..analyses)
        .map(|i| (["critical", "high", "normal", "low"][i % 4], analyze(&format!("a{i}"), &format!("Text {i}."))))
        .collect();
    let mut stream: Vec<Event> = (0..single).map(|i| typing(&format!("s{i}"), &format!("doc{i}"), "one", 1)).collect();
    stream
        .extend((0..bursts).map(|i| {
            typing(&format!("b{i}"), &format!("doc{}", i % burst_keys), "burst", (i / burst_keys) as i64 + 1)
        }));
    // Bursts and single ones mixed; older sequences may come after newer ones.
    for i in (1..stream.len()).rev() {
        stream.swap(i, rng.random_range(0..=i));
    }

    // The producer goes on while workers die: one part of the tasks at each kill.
    let mut workers: Vec<Worker> = vec![env.worker(QUEUES).start(), env.worker(QUEUES).start()];
    let (list_part, stream_part) = (lists.len() / kills + 1, stream.len() / kills + 1);
    let mut hits = 0;
    for _ in 0..kills {
        let part: Vec<(&str, Event)> = lists.drain(..list_part.min(lists.len())).collect();
        for priority in ["critical", "high", "normal", "low"] {
            let events: Vec<Event> =
                part.iter().filter(|(p, _)| *p == priority).map(|(_, event)| event.clone()).collect();
            env.push("analysis", priority, &events).await;
        }
        let part: Vec<Event> = stream.drain(..stream_part.min(stream.len())).collect();
        env.xadd("typing", &part).await;

        // Most kills come when the worker has work in hand, some while it starts.
        let victim = rng.random_range(0..workers.len());
        if rng.random_bool(0.85) {
            workers[victim].becomes_ready().await;
            let in_hand = async { while workers[victim].metrics().await.sum("tasks_in_flight", &[]) == 0.0 {} };
            // The other worker may have taken everything.
            drop(tokio::time::timeout(Duration::from_secs(2), in_hand).await);
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        let reading = workers[victim].get("/metrics").await.map(|(_, text)| Metrics::parse(&text));
        workers[victim].kill();
        hits += usize::from(reading.is_some_and(|m| m.sum("tasks_in_flight", &[]) > 0.0));
        workers[victim] = env.worker(QUEUES).start();
    }
    assert!(lists.is_empty() && stream.is_empty());
    println!("{hits} of {kills} kills hit a worker with tasks in hand");
    assert!(hits > 0, "this proves nothing");

    let wanted = (analyses + single + burst_keys) as u64;
    within(Duration::from_secs(180), "every task has its effect", || async {
        when(env.size("analyses").await + env.size("typing_contexts").await >= wanted)
    })
    .await;
    for queue in QUEUES.split(',') {
        env.drained(queue).await;
    }
    for worker in workers {
        worker.at_rest().await;
        worker.stop().await;
    }

    // Every effect exactly once.
    let ids: BTreeSet<String> =
        env.all("analyses").await.iter().map(|d| d.get_str("documentId").unwrap().to_owned()).collect();
    assert_eq!(env.size("analyses").await, analyses as u64, "seed {seed}");
    assert_eq!(ids, (0..analyses).map(|i| format!("doc-a{i}")).collect(), "seed {seed}");
    assert_eq!(env.size("typing_contexts").await, (single + burst_keys) as u64, "seed {seed}");
    for key in 0..burst_keys {
        let newest = (0..bursts).filter(|i| i % burst_keys == key).map(|i| i / burst_keys + 1).max().unwrap();
        let found = env.one("typing_contexts", &format!("doc{key}:burst")).await.unwrap();
        assert_eq!(number(&found, "sequence"), newest as i64, "key {key}, seed {seed}");
    }
    assert_eq!(env.coll("dead_letters").count_documents(doc! {}).await.unwrap(), 0, "seed {seed}");
    // Nothing is left behind.
    for queue in QUEUES.split(',') {
        assert_eq!(env.left(queue).await, [""; 0], "seed {seed}");
    }
    assert_eq!(env.count("XLEN", &env.key("typing", "events")).await, 0);
    assert_eq!(env.pending("typing").await, 0);
}
