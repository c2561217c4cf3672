//! Keys against a real MongoDB: made once however many make them, rotated beside others that use them; and what they seal.

#[path = "../schedule/services.rs"]
mod services;

mod contents;
mod harness;
mod keys;
mod rotation;
