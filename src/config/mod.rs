//! Configuration: compiled-in defaults, then a file, then the environment, parsed once into types.
//! The only module that reads the environment.

mod load;
mod types;

pub use load::{ConfigError, load};
pub use types::*;
