//! Purges what its retention term is over for: deleted documents with all that belongs to them, AI interactions, dead
//! letters, superseded analyses, records of runs; and what an operator's own rules add.

use crate::{
    engine::{RulesJob, Settings},
    kit::{Job, World},
};

pub const NAME: &str = "retention";

pub fn job(settings: Settings, world: World) -> impl Job {
    RulesJob { name: NAME, settings, world }
}
