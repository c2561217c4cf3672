//! Actions of the lifecycle engine on a real MongoDB: in a database of its own for each test, with contents in a directory.

mod prune;
mod sessions;
mod world;
