//! Free loopback ports, below the range from which the system gives out ports by itself.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on which nothing listens now. No two calls of one process give the same one.
pub fn free() -> u16 {
    // Another process starts elsewhere in the range: two test runs side by side seldom meet.
    let start = (std::process::id() % 100) as u16 * 120;
    for _ in 0..12_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % 12_000;
        let port = 20_000 + (start + step) % 12_000;
        // Redis Cluster also listens 10,000 higher.
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}
