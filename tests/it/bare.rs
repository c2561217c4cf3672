//! Queues of bare payloads: producers that know nothing of CloudEvents.

use serde_json::json;

use crate::harness::Env;

const QUEUES: &str = r#"
[queues.legacy]
kind = "list"
format = "bare"
bare = { type = "document.analyze.v1", id = "/documentId" }

[queues.hashed]
kind = "list"
format = "bare"
bare = { type = "document.analyze.v1" }
"#;

#[tokio::test]
async fn a_bare_payload_gets_its_id_by_pointer_or_by_hash() {
    let env = Env::new().await;
    let payload = |n: u32| {
        json!({ "documentId": format!("job-{n}"), "content": format!("Text {n}."), "analyzers": ["statistics"] })
            .to_string()
            .into_bytes()
    };
    for queue in ["legacy", "hashed"] {
        env.push_bytes(queue, "normal", &[payload(1), payload(2), payload(1)]).await;
    }
    env.push_bytes("legacy", "normal", &[br#"{"content":"No id."}"#.to_vec(), b"no JSON".to_vec()]).await;
    let worker = env.worker("legacy,hashed").config(QUEUES).ready().await;
    env.drained("legacy").await;
    env.drained("hashed").await;
    let metrics = worker.at_rest().await;
    worker.stop().await;

    for queue in ["legacy", "hashed"] {
        assert_eq!(metrics.finished(queue, "written"), 2.0, "{queue}");
        assert_eq!(metrics.finished(queue, "duplicate"), 1.0, "{queue}: the same payload is the same task");
    }
    assert_eq!(metrics.finished("legacy", "dead"), 2.0);
    let ids: Vec<String> = env.all("analyses").await.iter().map(|d| d.get_str("_id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 4);
    for id in ["job-1@", "job-2@"] {
        assert_eq!(ids.iter().filter(|have| have.starts_with(id)).count(), 1, "{ids:?}");
    }
}
