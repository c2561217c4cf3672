//! Keys against a real MongoDB: made once however many make them, rotated beside others that use them.

#[path = "../schedule/services.rs"]
mod services;

mod harness;
mod keys;
mod rotation;
