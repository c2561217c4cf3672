//! `contextd advise`: which strategy each cached kind should have.

use bytesize::ByteSize;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{
    failure::{Failure, Printed},
    table,
};
use crate::{
    config::Config,
    read::{advise::Advice, survey::survey},
    record::cached::Kinds,
    store::Store,
};

#[derive(Debug, Clone, clap::Args)]
pub struct AdviseArgs {
    /// Judge by the last so many hours
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=168))]
    pub hours: u32,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

pub async fn advise(args: &AdviseArgs, config: &Config, store: &Store, now: DateTime<Utc>) -> Result<Printed, Failure> {
    let kinds = Kinds::new(&config.cache).map_err(Failure::Configuration)?;
    let advice = survey(store, config, &kinds, None, TimeDelta::hours(i64::from(args.hours)), now).await?;
    if args.json {
        return Printed::json(&json!({ "hours": args.hours, "kinds": advice }));
    }
    Ok(Printed::text(render(&advice)))
}

fn render(all: &[Advice]) -> String {
    let heads =
        ["kind", "now", "advised", "pattern", "reads/h", "reads/write", "hit rate", "whole", "Redis now", "Redis then"];
    let mut table = table::new(&heads);
    for advice in all {
        let f = &advice.figures;
        let memory = |strategy: Option<&str>| {
            let cost = strategy.and_then(|s| advice.cost(s));
            cost.map_or("-".to_owned(), |c| format!("<= {}", ByteSize(c.redis_bytes)))
        };
        let percent = |share: f64| if f.reads > 0 { format!("{:.0} %", share * 100.0) } else { "-".to_owned() };
        table.add_row([
            advice.kind.clone(),
            advice.current.clone(),
            advice.advised.clone().unwrap_or_else(|| "?".to_owned()),
            advice.pattern.map_or("too little data", |p| p.as_str()).to_owned(),
            format!("{:.0}", f.reads_per_hour),
            format!("{:.1}", f.reads_per_write),
            percent(f.hit_rate),
            percent(f.whole_share),
            memory(Some(&advice.current)),
            memory(advice.advised.as_deref()),
        ]);
    }
    table::align_right(&mut table, 4..10);
    let mut text = format!("{table}\n");
    for advice in all {
        text.push_str(&format!("\n{}: {}", advice.kind, advice.why));
        for finding in &advice.findings {
            text.push_str(&format!("\n  {finding}"));
        }
        let costs = advice.costs.iter().filter(|c| c.entry_bytes > 0);
        let costs: Vec<String> = costs.map(|c| format!("{} {} each", c.strategy, ByteSize(c.entry_bytes))).collect();
        if !costs.is_empty() {
            text.push_str(&format!("\n  {} records sampled: {}", advice.figures.sampled, costs.join(", ")));
        }
    }
    text
}
