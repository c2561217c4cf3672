//! One load per key, however many wait for it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

type Flight<T> = Shared<BoxFuture<'static, T>>;

/// The loads that are under way.
pub(super) struct Flights<K, T>(Mutex<HashMap<K, Flight<T>>>);

impl<K: Hash + Eq, T: Clone + Send + Sync + 'static> Flights<K, T> {
    pub fn new() -> Self {
        Self(Mutex::default())
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the load of `key` that is under way; otherwise takes what `known` has now, else starts `load`, which goes
    /// on without its first caller. `failed` is the answer if it panics. The load has to call [`Flights::landed`].
    ///
    /// A load shows its result in the faster tiers before it lands: who comes after that finds it by `known`.
    pub fn join(
        &self,
        key: K,
        known: impl FnOnce() -> Option<T>,
        load: impl FnOnce() -> BoxFuture<'static, T>,
        failed: T,
    ) -> Flight<T> {
        let mut all = self.all();
        if let Some(flight) = all.get(&key) {
            return flight.clone();
        }
        if let Some(known) = known() {
            return futures::future::ready(known).boxed().shared();
        }
        let running = tokio::spawn(load());
        let flight = async move { running.await.unwrap_or(failed) }.boxed().shared();
        all.insert(key, flight.clone());
        flight
    }

    /// The load of `key` has ended, well or not.
    pub fn landed(&self, key: &K) {
        self.all().remove(key);
    }
}
