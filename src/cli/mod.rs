//! (module cli)

pub mod demo;
