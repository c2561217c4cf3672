//! `contextd demo`: the main job on the sample input, with an account of what landed where.

pub mod samples;
