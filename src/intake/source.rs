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
    /// Shows that the batches in flight are still worked on; answers how many have been lost.
    fn renew(&self) -> impl Future<Output = Result<usize, Fault>> + Send;
}

macro_rules! batch_source {
    ($source:ty) => {
        impl BatchSource for $source {
            async fn claim(&self, ask: Ask) -> Result<Claim, Fault> {
                <$source>::claim(self, ask).await
            }
            async fn settle(&self, b: &Batch, l: &Leftovers, now_ms: i64, again: bool) -> Result<SettleAnswer, Fault> {
                <$source>::settle(self, b, l, now_ms, again).await
            }
            async fn hand_back(&self, ack: &Ack, crashed: bool) -> Result<SettleAnswer, Fault> {
                <$source>::hand_back(self, ack, if crashed { "crashed" } else { "released" }).await
            }
            async fn renew(&self) -> Result<usize, Fault> {
                <$source>::renew(self).await
            }
        }
    };
}
batch_source!(LeaseSource);
batch_source!(StreamSource);
