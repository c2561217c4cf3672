//! Whether the process can take work (ready) and makes progress (live).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Whether the process is ready only when a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Required,
    /// Shown, but tasks just wait for it (the grammar while it loads).
    Optional,
}

/// One thing the process depends on: "redis", "mongodb", "queue:typing", "grammar".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    pub ready: bool,
    pub required: bool,
    /// Why it is not ready; one sentence for an operator, without secrets.
    pub reason: Option<String>,
    /// When it became so.
    pub since: DateTime<Utc>,
}

#[derive(Default)]
struct State {
    components: BTreeMap<String, Component>,
    beats: BTreeMap<String, Instant>,
}

/// The health of this process. Components report changes, loops report that they still turn.
pub struct Health {
    limit: Duration,
    state: Mutex<State>,
}

impl Health {
    /// A loop that has not beaten for `limit` is stuck.
    pub fn new(limit: Duration) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Announces a component, not ready yet for `reason` ("connecting").
    pub fn expect(&self, component: &str, need: Need, reason: &str, now: DateTime<Utc>) {
        let required = need == Need::Required;
        let reason = Some(reason.to_owned());
        let component = (component.to_owned(), Component { ready: false, required, reason, since: now });
        self.state().components.extend([component]);
    }

    /// `component` works. Cheap when it did before.
    pub fn ready(&self, component: &str, now: DateTime<Utc>) {
        self.set(component, None, now);
    }

    /// `component` does not work. A change is logged here, so callers need not.
    pub fn unready(&self, component: &str, reason: &str, now: DateTime<Utc>) {
        self.set(component, Some(reason), now);
    }

    fn set(&self, name: &str, reason: Option<&str>, now: DateTime<Utc>) {
        let ready = reason.is_none();
        let mut state = self.state();
        let changed = match state.components.get_mut(name) {
            Some(component) if component.ready == ready => {
                if component.reason.as_deref() != reason {
                    component.reason = reason.map(str::to_owned);
                }
                false
            }
            Some(component) => {
                let required = component.required;
                *component = Component { ready, required, reason: reason.map(str::to_owned), since: now };
                true
            }
            None => {
                let component = Component { ready, required: true, reason: reason.map(str::to_owned), since: now };
                state.components.insert(name.to_owned(), component);
                true
            }
        };
        drop(state);
        match reason {
            _ if !changed => {}
            Some(reason) => tracing::warn!(component = name, reason, "not ready"),
            None => tracing::info!(component = name, "ready"),
        }
    }

    /// A loop turned: it did work, or looked for some. The first beat registers it.
    pub fn beat(&self, queue: &str, now: Instant) {
        let mut state = self.state();
        match state.beats.get_mut(queue) {
            Some(beat) => *beat = now,
            None => {
                state.beats.insert(queue.to_owned(), now);
            }
        }
    }

    /// A loop has ended as it should and need not beat any more.
    pub fn ended(&self, queue: &str) {
        self.state().beats.remove(queue);
    }

    /// The loops that are stuck, and for how long.
    pub fn stuck(&self, now: Instant) -> Vec<(String, Duration)> {
        let silent = |beat: &Instant| now.saturating_duration_since(*beat);
        let state = self.state();
        let beats = state.beats.iter().map(|(queue, beat)| (queue.clone(), silent(beat)));
        beats.filter(|(_, silent)| *silent > self.limit).collect()
    }

    /// Whether every required component is ready.
    pub fn is_ready(&self) -> bool {
        self.state().components.values().all(|component| component.ready || !component.required)
    }

    pub fn components(&self) -> BTreeMap<String, Component> {
        self.state().components.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
