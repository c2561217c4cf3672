use std::time::Duration;

use super::take::is_conflict;
use crate::kit::JobError;

/// A transaction that meets others is tried again this often before its rows are tried in smaller groups.
const TRIES: u32 = 4;

/// How often a transaction has been tried.
#[derive(Default)]
pub struct Tries(u32);

impl Tries {
    /// After an error: whether the same is worth another try, for which this has waited a little.
    pub async fn again(&mut self, error: &JobError) -> bool {
        if self.0 >= TRIES || !is_conflict(error) {
            return false;
        }
        self.0 += 1;
        tokio::time::sleep(Duration::from_millis(u64::from(self.0) * 5)).await;
        true
    }
}

/// Halves a group that met others again and again; `Err`: it is a single one.
pub fn halved<T>(mut group: Vec<T>) -> Result<[Vec<T>; 2], Vec<T>> {
    if group.len() < 2 {
        return Err(group);
    }
    let second = group.split_off(group.len() / 2);
    // The last one is taken first.
    Ok([second, group])
}
