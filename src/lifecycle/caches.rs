//! Redis, as far as the lifecycle goes: [`LifecycleCache`] for jobs.

use std::collections::HashSet;

use contextd_jobs::kit::{self, OutsideError};
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use mongodb::bson::Document;

use super::of_redis;
use crate::{cache::LifecycleCache, clock};

pub struct Caches(pub LifecycleCache);

impl kit::Caches for Caches {
    fn live<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<HashSet<String>, OutsideError>> {
        self.0.live(sessions).map_err(of_redis).boxed()
    }

    fn forget<'a>(&'a self, records: &'a [(String, String, i64)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.0.forget(records, clock::now().timestamp_millis()).map_err(of_redis).boxed()
    }

    fn cached_by(&self, collection: &str) -> Vec<String> {
        self.0.cached_by(collection)
    }

    fn forget_by<'a>(&'a self, collection: &'a str, rows: &'a [Document]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.0.forget_by(collection, rows, clock::now().timestamp_millis()).map_err(of_redis).boxed()
    }

    fn forget_typing<'a>(&'a self, of: &'a [(String, String)]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.0.forget_typing(of).map_err(of_redis).boxed()
    }

    fn end_sessions<'a>(&'a self, sessions: &'a [String]) -> BoxFuture<'a, Result<(), OutsideError>> {
        self.0.end_sessions(sessions).map_err(of_redis).boxed()
    }
}
