//! Moves old authentication logs to files in the archive tier, and deletes files whose term is over.

use crate::{
    engine::{RulesJob, Settings},
    kit::{Job, World},
};

pub const NAME: &str = "auth-log-archival";

pub fn job(settings: Settings, world: World) -> impl Job {
    RulesJob { name: NAME, settings, world }
}
