//! Any [`BatchSource`] as an apalis backend. One task of apalis is one claimed batch.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, task_id::RandomId},
    worker::context::WorkerContext,
};
use futures::{FutureExt, future::BoxFuture, ready};

use super::{flight::Claimed, queue::QueueRuntime, settle::SettleLayer};
use crate::intake::BatchSource;

type Claiming = BoxFuture<'static, Option<Claimed>>;

/// Claims when a handler is free, waits when there is nothing, and never fails: an error of Redis is
/// waited out inside, since an error returned to apalis ends the worker.
pub struct SourceBackend<S: BatchSource> {
    queue: Arc<QueueRuntime<S>>,
    /// A claim on the wire, or the pause after one that brought nothing.
    claiming: Option<Claiming>,
    /// The end: giving back whatever was not handed out.
    closing: Option<BoxFuture<'static, ()>>,
}

impl<S: BatchSource> SourceBackend<S> {
    pub fn new(queue: Arc<QueueRuntime<S>>) -> Self {
        Self { queue, claiming: None, closing: None }
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

    /// A claim still on the wire is waited for and given back, and what the source has read ahead:
    /// dropping it would hold its tasks for a lease.
    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        let closing = self.closing.get_or_insert_with(|| {
            let (queue, claiming) = (self.queue.clone(), self.claiming.take());
            async move {
                if let Some(claiming) = claiming
                    && let Some(claimed) = claiming.await
                {
                    queue.give_back(&claimed, false).await;
                }
                queue.close().await;
            }
            .boxed()
        });
        closing.as_mut().poll(cx).map(Ok)
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
