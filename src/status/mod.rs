//! HTTP: metrics, liveness, readiness, and what the worker is doing. Read-only; the only module that uses axum.

mod health;
mod http;
mod listen;
#[cfg(test)]
mod tests;

pub use self::{
    health::{Component, Health, Need},
    http::{StatusState, serve},
    listen::{BindError, bind},
};
