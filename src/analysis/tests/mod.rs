//! Tests through the pool.
