//! The same work on Redis Cluster, behind Sentinel, over TLS with an ACL user.

use std::{path::Path, process::Command};

use crate::harness::{
    Env, Event, RedisServer, analyze, eventually, in_seconds, ports, redis_server::redis_cli, services, typing, when,
};

/// Pushes through `cli` (the arguments that lead `redis-cli` to the server) to list and stream.
fn push(env: &Env, cli: &[&str], from: usize, to: usize) {
    for i in from..to {
        let event = analyze(&format!("a{i}"), &format!("Text {i}."));
        let event = if i % 10 == 0 { event.with("notbefore", in_seconds(1)) } else { event };
        let priority = ["critical", "high", "normal", "low"][i % 4];
        let key = env.key("analysis", priority);
        redis_cli(&[cli, &["LPUSH", &key, &event.json()]].concat());
        let event: Event = typing(&format!("t{i}"), &format!("d{i}"), "s", 1);
        redis_cli(&[cli, &["XADD", &env.key("typing", "events"), "*", "body", &event.json()]].concat());
    }
}

async fn done(env: &Env, cli: &[&str], n: u64) {
    env.size_is("analyses", n).await;
    env.size_is("typing_contexts", n).await;
    eventually("nothing is left in Redis", || async {
        let len =
            |command: &str, queue: &str, part: &str| redis_cli(&[cli, &[command, &env.key(queue, part)]].concat());
        let lists = ["critical", "high", "normal", "low"].iter().all(|p| len("LLEN", "analysis", p) == "0");
        when(lists && len("XLEN", "typing", "events") == "0" && len("ZCARD", "analysis", "delayed") == "0")
    })
    .await;
    assert_eq!(env.size("dead_letters").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_cluster() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let bus = ports::free().to_string();
        let args = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
        let Some(node) = RedisServer::start(&args).await else { return };
        nodes.push(node);
    }
    let addresses: Vec<String> = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
    let list: Vec<&str> = addresses.iter().map(String::as_str).collect();
    redis_cli(&[&["--cluster", "create"], list.as_slice(), &["--cluster-yes"]].concat());
    let port = nodes[0].port.to_string();
    eventually("all nodes agree on the slots", || async {
        when(
            nodes
                .iter()
                .all(|n| redis_cli(&["-p", &n.port.to_string(), "CLUSTER", "INFO"]).contains("cluster_state:ok")),
        )
    })
    .await;

    let mut env = Env::on(&nodes[0].url(), &services::shared().mongodb).await;
    env.redis_url = format!("redis+cluster://{}", addresses.join(","));
    let cli = ["-c", "-p", &port];
    push(&env, &cli, 0, 40);
    let worker = env.worker("").ready().await;
    push(&env, &cli, 40, 60);
    done(&env, &cli, 60).await;
    worker.at_rest().await;
    worker.stop().await;
    let mut worker = env.worker("").arg("--until-drained").start();
    assert_eq!(worker.exit().await, 0);
    env.command(&["queues", "--json"]).end().await.code(0).json();
    env.command(&["check"]).end().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_sentinel_with_a_failover() {
    let Some(mut primary) = RedisServer::start(&[]).await else { return };
    let port = primary.port.to_string();
    let Some(replica) = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {port}")]).await else { return };
    let Some(sentinel) = Sentinel::start(primary.port).await else { return };
    let replica_port = replica.port.to_string();
    let replica_cli = ["-p", replica_port.as_str()];
    eventually("the replica is in step and known", || async {
        let known = redis_cli(&["-p", &sentinel.port.to_string(), "SENTINEL", "REPLICAS", "main"]);
        when(redis_cli(&["-p", &replica_port, "ROLE"]).contains("connected") && known.contains(&replica_port))
    })
    .await;

    let mut env = Env::on(&primary.url(), &services::shared().mongodb).await.short_lease();
    env.redis_url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    let cli = ["-p", port.as_str()];
    push(&env, &cli, 0, 20);
    let mut worker = env.worker("").ready().await;
    done(&env, &cli, 20).await;

    primary.kill();
    eventually("the replica is promoted", || async {
        when(redis_cli(&["-p", &replica_port, "ROLE"]).starts_with("master"))
    })
    .await;
    push(&env, &replica_cli, 20, 40);
    done(&env, &replica_cli, 40).await;
    worker.becomes_ready().await;
    worker.at_rest().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_an_acl_user() {
    let dir = services::scratch();
    if !certificates(dir.path()) {
        println!("skipped: no openssl on this machine");
        return;
    }
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let plain = ports::free();
    let tls = [
        "--tls-port",
        "PORT",
        "--port",
        &plain.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ];
    let Some(redis) = RedisServer::start(&tls).await else { return };
    let port = redis.port.to_string();

    let plain_url = format!("redis://127.0.0.1:{plain}/0");
    let mut env = Env::on(&plain_url, &services::shared().mongodb).await.set("redis.tls.ca_file", &ca);
    // Its own keys, and nothing that administers the server.
    let keys = format!("~{}:*", env.namespace);
    let plain_port = plain.to_string();
    redis_cli(&[
        "-p",
        &plain_port,
        "ACL",
        "SETUSER",
        "worker",
        "on",
        ">p@ss",
        &keys,
        "+@all",
        "-@dangerous",
        "-@admin",
    ]);
    env.redis_url = format!("rediss://worker:p%40ss@127.0.0.1:{port}/0");

    let cli = ["--tls", "--cacert", &ca, "-p", &port, "--user", "worker", "--pass", "p@ss", "--no-auth-warning"];
    push(&env, &cli, 0, 20);
    let worker = env.worker("").ready().await;
    done(&env, &cli, 20).await;
    worker.at_rest().await;
    worker.stop().await;

    // A server that cannot be verified is refused with the reason.
    let ended = env.command(&["queues"]).set("redis.tls.ca_file", "").end().await.readable();
    assert!([69, 78].contains(&ended.code), "{ended:?}");
    assert!(ended.err.to_lowercase().contains("certificate"), "{ended:?}");
    let ended = env.command(&["queues"]).set("redis.tls.ca_file", "/nowhere/ca.crt").end().await.code(78);
    ended.readable().says(&["/nowhere/ca.crt"]);
}

struct Sentinel {
    child: std::process::Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Sentinel {
    async fn start(primary: u16) -> Option<Self> {
        let program = services::program("redis-server")?;
        let (port, dir) = (ports::free(), services::scratch());
        let conf = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n",
            dir.path().display()
        );
        std::fs::write(&conf, text).expect("a file can be written");
        let log = std::fs::File::create(dir.path().join("log")).expect("a file can be made");
        let child = Command::new(program).arg(&conf).arg("--sentinel").stdout(log).spawn().expect("Sentinel starts");
        let sentinel = Self { child, port, _dir: dir };
        eventually("Sentinel listens", || async {
            when(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
        })
        .await;
        Some(sentinel)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A certificate authority and a certificate of 127.0.0.1. False where there is no `openssl`.
fn certificates(dir: &Path) -> bool {
    let script = r#"set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout server.key -out server.csr
        printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n' > ext
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.crt"#;
    if services::program("openssl").is_none() {
        return false;
    }
    let out = Command::new("sh").arg("-c").arg(script).current_dir(dir).output().expect("sh runs");
    assert!(out.status.success(), "openssl: {}", String::from_utf8_lossy(&out.stderr));
    true
}
