//! `contextd mcp`: the tools for language models, on standard input and output or over HTTP.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    failure::{Failure, Printed},
    link, run, store_and_vault,
};
use crate::{config::Config, mcp, mcp::HttpError, pipeline::Signals, telemetry};

/// How long what is left to report may take at the end.
const GOODBYE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct McpArgs {
    /// Serve clients over HTTP on `mcp.listen`, with the token `mcp.token`
    #[arg(long)]
    pub http: bool,
}

pub async fn serve(args: &McpArgs, config: Config) -> Result<Printed, Failure> {
    // Logs go to standard error: standard output belongs to the client.
    let telemetry = telemetry::init(&config.log, &config.otlp).map_err(|e| Failure::Configuration(e.to_string()))?;
    let signals = Signals::default();
    run::watch(signals.clone()).map_err(|e| Failure::Internal(format!("signals cannot be watched: {e}")))?;
    let (link, (store, vault)) = (link(&config)?, store_and_vault(&config).await?);
    let server = mcp::Server::new(config, link, store, vault).map_err(Failure::Configuration)?;
    let done = CancellationToken::new();
    let counting = tokio::spawn({
        let (server, done) = (server.clone(), done.clone());
        async move { server.count(done).await }
    });
    let result = if args.http {
        mcp::serve(server, signals.stop).await.map_err(|e| match e {
            HttpError::Ended(_) => Failure::Internal(e.to_string()),
            HttpError::NoToken | HttpError::Bind { .. } => Failure::Configuration(e.to_string()),
        })
    } else {
        server.stdio(signals.stop).await.map_err(Failure::Wrong)
    };
    done.cancel();
    let _ = tokio::time::timeout(GOODBYE, counting).await;
    telemetry.shutdown(GOODBYE).await;
    result.map(|()| Printed { text: String::new(), wrong: None })
}
