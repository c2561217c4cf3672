//! contextd from outside: the real binary on real Redis and real MongoDB, held against its contract.
//!
//! Every test has a namespace, a database and a port of its own, so that all run side by side. Tests that trouble a
//! server start one of their own. What is checked is what producers, operators and dashboards see; only `tiers`, `sync`
//! and `shown` go through the library, because other programs read through it, and `reach`, because jobs do.

mod harness;

mod advise;
mod analysis;
mod audit;
mod bad_input;
mod bare;
mod commands;
mod contents;
mod dead;
mod erase;
mod fleet;
mod http;
mod jobs;
mod keys;
mod kills;
mod ledger;
mod list_queue;
mod mcp;
mod outages;
mod reach;
mod records_bad;
mod records_common;
mod records_declared;
mod records_faults;
mod records_kills;
mod records_life;
mod records_links;
mod records_model;
mod records_people;
mod records_plain;
mod records_purged;
mod records_versions;
mod sealed;
mod search;
mod settings;
mod shown;
mod shutdown;
mod startup;
mod sync;
mod tiers;
mod timing;
mod topologies;
mod typing;
