//! `expirytime`, `notbefore`, pause and resume.

use std::time::Duration;

use crate::{
    harness::{Env, PATIENCE, analyze, eventually, in_seconds, now, typing, when},
    list_queue::date,
};

#[tokio::test]
async fn an_expired_task_ends_without_effect() {
    let env = Env::new().await;
    let late = analyze("late", "Nobody waits for this.").with("expirytime", in_seconds(-1));
    let timely = analyze("timely", "There is an hour left.").with("expirytime", in_seconds(3600));
    env.push("analysis", "normal", &[late, timely]).await;
    env.xadd("typing", &[typing("e1", "d", "s", 1).with("expirytime", "2020-01-01T00:00:00+02:00")]).await;
    let metrics = env.drain("analysis,typing").await;
    assert_eq!(metrics.finished("analysis", "expired"), 1.0);
    assert_eq!(metrics.finished("analysis", "written"), 1.0);
    assert_eq!(metrics.finished("typing", "expired"), 1.0);
    assert!(env.one("analyses", "late@/it").await.is_none());
    assert!(env.one("analyses", "timely@/it").await.is_some());
    assert_eq!(env.size("typing_contexts").await, 0);
    assert_eq!(env.size("dead_letters").await, 0, "expired is not dead");
}

#[tokio::test]
async fn a_task_waits_for_its_notbefore_and_no_longer() {
    let env = Env::new().await;
    let worker = env.worker("analysis,typing").ready().await;
    env.push("analysis", "low", &[analyze("past", "Its time has come.").with("notbefore", in_seconds(-10))]).await;
    env.analysis("past").await;
    let due = now() + chrono::Duration::seconds(4);
    let text = due.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    env.push("analysis", "high", &[analyze("later", "Not before its time.").with("notbefore", text.as_str())]).await;
    env.xadd("typing", &[typing("e1", "d", "s", 1).with("notbefore", text.as_str())]).await;

    for queue in ["analysis", "typing"] {
        let delayed = env.key(queue, "delayed");
        eventually("the task waits in the sorted set", || async { when(env.count("ZCARD", &delayed).await == 1) })
            .await;
    }
    assert!(now() < due, "the machine is too slow for this test");
    assert_eq!(env.size("typing_contexts").await, 0);

    let found = env.analysis("later").await;
    assert!(date(&found, "analyzedAt").timestamp_millis() >= due.timestamp_millis());
    let found = env.arrives("typing_contexts", "d:s").await;
    assert!(date(&found, "updatedAt").timestamp_millis() >= due.timestamp_millis());
    env.drained("analysis").await;
    env.drained("typing").await;
    worker.at_rest().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_delayed_task_outlives_its_worker() {
    let env = Env::new().await;
    env.push("analysis", "high", &[analyze("later", "It waits.").with("notbefore", in_seconds(4))]).await;
    let mut first = env.worker("analysis").ready().await;
    let delayed = env.key("analysis", "delayed");
    eventually("the task waits", || async { when(env.count("ZCARD", &delayed).await == 1) }).await;
    first.kill();
    let second = env.worker("analysis").ready().await;
    env.analysis("later").await;
    env.drained("analysis").await;
    second.stop().await;
}

#[tokio::test]
async fn a_paused_queue_rests_and_the_others_go_on() {
    let env = Env::new().await;
    let worker = env.worker("analysis,typing").ready().await;
    env.command(&["pause", "analysis"]).end().await.code(0);
    assert_eq!(env.count("EXISTS", &env.key("analysis", "paused")).await, 1);
    let queues = env.command(&["queues", "--json"]).end().await.code(0);
    assert!(queues.json().to_string().contains("true"), "the queue is shown as paused: {}", queues.out);

    // A claim on its way at the moment of the pause is done by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    env.push("analysis", "critical", &[analyze("held", "It waits for the resume.")]).await;
    env.xadd("typing", &[typing("e1", "d", "s", 1)]).await;
    env.arrives("typing_contexts", "d:s").await;
    assert_eq!(env.count("LLEN", &env.key("analysis", "critical")).await, 1);
    assert_eq!(env.size("analyses").await, 0);

    env.command(&["resume", "analysis"]).end().await.code(0);
    assert_eq!(env.count("EXISTS", &env.key("analysis", "paused")).await, 0);
    env.analysis("held").await;
    env.drained_within(PATIENCE, "analysis").await;
    worker.stop().await;
}

#[tokio::test]
async fn pausing_a_queue_that_does_not_exist_is_refused_with_the_names() {
    let env = Env::new().await;
    let ended = env.command(&["pause", "analisys"]).end().await.readable().says(&["analysis"]);
    assert!([64, 78].contains(&ended.code), "{ended:?}");
}
