//! MCP over HTTP: who may come in.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Server;
use crate::{config, status::Capped};

/// Where clients send their messages.
const PATH: &str = "/mcp";
/// What surrounds a task in a message.
const ENVELOPE: u64 = 64 * 1024;
/// How long open requests may take to end at a shutdown.
const GOODBYE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("`mcp.token` is empty: over HTTP everybody could read and write; set one (CONTEXTD_MCP__TOKEN_FILE)")]
    NoToken,
    #[error("cannot listen on {address}: {problem}; set another address with `mcp.listen`")]
    Bind { address: String, problem: io::Error },
    #[error("the server ended unexpectedly: {0}")]
    Ended(io::Error),
}

/// Serves any number of clients on `mcp.listen` until `stop`.
///
/// # Errors
/// It cannot listen, or there is no token.
pub async fn serve(server: Server, stop: CancellationToken) -> Result<(), HttpError> {
    let settings = &server.config.mcp;
    if settings.token.is_empty() {
        return Err(HttpError::NoToken);
    }
    let listener = TcpListener::bind(&settings.listen)
        .await
        .map_err(|problem| HttpError::Bind { address: settings.listen.clone(), problem })?;
    tracing::info!(address = %settings.listen, path = PATH, "MCP clients are served");
    let app = router(server, stop.clone());
    let serving = axum::serve(Capped::new(listener), app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let goodbye = async {
        stop.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        result = serving => result.map_err(HttpError::Ended),
        () = goodbye => Ok(()),
    }
}

fn router(server: Server, stop: CancellationToken) -> Router {
    let token: Arc<str> = server.config.mcp.token.as_str().into();
    let most = server.config.limits.task_bytes.as_u64() + ENVELOPE;
    // Without sessions: a request says all that is needed, and a restart loses nothing. A web page has no business
    // here, so that whatever a browser sends, which names its origin, is refused; so is a name that only a rebound DNS
    // entry can have led to.
    let settings = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_allowed_hosts(hosts(&server.config.mcp))
        .enforce_origin_validation()
        .with_max_request_body_bytes(usize::try_from(most).unwrap_or(usize::MAX))
        .with_cancellation_token(stop);
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), Arc::new(NeverSessionManager::default()), settings);
    Router::new().nest_service(PATH, service).layer(middleware::from_fn_with_state(token, guard))
}

/// Names by which this server may be addressed.
fn hosts(settings: &config::Mcp) -> Vec<String> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if let Some((host, _)) = settings.listen.rsplit_once(':') {
        hosts.push(host.trim_matches(['[', ']']).to_owned());
    }
    hosts.extend(settings.hosts.iter().cloned());
    // An address to listen on everywhere is nobody's name.
    hosts.retain(|host| host != "0.0.0.0" && host != "::");
    hosts
}

async fn guard(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    if is_allowed(request.headers(), &token) {
        return next.run(request).await;
    }
    let text = "send the token: Authorization: Bearer TOKEN\n";
    let mut response = (StatusCode::UNAUTHORIZED, text).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn is_allowed(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // Hashes are compared in constant time, and their length says nothing of the token's.
    given.is_some_and(|(_, given)| blake3::hash(given.trim().as_bytes()) == blake3::hash(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_let_in() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            is_allowed(&headers, "secret")
        };
        assert!(with("Bearer secret") && with("bearer  secret"));
        for value in ["Bearer secre", "Bearer secret2", "Bearer", "Bearer ", "Basic secret", "secret", ""] {
            assert!(!with(value), "{value:?}");
        }
        assert!(!is_allowed(&HeaderMap::new(), "secret"));
    }

    #[test]
    fn names_are_the_loopback_the_address_and_what_is_set() {
        let of = |listen: &str, more: &[&str]| {
            let hosts = more.iter().map(|h| (*h).to_owned()).collect();
            super::hosts(&config::Mcp { listen: listen.into(), token: String::new(), hosts })
        };
        assert_eq!(of("0.0.0.0:1", &["mcp.example"]), ["localhost", "127.0.0.1", "::1", "mcp.example"]);
        assert_eq!(of("[fd00::1]:1", &[]).last().unwrap(), "fd00::1");
    }
}
