//! Logs on stderr, and spans exported over OTLP when an endpoint is set.

mod export;
#[cfg(test)]
mod tests;

use std::{io::IsTerminal, time::Duration};

use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat, Otlp};

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`log.filter` must be a filter such as \"info\" or \"contextd=debug,warn\": {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    // The endpoint is not repeated: it may hold a password.
    #[error("spans cannot be exported: check `otlp.endpoint`, or leave it empty for no export")]
    Exporter,
    #[error("logging is set up twice in this process")]
    Twice,
}

/// Keeps the export of spans alive; to be shut down at the end of the process.
#[must_use]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Sets up logging and, if an endpoint is set, the export of spans, for the whole process.
///
/// Inside a Tokio runtime: spans are exported on it.
pub fn init(log: &Log, otlp: &Otlp) -> Result<Telemetry, TelemetryError> {
    let human = match log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs: Box<dyn Layer<Registry> + Send + Sync> = match human {
        true if std::io::stderr().is_terminal() => logs.boxed(),
        true => logs.with_ansi(false).boxed(),
        false => logs.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    // Each has its own filter, so that quiet logs do not mean missing spans.
    let logs = logs.with_filter(EnvFilter::builder().parse(&log.filter)?);
    let provider = match otlp.endpoint.as_str() {
        "" => None,
        endpoint => Some(export::provider(endpoint).map_err(|_| TelemetryError::Exporter)?),
    };
    let spans = provider.as_ref().map(span_layer);
    tracing_subscriber::registry().with(logs).with(spans).try_init().map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry { provider })
}

/// Only our own spans: the exporter's HTTP client must not feed the exporter.
fn span_layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let ours = Targets::new().with_target("contextd", LevelFilter::INFO);
    tracing_opentelemetry::layer().with_tracer(provider.tracer("contextd")).with_filter(ours)
}

impl Telemetry {
    /// Whether spans go anywhere; if not, [`link_to`] need not be called.
    pub fn exports(&self) -> bool {
        self.provider.is_some()
    }

    /// Sends what is left, for at most `limit`. A collector that does not answer loses spans, nothing else.
    pub async fn shutdown(self, limit: Duration) {
        let Some(provider) = self.provider else { return };
        let end = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit));
        if !matches!(tokio::time::timeout(limit, end).await, Ok(Ok(Ok(())))) {
            tracing::warn!("the last spans could not be exported");
        }
    }
}

/// Links `span` to the trace of a task's producer. An ill-formed `traceparent` links nothing.
pub fn link_to(span: &Span, traceparent: &str, tracestate: Option<&str>) {
    let producer = TraceContextPropagator::new()
        .extract_with_context(&Context::new(), &Carrier { parent: traceparent, state: tracestate });
    // An invalid context is ignored there.
    span.add_link(producer.span().span_context().clone());
}

struct Carrier<'a> {
    parent: &'a str,
    state: Option<&'a str>,
}

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.parent),
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
