//! HTTP: metrics, liveness, readiness, and what the worker is doing. Read-only. With `mcp` the only module that uses axum.

mod health;
mod http;
mod listen;
#[cfg(test)]
mod tests;

pub(crate) use self::listen::Capped;
pub use self::{
    health::{Component, Health, Need},
    http::{StatusState, serve},
    listen::{BindError, bind},
};
