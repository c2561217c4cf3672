//! Which settings there are and of what kind, read off the defaults: `config/default.toml` names every one.

use bytesize::ByteSize;
use humantime_serde::re::humantime;
use serde::Deserialize;
use toml::{Table, Value};

use super::types::{Misfire, Overlap};

/// What a setting holds; derived from its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Duration,
    Size,
    Integer,
    Number,
    Bool,
    List,
    Section,
    Zone,
}

impl Kind {
    fn of(default: &Value) -> Self {
        match default {
            Value::String(text) if humantime::parse_duration(text).is_ok() => Self::Duration,
            Value::String(text) if text.parse::<ByteSize>().is_ok() => Self::Size,
            Value::String(text) if text.parse::<chrono_tz::Tz>().is_ok() => Self::Zone,
            Value::String(_) | Value::Datetime(_) => Self::Text,
            Value::Integer(_) => Self::Integer,
            Value::Float(_) => Self::Number,
            Value::Boolean(_) => Self::Bool,
            Value::Array(_) => Self::List,
            Value::Table(_) => Self::Section,
        }
    }

    /// Whether a value given in the environment is read as TOML, or is the text itself.
    pub(super) fn is_toml(self) -> bool {
        !matches!(self, Self::Text | Self::Duration | Self::Size | Self::Zone)
    }

    /// What is expected, if `value` is not that. Never repeats the value: it may be a secret.
    fn mismatch(self, value: &Value) -> Option<String> {
        let expected = match self {
            Self::Text => "text in quotes",
            Self::Duration => "a duration such as \"250ms\", \"30s\" or \"1h\"",
            Self::Size => "a size such as \"64KiB\" or \"8MiB\"",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::List => "a list of texts such as [\"one\", \"two\"]",
            Self::Section => "a section with settings of its own",
            Self::Zone => "an IANA time zone such as \"UTC\" or \"Europe/Berlin\"",
        };
        let fits = match (self, value) {
            (Self::Text, Value::String(_))
            | (Self::Integer, Value::Integer(0..))
            | (Self::Number, Value::Integer(_) | Value::Float(_))
            | (Self::Bool, Value::Boolean(_))
            | (Self::Section, Value::Table(_)) => true,
            (Self::Duration, Value::String(text)) => humantime::parse_duration(text).is_ok(),
            (Self::Size, Value::String(text)) => text.parse::<ByteSize>().is_ok(),
            (Self::Zone, Value::String(text)) => text.parse::<chrono_tz::Tz>().is_ok(),
            (Self::List, Value::Array(items)) => items.iter().all(Value::is_str),
            _ => false,
        };
        if fits {
            return None;
        }
        let not = match value {
            Value::Integer(..0) if self == Self::Integer => "a negative one",
            Value::String(_) if matches!(self, Self::Duration | Self::Size | Self::Zone) => "this text",
            Value::String(_) => "text",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a section",
        };
        Some(format!("must be {expected}, not {not}"))
    }
}

/// Every setting with its kind.
pub(super) struct Schema {
    defaults: Table,
    /// What any `[queues.NAME]` may hold.
    queue: Value,
    /// What any `[records.NAME]` may hold.
    record: Value,
    /// What any `[cache.kinds.NAME]` may hold.
    cache_kind: Value,
    /// What any strategy of a cached kind may hold.
    strategy: Value,
}

impl Schema {
    pub(super) fn new(defaults: Table) -> Self {
        // The settings that a default queue can leave out have to be named here.
        let queue = toml::toml! {
            enabled = true
            kind = "list"
            format = "cloudevents"
            bare = { type = "text", id = "text" }
            batch = { tasks = 1, bytes = "1MiB", linger = "1s" }
            concurrency = 1
            low_share = 0.1
        };
        let record = toml::toml! {
            type = "text"
            queue = "text"
            schema = "text"
            collection = "text"
            key = []
            write = "text"
            order = "text"
            cache = "text"
            create = []
            set = []
            stamp = []
            sensitive = []
            required = false
            buffered = false
            audit = false
            array = "text"
            keep = 1
            cascade = []
        };
        let cache_kind = toml::toml! {
            collection = "text"
            by = "text"
            never = []
            default = "text"
            environments = {}
            strategies = {}
        };
        let strategy = toml::toml! {
            ttl = "1s"
            fields = []
        };
        let [queue, record, cache_kind, strategy] = [queue, record, cache_kind, strategy].map(Value::Table);
        Self { defaults, queue, record, cache_kind, strategy }
    }

    /// The kind of the setting at `path`; `None` if there is none.
    pub(super) fn kind(&self, path: &[&str]) -> Option<Kind> {
        self.find(path).map(Kind::of)
    }

    /// What is wrong with `value` as the setting at `path`, which is of `kind`.
    pub(super) fn mismatch(&self, path: &[&str], kind: Kind, value: &Value) -> Option<String> {
        // Jobs are flattened types, whose own errors do not say which setting is meant.
        let word = match path {
            ["jobs", _, "misfire"] if value.is_str() => Misfire::deserialize(value.clone()).err(),
            ["jobs", _, "overlap"] if value.is_str() => Overlap::deserialize(value.clone()).err(),
            _ => None,
        };
        word.map(|e| format!("has an {}", e.message())).or_else(|| kind.mismatch(value))
    }

    fn find(&self, path: &[&str]) -> Option<&Value> {
        let (mut at, rest) = match path {
            ["queues", _, rest @ ..] => (&self.queue, rest),
            ["records", _, rest @ ..] => (&self.record, rest),
            ["cache", "kinds", _, "strategies", _, rest @ ..] => (&self.strategy, rest),
            // Any name of an environment.
            ["cache", "kinds", _, "environments", _] => (self.cache_kind.get("default")?, &[][..]),
            ["cache", "kinds", _, rest @ ..] => (&self.cache_kind, rest),
            [first, rest @ ..] => (self.defaults.get(*first)?, rest),
            [] => return None,
        };
        for key in rest {
            at = at.get(*key)?;
        }
        Some(at)
    }

    /// The existing setting that the unknown `path` most likely means, dotted.
    pub(super) fn near(&self, path: &str) -> Option<String> {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let all = self.paths(path);
        let siblings = all.iter().filter(|p| p.rsplit_once('.').unwrap_or(("", p)).0 == section);
        let near_sibling = siblings
            .map(|p| (strsim::jaro_winkler(p.rsplit('.').next().unwrap_or(p), key), p))
            .filter(|(score, _)| *score >= 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        // `_` for `__` between the levels of a variable.
        let flat = |text: &str| text.replace('.', "_");
        let same_but_dots = all.iter().find(|p| flat(p) == flat(path)).map(|p| (1.0, p));
        let near_path = || {
            all.iter()
                .map(|p| (strsim::normalized_damerau_levenshtein(p, path), p))
                .filter(|(score, _)| *score >= 0.7)
                .max_by(|a, b| a.0.total_cmp(&b.0))
        };
        // Right name, wrong section.
        let same_key = || all.iter().find(|p| p.rsplit_once('.').is_some_and(|(_, k)| k == key)).map(|p| (1.0, p));
        same_but_dots.or(near_sibling).or_else(near_path).or_else(same_key).map(|(_, p)| p.clone())
    }

    /// All paths; those of a queue under the queue that `near` names, or else under each default one.
    fn paths(&self, near: &str) -> Vec<String> {
        fn walk(prefix: &str, value: &Value, into: &mut Vec<String>) {
            for (key, value) in value.as_table().into_iter().flatten() {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                if path != "queues" {
                    walk(&path, value, into);
                }
                into.push(path);
            }
        }
        let mut all = Vec::new();
        walk("", &Value::Table(self.defaults.clone()), &mut all);
        let mut parts = near.split('.');
        if let (Some("queues"), Some(name)) = (parts.next(), parts.next()) {
            walk(&format!("queues.{name}"), &self.queue, &mut all);
        } else {
            for name in self.queues() {
                walk(&format!("queues.{name}"), &self.queue, &mut all);
            }
        }
        all
    }

    /// The names of the default queues.
    pub(super) fn queues(&self) -> impl Iterator<Item = &str> {
        self.defaults.get("queues").and_then(Value::as_table).into_iter().flatten().map(|(name, _)| name.as_str())
    }
}
