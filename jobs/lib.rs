//! The scheduled jobs: one file each. A job knows MongoDB and what it is given in [`Run`];
//! it cannot reach the intake or the HTTP server. When it runs is the configuration's business.

pub mod housekeeping;
