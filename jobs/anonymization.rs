//! Makes deleted users and old AI interactions nobody's.

use crate::{
    engine::{RulesJob, Settings},
    kit::{Job, World},
};

pub const NAME: &str = "anonymization";

pub fn job(settings: Settings, world: World) -> impl Job {
    RulesJob { name: NAME, settings, world }
}
