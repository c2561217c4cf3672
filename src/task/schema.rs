//! The JSON Schemas of the task types, compiled in: one file per type in `config/schemas`.

use std::{collections::BTreeMap, sync::LazyLock};

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

use super::{attribute::parse_time, envelope::integral, explain::sentence};
use crate::config::Record;

/// A new type is one file and one line here.
const BUILTIN: [&str; 31] = [
    include_str!("../../config/schemas/ai_interaction.decide.v1.json"),
    include_str!("../../config/schemas/ai_interaction.log.v1.json"),
    include_str!("../../config/schemas/auth.log.v1.json"),
    include_str!("../../config/schemas/context.delete.v1.json"),
    include_str!("../../config/schemas/context.relate.v1.json"),
    include_str!("../../config/schemas/context.save.v1.json"),
    include_str!("../../config/schemas/context.update.v1.json"),
    include_str!("../../config/schemas/document.analyze.v1.json"),
    include_str!("../../config/schemas/document.delete.v1.json"),
    include_str!("../../config/schemas/document.link.v1.json"),
    include_str!("../../config/schemas/document.restore.v1.json"),
    include_str!("../../config/schemas/document.save.v1.json"),
    include_str!("../../config/schemas/document.touch.v1.json"),
    include_str!("../../config/schemas/evaluation.persist.v1.json"),
    include_str!("../../config/schemas/hold.lift.v1.json"),
    include_str!("../../config/schemas/hold.place.v1.json"),
    include_str!("../../config/schemas/interaction.persist.v1.json"),
    include_str!("../../config/schemas/memory.save.v1.json"),
    include_str!("../../config/schemas/preference.save.v1.json"),
    include_str!("../../config/schemas/prompt_template.save.v1.json"),
    include_str!("../../config/schemas/session.end.v1.json"),
    include_str!("../../config/schemas/session.persist.v1.json"),
    include_str!("../../config/schemas/session.touch.v1.json"),
    include_str!("../../config/schemas/typing.context.v1.json"),
    include_str!("../../config/schemas/user.claim.v1.json"),
    include_str!("../../config/schemas/user.delete.v1.json"),
    include_str!("../../config/schemas/user.erase.v1.json"),
    include_str!("../../config/schemas/user.save.v1.json"),
    include_str!("../../config/schemas/version.decide.v1.json"),
    include_str!("../../config/schemas/version.restore.v1.json"),
    include_str!("../../config/schemas/version.save.v1.json"),
];

/// How many violations an error names.
const NAMED: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the schema is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the schema has no `title`: give it the name of its task type")]
    NoTitle,
    #[error("there are two schemas for the task type {0:?}: leave one out")]
    Twice(String),
    #[error("the schema of the task type {0:?} is not valid: {1}")]
    Invalid(String, String),
}

/// All known task types.
#[derive(Debug)]
pub struct Schemas {
    by_type: BTreeMap<String, Schema>,
}

/// One task type: what its `data` must look like.
#[derive(Debug)]
pub struct Schema {
    document: Value,
    validator: Validator,
    /// The properties that are declared as integers, by their path from the root.
    integers: Vec<Vec<String>>,
}

impl Schemas {
    /// The types that this build knows.
    pub fn builtin() -> Self {
        Self::from_texts(BUILTIN).expect("the compiled-in schemas are valid, a test reads each of them")
    }

    /// One schema per text; the `title` is the task type.
    pub fn from_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, SchemaError> {
        let mut by_type = BTreeMap::new();
        for text in texts {
            let document: Value = serde_json::from_str(text)?;
            let kind = document["title"].as_str().ok_or(SchemaError::NoTitle)?.to_owned();
            let schema = Schema::new(document).map_err(|e| SchemaError::Invalid(kind.clone(), e.to_string()))?;
            if by_type.insert(kind.clone(), schema).is_some() {
                return Err(SchemaError::Twice(kind));
            }
        }
        Ok(Self { by_type })
    }

    /// The types that this build has schemas for.
    pub fn builtin_types() -> impl Iterator<Item = &'static str> {
        static BUILTIN_TYPES: LazyLock<Vec<String>> =
            LazyLock::new(|| Schemas::builtin().types().map(str::to_owned).collect());
        BUILTIN_TYPES.iter().map(String::as_str)
    }

    /// The compiled-in types and those of the declared records, whose `schema` is the schema's text by now.
    ///
    /// # Errors
    /// The path of the setting with a schema that cannot be used, and a sentence about it.
    pub fn of_records(records: &BTreeMap<String, Record>) -> Result<Self, (String, String)> {
        let mut all = Self::builtin();
        for (name, record) in records.iter().filter(|(_, r)| !r.schema.is_empty()) {
            let path = format!("records.{name}.schema");
            let wrong = |e: SchemaError| (path.clone(), format!("`{path}`: {e}"));
            let document: Value = serde_json::from_str(&record.schema).map_err(|e| wrong(e.into()))?;
            let schema =
                Schema::new(document).map_err(|e| wrong(SchemaError::Invalid(record.r#type.clone(), e.to_string())))?;
            all.by_type.insert(record.r#type.clone(), schema);
        }
        Ok(all)
    }

    /// The known types, sorted.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.by_type.keys().map(String::as_str)
    }

    pub fn get(&self, kind: &str) -> Option<&Schema> {
        self.by_type.get(kind)
    }

    /// The known type that looks most like `kind`, if one is near enough to be what was meant.
    pub fn nearest(&self, kind: &str) -> Option<&str> {
        self.types()
            .map(|known| (strsim::jaro_winkler(known, kind), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known)
    }
}

impl Schema {
    fn new(document: Value) -> Result<Self, ValidationError<'static>> {
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            // The same reading of a date as the attributes get, and the one that is stored.
            .with_format("date-time", |text: &str| parse_time(text).is_some())
            .should_validate_formats(true)
            // No backtracking: the text comes from outside.
            .with_pattern_options(PatternOptions::regex())
            .build(&document)?;
        let mut integers = Vec::new();
        collect_integers(&document, &mut Vec::new(), &mut integers);
        Ok(Self { document, validator, integers })
    }

    /// The JSON Schema itself.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Whether `data` matches.
    pub fn is_valid(&self, data: &Value) -> bool {
        self.validator.is_valid(data)
    }

    /// What is wrong with `data`, for people: JSON pointers (behind `prefix`) and what is expected there. It names no
    /// values, since those are somebody's text.
    pub fn explain(&self, data: &Value, prefix: &str) -> String {
        let mut errors = self.validator.iter_errors(data);
        let named: Vec<_> = errors.by_ref().take(NAMED).map(|e| sentence(&self.document, &e, prefix)).collect();
        let more = if errors.next().is_some() { "; and more" } else { "" };
        format!("{}{more}", named.join("; "))
    }

    /// Writes what is declared an integer and came as `2.0` as the integer it is, so that nobody behind has to ask.
    /// `data` must have passed [`Schema::is_valid`].
    pub fn settle_integers(&self, data: &mut Map<String, Value>) {
        for path in &self.integers {
            if let Some(slot) = descend(data, path)
                && let Some(n) = slot.as_f64().filter(|_| slot.is_f64()).and_then(integral)
            {
                *slot = n.into();
            }
        }
    }
}

fn descend<'d>(data: &'d mut Map<String, Value>, path: &[String]) -> Option<&'d mut Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(data.get_mut(first)?, |value, name| value.get_mut(name))
}

fn collect_integers(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        if property["type"] == "integer" {
            found.push(path.clone());
        }
        collect_integers(property, path, found);
        path.pop();
    }
}
