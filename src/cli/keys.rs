//! `contextd keys list|rotate`: the keys of encrypted fields.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use super::{
    failure::{Failure, Printed},
    table,
};
use crate::{
    store::StoredKey,
    vault::{Vault, VaultFault},
};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct RotateArgs {
    /// Makes a new data key for every tenant, too; the old ones stay to open what they sealed
    #[arg(long)]
    pub data_keys: bool,
    /// Who does it, for the audit log
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

type Listed = (StoredKey, Result<(), VaultFault>);

/// All keys, and whether those that are configured open those that are stored. Never shows a key itself.
///
/// # Errors
/// MongoDB cannot be asked. A data key that cannot be unwrapped is printed and makes the exit status 1.
pub async fn list(vault: &Vault, json: bool) -> Result<Printed, Failure> {
    let keys = vault.data_keys().await?;
    let broken: Vec<&VaultFault> = keys.iter().filter_map(|(_, state)| state.as_ref().err()).collect();
    let mut printed = if json { as_json(vault, &keys)? } else { Printed::text(as_text(vault, &keys)) };
    printed.wrong = match broken.as_slice() {
        [] => None,
        [only] => Some(only.to_string()),
        [first, rest @ ..] => Some(format!("{first}; and {} more data keys cannot be unwrapped", rest.len())),
    };
    Ok(printed)
}

/// How many data keys each key-encryption key wraps: the configured ones in their order, then others that are needed.
fn wrapping<'a>(vault: &'a Vault, keys: &'a [Listed]) -> Vec<(&'a str, bool, usize)> {
    let mut wraps: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, _) in keys {
        *wraps.entry(&key.kek).or_default() += 1;
    }
    let mut all: Vec<_> = vault.key_ids().map(|id| (id, true, wraps.remove(id).unwrap_or(0))).collect();
    all.extend(wraps.into_iter().map(|(id, count)| (id, false, count)));
    all
}

/// The keys that seal new values: the last one of each tenant.
fn is_current(keys: &[Listed], position: usize) -> bool {
    keys.get(position + 1).is_none_or(|(next, _)| next.tenant != keys[position].0.tenant)
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn as_json(vault: &Vault, keys: &[Listed]) -> Result<Printed, Failure> {
    let current = vault.key_ids().next();
    let configured: Vec<_> = wrapping(vault, keys)
        .into_iter()
        .map(|(id, configured, wraps)| {
            json!({ "id": id, "configured": configured, "current": Some(id) == current, "wraps": wraps })
        })
        .collect();
    let data: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(position, (key, state))| {
            json!({
                "id": key.id(), "tenant": key.tenant, "wrappedBy": key.kek, "createdAt": time(key.created_at),
                "current": is_current(keys, position), "error": state.as_ref().err().map(ToString::to_string),
            })
        })
        .collect();
    Printed::json(&json!({ "encryption": vault.is_on(), "keys": configured, "dataKeys": data }))
}

fn as_text(vault: &Vault, keys: &[Listed]) -> String {
    let mut text = String::new();
    if !vault.is_on() {
        text.push_str("encryption is off: `encryption.keys` is empty\n");
    }
    let wrapping = wrapping(vault, keys);
    if !wrapping.is_empty() {
        let mut rows = table::new(&["key", "state", "data keys"]);
        table::align_right(&mut rows, 2..3);
        for (position, (id, configured, wraps)) in wrapping.into_iter().enumerate() {
            let state = match (configured, position, wraps) {
                (false, ..) => "missing",
                (true, 0, _) => "current",
                (true, _, 0) => "not used: may be removed once all workers have the current one",
                (true, ..) => "old: `contextd keys rotate` replaces it",
            };
            rows.add_row([id.to_owned(), state.to_owned(), wraps.to_string()]);
        }
        text.push_str(&format!("{rows}\n"));
    }
    if keys.is_empty() {
        text.push_str("no data keys yet: the first value that is sealed for a tenant makes one\n");
        return text;
    }
    let mut rows = table::new(&["data key", "wrapped by", "made", "state"]);
    for (position, (key, open)) in keys.iter().enumerate() {
        let state = match open {
            Err(_) => "cannot be unwrapped",
            Ok(()) if is_current(keys, position) => "current",
            Ok(()) => "old, opens what it sealed",
        };
        rows.add_row([key.id(), key.kek.clone(), time(key.created_at), state.to_owned()]);
    }
    text.push_str(&format!("{rows}\n"));
    text
}

/// Wraps every data key with the current key, and says what it did.
///
/// # Errors
/// Encryption is off, or a data key cannot be unwrapped: nothing was changed. MongoDB cannot be asked: running it again
/// does the rest.
pub async fn rotate(args: &RotateArgs, vault: &Vault, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let done = vault.rotate(args.data_keys, args.actor.as_deref(), now).await?;
    if args.json {
        return Printed::json(&json!({
            "key": done.kek, "rewrapped": done.rewrapped, "created": done.created, "dataKeys": done.data_keys,
        }));
    }
    let mut text = format!(
        "the key {:?} wraps all {} now: {} rewrapped, {} made\n",
        done.kek,
        data_keys(done.data_keys),
        done.rewrapped,
        done.created
    );
    let old: Vec<&str> = vault.key_ids().skip(1).collect();
    if !old.is_empty() {
        text.push_str(&format!(
            "not needed any more, once all workers run with the current key first: {}\n",
            old.join(", ")
        ));
    }
    Ok(Printed::text(text))
}

fn data_keys(count: u64) -> String {
    if count == 1 { "1 data key".to_owned() } else { format!("{count} data keys") }
}
