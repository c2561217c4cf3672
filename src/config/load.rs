//! Resolves the layers: the compiled-in defaults, a file, the environment.

use std::{path::Path, time::Duration};

use contextd_jobs::policy::{self, Policy};
use toml::{Table, Value};

use super::{
    Config,
    error::{ConfigError, Origins, Problem},
    layer::{self, PREFIX, merge},
    schema::Schema,
    validate::validate,
};

/// The compiled-in defaults.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// The compiled-in record types and their caches.
pub const RECORDS: &str = include_str!("../../config/records.toml");

/// This process's variables that are settings, for [`load`]. A value that is not UTF-8 is refused there.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with(PREFIX))
}

/// Resolves the configuration from the defaults, `file` and the environment `vars`, and checks it.
///
/// Reports every problem it can find at once.
pub fn load(file: Option<&Path>, vars: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let text = match file {
        None => None,
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|e| Problem::at(&name, format!("the settings file cannot be read: {e}")))?;
            Some((name, text))
        }
    };
    resolve(text.as_ref().map(|(name, text)| (name.as_str(), text.as_str())), vars, |path| {
        std::fs::read_to_string(path)
    })
}

/// [`load`] without the file system: `file` is the settings file's name and text.
pub(super) fn resolve(
    file: Option<(&str, &str)>,
    vars: impl Iterator<Item = (String, String)>,
    read: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Config, ConfigError> {
    let mut table: Table = toml::from_str(DEFAULT)
        .map_err(|e| Problem::at("config/default.toml (compiled in)", e.message().to_owned()))?;
    let records: Table = toml::from_str(RECORDS)
        .map_err(|e| Problem::at("config/records.toml (compiled in)", e.message().to_owned()))?;
    merge(&mut table, records);
    let lifecycle: Table = toml::from_str(policy::SHIPPED)
        .map_err(|e| Problem::at("config/lifecycle.toml (compiled in)", e.message().to_owned()))?;
    merge(&mut table, lifecycle);
    let schema = Schema::new(table.clone());
    let mut origins = Origins::default();
    let mut problems = Vec::new();
    let from_file = file.map(|(name, text)| layer::from_file(name, text, &schema));
    for layer in from_file.into_iter().chain([layer::from_vars(vars, &schema, &read)]) {
        merge(&mut table, layer.table);
        origins.extend(layer.origins);
        problems.extend(layer.problems);
    }
    let place = |path: &str, message: String| Problem { place: origins.of(path).map(str::to_owned), message };
    problems.extend(choose_queues(&mut table, &schema).into_iter().map(|(path, message)| place(&path, message)));
    let declared = table.remove("policy");
    match serde_path_to_error::deserialize::<_, Config>(Value::Table(table)) {
        Ok(mut config) => {
            match declare(declared, &config) {
                Ok(policy) => config.policy = policy,
                Err(wrong) => problems.extend(wrong.into_iter().map(|p| place(&p.path, p.message))),
            }
            let readable = problems.len();
            let folder = file.and_then(|(name, _)| Path::new(name).parent());
            for (name, record) in config.records.iter_mut().filter(|(_, r)| !r.schema.is_empty()) {
                let path = format!("records.{name}.schema");
                match read(&folder.unwrap_or(Path::new("")).join(&record.schema)) {
                    Ok(text) => record.schema = text,
                    Err(e) => {
                        problems.push(place(&path, format!("`{path}`: the file cannot be read: {e}")));
                        record.schema.clear();
                    }
                }
            }
            if problems.len() > readable {
                return Err(ConfigError { problems });
            }
            problems.extend(validate(&config).into_iter().map(|(path, message)| place(&path, message)));
            if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
        }
        Err(e) => {
            let path = e.path().to_string();
            problems.push(place(&path, format!("`{path}`: {}", e.inner().message().replace('\n', ", "))));
            Err(ConfigError { problems })
        }
    }
}

/// The lifecycle policy, which may name the collections of declared records.
fn declare(section: Option<Value>, config: &Config) -> Result<Policy, Vec<policy::Problem>> {
    let Some(Value::Table(section)) = section else { return Ok(Policy::default()) };
    let collections = config.records.values().map(|record| record.collection.clone()).collect();
    policy::load(section, &policy::Surroundings { collections, late: late(config) })
}

/// An access is in MongoDB after this: touches wait in a worker, and what a cache answers is touched when it has expired.
fn late(config: &Config) -> Duration {
    let documents = config.cache.kinds.values().filter(|kind| kind.collection == "documents");
    let longest = documents.flat_map(|kind| kind.strategies.values()).map(|strategy| strategy.ttl).max();
    config.limits.records_flush.saturating_add(longest.unwrap_or_default())
}

/// Takes out the queues with `enabled = false` and those that are no queue without a `kind`.
fn choose_queues(table: &mut Table, schema: &Schema) -> Vec<(String, String)> {
    let Some(Value::Table(queues)) = table.get_mut("queues") else { return Vec::new() };
    let mut problems = Vec::new();
    queues.retain(|name, queue| {
        let Some(queue) = queue.as_table_mut() else { return false };
        let enabled = queue.remove("enabled") != Some(Value::Boolean(false));
        if enabled && !queue.contains_key("kind") {
            let near = schema.queues().find(|known| strsim::damerau_levenshtein(known, name) <= 2);
            let hint = near.map(|near| format!(", or did you mean the queue `{near}`?")).unwrap_or_default();
            let message = format!("`queues.{name}` is a new queue and needs a `kind`: \"list\" or \"stream\"{hint}");
            problems.push((format!("queues.{name}"), message));
            return false;
        }
        enabled
    });
    problems
}
