//! `contextd mcp`, driven by the Python SDK of MCP: a client that knows nothing of this code.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Env, Worker, eventually, ports, services, var, when};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Runs `scripts/mcp-client` with these arguments; it ends with one JSON document.
async fn client(env: &Env, args: &[&str], steps: Value) -> Value {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mcp-client"));
    command.env_clear().env("PATH", var("PATH").unwrap_or_default()).env("HOME", var("HOME").unwrap_or_default());
    command.envs(env.variables()).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("the client starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(steps.to_string().as_bytes()).expect("the client reads its steps");
        drop(stdin);
        child.wait_with_output().expect("the client ends")
    });
    let out = tokio::time::timeout(Duration::from_secs(180), run).await.expect("the client ends").expect("it ran");
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("the client printed no JSON ({e}):\n{text}\n{errors}"))
}

async fn stdio(env: &Env, steps: Value) -> Value {
    client(env, &["stdio", env!("CARGO_BIN_EXE_contextd"), "mcp"], steps).await
}

/// The result of step `i`, which must have gone well.
fn good(answer: &Value, i: usize) -> &Value {
    let result = &answer["results"][i];
    assert_eq!(result["isError"], false, "step {i}: {answer}");
    &result["structured"]
}

fn error(answer: &Value, i: usize) -> &str {
    let result = &answer["results"][i];
    assert_eq!(result["isError"], true, "step {i}: {answer}");
    result["text"].as_str().expect("a text")
}

fn call(name: &str, arguments: Value) -> Value {
    json!({ "call": name, "arguments": arguments })
}

/// `contextd mcp --http` as a process; killed when dropped.
struct HttpServer {
    child: std::process::Child,
    url: String,
}

impl HttpServer {
    async fn start(env: &Env) -> Self {
        let port = ports::free();
        let mut command = Command::new(env!("CARGO_BIN_EXE_contextd"));
        command.env_clear().env("PATH", var("PATH").unwrap_or_default()).envs(env.variables());
        command.env("CONTEXTD_MCP__LISTEN", format!("127.0.0.1:{port}")).env("CONTEXTD_MCP__TOKEN", TOKEN);
        let child = command.args(["mcp", "--http"]).stdin(Stdio::null()).spawn().expect("the server starts");
        let server = Self { child, url: format!("http://127.0.0.1:{port}/mcp") };
        eventually("the server listens", || async { when(server.post(&[]).await.is_some()) }).await;
        server
    }

    /// The status of a bare request with these headers.
    async fn post(&self, headers: &[(&str, &str)]) -> Option<u16> {
        contextd::install_tls();
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        let mut request = reqwest::Client::new().post(&self.url).json(&body);
        request = request.header("accept", "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.ok().map(|r| r.status().as_u16())
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn an_independent_client_uses_every_tool() {
    let env = Env::new().await;
    let worker: Worker = env.worker("records").ready().await;
    let steps = json!([
        { "list": true },
        call("persist_session", json!({
            "sessionId": "session-123", "userId": "user-456", "status": "active",
            "context": { "currentTopic": "product_inquiry" }, "metadata": { "source": "web_chat" },
            "cacheStrategy": "WITH_CONTEXT", "wait": true,
        })),
        call("update_session", json!({ "sessionId": "session-123", "status": "waiting", "wait": true })),
        call("persist_interaction", json!({
            "interactionId": "int-789", "sessionId": "session-123", "role": "assistant",
            "request": "What are your product features?", "response": "Our product offers...",
            "context": { "intent": "product_info" }, "processingTimeMs": 150, "cacheStrategy": "RESPONSE_ONLY", "wait": true,
        })),
        call("persist_evaluation", json!({
            "entityId": "session-123", "entityType": "session", "wait": true,
            "evaluationData": { "satisfaction_score": 4.5, "topics_covered": ["product_info", "pricing"] },
        })),
        call("get_session_cache_strategies", json!({})),
        call("get_interaction_cache_strategies", json!({})),
        call("get_persistence_recommendations", json!({ "usagePattern": "real_time" })),
        call("get_persistence_recommendations", json!({})),
        call("analyze_persistence_patterns", json!({ "kind": "session" })),
        call("save_memory", json!({
            "memoryId": "m1", "type": "preference", "content": "prefers short answers", "userId": "user-456",
            "tags": ["style"], "importance": "high", "confidence": 0.9, "wait": true,
        })),
        call("save_memory", json!({ "type": "fact", "content": "works at night", "userId": "user-456", "wait": true })),
        call("relate", json!({ "from": "m1", "to": "int-789", "relation": "DERIVED_FROM", "weight": 0.5, "wait": true })),
        call("recall", json!({ "query": "answers", "userId": "user-456" })),
        call("recall", json!({ "userId": "user-456", "importance": "high" })),
        call("recall", json!({ "relatedTo": "m1" })),
        call("relate", json!({ "from": "int-789", "to": "m1", "relation": "DERIVED_FROM", "wait": true })),
        call("persist_interaction", json!({ "interactionId": "int-789", "sessionId": "other", "wait": true })),
    ]);
    let answer = stdio(&env, steps).await;
    assert_eq!(answer["server"], "contextd", "{answer}");
    let tools = answer["results"][0]["tools"].as_object().expect("tools");
    let expected = [
        "analyze_persistence_patterns",
        "get_interaction_cache_strategies",
        "get_persistence_recommendations",
        "get_session_cache_strategies",
        "persist_evaluation",
        "persist_interaction",
        "persist_session",
        "recall",
        "relate",
        "save_memory",
        "update_session",
    ];
    let mut names: Vec<&str> = tools.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(tools["persist_session"]["required"], json!(["sessionId"]));

    for i in [1, 2, 3, 4, 10, 11, 12] {
        assert_eq!(good(&answer, i)["visible"], true, "step {i}: {answer}");
    }
    let session = env.one("sessions", "session-123").await.expect("the session is there");
    assert_eq!(session.get_str("status").ok(), Some("waiting"));
    assert_eq!(session.get_document("context").unwrap().get_str("currentTopic").ok(), Some("product_inquiry"));
    assert_eq!(session.get_document("evaluation").unwrap().get_f64("satisfaction_score").ok(), Some(4.5));
    let interaction = env.one("interactions", "int-789").await.expect("the interaction is there");
    assert_eq!(interaction.get_str("response").ok(), Some("Our product offers..."));

    let strategies = good(&answer, 5);
    assert_eq!(strategies["default"], "CRITICAL_ONLY");
    let with_context =
        strategies["strategies"].as_array().unwrap().iter().find(|s| s["name"] == "WITH_CONTEXT").unwrap();
    assert_eq!((&with_context["ttlSeconds"], &with_context["suits"]), (&json!(1_800), &json!(["high_frequency"])));
    assert_eq!(good(&answer, 6)["default"], "RESPONSE_ONLY");
    let real_time = &good(&answer, 7)["strategies"];
    assert_eq!(
        (&real_time["session"], &real_time["interaction"]),
        (&json!("FULL_SESSION"), &json!("FULL_INTERACTION"))
    );
    assert!(good(&answer, 8)["recommendations"].as_array().is_some_and(|all| all.len() >= 5), "{answer}");
    assert_eq!(good(&answer, 9)["kinds"].as_array().map(Vec::len), Some(1));

    let recalled = good(&answer, 13)["hits"].as_array().expect("hits");
    assert_eq!(recalled.iter().map(|h| &h["_id"]).collect::<Vec<_>>(), ["m1"]);
    let important = good(&answer, 14)["hits"].as_array().expect("hits");
    assert_eq!(important.iter().map(|h| &h["_id"]).collect::<Vec<_>>(), ["m1"]);
    let links = good(&answer, 15)["links"].as_array().expect("links");
    assert_eq!((links.len(), &links[0]["to"], &links[0]["relation"]), (1, &json!("int-789"), &json!("DERIVED_FROM")));
    // Only the worker can know: who waits is told.
    assert!(error(&answer, 16).contains("closes a circle"), "{answer}");
    assert_eq!(good(&answer, 17)["visible"], true, "an interaction is written once: {answer}");
    worker.stop().await;
}

#[tokio::test]
async fn an_unreachable_service_is_said_and_survived() {
    let env = Env::new()
        .await
        .set("redis.url", format!("redis://127.0.0.1:{}/0", ports::free()))
        .set("redis.timeout", "500ms");
    let save = call("save_memory", json!({ "type": "fact", "content": "x" }));
    let answer = stdio(&env, json!([save, call("recall", json!({}))])).await;
    assert!(error(&answer, 0).contains("Redis"), "{answer}");
    assert_eq!(good(&answer, 1)["hits"], json!([]));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_a_sentence() {
    let env = Env::new().await;
    // No worker runs: what was wrong got no further than the tool, and what was right waits in its queue.
    let steps = json!([
        call("persist_session", json!({ "userId": "u" })),
        call("persist_session", json!({ "sessionId": "s", "context": "text" })),
        call("persist_session", json!({ "sessionId": "s", "cacheStrategy": "EVERYTHING" })),
        call("persist_session", json!({ "sessionId": "s", "updatedAt": "2999-01-01T00:00:00Z" })),
        call("persist_session", json!({ "sessionId": "s", "wait": "yes" })),
        call("persist_session", json!({ "sessionId": "s", "state": "purging" })),
        call("update_session", json!({ "sessionId": "nobody", "status": "x" })),
        call("save_memory", json!({ "type": "rumour", "content": "x" })),
        call("save_memory", json!({ "type": "fact", "content": "x", "confidence": 1.1 })),
        call("relate", json!({ "from": "a", "to": "a", "relation": "CONTAINS" })),
        call("persist_evaluation", json!({ "entityId": "s", "entityType": "user", "evaluationData": {} })),
        call("persist_evaluation", json!({ "entityId": "nobody", "entityType": "interaction", "evaluationData": {} })),
        call("recall", json!({ "limit": 1_000 })),
        call("recall", json!({ "colour": "red" })),
        call("recall", json!({ "after": "garbage" })),
        call("analyze_persistence_patterns", json!({ "kind": "sessions" })),
        call("get_persistence_recommendations", json!({ "hours": 0 })),
        call("persist_session", json!({ "sessionId": "right" })),
    ]);
    let answer = stdio(&env, steps).await;
    for (i, part) in [
        "`/sessionId` is missing",
        "`/context` must be an object",
        "`/cacheStrategy` must be one of CRITICAL_ONLY, FULL_SESSION, NONE, WITH_CONTEXT",
        "clock",
        "`wait` must be true or false",
        "`state`",
        "there is no session \"nobody\"",
        "`/type` must be \"fact\", \"preference\"",
        "`/confidence` must be at most 1",
        "the same",
        "`/entityType` must be \"session\" or \"interaction\"",
        "there is no interaction \"nobody\"",
        "`limit` must be from 1 to 200",
        "unknown field `colour`",
        "`next`",
        "use one of",
        "`hours` must be from 1 to 168",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(error(&answer, i).contains(part), "step {i}: {part}\n{answer}");
    }
    let pushed = good(&answer, 17);
    assert_eq!((&pushed["queue"], &pushed["visible"]), (&json!("records"), &json!(false)));
    assert_eq!(env.count("LLEN", &env.key("records", "normal")).await, 1);
    let unknown = stdio(&env, json!([call("forget", json!({}))])).await;
    assert!(unknown["refused"].as_str().is_some_and(|text| text.contains("forget")), "{unknown}");
}

#[tokio::test]
async fn over_http_only_with_the_token() {
    let env = Env::new().await;
    let worker: Worker = env.worker("records").ready().await;
    let mut server = HttpServer::start(&env).await;
    let save = json!({ "memoryId": "m", "type": "fact", "content": "the tide is late", "wait": true });
    let steps = json!([{ "list": true }, call("save_memory", save), call("recall", json!({ "query": "tide" }))]);
    for legacy in [&[][..], &["--legacy"]] {
        let args = [&["http", &server.url, "--token", TOKEN], legacy].concat();
        let answer = client(&env, &args, steps.clone()).await;
        assert_eq!(answer["results"][0]["tools"].as_object().map(|t| t.len()), Some(11), "{answer}");
        assert_eq!(good(&answer, 1)["visible"], true);
        assert_eq!(good(&answer, 2)["hits"][0]["_id"], "m");
    }
    for token in [&["--token", "0123456789abcdef0123456789abcdee"][..], &[]] {
        let refused = client(&env, &[&["http", server.url.as_str()], token].concat(), json!([{ "list": true }])).await;
        assert!(refused["refused"].is_string(), "{refused}");
    }

    let bearer = format!("Bearer {TOKEN}");
    let bearer = bearer.as_str();
    assert_eq!(server.post(&[]).await, Some(401));
    assert_eq!(server.post(&[("authorization", "Bearer wrong")]).await, Some(401));
    // A name that leads here by DNS only, and a page in a browser.
    assert_eq!(server.post(&[("authorization", bearer), ("host", "evil.example")]).await, Some(403));
    assert_eq!(server.post(&[("authorization", bearer), ("origin", "http://evil.example")]).await, Some(403));

    services::signal(server.child.id(), "TERM");
    let ended = tokio::task::spawn_blocking(move || server.child.wait()).await;
    assert_eq!(ended.expect("it was waited for").expect("it ended").code(), Some(0));
    worker.stop().await;
}

#[tokio::test]
async fn http_without_a_token_does_not_start() {
    let env = Env::new().await;
    env.command(&["mcp", "--http"]).end().await.code(78).says(&["mcp.token"]).readable();
    let short = env.command(&["mcp", "--http"]).set("mcp.token", "short");
    short.end().await.code(78).says(&["mcp.token", "16"]).readable();
    // A client that goes away at once is no failure, and nothing but messages goes to standard output.
    let gone = env.command(&["mcp"]).end().await.code(0);
    assert_eq!(gone.out, "");
}
