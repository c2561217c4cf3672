//! (module schedule)
