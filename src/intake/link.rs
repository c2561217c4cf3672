//! The connection to Redis: single, Cluster or Sentinel behind one handle that replaces a broken connection.
//!
//! A call either has an answer or its end is unknown; nothing here repeats a command. Whoever calls
//! knows what may be repeated.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, ScriptInvocation, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::sync::Mutex;

use super::url::{RedisUrl, Topology};
use crate::{
    config,
    metrics::{self, ErrorClass},
};

/// What a failed call means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No answer, or no connection: whether the command ran is unknown.
    Unavailable,
    /// Redis is full (`noeviction`): what needs memory is refused.
    Full,
    /// The key holds another type.
    WrongType,
    /// Credentials or permissions.
    Denied,
    /// The key that the command needs (a stream's consumer group) is not there.
    NoGroup,
    /// Redis refuses the command itself.
    Refused,
}

/// A failed call to Redis. The text never holds credentials or task bodies.
#[derive(Debug, Clone, thiserror::Error)]
#[error("Redis: {message}")]
pub struct Fault {
    pub kind: FaultKind,
    pub message: String,
}

impl Fault {
    /// Whether waiting and asking again can help.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, FaultKind::Unavailable | FaultKind::Full)
    }

    /// The class under which it is counted.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            FaultKind::Unavailable => ErrorClass::Network,
            FaultKind::Full => ErrorClass::Oom,
            FaultKind::Denied => ErrorClass::Auth,
            FaultKind::WrongType | FaultKind::NoGroup | FaultKind::Refused => ErrorClass::Other,
        }
    }

    /// A reply that is not of the shape the command promises.
    pub(super) fn shape(what: &str) -> Self {
        Fault { kind: FaultKind::Refused, message: format!("unexpected reply of {what}") }
    }
}

impl From<RedisError> for Fault {
    fn from(e: RedisError) -> Self {
        use ServerErrorKind as S;
        let text = e.to_string();
        let kind = match e.kind() {
            ErrorKind::AuthenticationFailed => FaultKind::Denied,
            ErrorKind::Server(S::NoPerm) => FaultKind::Denied,
            ErrorKind::Server(
                S::BusyLoading | S::ReadOnly | S::MasterDown | S::ClusterDown | S::TryAgain | S::Moved | S::Ask,
            ) => FaultKind::Unavailable,
            _ => match e.code() {
                Some("OOM" | "MISCONF") => FaultKind::Full,
                Some("WRONGTYPE") => FaultKind::WrongType,
                Some("NOAUTH" | "WRONGPASS" | "NOPERM") => FaultKind::Denied,
                Some("NOGROUP") => FaultKind::NoGroup,
                Some("NOREPLICAS" | "UNKILLABLE" | "BUSY") => FaultKind::Unavailable,
                // A pipeline's error has no code of its own: its text quotes those of its commands.
                _ if text.contains("WRONGTYPE") => FaultKind::WrongType,
                _ if text.contains("OOM ") || text.contains("\"OOM\"") => FaultKind::Full,
                _ if text.contains("\"NOPERM\"") => FaultKind::Denied,
                Some(_) => FaultKind::Refused,
                None => FaultKind::Unavailable,
            },
        };
        Fault { kind, message: text }
    }
}

/// A handle to Redis; clones share one connection.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    factory: Factory,
    timeout: Duration,
    current: Mutex<Option<Conn>>,
    /// The address without credentials, for messages.
    address: String,
}

enum Factory {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<Mutex<SentinelClient>>),
}

#[derive(Clone)]
enum Kind {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// One live connection; `since` tells connections apart, so that a broken one is dropped only once.
#[derive(Clone)]
struct Conn {
    kind: Kind,
    since: Instant,
}

impl ConnectionLike for Conn {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.kind {
            Kind::Single(c) => c.req_packed_command(cmd),
            Kind::Cluster(c) => c.req_packed_command(cmd),
        }
    }
    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.kind {
            Kind::Single(c) => c.req_packed_commands(pipeline, offset, count),
            Kind::Cluster(c) => c.req_packed_commands(pipeline, offset, count),
        }
    }
    fn get_db(&self) -> i64 {
        match &self.kind {
            Kind::Single(c) => c.get_db(),
            Kind::Cluster(c) => c.get_db(),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.inner.address)
    }
}

impl Link {
    /// Prepares the connection; nothing is sent yet.
    ///
    /// # Errors
    /// An address or a certificate that cannot be used, said in a full sentence.
    pub fn new(settings: &config::Redis) -> Result<Self, String> {
        let url = RedisUrl::parse(&settings.url)?;
        let certificates = read_certificates(&settings.tls)?;
        let tcp = TcpSettings::default().set_nodelay(true);
        let bad = |e: RedisError| format!("`redis.url` cannot be used: {e}");
        let factory = match &url.topology {
            Topology::Single => {
                let info = url.infos().remove(0).into_connection_info().map_err(bad)?.set_tcp_settings(tcp);
                let client = match certificates {
                    Some(c) => Client::build_with_tls(info, c),
                    None => Client::open(info),
                };
                Factory::Single(Box::new(client.map_err(bad)?))
            }
            Topology::Cluster => {
                let mut builder = ClusterClientBuilder::new(url.infos())
                    .connection_timeout(settings.timeout)
                    .response_timeout(settings.timeout)
                    .retries(3)
                    .tcp_settings(tcp);
                if let Some(c) = certificates {
                    builder = builder.certs(c);
                }
                Factory::Cluster(Box::new(builder.build().map_err(bad)?))
            }
            Topology::Sentinel { service } => {
                let mut builder = SentinelClientBuilder::new(url.addresses(), service, SentinelServerType::Master)
                    .map_err(bad)?
                    .set_client_to_redis_tcp_settings(tcp)
                    .set_client_to_redis_db(url.db);
                if let Some(user) = &url.username {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = &url.password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if url.tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(redis::TlsMode::Secure);
                }
                if let Some(c) = certificates {
                    builder =
                        builder.set_client_to_redis_certificates(c.clone()).set_client_to_sentinel_certificates(c);
                }
                Factory::Sentinel(Box::new(Mutex::new(builder.build().map_err(bad)?)))
            }
        };
        let inner = Inner { factory, timeout: settings.timeout, current: Mutex::new(None), address: url.to_string() };
        Ok(Link { inner: Arc::new(inner) })
    }

    /// The address without credentials.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Whether keys of several slots may be used in one call.
    pub fn is_cluster(&self) -> bool {
        matches!(self.inner.factory, Factory::Cluster(_))
    }

    async fn connection(&self) -> Result<Conn, Fault> {
        let mut current = self.inner.current.lock().await;
        if let Some(conn) = current.as_ref() {
            return Ok(conn.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.inner.timeout))
            .set_response_timeout(Some(self.inner.timeout));
        let connect = async {
            Ok::<_, RedisError>(match &self.inner.factory {
                Factory::Single(c) => Kind::Single(c.get_multiplexed_async_connection_with_config(&config).await?),
                Factory::Cluster(c) => Kind::Cluster(c.get_async_connection().await?),
                Factory::Sentinel(c) => Kind::Single(c.lock().await.get_async_connection_with_config(&config).await?),
            })
        };
        let kind = match tokio::time::timeout(self.inner.timeout * 2, connect).await {
            Ok(kind) => kind.map_err(|e| self.not_connected(e))?,
            Err(_) => return Err(self.no_answer()),
        };
        let conn = Conn { kind, since: Instant::now() };
        *current = Some(conn.clone());
        Ok(conn)
    }

    fn not_connected(&self, e: RedisError) -> Fault {
        let fault = Fault::from(e);
        Fault { message: format!("no connection to {}: {}", self.inner.address, fault.message), ..fault }
    }

    fn no_answer(&self) -> Fault {
        let message = format!("no answer from {} within {:?}", self.inner.address, self.inner.timeout);
        Fault { kind: FaultKind::Unavailable, message }
    }

    /// Runs `call` on the connection, bounded in time; a connection that failed is replaced by the next call.
    async fn guarded<T, F>(&self, name: &'static str, call: F) -> Result<T, Fault>
    where
        F: AsyncFnOnce(&mut Conn) -> Result<T, RedisError>,
    {
        let mut conn = self.connection().await?;
        let since = conn.since;
        let started = Instant::now();
        // The connection's own time-out ends a lost reply; the outer one also bounds a wait to be sent.
        let result = match tokio::time::timeout(self.inner.timeout * 2, call(&mut conn)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(Fault::from(e)),
            Err(_) => Err(self.no_answer()),
        };
        metrics::redis_command(name, started.elapsed());
        if matches!(&result, Err(f) if f.kind == FaultKind::Unavailable) && !self.is_cluster() {
            let mut current = self.inner.current.lock().await;
            if current.as_ref().is_some_and(|c| c.since == since) {
                *current = None;
            }
        }
        result
    }

    /// Sends one command.
    pub async fn run<T: FromRedisValue>(&self, name: &'static str, cmd: &Cmd) -> Result<T, Fault> {
        self.guarded(name, async |c| cmd.query_async(c).await).await
    }

    /// Sends a pipeline.
    pub async fn pipe<T: FromRedisValue>(&self, name: &'static str, pipe: &Pipeline) -> Result<T, Fault> {
        self.guarded(name, async |c| pipe.query_async(c).await).await
    }

    /// Runs a script, loading it when Redis does not know it.
    pub async fn script<T: FromRedisValue>(&self, name: &'static str, call: &ScriptInvocation<'_>) -> Result<T, Fault> {
        self.guarded(name, async |c| call.invoke_async(c).await).await
    }

    /// Asks for a sign of life.
    pub async fn ping(&self) -> Result<(), Fault> {
        self.run::<String>("ping", &redis::cmd("PING")).await.map(|_| ())
    }
}

fn read_certificates(tls: &config::RedisTls) -> Result<Option<TlsCertificates>, String> {
    let read = |name: &str, path: &str| {
        std::fs::read(path).map_err(|e| format!("`redis.tls.{name}`: cannot read {path}: {e}"))
    };
    let root_cert = if tls.ca_file.is_empty() { None } else { Some(read("ca_file", &tls.ca_file)?) };
    let client_tls = match (tls.cert_file.is_empty(), tls.key_file.is_empty()) {
        (true, true) => None,
        (false, false) => Some(redis::ClientTlsConfig {
            client_cert: read("cert_file", &tls.cert_file)?,
            client_key: read("key_file", &tls.key_file)?,
        }),
        _ => return Err("`redis.tls.cert_file` and `redis.tls.key_file` belong together: set both or none".into()),
    };
    Ok((root_cert.is_some() || client_tls.is_some()).then_some(TlsCertificates { client_tls, root_cert }))
}

/// The settings of the server that contextd's promises depend on.
#[derive(Debug, Clone)]
pub struct Server {
    pub version: String,
    appendonly: Option<String>,
    policy: Option<String>,
}

impl Server {
    /// What is wrong with the server's settings, in full sentences.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        let major: u32 = self.version.split('.').next().and_then(|v| v.parse().ok()).unwrap_or(0);
        if major < 7 {
            out.push(format!("Redis {} is too old: contextd needs 7.0 or newer", self.version));
        }
        if self.policy.as_deref().is_some_and(|p| p != "noeviction") {
            out.push(
                "Redis evicts keys when it is full, waiting tasks among them: set `maxmemory-policy noeviction`".into(),
            );
        }
        if self.appendonly.as_deref() == Some("no") {
            out.push("Redis has no append-only file: a restart loses waiting tasks; set `appendonly yes`".into());
        }
        out
    }
}

impl Link {
    /// Asks the server about itself. Settings that the user may not read count as unknown.
    pub async fn server(&self) -> Result<Server, Fault> {
        self.ping().await?;
        let info: Value = match self.run("info", redis::cmd("INFO").arg("server")).await {
            Ok(info) => info,
            Err(f) if f.kind == FaultKind::Unavailable => return Err(f),
            Err(_) => Value::Nil,
        };
        // Cluster answers for each node.
        let info = match info {
            Value::Map(nodes) => nodes.into_iter().next().map_or(Value::Nil, |(_, info)| info),
            info => info,
        };
        let info: String = redis::from_redis_value(info).unwrap_or_default();
        let version = info.lines().find_map(|l| l.strip_prefix("redis_version:")).unwrap_or("7").trim().to_string();
        let mut read = [None, None];
        for (slot, name) in read.iter_mut().zip(["appendonly", "maxmemory-policy"]) {
            let pair: Result<Vec<String>, Fault> = self.run("config", redis::cmd("CONFIG").arg("GET").arg(name)).await;
            *slot = pair.ok().and_then(|p| p.into_iter().nth(1));
        }
        let [appendonly, policy] = read;
        Ok(Server { version, appendonly, policy })
    }
}
