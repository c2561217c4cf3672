//! The tools: their names, what they say of themselves, and who does them.

use std::sync::Arc;

use rmcp::{
    handler::server::tool::schema_for_input,
    model::{JsonObject, Tool, ToolAnnotations},
};
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::{
    Server,
    read::{AnalyzeArgs, Nothing, RecallArgs, RecommendArgs, arguments},
};
use crate::task::Schemas;

const SESSION: &str = "session.persist.v1";
const MEMORY: &str = "memory.save.v1";

/// A tool that pushes a task: name, task type, what it does.
const WRITES: [(&str, &str, &str); 6] = [
    ("persist_session", SESSION, "Saves a session; of each field the newest value is kept."),
    ("update_session", SESSION, "Changes the given fields of a session that is there."),
    ("persist_interaction", "interaction.persist.v1", "Saves one interaction of a session, once."),
    (
        "persist_evaluation",
        "evaluation.persist.v1",
        "Saves an evaluation onto the session or interaction that it is about; in MongoDB only, never cached.",
    ),
    ("save_memory", MEMORY, "Remembers a fact, preference, context, instruction or example."),
    ("relate", "context.relate.v1", "Relates two contexts or memories to each other."),
];

/// All tools, with the schemas of the configured task types.
pub(super) fn all(schemas: &Schemas) -> Vec<Tool> {
    let mut tools: Vec<Tool> =
        WRITES.into_iter().filter_map(|(name, kind, text)| write(schemas, name, kind, text)).collect();
    tools.extend([
        read::<Nothing>(
            "get_session_cache_strategies",
            "The cache strategies of sessions: fields, TTL, what each suits.",
        ),
        read::<Nothing>(
            "get_interaction_cache_strategies",
            "The cache strategies of interactions: fields, TTL, what each suits.",
        ),
        read::<RecommendArgs>(
            "get_persistence_recommendations",
            "Which cache strategy each kind of record should have: for a usage pattern, or from what was measured.",
        ),
        read::<AnalyzeArgs>(
            "analyze_persistence_patterns",
            "How each kind of record is read and written, what each cache strategy would cost, and what stands out.",
        ),
        read::<RecallArgs>(
            "recall",
            "Finds memories and contexts by text, type, tag, user, session, importance or relation.",
        ),
    ]);
    tools
}

fn write(schemas: &Schemas, name: &'static str, kind: &str, text: &'static str) -> Option<Tool> {
    let mut schema = schemas.get(kind)?.document().as_object()?.clone();
    for name in ["$schema", "$id", "title", "description"] {
        schema.remove(name);
    }
    if kind == MEMORY
        && let Some(Value::Array(required)) = schema.get_mut("required")
    {
        required.retain(|name| name != "memoryId");
    }
    let wait = json!({
        "description": "Answer when the record can be read, at most 10 s later; otherwise as soon as the task is queued.",
        "type": "boolean",
        "default": false,
    });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("wait".into(), wait);
    }
    // Natural ids and the newest-wins rule: the same call again changes nothing more.
    let hints = ToolAnnotations::new().read_only(false).destructive(false).idempotent(kind != MEMORY).open_world(false);
    Some(Tool::new(name, text, Arc::new(schema)).with_annotations(hints))
}

fn read<T: JsonSchema + 'static>(name: &'static str, text: &'static str) -> Tool {
    let schema: Arc<JsonObject> = schema_for_input::<T>().unwrap_or_default();
    Tool::new(name, text, schema).with_annotations(ToolAnnotations::new().read_only(true).open_world(false))
}

/// Does what the tool `name` says; `None`: there is no such tool.
///
/// # Errors
/// A sentence for whoever called it.
pub(super) async fn call(server: &Server, name: &str, given: Map<String, Value>) -> Option<Result<Value, String>> {
    if let Some((_, kind, _)) = WRITES.into_iter().find(|(known, ..)| *known == name) {
        return Some(prepared(server, name, kind, given).await);
    }
    Some(match name {
        "get_session_cache_strategies" => strategies(server, "session", given),
        "get_interaction_cache_strategies" => strategies(server, "interaction", given),
        "get_persistence_recommendations" => match arguments::<RecommendArgs>(given) {
            Ok(args) => server.recommendations(args).await,
            Err(e) => Err(e),
        },
        "analyze_persistence_patterns" => match arguments::<AnalyzeArgs>(given) {
            Ok(args) => server.patterns(args).await,
            Err(e) => Err(e),
        },
        "recall" => match arguments::<RecallArgs>(given) {
            Ok(args) => server.recall(args).await,
            Err(e) => Err(e),
        },
        _ => return None,
    })
}

fn strategies(server: &Server, kind: &str, given: Map<String, Value>) -> Result<Value, String> {
    arguments::<Nothing>(given).and_then(|_| server.strategies(kind))
}

async fn prepared(server: &Server, name: &str, kind: &str, mut given: Map<String, Value>) -> Result<Value, String> {
    match name {
        "save_memory" => {
            given.entry("memoryId").or_insert_with(|| uuid::Uuid::now_v7().to_string().into());
        }
        "update_session" => {
            if let Some(id) = given.get("sessionId").and_then(Value::as_str) {
                server.must_be_there("session", id).await?;
            }
        }
        "persist_evaluation" => {
            let text = |name: &str| given.get(name).and_then(Value::as_str);
            if let (Some(kind @ ("session" | "interaction")), Some(id)) = (text("entityType"), text("entityId")) {
                server.must_be_there(kind, id).await?;
            }
        }
        _ => {}
    }
    server.write(kind, given).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_says_what_it_takes() {
        let tools = all(&Schemas::builtin());
        let names: Vec<&str> = tools.iter().map(|t| t.name.as_ref()).collect();
        assert_eq!(names.len(), 11, "{names:?}");
        for tool in &tools {
            assert_eq!(tool.input_schema["type"], "object", "{}", tool.name);
            let text = Value::Object(tool.input_schema.as_ref().clone());
            assert!(jsonschema::validator_for(&text).is_ok(), "{}", tool.name);
        }
        let schema = |name: &str| &tools.iter().find(|t| t.name == name).unwrap().input_schema;
        assert_eq!(schema("persist_session")["required"], json!(["sessionId"]));
        assert_eq!(schema("save_memory")["required"], json!(["type", "content"]));
        assert_eq!(schema("relate")["properties"]["wait"]["type"], "boolean");
        let recall = schema("recall")["properties"].as_object().unwrap();
        assert!(
            ["query", "userId", "relatedTo", "importance"].iter().all(|name| recall.contains_key(*name)),
            "{recall:?}"
        );
    }
}
