use std::time::Duration;

use proptest::prelude::*;
use toml::{Table, Value};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const SLACK: Duration = Duration::from_secs(360);

fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

/// The shipped policy with `more` laid over it, as a settings file does.
fn with(more: &str) -> Result<Policy, Vec<Problem>> {
    let mut table: Table = toml::from_str(SHIPPED).expect("TOML");
    merge(&mut table, toml::from_str(more).expect("TOML"));
    let Some(Value::Table(section)) = table.remove("policy") else { panic!("a section") };
    load(section, &Surroundings { collections: vec!["notes".into()], ..Surroundings::default() })
}

fn shipped() -> Policy {
    with("").expect("the shipped policy is valid")
}

/// A rule on notes that is fine, with `more` in it.
fn note(more: &str) -> String {
    let mut table: Table = toml::from_str(
        "[policy.rules.note]\njob = \"retention\"\non = \"notes\"\ndate = \"closedAt\"\nafter = \"30d\"\naction = \"purge\"\n\
         [policy.collections.notes]\nindexes = [[\"closedAt\", \"_id\"], [\"state\", \"closedAt\", \"_id\"], \
         [\"anonymizedAt\", \"closedAt\", \"_id\"], [\"state\", \"openedAt\", \"_id\"]]\n",
    )
    .expect("TOML");
    merge(&mut table, toml::from_str(more).expect("TOML"));
    toml::to_string(&table).expect("TOML")
}

#[track_caller]
fn refused(more: &str, path: &str, message: &str) {
    let problems = with(more).expect_err("refused");
    let found = problems.iter().any(|p| p.path == path && p.message.contains(message));
    assert!(found, "no problem at {path} says {message:?}: {problems:#?}");
    assert!(problems.iter().all(|p| !p.message.is_empty() && !p.path.is_empty()), "{problems:#?}");
}

#[test]
fn the_shipped_rules_have_the_figures_of_the_seeds() {
    let policy = shipped();
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let expected: [(&str, &str, &str, &[Duration], bool); 15] = [
        ("session-archival", "sessions", "archive-session", &[24 * minutes(60), Duration::ZERO, minutes(30)], true),
        ("minor-version", "document_versions", "prune", &[DAY], true),
        ("ai-version", "document_versions", "prune", &[Duration::ZERO], true),
        ("anonymous-mark", "documents", "mark", &[Duration::ZERO], true),
        ("anonymous-cleanup", "documents", "purge", &[7 * DAY + SLACK, 7 * DAY + SLACK], true),
        ("inactive-document", "documents", "archive", &[90 * DAY + SLACK], true),
        ("archive-end", "documents", "soft-delete", &[365 * DAY], false),
        ("deleted-document", "documents", "purge", &[30 * DAY], true),
        ("deleted-user", "users", "anonymize", &[30 * DAY], true),
        ("ai-interaction-30", "ai_interactions", "anonymize", &[30 * DAY], true),
        ("ai-interaction-90", "ai_interactions", "purge", &[90 * DAY], true),
        ("auth-log", "auth_logs", "archive-rows", &[365 * DAY], true),
        ("dead-letter", "dead_letters", "purge", &[30 * DAY], true),
        ("analysis-result", "analyses", "purge", &[30 * DAY], true),
        ("job-run", "job_runs", "purge", &[90 * DAY], true),
    ];
    assert_eq!(policy.rules.len(), expected.len());
    for (name, on, action, terms, enabled) in expected {
        let rule = policy.rule(name).unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!((rule.on.as_str(), rule.action.name(), rule.enabled), (on, action, enabled), "{name}");
        assert_eq!(rule.cases.iter().map(|case| case.after).collect::<Vec<_>>(), terms, "{name}");
    }
    // There is no rule for major versions: they stay as long as their document.
    let versions = policy.rules.iter().filter(|rule| rule.on == "document_versions");
    let kinds = versions.flat_map(|rule| &rule.cases).map(|case| &case.equal).filter(|equal| !equal.is_empty());
    assert!(kinds.flatten().all(|(_, value)| value.as_str() != Some("major")));
    assert_eq!(policy.version, 1);
    assert_eq!(policy.hash.len(), 64);
}

#[test]
fn every_rule_is_scanned_along_an_index_of_its_own() {
    let (needed, shipped) = (shipped().needed_indexes(), shipped_indexes());
    assert_eq!(needed.len(), shipped.len());
    assert!(needed.iter().all(|index| shipped.contains(index)));
    assert!(needed.iter().all(|index| index.keys.last().is_some_and(|key| key == "_id")));
    assert!(shipped.iter().all(|index| shipped_collection(&index.collection).is_some()));
}

#[test]
fn the_slack_is_never_less_than_caches_are_behind() {
    let table: Table = toml::from_str(SHIPPED).expect("TOML");
    let section = || table["policy"].as_table().cloned().expect("a section");
    let late = Surroundings { late: Duration::from_secs(3_600), ..Surroundings::default() };
    let policy = load(section(), &late).expect("valid");
    let rule = policy.rule("inactive-document").expect("there");
    assert_eq!(rule.cases[0].after, 90 * DAY + Duration::from_secs(3_600));
    assert_eq!(policy.slack(rule, &rule.cases[0]), Duration::from_secs(3_600));
    let mark = policy.rule("anonymous-mark").expect("there");
    assert_eq!(policy.slack(mark, &mark.cases[0]), Duration::ZERO);
    // Workers with other caches have the same policy.
    assert_eq!(policy.hash, shipped().hash);
}

#[test]
fn a_file_changes_a_rule_setting_by_setting() {
    let policy = with("[policy.rules.minor-version]\nafter = \"48h\"").expect("valid");
    let rule = policy.rule("minor-version").expect("there");
    assert_eq!((rule.cases[0].after, rule.guards.len()), (2 * DAY, 2));
    assert_ne!(policy.hash, shipped().hash);
    let policy = with(&note("")).expect("valid");
    assert_eq!(policy.rule("note").map(|rule| rule.cases[0].after), Some(30 * DAY));
    assert!(policy.needed_indexes().iter().any(|index| index.collection == "notes"));
    // A file over the shipped one cannot take a reason away but by emptying it.
    let interactions = "[policy.keep]\ninteractions = \"\"\n[policy.rules.talk]\njob = \"retention\"\non = \"interactions\"\n\
                        date = \"timestamp\"\nafter = \"730d\"\naction = \"purge\"\n[policy.collections.interactions]\n\
                        indexes = [[\"timestamp\", \"_id\"]]";
    assert!(with(interactions).expect("valid").rule("talk").is_some());
}

#[test]
fn the_hash_tells_what_is_destroyed_and_nothing_else() {
    let hash = |more: &str| with(more).expect("valid").hash;
    let before = shipped().hash;
    assert_eq!(hash("[policy]\nversion = 7"), before);
    assert_eq!(hash("[policy.keep]\nholds = \"another reason\""), before);
    assert_eq!(hash("[policy.regions.eu.rules.auth-log]\nafter = \"30d\""), before);
    for change in [
        "[policy]\nregion = \"eu\"\n[policy.regions.eu.rules.auth-log]\nafter = \"30d\"",
        "[policy]\nskew = \"61s\"",
        "[policy]\naccess_slack = \"7m\"",
        "[policy.cap]\nshare = 0.26",
        "[policy.rules.auth-log]\narchive_for = \"1d\"",
        "[policy.rules.auth-log]\nenabled = false",
        "[policy.rules.deleted-user]\nkeep = [\"createdAt\"]",
        "[policy.rules.anonymous-mark]\nguards = []\nafter = \"1d\"",
        "[policy.rules.anonymous-mark]\nstate = \"leaving\"",
        "[policy.tenants.acme.rules.minor-version]\nafter = \"48h\"",
        "[policy.rules.session-archival.cases.user]\nafter = \"31m\"",
    ] {
        assert_ne!(hash(change), before, "{change}");
    }
}

#[test]
fn a_region_goes_before_the_rules_and_a_tenant_before_the_region() {
    let policy = with(
        "[policy]\nregion = \"eu\"\n[policy.regions.eu.rules.auth-log]\nafter = \"180d\"\narchive_for = \"365d\"\n\
         [policy.regions.eu.rules.session-archival.cases.user]\nafter = \"15m\"\n\
         [policy.regions.us.rules.auth-log]\nafter = \"1d\"\n\
         [policy.tenants.acme.rules.session-archival.cases.anonymous]\nafter = \"1h\"\n\
         [policy.tenants.acme.rules.auth-log]\nenabled = false",
    )
    .expect("valid");
    let rule = policy.rule("auth-log").expect("there");
    assert_eq!(rule.action, Action::ArchiveRows { archive_for: 365 * DAY });
    assert_eq!((rule.term(0, None), rule.term(0, Some("acme"))), (Some(180 * DAY), None));
    let rule = policy.rule("session-archival").expect("there");
    let at = |name: &str| rule.cases.iter().position(|case| case.name == name).expect("there");
    assert_eq!(rule.term(at("anonymous"), Some("acme")), Some(Duration::from_secs(3_600)));
    assert_eq!(rule.term(at("user"), Some("acme")), Some(Duration::from_secs(900)), "the region's");
    // Documents' terms have their slack for tenants, too.
    let policy = with("[policy.tenants.acme.rules.inactive-document]\nafter = \"30d\"").expect("valid");
    let term = policy.rule("inactive-document").and_then(|rule| rule.term(0, Some("acme")));
    assert_eq!(term, Some(30 * DAY + SLACK));
}

#[test]
fn what_is_unknown_is_refused_with_what_is_near() {
    let at = |key: &str, value: &str| note(&format!("[policy.rules.note]\n{key} = {value}"));
    refused(&at("job", "\"retenton\""), "policy.rules.note.job", "unknown job `retenton`, did you mean `retention`?");
    refused(&at("on", "\"note\""), "policy.rules.note.on", "unknown collection `note`, did you mean `notes`?");
    refused(&at("action", "\"purg\""), "policy.rules.note.action", "unknown action `purg`, did you mean `purge`?");
    let guards = at("guards", "[\"no-live-sesion\"]");
    refused(&guards, "policy.rules.note.guards", "unknown guard `no-live-sesion`, did you mean `no-live-session`?");
    refused(
        &at("aftr", "\"1d\""),
        "policy.rules.note.aftr",
        "no setting `aftr` in `policy.rules.note`, did you mean `after`?",
    );
    refused("[policy]\nregon = \"eu\"", "policy.regon", "did you mean `region`?");
    refused("[policy.keep]\nholdz = \"x\"", "policy.keep.holdz", "no collection `holdz`, did you mean `holds`?");
    let misspelled = "[policy.rules.deleted-document]\ndate = \"deletedAd\"";
    refused(misspelled, "policy.rules.deleted-document", "no field of `documents`, did you mean `deletedAt`?");
    refused(
        "[policy.tenants.a.rules.minor-versions]\nafter = \"1d\"",
        "policy.tenants.a.rules.minor-versions",
        "`minor-version`",
    );
    refused(
        "[policy.regions.eu.rules.nope]\nafter = \"1d\"",
        "policy.regions.eu.rules.nope",
        "there is no rule `nope`",
    );
    refused("[policy]\nregion = \"ue\"\n[policy.regions.eu]", "policy.region", "no [policy.regions.ue]");
    let case = "[policy.tenants.a.rules.session-archival.cases.usr]\nafter = \"1d\"";
    refused(case, "policy.tenants.a.rules.session-archival.cases.usr", "did you mean `user`?");
}

#[test]
fn a_field_of_ones_own_is_declared() {
    let rule = "[policy.rules.inactive-document]\nwhere = { state = \"active\", ownerType = \"user\", project = \"x\" }\n\
                [policy.collections.documents]\nindexes = [[\"ownerType\", \"project\", \"state\", \"lastAccessedAt\", \"_id\"]]";
    refused(rule, "policy.rules.inactive-document", "as `fields = [\"project\"]`");
    with(&format!("{rule}\nfields = [\"project\"]")).expect("valid");
}

#[test]
fn a_rule_without_an_index_is_refused() {
    let rule = note("[policy.rules.note]\ndate = \"createdAt\"");
    refused(&rule, "policy.rules.note", "add [policy.collections.notes] indexes = [[\"createdAt\", \"_id\"]]");
    let rule = "[policy.rules.minor-version.where]\nchangeDescription = \"x\"";
    refused(rule, "policy.rules.minor-version", "[[\"changeDescription\", \"kind\", \"createdAt\", \"_id\"]]");
}

#[test]
fn an_archive_without_an_end_is_refused() {
    for term in ["forever", "never", "0s", "100000d", ""] {
        let rule = format!("[policy.rules.auth-log]\narchive_for = {term:?}");
        refused(&rule, "policy.rules.auth-log.archive_for", "an archive without an end is not allowed");
    }
    refused(
        &note("[policy.rules.note]\naction = \"archive-rows\""),
        "policy.rules.note.archive_for",
        "must say for how long",
    );
    let region = "[policy.regions.eu.rules.auth-log]\narchive_for = \"forever\"";
    refused(region, "policy.regions.eu.rules.auth-log.archive_for", "without an end");
    let tenant = "[policy.tenants.a.rules.auth-log]\narchive_for = \"10d\"";
    refused(tenant, "policy.tenants.a.rules.auth-log.archive_for", "only regions can have it");
}

#[test]
fn a_collection_that_nobody_decided_on_is_refused() {
    let path = "policy.keep.interactions";
    refused("[policy.keep]\ninteractions = \"\"", path, "nothing says what becomes of the collection `interactions`");
    refused("[policy.keep]\nauth_logs = \"why not\"", "policy.keep.auth_logs", "the rule `auth-log` takes from it");
    with("[policy.keep]\nauth_logs = \"why not\"\n[policy.rules.auth-log]\nenabled = false").expect("valid");
    assert_eq!(shipped().undecided(["users", "notes", "holds", "notes"].into_iter()), ["notes"]);
}

#[test]
fn rules_that_fight_are_refused() {
    let second = |more: &str| {
        note(&format!(
            "[policy.rules.second]\njob = \"retention\"\non = \"notes\"\ndate = \"closedAt\"\nafter = \"40d\"\naction = \"purge\"\n{more}"
        ))
    };
    let path = "policy.rules.second";
    refused(&second(""), path, "fight over the same rows of `notes`: `purge` and `purge` both take all of a row");
    let weaker = |after: &str, date: &str| {
        note(&format!(
            "[policy.rules.first]\njob = \"retention\"\non = \"notes\"\nwhere = {{ state = \"closed\" }}\ndate = \"{date}\"\n\
             after = \"{after}\"\naction = \"mark\"\nstate = \"old\""
        ))
    };
    with(&weaker("29d", "closedAt")).expect("steps of an escalation do not fight");
    refused(&weaker("30d", "closedAt"), "policy.rules.first", "comes no later than `mark`, which is weaker");
    refused(&weaker("1d", "openedAt"), "policy.rules.first", "counts from");
    let tenant = weaker("29d", "closedAt") + "\n[policy.tenants.acme.rules.note]\nafter = \"3d\"";
    refused(&tenant, "policy.rules.first", "for the tenant `acme`");
    // Rows that differ are nobody's quarrel.
    let other = weaker("30d", "openedAt") + "\n[policy.rules.note.where]\nstate = \"open\"";
    with(&other).expect("disjoint");
    let disabled = weaker("30d", "closedAt");
    with(&disabled.replace("[policy.rules.first]", "[policy.rules.first]\nenabled = false")).expect("disabled");
}

#[test]
fn caps_and_terms_out_of_range_are_refused() {
    for share in ["-0.1", "1.1", "nan"] {
        refused(&format!("[policy.cap]\nshare = {share}"), "policy.cap.share", "must be from 0 to 1");
    }
    refused("[policy.rules.auth-log.cap]\nrows = 0", "policy.rules.auth-log.cap.rows", "must be at least 1");
    refused("[policy]\nversion = 0", "policy.version", "at least 1");
    refused("[policy]\nskew = \"0s\"", "policy.skew", "from 1s to 10m");
    refused(&note("[policy.rules.note]\nafter = \"0s\""), "policy.rules.note.after", "has no guard");
    refused(&note("[policy.rules.note]\nafter = \"-1d\""), "policy.rules.note.after", "`policy.rules.note.after`");
    let tenant = note("[policy.tenants.a.rules.note]\nafter = \"0s\"");
    refused(&tenant, "policy.rules.note.after", "has no guard");
}

#[test]
fn actions_are_refused_where_they_would_do_harm() {
    let on = |on: &str, action: &str| {
        note(&format!("[policy.rules.note]\non = {on:?}\naction = {action:?}\ndate = \"createdAt\""))
    };
    let at = "policy.rules.note.action";
    refused(&on("notes", "prune"), at, "is for `document_versions` only");
    refused(&on("notes", "archive-session"), at, "is for `sessions` only");
    refused(&on("notes", "archive"), at, "rows of others have `archive-rows`");
    refused(&on("document_versions", "purge"), at, "break the chain");
    refused(&on("sessions", "purge"), at, "they have `archive-session`");
    refused(&on("users", "purge"), at, "they have `anonymize`");
    for own in ["audit_log", "tombstones", "schema_migrations", "data_keys", "lifecycle_state", "erasure_certificates"]
    {
        refused(&on(own, "purge"), "policy.rules.note.on", "no rule can take them");
    }
    refused(
        "[policy.rules.minor-version]\nguards = []",
        "policy.rules.minor-version.guards",
        "needs the guard `not-current`",
    );
    let path = "policy.rules.session-archival.guards";
    refused("[policy.rules.session-archival]\nguards = []", path, "needs the guard `no-live-session`");
    let guard = note("[policy.rules.note]\nguards = [\"superseded\"]");
    refused(&guard, "policy.rules.note.guards", "a guard that is for `analyses` only");
}

#[test]
fn what_was_acted_on_is_not_due_again() {
    let rule = |more: &str| note(&format!("[policy.rules.note]\n{more}"));
    let path = "policy.rules.note";
    refused(&rule("action = \"anonymize\"\nkeep = []"), path, "needs `absent = [\"anonymizedAt\"]`");
    refused(&rule("action = \"soft-delete\""), path, "must ask for another `state`");
    let same = "action = \"mark\"\nstate = \"closed\"\nwhere = { state = \"closed\" }";
    refused(&rule(same), path, "must ask for another `state`");
    refused(&rule("where = { state = \"purging\" }"), path, "being purged already");
    refused(&rule("action = \"mark\""), path, "needs the `state` that rows get");
    refused(&rule("action = \"anonymize\""), path, "needs `keep`");
}

#[test]
fn what_is_anonymized_keeps_nobody() {
    for field in ["userId", "email", "ip", "cacheKey", "aiResponse"] {
        let rule = format!("[policy.rules.ai-interaction-30]\nkeep = [{field:?}]");
        refused(&rule, "policy.rules.ai-interaction-30.keep", "has to lose it");
    }
    let both = "[policy.rules.deleted-user]\nkeep = [\"createdAt\"]\nrandom = [\"createdAt\"]";
    refused(both, "policy.rules.deleted-user.random", "both in `keep` and in `random`");
}

#[test]
fn a_rule_says_all_that_it_needs() {
    let path = "policy.rules.bare";
    let bare = "[policy.rules.bare]";
    for key in ["job", "on", "action", "date"] {
        refused(bare, path, &format!("needs `{key}`"));
    }
    refused("[policy.rules.bare]\ndate = \"x\"", path, "needs `after`");
    refused(
        "[policy.rules.session-archival]\nafter = \"1d\"",
        "policy.rules.session-archival",
        "belong in each of them",
    );
    refused(
        "[policy.tenants.a.rules.session-archival]\nafter = \"1d\"",
        "policy.tenants.a.rules.session-archival.after",
        "say which",
    );
    refused(&note("[policy.rules.note]\nkeep = []"), "policy.rules.note.keep", "belongs to the action `anonymize`");
    refused(&note("[policy.rules.note.where]\nsize = 1.5"), "policy.rules.note.where.size", "a text, a whole number");
    refused(&note("[policy.rules.note]\npresent = [\"closedAt\"]"), "policy.rules.note", "twice in one condition");
    refused(&note("[policy.rules.note]\npresent = [\"$where\"]"), "policy.rules.note", "cannot be a field");
    refused(
        "[policy.rules.archive-end]\nenabled = false\n[policy.tenants.a.rules.archive-end]\nenabled = true",
        "policy.tenants.a.rules.archive-end",
        "disabled for all",
    );
    refused(
        &note(
            "[policy.rules.\"Bad Name\"]\njob = \"retention\"\non = \"notes\"\ndate = \"closedAt\"\nafter = \"1d\"\naction = \"purge\"",
        ),
        "policy.rules.Bad Name",
        "1 to 64 of the characters",
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever becomes of the file: a policy or problems, never a panic; and a policy with a hash.
    #[test]
    fn mutated_files_never_panic(cuts in prop::collection::vec((0.0..1.0_f64, 0_usize..12, "[ -~\n]{0,8}"), 1..4)) {
        let mut text = SHIPPED.to_owned();
        for (place, length, put) in cuts {
            let at = (place * text.len() as f64) as usize;
            text.replace_range(at..(at + length).min(text.len()), &put);
        }
        if let Ok(mut table) = toml::from_str::<Table>(&text)
            && let Some(Value::Table(section)) = table.remove("policy")
        {
            match load(section, &Surroundings::default()) {
                Ok(policy) => prop_assert_eq!(policy.hash.len(), 64),
                Err(problems) => prop_assert!(!problems.is_empty()),
            }
        }
    }

    /// The same for values of other kinds in the right places.
    #[test]
    fn changed_values_never_panic(which in 0_usize..400, kind in 0_usize..7) {
        let mut table: Table = toml::from_str(SHIPPED).expect("TOML");
        let value = [
            Value::Integer(-1), Value::Float(f64::NAN), Value::String(String::new()), Value::Boolean(true),
            Value::Array(vec![Value::Integer(1)]), Value::Table(Table::new()), Value::String("99999999999999y".into()),
        ][kind].clone();
        let mut left = which;
        replace(&mut table, &mut left, &value);
        if let Some(Value::Table(section)) = table.remove("policy") {
            let _ = load(section, &Surroundings::default());
        }
    }
}

/// Puts `value` in the place of the setting number `left`.
fn replace(table: &mut Table, left: &mut usize, value: &Value) {
    for (_, at) in table.iter_mut() {
        if *left == 0 {
            *at = value.clone();
        }
        *left = left.wrapping_sub(1);
        if let Value::Table(inner) = at {
            replace(inner, left, value);
        }
    }
}
