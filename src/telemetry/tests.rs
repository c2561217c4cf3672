use tokio::sync::mpsc;
use tracing::Instrument;

use super::*;

const TRACE: [u8; 16] =
    [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector on a free port, and what it receives.
async fn collector() -> (String, mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let take = move |uri: axum::http::Uri, body: axum::body::Bytes| async move {
        sender.send((uri.path().to_owned(), body.to_vec())).unwrap();
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(take)).await });
    (endpoint, receiver)
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_the_collector_with_their_links() {
    let (endpoint, mut received) = collector().await;
    let provider = export::provider(&endpoint).unwrap();
    let subscriber = tracing_subscriber::registry().with(span_layer(&provider));
    let guard = tracing::subscriber::set_default(subscriber);
    let span = tracing::info_span!(target: "contextd::pipeline", "batch");
    link_to(&span, PARENT, Some("vendor=value-of-state"));
    link_to(&span, "not a traceparent", None);
    async {}.instrument(span).await;
    drop(tracing::info_span!(target: "hyper", "foreign"));
    drop(guard);
    Telemetry { provider: Some(provider) }.shutdown(Duration::from_secs(10)).await;
    let (path, body) = received.recv().await.unwrap();
    assert_eq!(path, "/v1/traces");
    assert!(contains(&body, b"batch") && contains(&body, b"contextd"));
    assert!(contains(&body, &TRACE), "the link to the producer's trace");
    assert!(contains(&body, b"value-of-state"));
    assert!(!contains(&body, b"foreign"), "spans of libraries stay here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_disturbs_nothing() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let provider = export::provider(&endpoint).unwrap();
    let subscriber = tracing_subscriber::registry().with(span_layer(&provider));
    tracing::subscriber::with_default(subscriber, || drop(tracing::info_span!(target: "contextd", "batch")));
    let end = Telemetry { provider: Some(provider) }.shutdown(Duration::from_secs(2));
    tokio::time::timeout(Duration::from_secs(5), end).await.unwrap();
}

#[test]
fn linking_without_export_does_nothing() {
    link_to(&Span::none(), PARENT, None);
    link_to(&tracing::info_span!("batch"), PARENT, None);
}
