//! The listener: a clear error when there is none, few connections, none that lingers.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {problem}; set another address with `http.listen` (CONTEXTD_HTTP__LISTEN)")]
pub struct BindError {
    pub address: String,
    problem: String,
}

/// Listens on `address`, "HOST:PORT".
pub async fn bind(address: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|e| {
        let problem = match e.kind() {
            io::ErrorKind::AddrInUse => "the port is taken (is another contextd running?)".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not listen on that port".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            _ => e.to_string(),
        };
        BindError { address: address.to_owned(), problem }
    })
}

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// A connection on which nothing moves for this long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// Accepts at most [`CONNECTIONS`] at a time.
pub(crate) struct Capped {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl Capped {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self::with(listener, CONNECTIONS, IDLE)
    }

    pub(super) fn with(listener: TcpListener, connections: usize, idle: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections)), idle }
    }
}

impl axum::serve::Listener for Capped {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; if it were, going on without a place is harmless.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        // axum's own accepting waits and tries again when the process is out of file descriptors.
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        let timer = Box::pin(sleep(self.idle));
        (Connection { stream, timer, idle: self.idle, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing moves on it.
pub(crate) struct Connection {
    stream: TcpStream,
    timer: Pin<Box<Sleep>>,
    idle: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Starts the timer again after progress; else looks whether it has run out.
    fn timed<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            let end = Instant::now() + self.idle;
            self.timer.as_mut().reset(end);
            return result;
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.timed(cx, result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.timed(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
