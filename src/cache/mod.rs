//! What is kept in Redis for readers. Losing it loses nothing: MongoDB is the authority.

mod typing;

pub use typing::TypingCache;
