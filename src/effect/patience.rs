//! Waiting for a store that does not answer: nothing is counted against the tasks.

use std::fmt::Display;

use tokio_util::sync::CancellationToken;

use crate::{clock, retry::Backoff, status::Health};

/// Repeats calls to a store until they succeed or the worker has to stop; see [`patiently`].
pub struct Patience<'a> {
    pub health: &'a Health,
    pub abort: &'a CancellationToken,
}

/// The waits of one call.
pub struct Waits<'a> {
    patience: &'a Patience<'a>,
    component: &'static str,
    backoff: Backoff,
}

impl<'a> Patience<'a> {
    pub fn waits(&'a self, component: &'static str) -> Waits<'a> {
        Waits { patience: self, component, backoff: Backoff::new() }
    }
}

impl Waits<'_> {
    /// There was an answer.
    pub fn over(&self) {
        self.patience.health.ready(self.component, clock::now());
    }

    /// Waits before the next try; false: the worker stops.
    pub async fn next(&mut self, fault: &(impl Display + std::marker::Sync)) -> bool {
        self.patience.health.unready(self.component, &fault.to_string(), clock::now());
        tokio::select! {
            () = tokio::time::sleep(self.backoff.next(rand::random())) => true,
            () = self.patience.abort.cancelled() => false,
        }
    }
}

/// `patiently!(patience, "mongodb", CALL)`: awaits the call again and again until it is `Ok`, with the component unready
/// meanwhile. `None`: the worker stops, the task is to be given back.
///
/// A macro and no function: a closure that borrows and is awaited cannot be sent between threads yet.
macro_rules! patiently {
    ($patience:expr, $component:literal, $call:expr) => {{
        let mut waits = $patience.waits($component);
        loop {
            let answer = tokio::select! {
                answer = $call => Some(answer),
                () = $patience.abort.cancelled() => None,
            };
            match answer {
                None => break None,
                Some(Ok(value)) => {
                    waits.over();
                    break Some(value);
                }
                Some(Err(fault)) => {
                    if !waits.next(&fault).await {
                        break None;
                    }
                }
            }
        }
    }};
}
pub(crate) use patiently;
