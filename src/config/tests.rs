use std::{io, path::Path, time::Duration};

use bytesize::ByteSize;
use toml::{Table, Value};

use super::{load::resolve, *};

fn no_files(_: &Path) -> io::Result<String> {
    Err(io::ErrorKind::NotFound.into())
}

fn with(file: &str, vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    resolve(Some(("c.toml", file)), vars, no_files)
}

/// The error of a file, as it is printed.
fn file_error(file: &str) -> String {
    with(file, &[]).expect_err("this file should be refused").to_string()
}

fn var_error(name: &str, value: &str) -> String {
    with("", &[(name, value)]).expect_err("this variable should be refused").to_string()
}

#[test]
fn the_defaults_are_valid_and_complete() {
    let config = load(None, std::iter::empty()).unwrap();
    assert_eq!(config.namespace, "contextd");
    assert_eq!(config.queues.keys().collect::<Vec<_>>(), ["analysis", "records", "typing"]);
    // What the types know, the documented file has, and the other way round.
    fn keys(prefix: &str, value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Table(table) => table.iter().for_each(|(key, value)| keys(&format!("{prefix}.{key}"), value, into)),
            _ => into.push(prefix.to_owned()),
        }
    }
    let (mut documented, mut typed) = (Vec::new(), Vec::new());
    keys("", &Value::Table(toml::from_str::<Table>(DEFAULT).unwrap()), &mut documented);
    keys("", &Value::try_from(&config).unwrap(), &mut typed);
    // Entries of their own file; what each may hold is known by its type.
    typed.retain(|path| !path.starts_with(".records.") && !path.starts_with(".cache."));
    assert_eq!(documented, typed);
}

#[test]
fn every_default_can_be_set_again() {
    let config = with(DEFAULT, &[]).unwrap();
    assert_eq!(config.worker.lease, Duration::from_secs(30));
}

#[test]
fn the_production_settings_are_valid() {
    with(include_str!("../../config/production.toml"), &[]).unwrap();
}

#[test]
fn later_layers_win_setting_by_setting() {
    let file = r#"
        namespace = "staging"
        [worker]
        lease = "1m"
        memory = "32MiB"
        [queues.typing]
        batch = { tasks = 100 }
    "#;
    let vars = [
        ("CONTEXTD_WORKER__MEMORY", "16MiB"),
        ("CONTEXTD_QUEUES__TYPING__CONCURRENCY", "7"),
        ("CONTEXTD_QUEUES__TYPING__LOW_SHARE", "0"),
        ("CONTEXTD_JOBS__RETENTION__ENABLED", "false"),
        ("CONTEXTD_ANALYSIS__DICTIONARY", r#"["contextd", "Redis"]"#),
        ("CONTEXTD_QUEUES__RECORDS__BATCH", r#"{ tasks = 9 }"#),
        ("CONTEXTD_MONGODB__DATABASE", "12"),
        ("OTHER_SETTING", "not ours"),
    ];
    let config = with(file, &vars).unwrap();
    assert_eq!(config.namespace, "staging");
    assert_eq!((config.worker.lease, config.worker.memory), (Duration::from_secs(60), ByteSize::mib(16)));
    let typing = &config.queues["typing"];
    assert_eq!((typing.batch.tasks, typing.batch.bytes, typing.concurrency), (100, ByteSize::mib(8), 7));
    assert_eq!((typing.kind, typing.low_share), (QueueKind::Stream, 0.0));
    assert!(!config.jobs.retention.timing.enabled);
    assert_eq!(config.analysis.dictionary, ["contextd", "Redis"]);
    assert_eq!(config.queues["records"].batch.tasks, 9);
    assert_eq!(config.mongodb.database, "12", "a text stays a text, whatever it looks like");
}

#[test]
fn queues_can_be_added_and_disabled() {
    let file = r#"
        [queues.mail]
        kind = "list"
        format = "bare"
        bare = { type = "mail.send.v1", id = "/jobId" }
        [queues.records]
        enabled = false
    "#;
    let config = with(file, &[("CONTEXTD_QUEUES__ANALYSIS__ENABLED", "false")]).unwrap();
    assert_eq!(config.queues.keys().collect::<Vec<_>>(), ["mail", "typing"]);
    assert_eq!((config.queues["mail"].batch.tasks, config.queues["mail"].concurrency), (500, 4));
}

#[test]
fn unknown_settings_name_the_near_one_and_the_place() {
    for (file, expected) in [
        (
            "[redis]\nulr = \"redis://h\"",
            "configuration: c.toml:2: there is no setting `redis.ulr`; did you mean `redis.url`?",
        ),
        ("[redsi]\n", "configuration: c.toml:1: there is no setting `redsi`; did you mean `redis`?"),
        ("lease = \"1s\"", "configuration: c.toml:1: there is no setting `lease`; did you mean `schedule.lease`?"),
        (
            "\n\n[queues.typing]\nbatch = { taks = 3 }",
            "configuration: c.toml:4: there is no setting `queues.typing.batch.taks`; did you mean \
             `queues.typing.batch.tasks`?",
        ),
        (
            "[jobs.retention]\npages = 3",
            "configuration: c.toml:2: there is no setting `jobs.retention.pages`; did you mean \
             `jobs.retention.page`?",
        ),
        (
            "[jobs.cleaning]\nenabled = true",
            "configuration: c.toml:1: there is no setting `jobs.cleaning`; `config/default.toml` lists all settings",
        ),
        (
            "\"redis.url\" = \"redis://h\"",
            "configuration: c.toml:1: there is no setting `redis.url`; did you mean `redis.url`?",
        ),
    ] {
        assert_eq!(file_error(file), expected);
    }
    for (name, expected) in [
        (
            "CONTEXTD_REDIS__ULR",
            "configuration: CONTEXTD_REDIS__ULR: there is no setting `redis.ulr`; did you mean CONTEXTD_REDIS__URL?",
        ),
        (
            "CONTEXTD_REDIS_URL",
            "configuration: CONTEXTD_REDIS_URL: there is no setting `redis_url`; did you mean CONTEXTD_REDIS__URL?",
        ),
        (
            "CONTEXTD_MONGO__URI",
            "configuration: CONTEXTD_MONGO__URI: there is no setting `mongo.uri`; did you mean CONTEXTD_MONGODB__URI?",
        ),
        (
            "CONTEXTD_REDIS__PASSPHRASE_FILE",
            "configuration: CONTEXTD_REDIS__PASSPHRASE_FILE: there is no setting `redis.passphrase_file`; \
             `config/default.toml` lists all settings",
        ),
    ] {
        assert_eq!(var_error(name, "x"), expected);
    }
}

#[test]
fn wrong_kinds_say_the_path_and_what_is_expected() {
    for (file, expected) in [
        (
            "[queues.typing.batch]\nbytes = 7",
            "configuration: c.toml:2: `queues.typing.batch.bytes` must be a size such as \"64KiB\" or \"8MiB\", not a \
             whole number",
        ),
        (
            "[queues.typing.batch]\nbytes = \"much\"",
            "configuration: c.toml:2: `queues.typing.batch.bytes` must be a size such as \"64KiB\" or \"8MiB\", not \
             this text",
        ),
        (
            "[worker]\nlease = 30",
            "configuration: c.toml:2: `worker.lease` must be a duration such as \"250ms\", \"30s\" or \"1h\", not a \
             whole number",
        ),
        (
            "[retry]\nattempts = -1",
            "configuration: c.toml:2: `retry.attempts` must be a whole number, not a negative one",
        ),
        (
            "[retry]\nattempts = 1.5",
            "configuration: c.toml:2: `retry.attempts` must be a whole number, not a number with a fraction",
        ),
        (
            "redis = 3",
            "configuration: c.toml:1: `redis` must be a section with settings of its own, not a whole number",
        ),
        ("namespace = true", "configuration: c.toml:1: `namespace` must be text in quotes, not true or false"),
        (
            "[analysis]\ndictionary = [1]",
            "configuration: c.toml:2: `analysis.dictionary` must be a list of texts such as [\"one\", \"two\"], not a list",
        ),
        (
            "[queues.typing]\nkind = \"heap\"",
            "configuration: c.toml:2: `queues.typing.kind`: unknown variant `heap`, expected `list` or `stream`",
        ),
        (
            "[log]\nformat = \"xml\"",
            "configuration: c.toml:2: `log.format`: unknown variant `xml`, expected one of `auto`, `human`, `json`",
        ),
    ] {
        assert_eq!(file_error(file), expected);
    }
    assert_eq!(
        var_error("CONTEXTD_RETRY__ATTEMPTS", "many"),
        "configuration: CONTEXTD_RETRY__ATTEMPTS: `retry.attempts` must be a whole number, not text"
    );
    assert_eq!(
        var_error("CONTEXTD_JOBS__RETENTION__ZONE", "Mars/Base"),
        "configuration: CONTEXTD_JOBS__RETENTION__ZONE: `jobs.retention.zone` must be an IANA time zone such as \
         \"UTC\" or \"Europe/Berlin\", not this text"
    );
    assert_eq!(
        var_error("CONTEXTD_JOBS__RETENTION__MISFIRE", "never"),
        "configuration: CONTEXTD_JOBS__RETENTION__MISFIRE: `jobs.retention.misfire` has an unknown variant \
         `never`, expected one of `skip`, `once`, `all`"
    );
    assert_eq!(
        var_error("CONTEXTD_MONGODB__DATABASE", "caf\u{FFFD}"),
        "configuration: CONTEXTD_MONGODB__DATABASE: its value is not UTF-8"
    );
}

#[test]
fn settings_must_make_sense() {
    for (file, expected) in [
        (
            "namespace = \"My App\"",
            "c.toml:1: `namespace` must be 1 to 64 of the characters a-z, 0-9, _ and - (it is part of Redis keys)",
        ),
        (
            "[queues.\"A{b}\"]\nkind = \"list\"",
            "c.toml:1: the queue's name \"A{b}\" must be 1 to 64 of the characters a-z, 0-9, _ and - (it is part of Redis keys)",
        ),
        ("[worker]\npoll_max = \"10s\"", "c.toml:2: `worker.poll_max` must be shorter than a third of `worker.lease`"),
        ("[worker]\npoll_min = \"1s\"", "c.toml:2: `worker.poll_min` must not be longer than `worker.poll_max`"),
        ("[worker]\nmemory = \"1KiB\"", "c.toml:2: `worker.memory` must be at least `limits.task_bytes`"),
        ("[redis]\ntimeout = \"10s\"", "c.toml:2: `redis.timeout` must be shorter than a third of `worker.lease`"),
        ("[limits]\ntask_bytes = \"16MiB\"", "c.toml:2: `limits.task_bytes` must be from 1KiB to 15MiB"),
        ("[retry]\nattempts = 0", "c.toml:2: `retry.attempts` must be from 1 to 100"),
        ("[queues.typing]\nconcurrency = 0", "c.toml:2: `queues.typing.concurrency` must be from 1 to 256"),
        ("[queues.typing]\nlow_share = 0.6", "c.toml:2: `queues.typing.low_share` must be from 0 to 0.5"),
        ("[queues.typing]\nlow_share = nan", "c.toml:2: `queues.typing.low_share` must be from 0 to 0.5"),
        ("[queues.typing]\nbatch.tasks = 10001", "c.toml:2: `queues.typing.batch.tasks` must be from 1 to 10000"),
        (
            "[queues.typing]\nformat = \"bare\"",
            "c.toml:1: `queues.typing.bare` must name the `type` of its tasks, because its `format` is \"bare\"",
        ),
        (
            "[queues.typing]\nbare = { type = \"x\" }",
            "c.toml:2: `queues.typing.bare` must be left out unless `format` is \"bare\"",
        ),
        (
            "[queues.typing]\nformat = \"bare\"\nbare = { type = \"x\", id = \"y\" }",
            "c.toml:3: `queues.typing.bare.id` must be a JSON pointer such as \"/jobId\", or empty for the hash of the content",
        ),
        (
            "[queues.typng]\nconcurrency = 2",
            "c.toml:1: `queues.typng` is a new queue and needs a `kind`: \"list\" or \"stream\", or did you mean the queue `typing`?",
        ),
        (
            "[queues]\nanalysis.enabled = false\nrecords.enabled = false\ntyping.enabled = false",
            "c.toml:1: `queues` must hold at least one queue that is not disabled",
        ),
        (
            "[jobs.retention]\ncron = \"0 0 30 2 *\"",
            "c.toml:2: `jobs.retention.cron` must be five or six cron fields (seconds first with six) that come true at some time: CronScheduler time search limit exceeded.",
        ),
        (
            "[http]\nlisten = \"9464\"",
            "c.toml:2: `http.listen` must be an address and a port such as 127.0.0.1:9464 or [::1]:9464",
        ),
        (
            "[otlp]\nendpoint = \"collector:4318\"",
            "c.toml:2: `otlp.endpoint` must be an address such as http://127.0.0.1:4318 (a collector nearby, without TLS), or empty for no export",
        ),
        (
            "[records.user_save]\nsensitive = [\"userId\"]",
            "c.toml:2: `records.user_save.sensitive` must not name \"userId\": keys, orders, stamps, arrays that are appended to, and what records are looked up by have to be readable, in every type that writes to `users`",
        ),
        (
            "[records.hold_place]\nsensitive = [\"reason\"]",
            "c.toml:2: `records.hold_place.sensitive` must be left out with this `write`: it seals nothing",
        ),
        (
            "[encryption]\nkeys = \"k1:c2hvcnQ=\"",
            "c.toml:2: `encryption.keys`, line 1, key 1: it must be exactly 32 bytes in base64: make one with `openssl rand -base64 32`",
        ),
        (
            "[redis.tls]\ncert_file = \"x.pem\"",
            "c.toml:2: `redis.tls.cert_file` must be given together with `redis.tls.key_file`, or neither of them",
        ),
        (
            "[content]\nurl = \"gs://bucket\"",
            "c.toml:2: `content.url` must be a directory such as /srv/contextd/objects, or s3://BUCKET/PREFIX",
        ),
        (
            "[content]\nurl = \"s3://My_Bucket/x\"",
            "c.toml:2: `content.url` must be a directory such as /srv/contextd/objects, or s3://BUCKET/PREFIX",
        ),
        (
            "[content]\narchive_url = \"gs://bucket\"",
            "c.toml:2: `content.archive_url` must be a directory such as /srv/contextd/archive, or s3://BUCKET/PREFIX",
        ),
        (
            "[content]\nurl = \"/srv/objects\"\narchive_url = \"/srv//./objects/old\"",
            "c.toml:3: `content.archive_url` must be another place than `content.url`, neither inside of the other",
        ),
        (
            "[content]\narchive_url = \"./data/\"",
            "c.toml:2: `content.archive_url` must be another place than `content.url`, neither inside of the other",
        ),
        (
            "[content]\nurl = \"s3://contents\"",
            "c.toml:1: `content.archive_url` must be s3://BUCKET/PREFIX as `content.url` is, or a whole path that every worker mounts",
        ),
        (
            "[audit]\nurl = \"\"",
            "c.toml:2: `audit.url` must be a directory such as /srv/contextd/audit, or s3://BUCKET/PREFIX",
        ),
        ("[content]\nfull_every = 0", "c.toml:2: `content.full_every` must be from 1 to 1000"),
        ("[content]\ntimeout = \"1h\"", "c.toml:2: `content.timeout` must be from 100ms to 5m"),
        (
            "[content.s3]\naccess_key_id = \"x\"",
            "c.toml:1: `content.s3.secret_access_key` must be given together with `content.s3.access_key_id`, or neither of them",
        ),
        (
            "[content.s3]\nendpoint = \"http://127.0.0.1:9000\"",
            "c.toml:1: `content.s3.allow_http` must be true for an endpoint without TLS (contents and keys then cross the network as they are)",
        ),
        (
            "[content.s3]\nendpoint = \"minio:9000\"",
            "c.toml:2: `content.s3.endpoint` must be an address such as https://minio.internal:9000, or empty for Amazon's own",
        ),
    ] {
        assert_eq!(file_error(file), format!("configuration: {expected}"));
    }
    let error = file_error("[worker]\nlease = \"10ms\"");
    assert!(error.contains("c.toml:2: `worker.lease` must be at least 1s"), "{error}");
    let error = file_error("[log]\nfilter = \"contextd=loud\"");
    assert!(error.starts_with("configuration: c.toml:2: `log.filter` must be a filter such as"), "{error}");
    let error = file_error("[jobs.retention]\ncron = \"every day\"");
    assert!(error.starts_with("configuration: c.toml:2: `jobs.retention.cron` must be five or six"), "{error}");
}

#[test]
fn several_problems_are_reported_together() {
    let error = with(
        "[redis]\nulr = \"x\"\n[queues.typing]\nconcurrency = 0",
        &[("CONTEXTD_WORKER__LEASE", "soon"), ("CONTEXTD_HTTP__LISTEN", "nowhere")],
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the configuration has 4 problems:\n  \
         c.toml:2: there is no setting `redis.ulr`; did you mean `redis.url`?\n  \
         CONTEXTD_WORKER__LEASE: `worker.lease` must be a duration such as \"250ms\", \"30s\" or \"1h\", not this text\n  \
         CONTEXTD_HTTP__LISTEN: `http.listen` must be an address and a port such as 127.0.0.1:9464 or [::1]:9464\n  \
         c.toml:4: `queues.typing.concurrency` must be from 1 to 256"
    );
}

#[test]
fn secrets_come_from_files_and_never_show() {
    let vars = || [("CONTEXTD_REDIS__URL_FILE".to_owned(), "/run/secrets/redis".to_owned())].into_iter();
    let config = resolve(None, vars(), |path| {
        assert_eq!(path, Path::new("/run/secrets/redis"));
        Ok("redis://user:hunter2@host/0\n".to_owned())
    })
    .unwrap();
    assert_eq!(config.redis.url, "redis://user:hunter2@host/0");
    assert!(!format!("{config:?}").contains("hunter2"));
    let audit = with("", &[("CONTEXTD_AUDIT__KEY", "hunter2, sixteen and more")]).unwrap().audit;
    assert!(audit.secret().is_some() && !format!("{audit:?}").contains("hunter2"));
    assert_eq!(
        resolve(None, vars(), no_files).unwrap_err().to_string(),
        "configuration: CONTEXTD_REDIS__URL_FILE: cannot read the file it names: entity not found"
    );
    for file in [
        "[redis]\nurl = \"rdis://user:hunter2@host\"",
        "[redis]\nurl = [\"redis://user:hunter2@host\"]",
        "[redis]\nurl = \"redis://user:hunter2@host",
        "[redis]\nurl = redis://user:hunter2@host",
        "[mongodb]\nuri = \"http://user:hunter2@host\"",
        "[otlp]\nendpoint = \"ftp://user:hunter2@host\"",
        "[encryption]\nkeys = \"hunter2\"",
        "[audit]\nkey = \"hunter2\"",
        "[encryption]\nkeys = \"k1:hunter2\"",
        "[encryption]\nkeys = \"hunter2!:AAAA\"",
    ] {
        let error = with(file, &[]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        assert!(error.to_string().starts_with("configuration: c.toml:2: "), "{error}");
    }
    let tls = with("", &[("CONTEXTD_REDIS__TLS__CA_FILE", "/etc/ca.pem")]).unwrap().redis.tls;
    assert_eq!(tls.ca_file, "/etc/ca.pem", "a setting that ends in _file is itself");
}

#[test]
fn a_setting_given_twice_is_refused() {
    let vars = [("CONTEXTD_REDIS__URL", "redis://h"), ("CONTEXTD_REDIS__URL_FILE", "/x")];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let error = resolve(None, vars.into_iter(), |_| Ok("redis://h".to_owned())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration: CONTEXTD_REDIS__URL_FILE: CONTEXTD_REDIS__URL sets `redis.url` too; unset one of the two"
    );
}

#[test]
fn variables_of_a_kubernetes_service_are_not_settings() {
    let vars = [("CONTEXTD_SERVICE_HOST", "10.0.0.1"), ("CONTEXTD_PORT", "tcp://x"), ("CONTEXTD_PORT_9464_TCP", "x")];
    assert!(with("", &vars).is_ok());
}

#[test]
fn files_that_are_no_settings_say_so() {
    assert_eq!(file_error("[redis\n"), "configuration: c.toml:1: this is not TOML: unclosed table, expected `]`");
    let missing = load(Some(Path::new("/nowhere/c.toml")), std::iter::empty()).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "configuration: /nowhere/c.toml: the settings file cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn caches_are_checked() {
    for (file, says) in [
        ("[cache]\nenvironment = \"prodution\"", "`cache.environment` must be empty or one of the environments"),
        ("[cache]\nsync_within = \"1m\"", "`cache.sync_within` must be from 1ms to 5s"),
        (
            "[cache.kinds.session]\ndefault = \"ALL\"",
            "`cache.kinds.session.default` must be one of its strategies: CRITICAL_ONLY,",
        ),
        (
            "[cache.kinds.session]\nenvironments = { test = \"ALL\" }",
            "`cache.kinds.session.environments.test` must be one of",
        ),
        ("[cache.kinds.session]\nnever = [\"a.b\"]", "`cache.kinds.session.never` must hold fields"),
        (
            "[cache.kinds.session.strategies]\nNONE = { ttl = \"0s\", fields = [\"*\"] }",
            "`cache.kinds.session.strategies.NONE.ttl` must be more than 0s",
        ),
        (
            "[cache.kinds.typing]\ncollection = \"x\"\ndefault = \"A\"\nstrategies = { A = { ttl = \"1m\", fields = [\"*\"] } }",
            "`cache.kinds.typing` must have another name",
        ),
    ] {
        let error = file_error(file);
        assert!(error.contains(says), "{says}\nin: {error}");
    }
    let own = "[cache.kinds.note]\ncollection = \"notes\"\ndefault = \"FULL\"\n[cache.kinds.note.strategies]\nFULL = { ttl = \"1m\", fields = [\"*\"] }";
    assert_eq!(with(own, &[]).unwrap().cache.kinds["note"].default, "FULL");
}

#[test]
fn the_figures_of_the_seeds_are_the_defaults() {
    let config = load(None, std::iter::empty()).unwrap();
    let ttl = |kind: &str, strategy: &str| config.cache.kinds[kind].strategies[strategy].ttl.as_secs() / 60;
    // Seed 002: the more is cached, the shorter.
    let session = ["NONE", "CRITICAL_ONLY", "WITH_CONTEXT", "FULL_SESSION"].map(|s| ttl("session", s));
    let interaction = ["NONE", "RESPONSE_ONLY", "WITH_CONTEXT", "FULL_INTERACTION"].map(|s| ttl("interaction", s));
    assert_eq!((session, interaction), ([0, 60, 30, 15], [0, 30, 15, 5]));
    let kind = |name: &str| &config.cache.kinds[name];
    assert_eq!((&*kind("session").default, &*kind("interaction").default), ("CRITICAL_ONLY", "RESPONSE_ONLY"));
    let of = |name: &str, environment: &str| kind(name).environments[environment].clone();
    assert_eq!([of("session", "development"), of("interaction", "development")], ["FULL_SESSION", "WITH_CONTEXT"]);
    assert_eq!([of("session", "production"), of("interaction", "production")], ["WITH_CONTEXT", "RESPONSE_ONLY"]);
    assert_eq!([of("session", "analytics"), of("interaction", "analytics")], ["NONE", "NONE"]);
    // Seed 004: document 300 s, AI response 1800 s, user 900 s, template 3600 s. Seed 000: profile 2 h, default 10 min.
    let minutes =
        [("document", "FULL", 5), ("ai", "RESPONSE_ONLY", 30), ("user", "FULL", 15), ("template", "FULL", 60)];
    for (name, strategy, expected) in minutes.into_iter().chain([("preference", "FULL", 120), ("context", "FULL", 10)])
    {
        assert_eq!(ttl(name, strategy), expected, "{name}");
    }
    assert_eq!(config.analysis.redis_ttl.as_secs(), 3_600);
    assert_eq!((config.cache.live_user.as_secs(), config.cache.live_anonymous.as_secs()), (30 * 60, 24 * 3_600));
}

#[test]
fn the_lifecycle_policy_is_laid_over_the_shipped_one() {
    let vars = [("CONTEXTD_POLICY__ACCESS_SLACK", "20m"), ("CONTEXTD_POLICY__REGION", "eu")];
    let file = "[policy.rules.minor-version]\nafter = \"48h\"\n[policy.regions.eu.rules.auth-log]\nafter = \"10d\"";
    let policy = with(file, &vars).unwrap().policy;
    assert_eq!((policy.region.as_str(), policy.access_slack), ("eu", Duration::from_secs(1_200)));
    let hours = |rule: &str| policy.rule(rule).unwrap().cases[0].after.as_secs() / 3_600;
    assert_eq!((hours("minor-version"), hours("auth-log"), hours("deleted-document")), (48, 240, 720));
    // A cache that answers for longer than the slack makes it longer; by itself it is as declared.
    let slack = |file: &str| with(file, &[]).unwrap().policy.access_slack.as_secs();
    assert_eq!(slack(""), 360);
    assert_eq!(slack("[cache.kinds.document.strategies]\nFULL = { ttl = \"1h\", fields = [\"*\"] }"), 3_610);
}

#[test]
fn a_refused_policy_names_the_place() {
    let error = file_error("[policy.rules.auth-log]\narchive_for = \"forever\"\n\n[policy.cap]\nshare = 2.0\n");
    assert!(error.contains("c.toml:5: `policy.cap.share` must be from 0 to 1"), "{error}");
    assert!(error.contains("c.toml:2: the rule `auth-log` archives rows, and `archive_for` must say"), "{error}");
    let error = file_error("[policy.rules.minor-version]\naftr = \"1d\"");
    assert!(error.contains("c.toml:2: there is no setting `aftr` in `policy.rules.minor-version`"), "{error}");
    let error = file_error("policy = 3");
    assert!(error.contains("`policy` must be a section"), "{error}");
    assert!(var_error("CONTEXTD_POLICY__REGON", "eu").contains("did you mean CONTEXTD_POLICY__REGION?"));
}
