//! (module batch)
