//! Tasks as producers make them: CloudEvents 1.0 in structured JSON.

use serde_json::{Map, Value, json};

/// One task; starts as a valid event and can be bent in every attribute.
#[derive(Clone)]
pub struct Event(Map<String, Value>);

impl Event {
    pub fn new(kind: &str, id: &str, data: Value) -> Self {
        let mut map = Map::new();
        map.insert("specversion".into(), "1.0".into());
        map.insert("id".into(), id.into());
        map.insert("source".into(), "/it".into());
        map.insert("type".into(), kind.into());
        map.insert("data".into(), data);
        Self(map)
    }

    /// Sets an attribute.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Removes an attribute.
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// Sets a field of `data`.
    pub fn data(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0["data"][name] = value.into();
        self
    }

    pub fn json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

/// `document.analyze.v1` with statistics only: cheap.
pub fn analyze(id: &str, content: &str) -> Event {
    Event::new(
        "document.analyze.v1",
        id,
        json!({ "documentId": format!("doc-{id}"), "content": content, "analyzers": ["statistics"] }),
    )
}

/// `typing.context.v1`.
pub fn typing(id: &str, document: &str, session: &str, sequence: i64) -> Event {
    Event::new(
        "typing.context.v1",
        id,
        json!({
            "sessionId": session,
            "documentId": document,
            "sequence": sequence,
            "cursor": { "offset": sequence },
            "recentText": format!("text at {sequence}"),
        }),
    )
}
