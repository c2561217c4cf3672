//! (module status)
