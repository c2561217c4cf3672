//! The layer that settles batches. It lies outside of all other layers: whatever happens inside, a
//! panic or a time-out included, the batch is settled or given back here and nowhere else.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use apalis_core::{error::BoxDynError, task::Task};
use futures::{FutureExt, future::BoxFuture};
use tower::{Layer, Service};

use super::{
    flight::{Claimed, Settlement},
    queue::QueueRuntime,
};
use crate::intake::BatchSource;

pub struct SettleLayer<S: BatchSource> {
    queue: Arc<QueueRuntime<S>>,
}

impl<S: BatchSource> SettleLayer<S> {
    pub fn new(queue: Arc<QueueRuntime<S>>) -> Self {
        Self { queue }
    }
}

impl<S: BatchSource, Inner> Layer<Inner> for SettleLayer<S> {
    type Service = SettleService<S, Inner>;
    fn layer(&self, inner: Inner) -> Self::Service {
        SettleService { queue: self.queue.clone(), inner }
    }
}

pub struct SettleService<S: BatchSource, Inner> {
    queue: Arc<QueueRuntime<S>>,
    inner: Inner,
}

impl<S, Inner> Service<Task<Claimed>> for SettleService<S, Inner>
where
    S: BatchSource,
    Inner: Service<Task<Claimed>, Response = Settlement>,
    Inner::Error: Into<BoxDynError> + Send,
    Inner::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Claimed>) -> Self::Future {
        let claimed = task.args.clone();
        let queue = self.queue.clone();
        let running = self.inner.call(task);
        async move {
            match running.await.map_err(Into::<BoxDynError>::into) {
                Ok(settlement) => queue.settle(&claimed, settlement).await,
                Err(error) => {
                    tracing::error!(queue = queue.name, %error, tasks = claimed.batch.deliveries.len(), "a batch failed as a whole; it is split to find the task that is to blame");
                    queue.give_back(&claimed, true).await;
                }
            }
            // Never an error: apalis would end the worker.
            Ok(())
        }
        .boxed()
    }
}
