//! One layer of settings over the defaults: a file or the environment. Each key is checked against the schema,
//! so that a problem can name its place.

use std::path::Path;

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    error::{Origins, Problem},
    schema::Schema,
};

#[derive(Debug, Default)]
pub(super) struct Layer {
    pub table: Table,
    pub origins: Origins,
    pub problems: Vec<Problem>,
}

/// The prefix of every variable that is a setting.
pub(super) const PREFIX: &str = "CONTEXTD_";

/// The layer of a settings file; `name` is how problems call it.
pub(super) fn from_file(name: &str, text: &str, schema: &Schema) -> Layer {
    let mut layer = Layer::default();
    // The parser's own rendering quotes the line, which may hold a password: only its message is used.
    let broken = |e: toml::de::Error| {
        let line = e.span().map_or(1, |span| line_of(text, span.start));
        Problem::at(format!("{name}:{line}"), format!("this is not TOML: {}", e.message().replace('\n', ", ")))
    };
    match (DeTable::parse(text), toml::from_str::<Table>(text)) {
        (Ok(spanned), Ok(table)) => {
            locate(name, text, "", spanned.get_ref(), &mut layer.origins);
            layer.table = table;
            layer.check(schema);
        }
        (Err(e), _) | (_, Err(e)) => layer.problems.push(broken(e)),
    }
    layer
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn locate(name: &str, text: &str, prefix: &str, table: &DeTable<'_>, origins: &mut Origins) {
    for (key, value) in table.iter() {
        let path = join(prefix, key.get_ref());
        origins.set(path.clone(), format!("{name}:{}", line_of(text, key.span().start)));
        if let DeValue::Table(inner) = value.get_ref() {
            locate(name, text, &path, inner, origins);
        }
    }
}

/// The layer of the environment. `read` reads the file that a `..._FILE` variable names.
pub(super) fn from_vars(
    vars: impl Iterator<Item = (String, String)>,
    schema: &Schema,
    read: impl Fn(&Path) -> std::io::Result<String>,
) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in vars {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !injected(rest)) else { continue };
        if let Err(message) = layer.variable(&name, &rest.to_lowercase(), value, schema, &read) {
            layer.problems.push(Problem::at(&name, message));
        }
    }
    layer.check(schema);
    layer
}

/// Kubernetes puts such variables into every pod when a Service is called "contextd"; they are not settings.
fn injected(name: &str) -> bool {
    !name.contains("__") && (name.starts_with("SERVICE_") || name == "PORT" || name.starts_with("PORT_"))
}

impl Layer {
    fn variable(
        &mut self,
        name: &str,
        key: &str,
        value: String,
        schema: &Schema,
        read: &impl Fn(&Path) -> std::io::Result<String>,
    ) -> Result<(), String> {
        let path: Vec<&str> = key.split("__").collect();
        let dotted = path.join(".");
        let of_file = dotted.strip_suffix("_file").filter(|_| schema.kind(&path).is_none());
        let (dotted, value) = match of_file {
            Some(setting) if schema.kind(&setting.split('.').collect::<Vec<_>>()).is_some() => {
                let text = read(Path::new(&value)).map_err(|e| format!("cannot read the file it names: {e}"))?;
                (setting.to_owned(), text.trim().to_owned())
            }
            _ => (dotted, value),
        };
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return Err("its value is not UTF-8".to_owned());
        }
        let path: Vec<&str> = dotted.split('.').collect();
        let Some(kind) = schema.kind(&path) else {
            let hint = match schema.near(&dotted) {
                Some(near) => format!("; did you mean {}?", variable_of(&near)),
                None => "; `config/default.toml` lists all settings".to_owned(),
            };
            return Err(format!("there is no setting `{dotted}`{hint}"));
        };
        let value = match kind.is_toml() {
            // The parser's message could quote the value.
            true => value.parse::<Value>().unwrap_or(Value::String(value)),
            false => Value::String(value),
        };
        if self.origins.of(&dotted).is_some_and(|_| contains(&self.table, &path)) {
            let other = self.origins.of(&dotted).unwrap_or_default();
            return Err(format!("{other} sets `{dotted}` too; unset one of the two"));
        }
        insert(&mut self.table, &path, value);
        self.origins.set(dotted, name.to_owned());
        Ok(())
    }

    /// Takes out and reports what is unknown or of the wrong kind.
    fn check(&mut self, schema: &Schema) {
        let Self { table, origins, problems } = self;
        check("", table, schema, &mut |path, message| {
            problems.push(Problem { place: origins.of(path).map(str::to_owned), message });
        });
    }
}

fn check(prefix: &str, table: &mut Table, schema: &Schema, report: &mut impl FnMut(&str, String)) {
    table.retain(|key, value| {
        let path = join(prefix, key);
        // The lifecycle policy says itself what belongs in it.
        if path == "policy" && value.is_table() {
            return true;
        }
        let parts: Vec<&str> = path.split('.').collect();
        // A key with a dot in it is no name of ours, and would be split wrongly.
        let kind = if key.contains('.') { None } else { schema.kind(&parts) };
        let Some(kind) = kind else {
            let hint = schema.near(&path).map(|near| format!("; did you mean `{near}`?"));
            let hint = hint.unwrap_or_else(|| "; `config/default.toml` lists all settings".to_owned());
            report(&path, format!("there is no setting `{path}`{hint}"));
            return false;
        };
        if let Some(mismatch) = schema.mismatch(&parts, kind, value) {
            report(&path, format!("`{path}` {mismatch}"));
            return false;
        }
        if let Value::Table(inner) = value {
            check(&path, inner, schema, report);
        }
        true
    });
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The variable that sets the setting at a dotted path.
fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

fn contains(table: &Table, path: &[&str]) -> bool {
    match path {
        [] => true,
        [key] => table.contains_key(*key),
        [key, rest @ ..] => table.get(*key).and_then(Value::as_table).is_some_and(|inner| contains(inner, rest)),
    }
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => merge_value(table, key, value),
        [key, rest @ ..] => {
            let section = table.entry((*key).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = section {
                insert(inner, rest, value);
            }
        }
    }
}

/// Lays `over` on `table`, setting by setting; lists are replaced whole.
pub(super) fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        merge_value(table, &key, value);
    }
}

fn merge_value(table: &mut Table, key: &str, value: Value) {
    match (table.get_mut(key), value) {
        (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
        (_, value) => {
            table.insert(key.to_owned(), value);
        }
    }
}
