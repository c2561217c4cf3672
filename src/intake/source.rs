//! What the worker runtime needs of a queue, whatever it is made of.

use super::{
    delivery::{Ack, Ask, Batch, Claim, Leftovers, SettleAnswer},
    lease::LeaseSource,
    link::Fault,
    stream::StreamSource,
};

/// A queue that hands out batches and takes them back. Every call may be repeated after an error.
pub trait BatchSource: Send + Sync + 'static {
    /// The next batch, if there is one.
    fn claim(&self, ask: Ask) -> impl Future<Output = Result<Claim, Fault>> + Send;
    /// Ends a batch: what is left over goes back to wait, the rest leaves Redis. `again`: an earlier
    /// call for this batch had no answer.
    fn settle(
        &self,
        batch: &Batch,
        leftovers: &Leftovers,
        now_ms: i64,
        again: bool,
    ) -> impl Future<Output = Result<SettleAnswer, Fault>> + Send;
    /// Gives a whole batch back at once; `crashed` counts it against the batch.
    fn hand_back(&self, ack: &Ack, crashed: bool) -> impl Future<Output = Result<SettleAnswer, Fault>> + Send;
    /// Gives back what was taken and not handed out yet; nothing is claimed after it.
    fn close(&self) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Shows that the batches in flight are still worked on; answers how many have been lost.
    fn renew(&self) -> impl Future<Output = Result<usize, Fault>> + Send;
}

/// The source of a configured queue.
#[expect(clippy::large_enum_variant, reason = "one for each queue, for as long as the process lives")]
pub enum QueueSource {
    List(LeaseSource),
    Stream(StreamSource),
}

impl BatchSource for QueueSource {
    async fn claim(&self, ask: Ask) -> Result<Claim, Fault> {
        match self {
            QueueSource::List(s) => s.claim(ask).await,
            QueueSource::Stream(s) => s.claim(ask).await,
        }
    }
    async fn settle(&self, b: &Batch, l: &Leftovers, now_ms: i64, again: bool) -> Result<SettleAnswer, Fault> {
        match self {
            QueueSource::List(s) => s.settle(b, l, now_ms, again).await,
            QueueSource::Stream(s) => s.settle(b, l, now_ms, again).await,
        }
    }
    async fn hand_back(&self, ack: &Ack, crashed: bool) -> Result<SettleAnswer, Fault> {
        match self {
            QueueSource::List(s) => s.hand_back(ack, crashed).await,
            QueueSource::Stream(s) => s.hand_back(ack, crashed).await,
        }
    }
    async fn close(&self) -> Result<(), Fault> {
        match self {
            QueueSource::List(_) => Ok(()),
            QueueSource::Stream(s) => s.close().await,
        }
    }
    async fn renew(&self) -> Result<usize, Fault> {
        match self {
            QueueSource::List(s) => s.renew().await,
            QueueSource::Stream(s) => s.renew().await,
        }
    }
}
