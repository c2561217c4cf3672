//! Label values as closed sets: cardinality is bounded by construction.

/// An enum whose variants are the values of one label.
macro_rules! label {
    ($(#[$meta:meta])* $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal ),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$vmeta])* $variant ),+ }

        impl $name {
            /// In the order of the variants, so that `self as usize` is the index.
            pub const ALL: &'static [$name] = &[ $( $name::$variant ),+ ];

            pub const fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text ),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

label! {
    /// How a task ended.
    Outcome {
        Written = "written",
        /// It already had its effect.
        Duplicate = "duplicate",
        /// A newer task of the same key made it moot.
        Superseded = "superseded",
        Expired = "expired",
        Dead = "dead",
    }
}

label! {
    /// Why a task went back to wait.
    ReturnReason {
        /// Its effect failed, or its `notbefore` lies ahead.
        Retry = "retry",
        /// It was given back unprocessed.
        Release = "release",
    }
}

label! {
    /// What closed a batch.
    Trigger {
        Count = "count",
        Bytes = "bytes",
        /// Its linger was over, or nothing more was waiting.
        Time = "time",
        Shutdown = "shutdown",
    }
}

label! {
    /// Where a task that somebody held already was found.
    ReclaimReason {
        /// Another worker's lease had ended.
        LeaseEnded = "lease_ended",
        /// This worker's own, after an error or an answer that never came.
        Own = "own",
    }
}

label! {
    /// Kinds of failure; logs and metrics use the same word.
    ErrorClass {
        /// No connection, or it broke.
        Network = "network",
        /// No answer in time: what happened is unknown.
        Timeout = "timeout",
        /// Failover: the node is not the primary (any more), or is a read-only replica.
        NotPrimary = "not_primary",
        /// Redis is full.
        Oom = "oom",
        /// Wrong or missing credentials or rights.
        Auth = "auth",
        /// The server is loading, busy, moving slots or shutting down.
        Unavailable = "unavailable",
        /// The store refuses this one document for good.
        Rejected = "rejected",
        /// The task cannot be decoded or breaks its schema.
        Invalid = "invalid",
        /// What the task refers to is not there.
        Missing = "missing",
        /// The effect itself failed.
        Effect = "effect",
        /// The effect panicked.
        Panic = "panic",
        /// The batch is no longer this worker's: its lease ended.
        LeaseLost = "lease_lost",
        Other = "other",
    }
}

label! {
    /// How a write to MongoDB ended.
    WriteOutcome {
        Ok = "ok",
        /// Done, and some of it had been there already.
        Duplicate = "duplicate",
        Error = "error",
    }
}

label! {
    /// Where a cache looked.
    Tier {
        Memory = "memory",
        Redis = "redis",
        MongoDb = "mongodb",
    }
}

label! {
    Lookup {
        Hit = "hit",
        Miss = "miss",
    }
}

label! {
    /// Why a cached record was left out, or could not be used.
    CacheEvent {
        /// The record names a strategy that its kind does not have: the default held.
        UnknownStrategy = "unknown_strategy",
        /// The value in Redis is of another version.
        OtherFormat = "other_format",
        /// The value in Redis cannot be read.
        Garbage = "garbage",
        TooLarge = "too_large",
        /// The record's JSON could be taken for something else.
        Ambiguous = "ambiguous",
        /// Redis was full.
        Full = "full",
        /// Behind, and noted nowhere.
        NotNoted = "not_noted",
    }
}

label! {
    /// How a run of a scheduled job ended.
    JobOutcome {
        Success = "success",
        Failure = "failure",
        /// Stopped before it was done (shutdown, lost lease).
        Stopped = "stopped",
    }
}

label! {
    /// What a scheduled job did with a record.
    JobAction {
        Examined = "examined",
        Changed = "changed",
        Held = "held",
    }
}
