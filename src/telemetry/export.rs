//! Spans over OTLP/HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::runtime::Handle;

/// One request to the collector may take this long.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The default, 128, is less than a batch of tasks.
const LINKS_PER_SPAN: u32 = 500;

/// The provider that exports to `endpoint` (its path `/v1/traces`, unless it names that already).
///
/// Spans wait in a bounded queue of its own thread; when the collector is too slow they are dropped.
pub(super) fn provider(endpoint: &str) -> Result<SdkTracerProvider, ExporterBuildError> {
    let base = endpoint.trim_end_matches('/');
    let endpoint = if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") };
    crate::install_tls();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_timeout(TIMEOUT)
        .build()?;
    let exporter = OnRuntime { inner: Arc::new(exporter), runtime: Handle::current(), failing: AtomicBool::new(false) };
    let resource = Resource::builder()
        .with_service_name("contextd")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_max_links_per_span(LINKS_PER_SPAN)
        .with_resource(resource)
        .build())
}

/// Runs exports on the Tokio runtime: the SDK calls exporters on a thread of its own, where the HTTP client
/// cannot work.
#[derive(Debug)]
struct OnRuntime {
    inner: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
    /// Whether the last export failed: said once, not every few seconds.
    failing: AtomicBool,
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = Arc::clone(&self.inner);
        let export = self.runtime.spawn(async move { inner.export(batch).await });
        let result = export.await.unwrap_or_else(|e| Err(OTelSdkError::InternalFailure(e.to_string())));
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match (&result, was_failing) {
            // The error could hold the endpoint with its password.
            (Err(_), false) => tracing::warn!("spans cannot be exported and are dropped; see `otlp.endpoint`"),
            (Ok(()), true) => tracing::info!("spans are exported again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}
