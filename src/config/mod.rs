//! Configuration: compiled-in defaults, then a file, then the environment, parsed once into types.
//! The only module that reads the environment.

mod error;
mod layer;
mod load;
mod records;
mod schema;
#[cfg(test)]
mod tests;
mod types;
mod validate;

pub use error::{ConfigError, Problem};
pub use load::{DEFAULT, RECORDS, environment, load};
pub use records::*;
pub use types::*;
