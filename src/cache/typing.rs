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
        let mut rest: Vec<&Latest> = Vec::new();
        // The first context of a key is only set where there is none: several times cheaper than the
        // script, and a newer one that was quicker stays.
        let firsts: Vec<&Latest> = contexts.iter().filter(|c| c.is_first).collect();
        rest.extend(contexts.iter().filter(|c| !c.is_first));
        if !firsts.is_empty() {
            let mut pipe = redis::pipe();
            for context in &firsts {
                let set = pipe.cmd("SET").arg(self.key(context)).arg(&context.json);
                set.arg("PX").arg(self.ttl.as_millis() as u64).arg("NX");
            }
            match self.link.pipe::<Vec<Option<String>>>("typing_set", &pipe).await {
                Ok(answers) => rest.extend(firsts.iter().zip(answers).filter(|(_, a)| a.is_none()).map(|(c, _)| *c)),
                Err(f) => self.tolerate(f)?,
            }
        }
        // On Cluster the keys lie in many slots, and a script serves only one.
        let size = if self.link.is_cluster() { 1 } else { 500 };
        for chunk in rest.chunks(size) {
            let mut call = SET.prepare_invoke();
            call.arg(self.ttl.as_millis() as u64);
            for context in chunk {
                call.key(self.key(context)).arg(context.sequence).arg(&context.json);
            }
            if let Err(f) = self.link.script::<i64>("typing_set", &call).await {
                self.tolerate(f)?;
            }
        }
        Ok(())
    }

    fn key(&self, context: &Latest) -> String {
        key(&self.namespace, &context.document, &context.session)
    }

    /// Only an unknown end is worth another try.
    fn tolerate(&self, fault: Fault) -> Result<(), Fault> {
        if fault.kind == FaultKind::Unavailable {
            return Err(fault);
        }
        tracing::warn!(%fault, "typing contexts are not cached");
        Ok(())
    }
}

/// Where the latest context of a document and session lies.
pub(super) fn key(namespace: &str, document: &str, session: &str) -> String {
    format!("{namespace}:typing:{document}:{session}")
}
