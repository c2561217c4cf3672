use super::*;

/// The shipped policy with `more` laid over it, as a settings file does.
fn with(more: &str) -> Result<Policy, Vec<Problem>> {
    let mut table: toml::Table = toml::from_str(SHIPPED).expect("TOML");
    merge(&mut table, toml::from_str(more).expect("TOML"));
    let Some(toml::Value::Table(section)) = table.remove("policy") else { panic!("a section") };
    load(section, &Surroundings::default())
}

fn merge(table: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(over)) => merge(inner, over),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

#[test]
fn the_shipped_policy_loads() {
    let policy = with("").expect("valid");
    assert_eq!(policy.rules.len(), 15);
}
