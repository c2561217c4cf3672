//! What a schema says about wrong data, in sentences for people. They name places and what is expected there, never a
//! value: that is somebody's text.

use jsonschema::{ValidationError, error::ValidationErrorKind as Kind};
use serde_json::Value;

/// One violation of the schema `document`; `prefix` stands before the JSON pointer.
pub fn sentence(document: &Value, error: &ValidationError<'_>, prefix: &str) -> String {
    let at = format!("{prefix}{}", error.instance_path());
    let keyword = || document.pointer(error.schema_path().as_str()).unwrap_or(&Value::Null);
    let expected = match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            return format!("`{at}/{name}` is missing: it is required");
        }
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => match owners(keyword(), &at) {
            Some(any) => return format!("one of {any} is missing: it is required"),
            None => "fits none of the shapes that are allowed here".to_owned(),
        },
        Kind::Type { .. } => format!("must be {}", words(keyword())),
        Kind::Enum { options } => match options.as_array() {
            Some(options) => format!("must be {}", listed(options.iter().map(Value::to_string).collect())),
            None => format!("must be one of {options}"),
        },
        Kind::Constant { expected_value } => format!("must be {expected_value}"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { .. } => format!("must be a multiple of {}", keyword()),
        Kind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::Pattern { .. } => "does not have the form that is expected".to_owned(),
        Kind::MinItems { limit } => format!("must have at least {limit} items"),
        Kind::MaxItems { limit } => format!("must have at most {limit} items"),
        Kind::UniqueItems => "must not have an item twice".to_owned(),
        Kind::MinProperties { limit } => format!("must have at least {limit} properties"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} properties"),
        Kind::AdditionalProperties { unexpected } => {
            let names = unexpected.iter().take(3).map(|name| format!("`{name}`")).collect();
            format!("must not have {}", listed(names))
        }
        Kind::Format { format } if format == "date-time" => {
            "must be an RFC 3339 date-time such as 2026-01-31T12:00:00Z".to_owned()
        }
        kind => format!("does not match the schema's `{}`", kind.keyword()),
    };
    let place = if at.is_empty() { "the task".to_owned() } else { format!("`{at}`") };
    match description(document, error) {
        Some(description) => format!("{place} {expected} ({})", description.trim_end_matches('.')),
        None => format!("{place} {expected}"),
    }
}

/// The schema's own words on the place that is wrong.
fn description<'d>(document: &'d Value, error: &ValidationError<'_>) -> Option<&'d str> {
    let (parent, _) = error.schema_path().as_str().rsplit_once('/')?;
    document.pointer(parent)?.get("description")?.as_str()
}

/// Alternatives that each ask for one property, as "`/data/userId` or `/data/sessionId`".
fn owners(alternatives: &Value, at: &str) -> Option<String> {
    let name = |alternative: &Value| match alternative["required"].as_array()?.as_slice() {
        [Value::String(name)] => Some(format!("`{at}/{name}`")),
        _ => None,
    };
    alternatives.as_array()?.iter().map(name).collect::<Option<Vec<_>>>().map(listed)
}

/// "a", "a or b", "a, b or c".
fn listed(mut items: Vec<String>) -> String {
    match (items.pop(), items.is_empty()) {
        (None, _) => String::new(),
        (Some(last), true) => last,
        (Some(last), false) => format!("{} or {last}", items.join(", ")),
    }
}

fn words(types: &Value) -> String {
    match types {
        Value::String(one) if matches!(one.as_str(), "integer" | "object" | "array") => format!("an {one}"),
        Value::String(one) => format!("a {one}"),
        Value::Array(several) => listed(several.iter().map(words).collect()),
        _ => "of another type".to_owned(),
    }
}
