//! Prunes auto-saved and rejected versions of documents.

use crate::{
    engine::{RulesJob, Settings},
    kit::{Job, World},
};

pub const NAME: &str = "version-pruning";

pub fn job(settings: Settings, world: World) -> impl Job {
    RulesJob { name: NAME, settings, world }
}
