//! Any [`BatchSource`] as an apalis backend. One task of apalis is one claimed batch.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, task_id::RandomId},
    worker::context::WorkerContext,
};
use futures::{FutureExt, ready};

use super::{flight::Claimed, queue::QueueRuntime, settle::SettleLayer};
use crate::intake::BatchSource;

type Claiming = Pin<Box<dyn Future<Output = Option<Claimed>> + Send>>;

/// Claims when a handler is free, waits when there is nothing, and never fails: an error of Redis is
/// waited out inside, since an error returned to apalis ends the worker.
pub struct SourceBackend<S: BatchSource> {
    queue: Arc<QueueRuntime<S>>,
    /// A claim on the wire, or the pause after one that brought nothing.
    claiming: Option<Claiming>,
}

impl<S: BatchSource> SourceBackend<S> {
    pub fn new(queue: Arc<QueueRuntime<S>>) -> Self {
        Self { queue, claiming: None }
    }
}

impl<S: BatchSource> Backend for SourceBackend<S> {
    type Task = Task<Claimed>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        loop {
            let claiming = self.claiming.get_or_insert_with(|| {
                let queue = self.queue.clone();
                async move { queue.next_batch().await }.boxed()
            });
            let claimed = ready!(claiming.as_mut().poll(cx));
            self.claiming = None;
            match claimed {
                Some(claimed) => return Poll::Ready(Some(Ok(Task::new(claimed)))),
                // Stopping: no more claims, but the worker's own stop ends the stream.
                None if self.queue.stop.is_cancelled() => return Poll::Pending,
                None => {}
            }
        }
    }

    /// A claim still on the wire is waited for and given back: dropping it would hold its tasks for a lease.
    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        let Some(claiming) = self.claiming.as_mut() else { return Poll::Ready(Ok(())) };
        if let Some(claimed) = ready!(claiming.as_mut().poll(cx)) {
            let queue = self.queue.clone();
            self.claiming = Some(
                async move {
                    queue.give_back(&claimed, false).await;
                    None
                }
                .boxed(),
            );
            return self.poll_close(cx, &WorkerContext::new("closing"));
        }
        self.claiming = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: BatchSource> BackendConfig for SourceBackend<S> {
    type Args = Claimed;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = SettleLayer<S>;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> SettleLayer<S> {
        SettleLayer::new(self.queue.clone())
    }
}
