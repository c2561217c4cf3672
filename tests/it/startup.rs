//! Starting where something is missing, wrong or taken.

use std::time::{Duration, Instant};

use crate::harness::{Env, RedisServer, Run, analyze, eventually, ports, redis_server::redis_cli, services, when};

const SECRET: &str = "s3cr3t-passw0rd";

#[tokio::test]
async fn without_redis_the_worker_waits_says_so_and_ends_with_69() {
    let shared = services::shared();
    let port = ports::free();
    let start = Instant::now();
    let ended = Run::new(&["run"])
        .set("redis.url", format!("redis://user:{SECRET}@127.0.0.1:{port}"))
        .set("mongodb.uri", &shared.mongodb)
        .set("mongodb.database", "it_never")
        .set("http.listen", format!("127.0.0.1:{}", ports::free()))
        .set("worker.start_wait", "3s")
        .end()
        .await
        .code(69);
    assert!(start.elapsed() >= Duration::from_secs(2), "it waits before it gives up");
    let all = format!("{}{}", ended.out, ended.err);
    assert!(all.contains("Redis") && all.contains(&port.to_string()), "{all}");
    assert!(!all.contains(SECRET), "the password is printed:\n{all}");
    assert!(!all.contains("panicked"), "{all}");
}

#[tokio::test]
async fn without_mongodb_the_worker_waits_says_so_and_ends_with_69() {
    let shared = services::shared();
    let port = ports::free();
    let ended = Run::new(&["run"])
        .set("redis.url", &shared.redis)
        .set("mongodb.uri", format!("mongodb://user:{SECRET}@127.0.0.1:{port}/"))
        .set("http.listen", format!("127.0.0.1:{}", ports::free()))
        .set("worker.start_wait", "3s")
        .end()
        .await
        .code(69);
    let all = format!("{}{}", ended.out, ended.err);
    assert!(all.contains("MongoDB") && all.contains(&port.to_string()), "{all}");
    assert!(!all.contains(SECRET), "the password is printed:\n{all}");
    assert!(!all.contains("panicked"), "{all}");
}

#[tokio::test]
async fn a_worker_started_before_its_redis_becomes_ready_when_redis_comes() {
    let Some(mut redis) = RedisServer::start(&[]).await else { return };
    let env = Env::on(&redis.url(), &services::shared().mongodb).await;
    env.push("analysis", "high", &[analyze("early", "Pushed before the worker was there.")]).await;
    redis.kill();
    let mut worker = env.worker("analysis").start();
    eventually("the worker says that it waits for Redis", || async { when(worker.output().contains("Redis")) }).await;
    assert!(!worker.is_ready().await);
    redis.restart();
    worker.becomes_ready().await;
    env.analysis("early").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_wrong_password_for_redis_is_told_and_not_printed() {
    let Some(redis) = RedisServer::start(&["--requirepass", "the-right-one"]).await else { return };
    let shared = services::shared();
    for url in [format!("redis://:{SECRET}@127.0.0.1:{}", redis.port), format!("redis://127.0.0.1:{}", redis.port)] {
        let ended = Run::new(&["run"])
            .set("redis.url", url)
            .set("mongodb.uri", &shared.mongodb)
            .set("http.listen", format!("127.0.0.1:{}", ports::free()))
            .set("worker.start_wait", "3s")
            .end()
            .await;
        assert!([69, 78].contains(&ended.code), "{ended:?}");
        let all = format!("{}{}", ended.out, ended.err);
        let lower = all.to_lowercase();
        assert!(lower.contains("redis"), "{all}");
        assert!(["password", "authentic", "credential", "noauth"].iter().any(|w| lower.contains(w)), "{all}");
        assert!(!all.contains(SECRET), "the password is printed:\n{all}");
    }
}

#[tokio::test]
async fn a_wrong_password_for_mongodb_is_told_and_not_printed() {
    let shared = services::shared();
    let uri = shared.mongodb.replacen("mongodb://", &format!("mongodb://somebody:{SECRET}@"), 1);
    let ended = Run::new(&["run"])
        .set("redis.url", &shared.redis)
        .set("mongodb.uri", uri)
        .set("http.listen", format!("127.0.0.1:{}", ports::free()))
        .set("worker.start_wait", "3s")
        .end()
        .await;
    assert!([69, 78].contains(&ended.code), "{ended:?}");
    let all = format!("{}{}", ended.out, ended.err);
    let lower = all.to_lowercase();
    assert!(lower.contains("mongodb"), "{all}");
    assert!(["password", "authentic", "credential"].iter().any(|w| lower.contains(w)), "{all}");
    assert!(!all.contains(SECRET), "the password is printed:\n{all}");
}

#[tokio::test]
async fn a_redis_user_without_a_needed_permission_is_told_what_is_missing() {
    let Some(redis) = RedisServer::start(&[]).await else { return };
    let port = redis.port.to_string();
    let env = Env::on(&redis.url(), &services::shared().mongodb).await;
    redis_cli(&["-p", &port, "ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all", "-@scripting"]);
    let worker = env.worker("analysis").set("redis.url", format!("redis://worker:pw@127.0.0.1:{port}")).start();
    eventually("the worker says which permission it has not", || async {
        let output = worker.output().to_lowercase();
        when(output.contains("permission") || output.contains("noperm"))
    })
    .await;
    assert!(!worker.is_ready().await, "a worker that may not take tasks is not ready");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let env = Env::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ended =
        env.command(&["run", "--no-scheduler"]).set("http.listen", format!("127.0.0.1:{port}")).end().await.readable();
    assert_ne!(ended.code, 0);
    let all = format!("{}{}", ended.out, ended.err);
    assert!(all.contains(&port.to_string()), "{all}");
    assert!(all.contains("http.listen") || all.contains("HTTP__LISTEN"), "it says which setting to change: {all}");
}

#[tokio::test]
async fn a_redis_that_may_evict_is_warned_about() {
    let Some(redis) = RedisServer::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await else {
        return;
    };
    let ended =
        Run::new(&["check"]).set("redis.url", redis.url()).set("mongodb.uri", &services::shared().mongodb).end().await;
    let all = format!("{}{}", ended.out, ended.err);
    assert!(all.contains("noeviction"), "{all}");
}

#[tokio::test]
async fn sigterm_ends_a_worker_that_still_waits_for_its_services() {
    let env = Env::new().await;
    let nowhere = format!("redis://127.0.0.1:{}", ports::free());
    let mut worker = env.worker("typing").set("redis.url", nowhere).set("worker.start_wait", "10m").start();
    eventually("the worker says that it waits", || async { when(worker.output().contains("Redis")) }).await;
    worker.signal("TERM");
    assert_eq!(worker.exit_within(Duration::from_secs(20)).await, 0);
}

#[tokio::test]
async fn logs_off_a_terminal_are_json_lines_and_hold_no_secret() {
    let env = Env::new().await.set("log.filter", "contextd=debug,info");
    env.push("analysis", "high", &[analyze("logged", "The content is nobody's business: xyzzy.")]).await;
    env.push_bytes("analysis", "high", &[b"{\"broken\": \"xyzzy".to_vec()]).await;
    let worker = env.worker("analysis").ready().await;
    env.analysis("logged").await;
    env.drained("analysis").await;
    let output = worker.output();
    worker.stop().await;
    assert!(output.lines().count() > 1, "{output}");
    for line in output.lines() {
        let json: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"));
        assert!(json.is_object(), "{line}");
    }
    assert!(!output.contains("xyzzy"), "the content of a task is in the logs:\n{output}");
}
