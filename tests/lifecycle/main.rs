//! The data lifecycle against a reference model that was written from its rules alone, at simulated times, on a real
//! MongoDB, a real Redis and real directories of objects.

mod boundaries;
mod check;
mod faults;
mod kills;
mod model;
mod place;
mod plan;
mod races;
mod rows;
mod services;
mod simulation;
mod terms;
mod terms_in_force;
mod worker;
