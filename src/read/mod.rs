//! Reading records, and what is learnt from how they are read.

pub mod access;
pub mod advise;
pub mod find;
pub mod plain;
pub mod survey;
