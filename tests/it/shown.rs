//! From a task to what readers see: cached records, sessions that are live, deletions.

use std::time::Duration;

use mongodb::bson::{DateTime, doc};
use serde_json::{Value, json};

use crate::{
    harness::{Env, Event, Worker, eventually, in_seconds, when},
    tiers::Tiers,
};

struct World {
    env: Env,
    tiers: Tiers,
    worker: Worker,
}

impl World {
    async fn new(env: Env) -> Self {
        let worker = env.worker("records").ready().await;
        Self { tiers: Tiers::new(&env).await, env, worker }
    }

    /// Pushes tasks and waits until they have ended.
    async fn done(&self, events: &[Event]) {
        self.env.push("records", "normal", events).await;
        self.env.drained("records").await;
    }

    /// What `contextd get` prints as JSON.
    async fn get(&self, kind: &str, id: &str) -> Value {
        self.env.command(&["get", kind, id, "--json"]).end().await.code(0).json()
    }

    async fn is_absent(&self, kind: &str, id: &str) {
        self.env.command(&["get", kind, id]).end().await.code(1).says(&["there is no"]);
    }

    /// How long the session's key still lives; `None`: it is not there.
    async fn live(&self, session: &str) -> Option<Duration> {
        let left = self.env.count("PTTL", &format!("{}:session:{session}", self.env.namespace)).await;
        u64::try_from(left).ok().map(Duration::from_millis)
    }

    async fn stop(self) {
        self.worker.at_rest().await;
        assert_eq!(self.env.size("dead_letters").await, 0);
        assert_eq!(self.env.size("kvshadow").await, 0);
        self.worker.stop().await;
    }
}

fn event(kind: &str, id: &str, data: Value) -> Event {
    Event::new(kind, id, data).with("time", in_seconds(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_shown_from_its_first_task_to_its_end() {
    let world = World::new(Env::new().await.set("cache.sync_within", "5s").set("limits.records_flush", "0s")).await;
    let data = json!({"sessionId": "s1", "userId": "u1", "context": {"n": 1}, "cacheStrategy": "WITH_CONTEXT"});
    world.done(&[event("session.persist.v1", "1", data)]).await;
    let shown = world.get("session", "s1").await;
    assert_eq!((&shown["tier"], &shown["strategy"]), (&"redis".into(), &"WITH_CONTEXT".into()));
    assert_eq!((&shown["record"]["context"]["n"], &shown["record"]["interactionCount"]), (&1.into(), &0.into()));
    let left = world.live("s1").await.expect("it is live");
    assert!(left > Duration::from_secs(1_700) && left <= Duration::from_secs(1_800), "{left:?}");

    let said = event("interaction.persist.v1", "2", json!({"interactionId": "i1", "sessionId": "s1", "response": "r"}));
    world.done(&[said]).await;
    assert_eq!(world.get("interaction", "i1").await["record"]["response"], "r");
    world.done(&[event("session.persist.v1", "3", json!({"sessionId": "s1", "context": {"n": 2}}))]).await;
    let shown = world.get("session", "s1").await;
    assert_eq!((&shown["record"]["context"]["n"], &shown["record"]["interactionCount"]), (&2.into(), &1.into()));

    // An anonymous one lives longer, and less the longer nothing was heard of it.
    let heard = in_seconds(-3_600);
    let anonymous = event("session.persist.v1", "4", json!({"sessionId": "s2", "lastActivityAt": heard}));
    let idle = event("session.persist.v1", "5", json!({"sessionId": "s3", "userId": "u", "lastActivityAt": heard}));
    world.done(&[anonymous, idle]).await;
    let left = world.live("s2").await.expect("it is live");
    assert!(left > Duration::from_secs(82_000) && left <= Duration::from_secs(82_800), "{left:?}");
    assert_eq!(world.live("s3").await, None);
    world.done(&[event("session.touch.v1", "6", json!({"sessionId": "s3", "lastActivityAt": in_seconds(0)}))]).await;
    assert!(world.live("s3").await.is_some());

    world.done(&[event("session.end.v1", "7", json!({"sessionId": "s1", "endedAt": in_seconds(1)}))]).await;
    assert_eq!(world.live("s1").await, None);
    let shown = world.get("session", "s1").await;
    assert_eq!((&shown["tier"], &shown["record"]["state"]), (&"mongodb".into(), &"ended".into()));
    assert_eq!(world.tiers.rev("session", "s1").await, None, "an ended session is not cached, not even by readers");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivery_refreshes_the_cache() {
    let world = World::new(Env::new().await.set("cache.sync_within", "5s")).await;
    let save = event("preference.save.v1", "1", json!({"userId": "u1", "theme": "dark", "updatedAt": in_seconds(0)}));
    world.done(std::slice::from_ref(&save)).await;
    assert_eq!(world.tiers.rev("preference", "u1").await, Some(1));
    world.env.count("DEL", &format!("{}:cache:preference:u1", world.env.namespace)).await;
    world.done(&[save]).await;
    assert_eq!(world.worker.at_rest().await.finished("records", "duplicate"), 1.0);
    assert_eq!(world.tiers.rev("preference", "u1").await, Some(1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_gone_for_readers_with_all_that_goes_with_it() {
    let world = World::new(Env::new().await.set("cache.sync_within", "5s")).await;
    let context = event("context.save.v1", "1", json!({"contextId": "c1", "content": "x", "type": "note"}));
    let user = event("user.save.v1", "2", json!({"userId": "u1", "theme": "x"}));
    world.done(&[context, user]).await;
    let row = |id: &str| doc! { "_id": id, "userId": "u1", "state": "active", "lastActivityAt": DateTime::now(), "_sync": {"rev": 1_i64, "order": 1_i64} };
    world.env.coll("documents").insert_one(row("d1")).await.unwrap();
    world.env.coll("sessions").insert_one(row("s1")).await.unwrap();
    for (kind, id) in [("context", "c1"), ("user", "u1"), ("document", "d1"), ("session", "s1")] {
        world.get(kind, id).await;
        assert_eq!(world.get(kind, id).await["tier"], "redis", "{kind}");
    }
    let deleted =
        |id: &str, kind: &str, of: &str, key: &str| event(kind, id, json!({of: key, "deletedAt": in_seconds(1)}));
    let both = [deleted("3", "context.delete.v1", "contextId", "c1"), deleted("4", "user.delete.v1", "userId", "u1")];
    world.done(&both).await;
    for (kind, id) in [("context", "c1"), ("user", "u1"), ("document", "d1")] {
        world.is_absent(kind, id).await;
    }
    assert_eq!(world.get("session", "s1").await["record"]["state"], "ended");
    let shown = world.env.command(&["get", "context", "c1", "--deleted", "--json"]).end().await.code(0).json();
    assert_eq!(shown["record"]["state"], "deleted");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_evaluations_and_claims_are_shown_as_they_should() {
    let world = World::new(Env::new().await.set("cache.sync_within", "5s")).await;
    let session = event("session.persist.v1", "1", json!({"sessionId": "s1", "cacheStrategy": "FULL_SESSION"}));
    let said = json!({"interactionId": "i1", "sessionId": "s1", "response": "r", "cacheStrategy": "FULL_INTERACTION"});
    world.done(&[session, event("interaction.persist.v1", "2", said)]).await;
    let before = world.tiers.raw("session", "s1").await;
    let data = json!({"entityId": "s1", "entityType": "session", "evaluationData": {"score": 1}, "evaluatedAt": in_seconds(0)});
    world.done(&[event("evaluation.persist.v1", "3", data)]).await;
    assert_eq!(world.tiers.raw("session", "s1").await, before, "an evaluation is in MongoDB only");
    assert!(world.get("session", "s1").await["record"].get("evaluation").is_none());
    let full = world.env.command(&["get", "session", "s1", "--full", "--json"]).end().await.code(0).json();
    assert_eq!(full["record"]["evaluation"]["score"], 1);

    let hold = json!({"holdId": "h1", "entityType": "session", "entityId": "s1", "reason": "r", "placedBy": "p", "placedAt": in_seconds(0)});
    world.done(&[event("hold.place.v1", "4", hold)]).await;
    let shown = world.get("session", "s1").await;
    assert_eq!((&shown["tier"], &shown["record"]["holdCount"]), (&"redis".into(), &1.into()));
    let lift = json!({"holdId": "h1", "liftedBy": "p", "liftedAt": in_seconds(1)});
    world.done(&[event("hold.lift.v1", "5", lift)]).await;
    assert_eq!(world.get("session", "s1").await["record"]["holdCount"], 0);

    let claim = json!({"sessionId": "s1", "userId": "u1", "claimedAt": in_seconds(1)});
    world.done(&[event("user.claim.v1", "6", claim)]).await;
    for (kind, id) in [("session", "s1"), ("interaction", "i1")] {
        let shown = world.get(kind, id).await;
        assert_eq!((&shown["tier"], &shown["record"]["userId"]), (&"redis".into(), &"u1".into()), "{kind}");
    }
    let left = world.live("s1").await.expect("it is live");
    assert!(left <= Duration::from_secs(1_800), "a user's session: {left:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_brings_in_step_what_is_noted() {
    let env = Env::new().await.set("cache.sync_waiting", "0").set("cache.repair_every", "100ms");
    let world = World::new(env).await;
    let events: Vec<Event> = (0..1_000)
        .map(|i| event("session.persist.v1", &format!("e{i}"), json!({"sessionId": format!("s{i}"), "userId": "u"})))
        .collect();
    world.env.push("records", "normal", &events).await;
    world.env.size_is("sessions", 1_000).await;
    world.env.drained("records").await;
    eventually("all is in step", || async { when(world.env.size("kvshadow").await == 0) }).await;
    assert_eq!(world.env.keys("cache:session:*").await.len(), 1_000);
    assert_eq!(world.env.keys("session:*").await.len(), 1_000);
    let metrics = eventually("the gauge is back at nothing", || async {
        let metrics = world.worker.metrics().await;
        when(metrics.sum("kvshadow_entries", &[]) == 0.0)?;
        Some(metrics)
    })
    .await;
    assert_eq!(metrics.sum("cache_staleness_seconds_count", &[]), 1_000.0);
    assert_eq!(metrics.sum("kvshadow_oldest_age_seconds", &[]), 0.0);
    assert!(metrics.types.contains_key("contextd_cache_lookups_total"));
    world.stop().await;

    // With --until-drained nothing is left to others.
    let env = Env::new().await.set("cache.sync_waiting", "0");
    env.push("records", "normal", &events[..50]).await;
    assert_eq!(env.worker("records").arg("--until-drained").start().exit().await, 0);
    assert_eq!((env.size("sessions").await, env.size("kvshadow").await), (50, 0));
}
