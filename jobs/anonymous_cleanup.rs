//! Marks documents of expired anonymous sessions for cleanup, and purges them when nobody came back.

use crate::{
    engine::{RulesJob, Settings},
    kit::{Job, World},
};

pub const NAME: &str = "anonymous-cleanup";

pub fn job(settings: Settings, world: World) -> impl Job {
    RulesJob { name: NAME, settings, world }
}
