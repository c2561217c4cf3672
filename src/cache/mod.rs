//! What is kept in Redis for readers. Losing it loses nothing: MongoDB is the authority.

mod analysis;
mod typing;

pub use analysis::AnalysisCache;
pub use typing::TypingCache;
