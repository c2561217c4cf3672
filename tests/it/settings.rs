//! Settings: from defaults, file and environment; a mistake is named with what was probably meant.

use crate::harness::{Env, Run, analyze, cli::config_file, ports, services};

fn with_shared(args: &[&str]) -> Run {
    let shared = services::shared();
    Run::new(args).set("redis.url", &shared.redis).set("mongodb.uri", &shared.mongodb)
}

#[tokio::test]
async fn an_unknown_setting_in_a_file_is_refused_and_the_near_one_suggested() {
    for (toml, wrong, near) in [
        ("[redis]\nulr = \"redis://127.0.0.1\"\n", "ulr", "url"),
        ("[worker]\nleese = \"3s\"\n", "leese", "lease"),
        ("namespce = \"x\"\n", "namespce", "namespace"),
        ("[queues.analysis]\nkind = \"list\"\nconcurency = 2\n", "concurency", "concurrency"),
        ("[jobs.retention]\npage_tme = \"1s\"\n", "page_tme", "page_time"),
        ("[reddis]\nurl = \"redis://127.0.0.1\"\n", "reddis", "redis"),
    ] {
        with_shared(&["run"]).config(toml).end().await.code(78).readable().says(&[wrong, near]);
    }
}

#[tokio::test]
async fn an_unknown_setting_in_the_environment_is_refused_and_the_near_one_suggested() {
    let ended = with_shared(&["check"]).set("redis.ulr", "redis://127.0.0.1").end().await;
    ended.code(78).readable().says(&["CONTEXTD_REDIS__ULR", "CONTEXTD_REDIS__URL"]);
    let ended = with_shared(&["check"]).set("wroker.lease", "3s").end().await;
    ended.code(78).readable().says(&["wroker", "worker"]);
}

#[tokio::test]
async fn a_bad_value_is_refused_with_its_name() {
    for (toml, says) in [
        ("[worker]\nlease = \"soon\"\n", "lease"),
        ("[queues.analysis]\nkind = \"heap\"\n", "kind"),
        ("[retry]\nattempts = \"five\"\n", "attempts"),
        ("[jobs.retention]\nzone = \"Mars/Olympus\"\n", "zone"),
        ("[jobs.retention]\ncron = \"every now and then\"\n", "cron"),
        ("[limits]\ntask_bytes = \"much\"\n", "task_bytes"),
        ("[redis\nurl = 1\n", ".toml:1"),
    ] {
        with_shared(&["run"]).config(toml).end().await.code(78).readable().says(&[says]);
    }
    with_shared(&["run"]).set("retry.attempts", "five").end().await.code(78).readable().says(&["attempts"]);
    with_shared(&["run"]).set("http.listen", "nowhere").end().await.code(78).readable().says(&["listen"]);
}

#[tokio::test]
async fn settings_that_cannot_work_together_are_refused() {
    for (toml, says) in [
        ("[queues.analysis]\nkind = \"list\"\nconcurrency = 0\n", "concurrency"),
        ("[queues.old]\nkind = \"list\"\nformat = \"bare\"\n", "bare"),
        ("[queues.analysis]\nkind = \"list\"\nlow_share = 3.0\n", "low_share"),
        ("[queues.\"a{b}\"]\nkind = \"list\"\n", "a{b}"),
    ] {
        with_shared(&["run"]).config(toml).end().await.code(78).readable().says(&[says]);
    }
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_refused_with_the_names_that_do() {
    let ended = with_shared(&["run", "--queues", "analysis,typping"]).end().await;
    assert!([64, 78].contains(&ended.code), "{ended:?}");
    ended.readable().says(&["typping", "analysis", "records", "typing"]);
}

#[tokio::test]
async fn a_configuration_file_that_is_not_there_is_named() {
    Run::new(&["--config", "/nowhere/contextd.toml", "check"])
        .end()
        .await
        .code(78)
        .readable()
        .says(&["/nowhere/contextd.toml"]);
}

#[tokio::test]
async fn usage_errors_end_with_64_and_help_with_0() {
    for args in [&["no-such-command"][..], &["run", "--no-such-flag"], &["pause"], &["jobs", "run"], &["enqueue"]] {
        Run::new(args).end().await.code(64).readable();
    }
    Run::new(&[]).end().await.code(64).says(&["Usage"]);
    for args in [&["--help"][..], &["--version"], &["run", "--help"], &["dead", "--help"]] {
        let ended = Run::new(args).end().await.code(0);
        assert!(!ended.out.is_empty() && ended.err.is_empty(), "{ended:?}");
    }
}

#[tokio::test]
async fn the_environment_overrides_the_file_and_the_file_the_defaults() {
    let env = Env::new().await;
    // The file names a database and a namespace that the environment overrides, and a limit that it does not.
    let toml = "namespace = \"ofthefile\"\n[mongodb]\ndatabase = \"of_the_file\"\n[analysis]\ntext_bytes = \"1KiB\"\n";
    env.push("analysis", "high", &[analyze("short", "Short."), analyze("long", &"word ".repeat(1_000))]).await;
    let worker = env.worker("analysis").config(toml).ready().await;
    env.analysis("short").await;
    assert_eq!(env.dead("long").await.get_str("reason").unwrap(), "text_too_large");
    worker.stop().await;
}

#[tokio::test]
async fn secrets_may_come_from_files() {
    let env = Env::new().await;
    let url = config_file(&format!("{}\n", env.redis_url));
    let uri = config_file(&format!("{}\n", env.mongodb_uri));
    let run =
        Run::new(&["check"]).set("namespace", &env.namespace).set("mongodb.database", &env.database).variables(vec![
            ("CONTEXTD_REDIS__URL_FILE".into(), url.path().display().to_string()),
            ("CONTEXTD_MONGODB__URI_FILE".into(), uri.path().display().to_string()),
        ]);
    run.end().await.code(0);
    Run::new(&["check"])
        .variables(vec![("CONTEXTD_REDIS__URL_FILE".into(), "/nowhere/secret".into())])
        .end()
        .await
        .code(78)
        .readable()
        .says(&["CONTEXTD_REDIS__URL_FILE"]);
}

#[tokio::test]
async fn check_passes_on_good_settings_and_names_each_bad_connection() {
    let env = Env::new().await;
    env.command(&["check"]).end().await.code(0);
    let json = env.command(&["check", "--json"]).end().await;
    if json.code == 0 {
        json.json();
    }
    let nobody = ports::free();
    let ended = env.command(&["check"]).set("redis.url", format!("redis://127.0.0.1:{nobody}")).end().await;
    assert!([1, 69].contains(&ended.code), "{ended:?}");
    let all = format!("{}{}", ended.out, ended.err).to_lowercase();
    assert!(all.contains("redis") && all.contains(&nobody.to_string()), "{ended:?}");
    let uri = format!("mongodb://127.0.0.1:{nobody}/?serverSelectionTimeoutMS=1000");
    let ended = env.command(&["check"]).set("mongodb.uri", uri).end().await;
    assert!([1, 69].contains(&ended.code), "{ended:?}");
    let all = format!("{}{}", ended.out, ended.err).to_lowercase();
    assert!(all.contains("mongodb"), "{ended:?}");
}

#[tokio::test]
async fn an_address_that_is_no_url_is_a_configuration_error() {
    for (name, value) in [("redis.url", "not a url"), ("mongodb.uri", "not a uri"), ("redis.url", "http://x")] {
        let ended = with_shared(&["run"]).set(name, value).set("worker.start_wait", "2s").end().await;
        ended.code(78).readable().says(&[name.split('.').next().unwrap()]);
    }
}
