use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{http::serve_on, listen::Capped, *};
use crate::{clock, metrics::Metrics};

struct Server {
    base: String,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    asked: Arc<AtomicUsize>,
    stop: CancellationToken,
    end: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn server() -> Server {
    server_with(64, Duration::from_secs(30)).await
}

async fn server_with(connections: usize, idle: Duration) -> Server {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let health = Arc::new(Health::new(Duration::from_secs(10)));
    let metrics = Metrics::detached();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let snapshot = move || {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        async move { json!({ "queues": [], "asked": number + 1, "ready": "not overridden" }) }.boxed()
    };
    let state =
        StatusState { health: Arc::clone(&health), metrics: Arc::clone(&metrics), snapshot: Arc::new(snapshot) };
    let stop = CancellationToken::new();
    let end = tokio::spawn(serve_on(Capped::with(listener, connections, idle), state, stop.clone()));
    Server { base, health, metrics, asked, stop, end }
}

impl Server {
    async fn get(&self, path: &str) -> reqwest::Response {
        crate::install_tls();
        reqwest::get(format!("{}{path}", self.base)).await.unwrap()
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.base.trim_start_matches("http://")).await.unwrap()
    }
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let server = server().await;
    assert_eq!(server.get("/ready").await.status(), 200, "nothing is expected yet");
    let now = clock::now();
    server.health.expect("redis", Need::Required, "connecting", now);
    server.health.expect("grammar", Need::Optional, "loading", now);
    let response = server.get("/ready").await;
    assert_eq!(response.status(), 503);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["reasons"].as_array().unwrap().len(), 1, "an optional component is no reason: {body}");
    assert_eq!(body["reasons"][0]["component"], "redis");
    assert_eq!(body["reasons"][0]["reason"], "connecting");
    server.health.ready("redis", now);
    assert_eq!(server.get("/ready").await.status(), 200);
    server.health.unready("redis", "no answer within 5s", now);
    let body: Value = server.get("/ready").await.json().await.unwrap();
    assert_eq!((&body["ready"], &body["reasons"][0]["reason"]), (&json!(false), &json!("no answer within 5s")));
}

#[test]
fn since_is_when_it_changed_not_when_it_was_said_last() {
    let health = Health::new(Duration::from_secs(1));
    let first = clock::now();
    let later = first + chrono::TimeDelta::seconds(5);
    health.unready("mongodb", "no primary", first);
    health.unready("mongodb", "refused", later);
    let component = &health.components()["mongodb"];
    assert_eq!((component.reason.as_deref(), component.since), (Some("refused"), first));
    health.ready("mongodb", later);
    assert_eq!(health.components()["mongodb"].since, later);
}

#[tokio::test]
async fn a_loop_that_stops_turning_ends_liveness() {
    let server = server().await;
    assert_eq!(server.get("/live").await.status(), 200);
    let now = Instant::now();
    server.health.beat("typing", now);
    server.health.beat("analysis", now.checked_sub(Duration::from_secs(11)).unwrap());
    let response = server.get("/live").await;
    assert_eq!(response.status(), 503);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["stuck"][0]["loop"], "analysis");
    assert_eq!(body["stuck"].as_array().unwrap().len(), 1);
    server.health.ended("analysis");
    assert_eq!(server.get("/live").await.status(), 200);
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = server().await;
    let response = server.get("/metrics").await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(response.text().await.unwrap().contains("contextd_build_info{version="));
}

#[tokio::test]
async fn the_status_holds_the_snapshot_and_is_asked_for_once() {
    let server = server().await;
    drop(server.metrics.queue("typing", &["typing.context.v1"]).received([None]));
    let requests = (0..20).map(|_| server.get("/api/status"));
    let responses = futures::future::join_all(requests).await;
    for response in responses {
        let body: Value = response.json().await.unwrap();
        assert_eq!((&body["asked"], &body["ready"]), (&json!(1), &json!(true)));
        assert_eq!(body["ledger"]["typing"]["gap"], 1);
    }
    assert_eq!(server.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_page_needs_nothing_from_outside() {
    let server = server().await;
    let response = server.get("/").await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let html = response.text().await.unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert_eq!(html.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "script and style");
    assert!(!html.contains("{{nonce}}") && !html.contains("://"), "no other origin is named");
    assert!(!html.contains("innerHTML"));
    let second = server.get("/").await;
    assert!(!second.headers()["content-security-policy"].to_str().unwrap().contains(nonce));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = server().await;
    assert_eq!(server.get("/nothing").await.status(), 404);
    crate::install_tls();
    let post = reqwest::Client::new().post(format!("{}/metrics", server.base)).body("x").send().await.unwrap();
    assert_eq!(post.status(), 405);
    assert_eq!(post.headers()["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_and_its_place_is_free_again() {
    let server = server_with(1, Duration::from_millis(200)).await;
    let mut silent = server.raw().await;
    silent.write_all(b"GET /live HTT").await.unwrap();
    // The only place is taken: this request is served when the silent connection has been closed.
    let response = tokio::time::timeout(Duration::from_secs(5), server.get("/live")).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the silent connection is closed");
}

#[tokio::test]
async fn it_stops_when_told_even_with_open_connections() {
    let server = server().await;
    let _idle = server.raw().await;
    assert_eq!(server.get("/live").await.status(), 200);
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.end).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let first = bind("127.0.0.1:0").await.unwrap();
    let address = first.local_addr().unwrap().to_string();
    let error = bind(&address).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot listen on {address}: the port is taken (is another contextd running?); set another address with \
             `http.listen` (CONTEXTD_HTTP__LISTEN)"
        )
    );
    let error = bind("192.0.2.1:9464").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on 192.0.2.1:9464: this machine does not have that address;"), "{error}");
}
