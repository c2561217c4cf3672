//! The routes.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

use super::{health::Health, listen::Capped};
use crate::{clock, metrics};

/// A request that takes longer is answered with 503.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Answers of `/api/status` are this old at most; however many ask, the stores are asked this often.
const FRESH: Duration = Duration::from_millis(500);
/// How long open connections may take to end at a shutdown.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the handlers show.
#[derive(Clone)]
pub struct StatusState {
    pub health: Arc<Health>,
    pub metrics: Arc<metrics::Metrics>,
    /// The part of `/api/status` that is asked from the stores and the scheduler: an object whose `queues`
    /// and `jobs` the page knows how to show (see `page.html`). What fails in it says so in its own place.
    pub snapshot: Arc<dyn Fn() -> BoxFuture<'static, Value> + Send + Sync>,
}

struct Shared {
    state: StatusState,
    last: Mutex<Option<(Instant, Value)>>,
}

/// Serves until `stop`, then lets open requests end. Also keeps the metrics' samples folded up.
pub async fn serve(listener: TcpListener, state: StatusState, stop: CancellationToken) -> io::Result<()> {
    serve_on(Capped::new(listener), state, stop).await
}

pub(super) async fn serve_on(listener: Capped, state: StatusState, stop: CancellationToken) -> io::Result<()> {
    let metrics = Arc::clone(&state.metrics);
    let shared = Arc::new(Shared { state, last: Mutex::default() });
    let app = Router::new()
        .route("/", get(page))
        .route("/metrics", get(prometheus))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/api/status", get(status))
        .layer(middleware::from_fn(guard))
        .with_state(shared);
    let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let upkeep = async {
        let mut every = tokio::time::interval(metrics::UPKEEP);
        loop {
            every.tick().await;
            metrics.upkeep();
        }
    };
    let goodbye = async {
        stop.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        result = server => result,
        () = upkeep => Ok(()),
        () = goodbye => Ok(()),
    }
}

/// Limits the time of every request, and tells browsers to trust nothing but what is sent.
async fn guard(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(TIME_LIMIT, next.run(request)).await;
    let mut response = answer.unwrap_or_else(|_| {
        let message = format!("no answer within {TIME_LIMIT:?}: a store does not answer; see /ready\n");
        (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
    });
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
    response
}

async fn prometheus(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.state.metrics.render())
}

async fn live(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let stuck = stuck(&shared.state.health);
    let code = if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "live": stuck.is_empty(), "stuck": stuck })))
}

fn stuck(health: &Health) -> Vec<Value> {
    let stuck = health.stuck(Instant::now()).into_iter();
    stuck.map(|(name, silent)| json!({ "loop": name, "silentSeconds": silent.as_secs() })).collect()
}

async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let health = &shared.state.health;
    let ready = health.is_ready();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let missing = health.components().into_iter().filter(|(_, component)| !component.ready && component.required);
    let reasons: Vec<_> = missing
        .map(|(name, component)| json!({ "component": name, "reason": component.reason, "since": component.since }))
        .collect();
    (code, Json(json!({ "ready": ready, "reasons": reasons })))
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    // One asks, the others wait for its answer.
    let mut last = shared.last.lock().await;
    let stored = match last.take().filter(|(at, _)| at.elapsed() < FRESH) {
        Some(fresh) => fresh,
        None => {
            let value = (shared.state.snapshot)().await;
            (Instant::now(), value)
        }
    };
    let mut answer = match &stored.1 {
        Value::Object(fields) => fields.clone(),
        other => Map::from_iter([("snapshot".to_owned(), other.clone())]),
    };
    *last = Some(stored);
    drop(last);
    let StatusState { health, metrics, .. } = &shared.state;
    let stuck = stuck(health);
    let own = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now": clock::now(),
        "ready": health.is_ready(),
        "live": stuck.is_empty(),
        "stuck": stuck,
        "components": health.components(),
        "ledger": metrics.ledgers(),
    });
    if let Value::Object(own) = own {
        answer.extend(own);
    }
    Json(Value::Object(answer))
}

async fn page() -> impl IntoResponse {
    // Fresh for every answer: the only script and style the browser runs are the ones in this page.
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = include_str!("page.html").replace("{{nonce}}", &nonce);
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (header::CONTENT_SECURITY_POLICY, policy)], html)
}
