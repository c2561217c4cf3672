//! The Redis keys of a queue. All share one hash tag, hence one Cluster slot.

use crate::task::Priority;

/// The keys of one queue.
#[derive(Debug, Clone)]
pub struct QueueKeys {
    pub base: String,
}

impl QueueKeys {
    pub fn new(namespace: &str, queue: &str) -> Self {
        Self { base: format!("{namespace}:{{{queue}}}") }
    }
    pub fn list(&self, priority: Priority) -> String {
        format!("{}:{}", self.base, priority.as_str())
    }
    pub fn stream(&self) -> String {
        format!("{}:events", self.base)
    }
    pub fn delayed(&self) -> String {
        format!("{}:delayed", self.base)
    }
    pub fn paused(&self) -> String {
        format!("{}:paused", self.base)
    }
    pub fn metas(&self) -> String {
        format!("{}:meta", self.base)
    }
    pub fn batch(&self, rid: &str) -> String {
        format!("{}:if:{rid}", self.base)
    }
}
