//! The MCP server: sessions, interactions, evaluations and memories as tools for language models.
//!
//! Writes go through the queues like any producer's; reads go to the stores. It holds no state of its own, so that any
//! number of servers can stand side by side.

mod http;
mod read;
mod tools;
mod write;

use std::sync::Arc;

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use tokio_util::sync::CancellationToken;

pub use http::{HttpError, serve};

use crate::{
    cache::{FLUSH_EVERY, RecordCache},
    config::Config,
    intake::Link,
    read::Reader,
    record::{Registry, cached::Kinds},
    store::Store,
    task::Schemas,
    vault::Vault,
};

const INSTRUCTIONS: &str = "contextd keeps sessions, interactions, evaluations and memories. Writes are queued and \
    written within moments; pass `wait: true` to read them right after. `recall` finds what was saved.";

/// What the tools work on; clones share it.
#[derive(Clone)]
pub struct Server(Arc<Parts>);

pub struct Parts {
    config: Config,
    link: Link,
    store: Store,
    vault: Arc<Vault>,
    kinds: Arc<Kinds>,
    reader: Reader,
    schemas: Arc<Schemas>,
    registry: Registry,
    tools: Vec<Tool>,
}

impl std::ops::Deref for Server {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Server {
    /// # Errors
    /// Record types that are misdeclared; a checked configuration has none.
    pub fn new(config: Config, link: Link, store: Store, vault: Vault) -> Result<Self, String> {
        let schemas = Schemas::of_records(&config.records).map_err(|(_, e)| e)?;
        let registry = Registry::new(&config)
            .map_err(|problems| problems.into_iter().map(|(_, e)| e).collect::<Vec<_>>().join("; "))?;
        let tools = tools::all(&schemas);
        let kinds = Arc::new(Kinds::new(&config.cache)?);
        let vault = Arc::new(vault);
        let cache = RecordCache::new(link.clone(), &config.namespace);
        let reader = Reader::new(cache, store.clone(), kinds.clone(), vault.clone(), &config.cache);
        let schemas = Arc::new(schemas);
        Ok(Self(Arc::new(Parts { config, link, store, vault, kinds, reader, schemas, registry, tools })))
    }

    /// Adds what its readers did to the fleet's counts, until `stop`.
    pub async fn count(&self, stop: CancellationToken) {
        self.reader.access().keep(&self.store, FLUSH_EVERY, stop).await;
    }

    /// Serves one client on standard input and output until it closes them, or until `stop`.
    ///
    /// # Errors
    /// The client does not speak MCP.
    pub async fn stdio(self, stop: CancellationToken) -> Result<(), String> {
        let started = self.serve_with_ct(rmcp::transport::stdio(), stop.clone()).await;
        let running = match started {
            Ok(running) => running,
            Err(_) if stop.is_cancelled() => return Ok(()),
            Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(e) => return Err(format!("the client does not begin as MCP asks: {e}")),
        };
        running.waiting().await.map(|_| ()).map_err(|e| format!("the server ended unexpectedly: {e}"))
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("contextd", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.clone()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let given = request.arguments.unwrap_or_default();
        let result = match tools::call(self, &request.name, given).await {
            Some(Ok(answer)) => CallToolResult::structured(answer),
            // What is wrong with a call is the model's to read and mend.
            Some(Err(sentence)) => CallToolResult::error(vec![ContentBlock::text(sentence)]),
            None => return Err(ErrorData::invalid_params(format!("there is no tool {:?}", request.name), None)),
        };
        Ok(result.into())
    }
}
