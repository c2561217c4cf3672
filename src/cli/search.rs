//! `contextd search` and `contextd related`: what is there, found by text, by what it is, by what it hangs together with.

use serde_json::{Map, Value, json};

use super::{
    failure::{Failure, Printed},
    table,
};
use crate::{
    read::{find, plain},
    store::{After, Direction, Hit, Importance, Kind, Page, Related, Search, Store},
    vault::Vault,
};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct SearchArgs {
    /// Words to find, a "quoted phrase", -word for what must not occur; without any the newest come first
    pub text: Vec<String>,
    /// Contexts or memories only
    #[arg(long)]
    pub kind: Option<Kind>,
    /// Of this type; given several times, of one of them
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// With this tag; given several times, with all of them
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Of this user
    #[arg(long, value_name = "ID")]
    pub user: Option<String>,
    /// Of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// At least this important
    #[arg(long)]
    pub importance: Option<Importance>,
    /// Most hits
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::store::MAX_HITS)))]
    pub limit: u32,
    /// Go on where a page ended: its `next`
    #[arg(long, value_name = "NEXT")]
    pub after: Option<After>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

pub async fn search(args: &SearchArgs, store: &Store, vault: &Vault) -> Result<Printed, Failure> {
    let search = Search {
        text: args.text.join(" "),
        kind: args.kind,
        types: args.types.clone(),
        tags: args.tags.clone(),
        user: args.user.clone(),
        session: args.session.clone(),
        importance: args.importance,
        limit: args.limit,
        after: args.after.clone(),
    };
    let page = find::find(store, vault, &search).await?;
    if args.json {
        return Printed::json(&found(&page));
    }
    if page.hits.is_empty() {
        return Ok(Printed::text("nothing was found"));
    }
    let mut text = render(&page);
    if let Some(next) = page.next {
        text.push_str(&format!("\nThere is more: --after '{next}'"));
    }
    Ok(Printed::text(text))
}

/// A page as JSON.
pub fn found(page: &Page) -> Value {
    let hit = |hit: &Hit| {
        let mut record = plain::record(&hit.document);
        if let Some(score) = hit.score {
            record.insert("score".into(), json!(score));
        }
        record
    };
    let hits: Vec<Map<String, Value>> = page.hits.iter().map(hit).collect();
    json!({ "hits": hits, "next": page.next.as_ref().map(ToString::to_string) })
}

/// Characters of a record that a table shows.
const SHOWN: usize = 60;

fn render(page: &Page) -> String {
    let mut table = table::new(&["id", "kind", "type", "importance", "updated", "score", "what"]);
    for hit in &page.hits {
        let record = plain::record(&hit.document);
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let what = record.get("title").or(record.get("content")).and_then(Value::as_str).unwrap_or("-");
        let score = hit.score.map_or("-".to_owned(), |score| format!("{score:.2}"));
        let row = [text("_id"), text("kind"), text("type"), text("importance"), text("updatedAt"), score, short(what)];
        table.add_row(row);
    }
    table::align_right(&mut table, 5..6);
    table.to_string()
}

fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

#[derive(Debug, Clone, clap::Args)]
pub struct RelatedArgs {
    /// A context, memory or document
    pub id: String,
    /// Only this relation (RELATES_TO, FOLLOWS, INFLUENCES, CONTAINS, DERIVED_FROM); given several times, any of them
    #[arg(long = "relation", value_name = "RELATION")]
    pub relations: Vec<String>,
    /// Over so many steps
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::store::MAX_DEPTH)))]
    pub depth: u32,
    /// What it leads to, what leads to it, or both
    #[arg(long, default_value = "out")]
    pub direction: Direction,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

pub async fn related(args: &RelatedArgs, store: &Store, vault: &Vault) -> Result<Printed, Failure> {
    let related = find::related(store, vault, &args.id, &args.relations, args.depth, args.direction).await?;
    if args.json {
        return Printed::json(&connected(&args.id, &related));
    }
    if related.links.is_empty() {
        return Ok(Printed::text(format!("{} is related to nothing", args.id)));
    }
    let title = |id: &str| {
        let end = related.ends.iter().find(|(_, end)| end.get_str("_id").is_ok_and(|own| own == id));
        end.and_then(|(_, end)| end.get_str("title").ok()).map_or("-".to_owned(), short)
    };
    let mut table = table::new(&["steps", "from", "relation", "to", "weight", "what"]);
    for link in &related.links {
        let weight = link.document.get("weight").and_then(|w| w.as_f64().or(w.as_i32().map(f64::from)));
        let weight = weight.map_or("-".to_owned(), |w| w.to_string());
        let (from, to, relation) = (link.from.clone(), link.to.clone(), link.relation.clone());
        table.add_row([link.depth.to_string(), from, relation, to, weight, title(link.far())]);
    }
    table::align_right(&mut table, 0..1);
    let more = if related.is_cut { "\nThere is more: ask for fewer steps or one relation." } else { "" };
    Ok(Printed::text(format!("{table}{more}")))
}

/// Relations as JSON.
pub fn connected(id: &str, related: &Related) -> Value {
    let links = related.links.iter().map(|link| {
        let mut stored = plain::record(&link.document);
        stored.remove("_id");
        stored.insert("depth".into(), json!(link.depth));
        stored.insert("direction".into(), json!(link.direction));
        Value::Object(stored)
    });
    let records: Vec<_> = related.ends.iter().map(|(_, end)| plain::record(end)).collect();
    json!({ "id": id, "links": links.collect::<Vec<_>>(), "records": records, "cut": related.is_cut })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn a_hit_is_one_line() {
        let document = doc! { "_id": "m1", "kind": "memory", "content": format!("two\nlines {}", "ä".repeat(80)) };
        let page = Page { hits: vec![Hit { score: Some(1.25), document }], next: None };
        let text = render(&page);
        assert!(text.contains("m1") && text.contains("1.25") && text.contains("two lines ää"), "{text}");
        assert!(text.contains("..."), "{text}");
        assert_eq!(found(&page)["hits"][0]["score"], 1.25);
        assert_eq!(found(&page)["next"], Value::Null);
    }
}
