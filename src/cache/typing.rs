//! The latest typing context per session and document.

use std::{sync::LazyLock, time::Duration};

use redis::Script;

use crate::{
    effect::typing::Latest,
    intake::{Fault, FaultKind, Link},
};

/// KEYS: contexts. ARGV: ttl (ms), then per key: sequence, JSON. An older context never replaces a newer
/// one: writers may come here in another order than they came to MongoDB. Sequences are compared as
/// decimal digits, since Lua's numbers end at 2^53.
static SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
        for i, key in ipairs(KEYS) do
          local new, json = ARGV[2 * i], ARGV[2 * i + 1]
          local stored = redis.call('GETRANGE', key, 0, 40)
          local old = string.match(stored, '^{"sequence":(%d+)')
          if not old or #old < #new or (#old == #new and old < new) then
            redis.call('SET', key, json, 'PX', ARGV[1])
          end
        end
        return #KEYS
        "#,
    )
});

/// Writes typing contexts to Redis.
#[derive(Clone)]
pub struct TypingCache {
    link: Link,
    namespace: String,
    ttl: Duration,
}

impl TypingCache {
    pub fn new(link: Link, namespace: &str, ttl: Duration) -> Self {
        Self { link, namespace: namespace.into(), ttl }
    }

    /// Stores contexts that MongoDB has. A full Redis leaves them out: they would be refused anyway.
    ///
    /// # Errors
    /// No answer: whether they are stored is unknown; it may be repeated.
    pub async fn store(&self, contexts: &[Latest]) -> Result<(), Fault> {
        // On Cluster the keys lie in many slots, and a script serves only one.
        let size = if self.link.is_cluster() { 1 } else { 500 };
        for chunk in contexts.chunks(size) {
            let mut call = SET.prepare_invoke();
            call.arg(self.ttl.as_millis() as u64);
            for context in chunk {
                call.key(format!("{}:typing:{}:{}", self.namespace, context.document, context.session));
                call.arg(context.sequence).arg(&context.json);
            }
            match self.link.script::<i64>("typing_set", &call).await {
                Ok(_) => {}
                Err(f) if f.kind == FaultKind::Unavailable => return Err(f),
                Err(f) => tracing::warn!(fault = %f, "typing contexts are not cached"),
            }
        }
        Ok(())
    }
}
