//! What a policy file may say, as it is written.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

/// The section `[policy]`, with the shipped one below it already.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub version: u32,
    pub region: String,
    #[serde(with = "humantime_serde")]
    pub skew: Duration,
    #[serde(with = "humantime_serde")]
    pub access_slack: Duration,
    pub cap: Cap,
    pub rules: BTreeMap<String, Rule>,
    pub keep: BTreeMap<String, String>,
    #[serde(default)]
    pub collections: BTreeMap<String, Collection>,
    #[serde(default)]
    pub tenants: BTreeMap<String, Overrides>,
    #[serde(default)]
    pub regions: BTreeMap<String, Overrides>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cap {
    pub share: Option<f64>,
    pub floor: Option<u64>,
    pub rows: Option<u64>,
}

/// Everything optional: what is missing gets a sentence of its own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rule {
    pub enabled: Option<bool>,
    pub job: Option<String>,
    pub on: Option<String>,
    #[serde(rename = "where")]
    pub equal: BTreeMap<String, toml::Value>,
    pub present: Vec<String>,
    pub absent: Vec<String>,
    pub date: Option<String>,
    #[serde(with = "humantime_serde")]
    pub after: Option<Duration>,
    pub cases: BTreeMap<String, Case>,
    pub guards: Vec<String>,
    pub action: Option<String>,
    pub state: Option<String>,
    pub keep: Option<Vec<String>>,
    pub random: Option<Vec<String>>,
    pub archive_for: Option<String>,
    pub cap: Cap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Case {
    #[serde(rename = "where")]
    pub equal: BTreeMap<String, toml::Value>,
    pub present: Vec<String>,
    pub absent: Vec<String>,
    pub date: Option<String>,
    #[serde(with = "humantime_serde")]
    pub after: Option<Duration>,
}

/// What an operator says of a collection.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Collection {
    pub indexes: Vec<Vec<String>>,
    pub fields: Vec<String>,
}

/// What a region or a tenant has of its own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Overrides {
    pub rules: BTreeMap<String, Override>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Override {
    pub enabled: Option<bool>,
    #[serde(with = "humantime_serde")]
    pub after: Option<Duration>,
    /// Of a region only: one file of an archive holds rows of several tenants.
    pub archive_for: Option<String>,
    pub cases: BTreeMap<String, CaseOverride>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CaseOverride {
    #[serde(with = "humantime_serde")]
    pub after: Option<Duration>,
}
