//! `contextd check`: configuration and connections.

use super::{
    failure::{Failure, Printed},
    link, policy, store,
};
use crate::{
    config::Config,
    content::{Content, Tier},
    lifecycle, schedule,
    vault::Vault,
};

pub async fn check(config: &Config) -> Result<Printed, Failure> {
    // The configuration itself was checked when it was loaded.
    let mut text = format!(
        "configuration: fine ({} queues: {})\n",
        config.queues.len(),
        config.queues.keys().cloned().collect::<Vec<_>>().join(", ")
    );
    let jobs = schedule::jobs(&config.jobs, &lifecycle::world(config).map_err(Failure::Configuration)?)
        .map_err(|e| Failure::Configuration(e.to_string()))?;
    text.push_str(&format!("jobs: {}\n", jobs.iter().map(|j| j.name()).collect::<Vec<_>>().join(", ")));
    text.push_str(&policy::summary(config));
    let mut wrong = Vec::new();
    let link = link(config)?;
    match link.server().await {
        Ok(server) => {
            text.push_str(&format!("Redis {} at {}: reachable\n", server.version, link.address()));
            wrong.extend(server.problems());
        }
        Err(fault) => return Err(fault.into()),
    }
    let store = store(config).await?;
    store.ping().await?;
    text.push_str(&format!("MongoDB database {}: reachable, a replica set\n", config.mongodb.database));
    let missing = store.migration_status().await?.iter().filter(|m| m.applied_at.is_none()).count();
    if missing > 0 {
        text.push_str(&format!(
            "schema: {missing} steps are missing; `contextd migrate` or the next `contextd run` takes them\n"
        ));
    } else {
        text.push_str("schema: up to date\n");
    }
    let missing = store.missing_indexes(&config.policy.needed_indexes()).await?.len();
    if missing > 0 {
        text.push_str(&format!("policy: {missing} indexes of its rules are missing; `contextd migrate` makes them\n"));
    }
    let vault = Vault::new(&config.encryption, store.clone())?;
    vault.check().await?;
    text.push_str(if vault.is_on() { "encryption: on, every data key can be opened\n" } else { "encryption: off\n" });
    let content = Content::new(&config.content, None).map_err(|e| Failure::Configuration(e.to_string()))?;
    for (tier, what) in [(Tier::Hot, "contents"), (Tier::Archive, "archive")] {
        let objects = content.objects(tier);
        match objects.check().await {
            Ok(()) => text.push_str(&format!("{what}: {} can be written and read\n", objects.place())),
            Err(fault) => wrong.push(fault.to_string()),
        }
    }
    let mut printed = Printed::text(text);
    printed.wrong = (!wrong.is_empty()).then(|| wrong.join("; "));
    Ok(printed)
}
