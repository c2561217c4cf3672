//! What to try after the demo, with the addresses of the services that it used.

use std::path::Path;

use super::page::{Page, strong};
use crate::config::{self, Config};

/// A task of one's own, as it is pushed.
const MINE: &str = r#"{"specversion":"1.0","id":"mine-1","source":"/me","type":"document.analyze.v1","data":{"documentId":"mine","content":"Their is a error in this sentance, and its easy too see."}}"#;

/// `address` is that of Redis, without credentials.
pub fn steps(page: &mut Page, config: &Config, file: Option<&Path>, address: &str) {
    let program = std::env::args().next().unwrap_or_else(|| "contextd".into());
    let options = file.map_or(String::new(), |file| format!(" --config {}", quoted(&file.display().to_string())));
    let contextd = format!("{program}{options}");
    page.heading("What to try next");
    page.para("  1. ", "In every terminal: use the services of this demo");
    for export in exports(config) {
        page.line(&format!("       {}", strong(export)));
    }
    page.para("  2. ", "Run the worker, and open its pages while it runs");
    page.line(&format!("       {}", strong(format!("{contextd} run"))));
    let listen = &config.http.listen;
    page.line(&format!("       http://{listen}/          status page"));
    page.line(&format!("       http://{listen}/metrics   for Prometheus; also /live, /ready and /api/status"));
    page.para("  3. ", "In a second terminal: push a text of your own (the same id again is a duplicate)");
    let key = format!("{}:{{{}}}:high", config.namespace, crate::effect::analyze::QUEUE);
    page.line(&strong(format!("       {} LPUSH '{key}' '{MINE}'", redis_cli(config, address))));
    page.para("     ", "or, checked before it is pushed, with an id of its own");
    let enqueue = format!(
        "{contextd} enqueue --type document.analyze.v1 --data '{{\"documentId\":\"mine\",\"content\":\"Their is a error.\"}}'"
    );
    page.line(&format!("       {enqueue}"));
    page.para("  4. ", "Read the result");
    page.line(&format!("       {}", strong(format!("{contextd} demo --show mine"))));
    if let Some(uri) = public_uri(config) {
        let query = "db.analyses.findOne({documentId: \"mine\"}, {}, {sort: {createdAt: -1}})";
        page.line(&format!("       mongosh {} --eval {}", quoted(&uri), quoted(query)));
    }
    page.para("  5. ", "Look around");
    for (command, what) in [
        ("queues", "what waits where"),
        ("dead list", "the dead letters; `dead show --id ID` has their bytes, `dead requeue` tries again"),
        ("check", "whether configuration and services are as they should be"),
    ] {
        page.line(&format!("       {contextd} {command:<10} {what}"));
    }
}

/// Settings that the commands need and the defaults do not have; none that holds a secret.
fn exports(config: &Config) -> Vec<String> {
    let defaults = config::load(None, std::iter::empty()).ok();
    let differs = |of: &dyn Fn(&Config) -> &String| defaults.as_ref().is_none_or(|d| of(d) != of(config));
    let mut exports = Vec::new();
    let mut export = |name: &str, of: &dyn Fn(&Config) -> &String, is_address: bool| {
        if differs(of) && !(is_address && has_credentials(of(config))) {
            exports.push(format!("export {name}={}", quoted(of(config))));
        }
    };
    export("CONTEXTD_REDIS__URL", &|c| &c.redis.url, true);
    export("CONTEXTD_MONGODB__URI", &|c| &c.mongodb.uri, true);
    export("CONTEXTD_MONGODB__DATABASE", &|c| &c.mongodb.database, false);
    export("CONTEXTD_NAMESPACE", &|c| &c.namespace, false);
    if exports.is_empty() {
        exports.push("(with the settings of this run)".into());
    }
    exports
}

/// Also when in doubt: a password may stand in an option, too.
fn has_credentials(url: &str) -> bool {
    url.contains('@') || url.to_ascii_lowercase().contains("password")
}

/// A plain address as options; anything else as it was given, unseen.
fn redis_cli(config: &Config, address: &str) -> String {
    let plain = config.redis.url.strip_prefix("redis://").filter(|_| !has_credentials(&config.redis.url));
    let Some((host, port)) = plain.and_then(|_| address.rsplit_once(':')) else {
        return "redis-cli -u \"$CONTEXTD_REDIS__URL\"".into();
    };
    let db = plain.and_then(|rest| rest.split_once('/')).map_or("", |(_, db)| db.split('?').next().unwrap_or(db));
    let host = if matches!(host, "127.0.0.1" | "localhost") { String::new() } else { format!(" -h {host}") };
    let db = if matches!(db, "" | "0") { String::new() } else { format!(" -n {db}") };
    format!("redis-cli{host} -p {port}{db}")
}

/// The URI with the database, when it may be shown.
fn public_uri(config: &Config) -> Option<String> {
    let uri = &config.mongodb.uri;
    if has_credentials(uri) {
        return None;
    }
    let (scheme, rest) = uri.split_once("://")?;
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let options = path.split_once('?').map_or(String::new(), |(_, options)| format!("?{options}"));
    Some(format!("{scheme}://{hosts}/{}{options}", config.mongodb.database))
}

/// For a POSIX shell; bare when that is safe.
fn quoted(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "/:._-,@%+=".contains(c);
    if !text.is_empty() && text.chars().all(is_safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(redis: &str, mongodb: &str) -> Config {
        let mut config = config::load(None, std::iter::empty()).unwrap();
        (config.redis.url, config.mongodb.uri) = (redis.into(), mongodb.into());
        config
    }

    #[test]
    fn commands_name_the_services_and_no_secret() {
        let open = config("redis://127.0.0.1:7001/0", "mongodb://127.0.0.1:7002/?replicaSet=rs0");
        assert_eq!(redis_cli(&open, "127.0.0.1:7001"), "redis-cli -p 7001");
        assert_eq!(public_uri(&open).unwrap(), "mongodb://127.0.0.1:7002/contextd?replicaSet=rs0");
        assert_eq!(
            exports(&open),
            [
                "export CONTEXTD_REDIS__URL=redis://127.0.0.1:7001/0",
                "export CONTEXTD_MONGODB__URI='mongodb://127.0.0.1:7002/?replicaSet=rs0'"
            ]
        );
        let closed = config("rediss://u:secret@db:7001/0", "mongodb://u:secret@db/?replicaSet=rs0");
        let mut page = Page::new();
        steps(&mut page, &closed, None, "db:7001");
        let text = page.finish();
        assert!(!text.contains("secret") && text.contains("with the settings of this run"), "{text}");
        assert_eq!(redis_cli(&config("redis://db:7001/3", ""), "db:7001"), "redis-cli -h db -p 7001 -n 3");
    }

    #[test]
    fn the_suggested_task_is_accepted() {
        let config = config::load(None, std::iter::empty()).unwrap();
        let schemas = std::sync::Arc::new(crate::task::Schemas::builtin());
        let queue = &config.queues["analysis"];
        let decoder = crate::task::Decoder::new("analysis", queue, &config.limits, schemas).unwrap();
        assert_eq!(decoder.decode(MINE.as_bytes()).unwrap().id, "mine-1");
    }
}
