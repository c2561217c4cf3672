//! Where a user leaves traces, and what becomes of each.
//!
//! Rows are found by `userId`, and by `sessionId` of the user's sessions where they name nobody or the same user. A page
//! of them changes in one transaction with the count on the user's tombstone, so that the certificate counts every row
//! once, however often the work was cut off.

use mongodb::{
    IndexModel,
    bson::{Bson, Document, doc},
    options::IndexOptions,
};

use super::{
    Person,
    ops::{Op, write},
};
use crate::{
    engine::{
        anonymize::{forget_by, remains},
        guards::find,
        judge::Left,
        take::{TOMBSTONES, now, stone_id},
    },
    kit::JobError,
    policy::Action,
};

/// Rows of one transaction.
const PAGE: i64 = 200;
const TYPING: &str = "typing_contexts";
pub const SESSIONS: &str = "sessions";
pub const HISTORY: &str = "session_history";
/// What stays of a session: when it was and how much was done in it.
const OF_SESSION: [&str; 7] =
    ["startedAt", "endedAt", "lastActivityAt", "createdAt", "archivedAt", "interactionCount", "durationMs"];

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// Nobody's: these fields stay.
    Nobodys(&'static [&'static str]),
    /// As the policy's rule for AI interactions says.
    AsRule,
    /// Deleted; with a tombstone where a task could make it again without naming the user.
    Gone { tombstone: bool },
}

#[derive(Debug, Clone, Copy)]
struct Trace {
    collection: &'static str,
    becomes: Becomes,
}

const TRACES: [Trace; 6] = [
    Trace { collection: "interactions", becomes: Becomes::Nobodys(&["role", "timestamp", "processingTimeMs"]) },
    Trace { collection: "ai_interactions", becomes: Becomes::AsRule },
    Trace { collection: "auth_logs", becomes: Becomes::Nobodys(&["event", "success", "timestamp"]) },
    Trace { collection: "contexts", becomes: Becomes::Gone { tombstone: true } },
    Trace { collection: TYPING, becomes: Becomes::Gone { tombstone: false } },
    Trace { collection: "analyses", becomes: Becomes::Gone { tombstone: false } },
];
/// A prompt that the user wrote; those that ship with the platform only forget who wrote them.
const TEMPLATES: Trace = Trace { collection: "ai_prompt_templates", becomes: Becomes::Gone { tombstone: true } };
const PREFERENCES: Trace = Trace { collection: "user_preferences", becomes: Becomes::Gone { tombstone: false } };
const SESSION_HISTORY: Trace = Trace { collection: HISTORY, becomes: Becomes::Nobodys(&OF_SESSION) };
/// Fields of versions that name who did something to a document of somebody else.
const NAMED: [(&str, &str); 5] = [
    ("document_versions", "createdBy"),
    ("document_versions", "decidedBy"),
    ("ai_prompt_templates", "createdBy"),
    (SESSIONS, "claimedBy"),
    (HISTORY, "claimedBy"),
];
/// What stays of a lifted hold: ids and times.
const OF_HOLD: [&str; 6] = ["entityType", "entityId", "placedAt", "liftedAt", "placedBy", "liftedBy"];
/// AI interactions keep this where the policy has no rule for them.
const OF_AI: [&str; 5] = ["timestamp", "promptTemplateId", "model", "acceptedSuggestions", "rejectedSuggestions"];

/// The indexes that lead to what a user left, beside those that rules and guards have.
pub fn indexes() -> Vec<(&'static str, IndexModel)> {
    let more = [("auth_logs", "sessionId"), ("analyses", "sessionId"), ("user_preferences", "userId")];
    let named = NAMED.into_iter().chain(more);
    let sparse = |field: &str| {
        let options = IndexOptions::builder().sparse(true).build();
        IndexModel::builder().keys(doc! { field: 1 }).options(options).build()
    };
    named.map(|(collection, field)| (collection, sparse(field))).collect()
}

/// Everything of these sessions, and then the sessions themselves.
///
/// A session that was held meanwhile stays, and is the reason that is answered.
pub async fn of_sessions(person: &Person<'_>, collection: &str, ids: &[Bson]) -> Result<Option<Left>, JobError> {
    for trace in TRACES {
        rows(person, trace, doc! { "sessionId": { "$in": ids }, "userId": { "$in": [null, person.user] } }).await?;
    }
    holds(person, "session", ids).await?;
    let caches = &person.engine.world.caches;
    let sessions: Vec<String> = ids.iter().filter_map(Bson::as_str).map(str::to_owned).collect();
    person.run.call("end sessions", caches.end_sessions(&sessions)).await?;
    if collection == HISTORY {
        rows(person, SESSION_HISTORY, doc! { "_id": { "$in": ids }, "anonymizedAt": null }).await?;
        return Ok(None);
    }
    archive(person, ids).await
}

/// Everything that names the user.
pub async fn of_user(person: &Person<'_>) -> Result<(), JobError> {
    for trace in TRACES {
        rows(person, trace, doc! { "userId": person.user }).await?;
    }
    rows(person, PREFERENCES, doc! { "$or": [{ "_id": person.user }, { "userId": person.user }] }).await?;
    rows(person, TEMPLATES, doc! { "createdBy": person.user, "isSystem": { "$ne": true } }).await?;
    for (collection, field) in NAMED {
        forget_name(person, collection, field).await?;
    }
    holds(person, "user", &[person.user.into()]).await
}

/// Whether any row names the user still; of a user without a row, whether there is anything to do.
pub async fn are_there(person: &Person<'_>) -> Result<bool, JobError> {
    let by_user = TRACES.iter().map(|trace| (trace.collection, "userId"));
    let others = [(SESSIONS, "userId"), (HISTORY, "userId"), ("documents", "userId"), ("user_preferences", "_id")];
    for (collection, field) in by_user.chain(others).chain(NAMED) {
        let rows = person.run.db.collection::<Document>(collection);
        let one = async { rows.find_one(doc! { field: person.user }).projection(doc! { "_id": 1 }).await };
        if person.run.call("traces", one).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// All rows of one kind, page by page: those that are done meet the filter no more.
async fn rows(person: &Person<'_>, trace: Trace, filter: Document) -> Result<(), JobError> {
    let mut misses = Misses::default();
    loop {
        let mut fields = doc! { "_id": 1, "documentId": 1, "sessionId": 1, "_sync": 1 };
        fields.extend(person.engine.world.caches.cached_by(trace.collection).into_iter().map(|f| (f, Bson::Int32(1))));
        let page = person.page(trace.collection, &filter, fields, PAGE).await?;
        if page.is_empty() {
            return Ok(());
        }
        forget(person, trace.collection, &page).await?;
        let ids: Vec<Bson> = page.iter().filter_map(|row| row.get("_id").cloned()).collect();
        let mut met = filter.clone();
        met.remove("_id");
        let met = doc! { "$and": [{ "_id": { "$in": &ids } }, met] };
        let (mut ops, how) = match trace.becomes {
            Becomes::Gone { tombstone } => {
                let stones = ids.iter().filter(|_| tombstone).map(|id| {
                    doc! { "q": { "_id": stone_id(trace.collection, id) }, "u": closed(person, trace.collection, id), "upsert": true }
                });
                let gone = Op::delete("remove traces", trace.collection, met).exactly(ids.len());
                (vec![gone, Op::update("tombstones", TOMBSTONES, stones.collect())], "deleted")
            }
            Becomes::Nobodys(keep) => (vec![nobodys(person, trace.collection, met, keep, ids.len())], "anonymized"),
            Becomes::AsRule => {
                let rules = &person.engine.world.policy.rules;
                let keep =
                    rules.iter().filter(|rule| rule.on == trace.collection).find_map(|rule| match &rule.action {
                        Action::Anonymize { keep, .. } => Some(keep.as_slice()),
                        _ => None,
                    });
                let op = match keep {
                    Some(keep) => nobodys(person, trace.collection, met, keep, ids.len()),
                    None => nobodys(person, trace.collection, met, &OF_AI, ids.len()),
                };
                (vec![op], "anonymized")
            }
        };
        if trace.collection == "contexts" {
            let linked = doc! { "$or": [{ "from": { "$in": &ids } }, { "to": { "$in": &ids } }] };
            let links = find(person.run, "links", "context_links", linked, doc! { "_id": 1 }).await?;
            let links: Vec<Bson> = links.into_iter().filter_map(|mut link| link.remove("_id")).collect();
            ops.push(Op::delete("links", "context_links", doc! { "_id": { "$in": &links } }).exactly(links.len()));
            ops.push(person.count("context_links", "deleted", links.len()));
        }
        ops.push(person.count(trace.collection, how, ids.len()));
        misses.count(write(person.run, &ops).await?)?;
    }
}

fn nobodys(person: &Person<'_>, collection: &str, met: Document, keep: &[impl AsRef<str>], rows: usize) -> Op {
    let update = doc! { "q": met, "u": remains(keep, &[], now(person.run)), "multi": true };
    Op::update("anonymize traces", collection, vec![update]).exactly(rows)
}

/// What says that a row went with its user: `owners` stays empty, so that it leads back to nobody.
fn closed(person: &Person<'_>, collection: &str, id: &Bson) -> Document {
    let mut stone = person.evidence();
    stone.extend(doc! {
        "_id": stone_id(collection, id), "collection": collection, "key": id.clone(), "state": "closed",
        "action": "purge", "owners": [], "closedAt": now(person.run),
    });
    stone
}

/// Sessions that were not archived yet: what stays of them goes to the archived ones, and a tombstone keeps late tasks
/// from making them anew.
async fn archive(person: &Person<'_>, ids: &[Bson]) -> Result<Option<Left>, JobError> {
    let mut misses = Misses::default();
    loop {
        let mut fields = doc! { "_sync": 1, "tenant": 1 };
        fields.extend(OF_SESSION.map(|name| (name.to_owned(), Bson::Int32(1))));
        let page = person.page(SESSIONS, &doc! { "_id": { "$in": ids } }, fields, PAGE).await?;
        if page.is_empty() {
            return Ok(None);
        }
        forget(person, SESSIONS, &page).await?;
        let (mut ops, at) = (Vec::new(), now(person.run));
        let (mut deletes, mut stays, mut stones) = (Vec::new(), Vec::new(), Vec::new());
        for row in &page {
            let id = row.get("_id").cloned().unwrap_or(Bson::Null);
            let rev = row.get_document("_sync").ok().and_then(|sync| sync.get("rev")).cloned().unwrap_or(Bson::Null);
            deletes.push(doc! { "_id": id.clone(), "_sync.rev": rev, "holdCount": { "$in": [null, 0_i64, 0_i32] } });
            let mut kept: Document =
                row.iter().filter(|(name, _)| *name != "_sync").map(|(n, v)| (n.clone(), v.clone())).collect();
            kept.extend(doc! { "state": "anonymized", "anonymizedAt": at });
            stays.push(doc! { "q": { "_id": id.clone() }, "u": kept, "upsert": true });
            stones.push(
                doc! { "q": { "_id": stone_id(SESSIONS, &id) }, "u": closed(person, SESSIONS, &id), "upsert": true },
            );
        }
        ops.push(Op::delete("remove sessions", SESSIONS, doc! { "$or": deletes }).exactly(page.len()));
        ops.push(Op::update("archive sessions", HISTORY, stays));
        ops.push(Op::update("tombstones", TOMBSTONES, stones));
        ops.push(person.count(SESSIONS, "anonymized", page.len()));
        let written = write(person.run, &ops).await?;
        if !written && person.is_held(SESSIONS, &doc! { "_id": { "$in": ids } }).await? {
            return Ok(Some(Left::Held));
        }
        misses.count(written)?;
    }
}

/// Rows of others that name the user: they forget the name.
async fn forget_name(person: &Person<'_>, collection: &str, field: &str) -> Result<(), JobError> {
    let mut misses = Misses::default();
    loop {
        let page = person.page(collection, &doc! { field: person.user }, doc! { "_id": 1, "_sync": 1 }, PAGE).await?;
        if page.is_empty() {
            return Ok(());
        }
        forget(person, collection, &page).await?;
        let ids: Vec<&Bson> = page.iter().filter_map(|row| row.get("_id")).collect();
        let update = doc! {
            "q": { "_id": { "$in": ids }, field: person.user }, "multi": true,
            "u": { "$unset": { field: "" }, "$inc": { "_sync.rev": 1_i64 } },
        };
        let ops = [
            Op::update("forget names", collection, vec![update]).exactly(page.len()),
            person.count(collection, "namesRemoved", page.len()),
        ];
        misses.count(write(person.run, &ops).await?)?;
    }
}

/// Holds that were lifted: their reasons are free text. There are no others: who is held is not anonymized.
pub async fn holds(person: &Person<'_>, entity: &str, ids: &[Bson]) -> Result<(), JobError> {
    let filter =
        doc! { "entityType": entity, "entityId": { "$in": ids }, "anonymizedAt": null, "state": { "$ne": "active" } };
    let mut misses = Misses::default();
    loop {
        let page = person.page("holds", &filter, doc! { "_id": 1 }, PAGE).await?;
        if page.is_empty() {
            return Ok(());
        }
        let of: Vec<&Bson> = page.iter().filter_map(|row| row.get("_id")).collect();
        let mut met = doc! { "_id": { "$in": of } };
        met.extend(filter.clone());
        let mut stages = remains(&OF_HOLD, &[], now(person.run));
        // Lifted once, it is not lifted again.
        stages.push(doc! { "$set": { "state": "lifted" } });
        let update = Op::update("anonymize holds", "holds", vec![doc! { "q": met, "u": stages, "multi": true }]);
        let ops = [update.exactly(page.len()), person.count("holds", "anonymized", page.len())];
        misses.count(write(person.run, &ops).await?)?;
    }
}

/// Pages that others changed between the look and the write; they are looked up anew, but not for ever.
#[derive(Debug, Default)]
struct Misses(u32);

impl Misses {
    fn count(&mut self, written: bool) -> Result<(), JobError> {
        self.0 = if written { 0 } else { self.0 + 1 };
        if self.0 > 20 {
            return Err(JobError::Unconfirmed("others kept writing to what a user left".into()));
        }
        Ok(())
    }
}

/// Drops every key in Redis about the rows, before they change.
async fn forget(person: &Person<'_>, collection: &str, rows: &[Document]) -> Result<(), JobError> {
    let caches = &person.engine.world.caches;
    let text = |row: &Document, name: &str| row.get_str(name).unwrap_or_default().to_owned();
    if collection == TYPING {
        let pairs: Vec<_> = rows.iter().map(|row| (text(row, "documentId"), text(row, "sessionId"))).collect();
        return person.run.call("forget typing", caches.forget_typing(&pairs)).await;
    }
    // Of no revision does a value come back.
    let records: Vec<_> = rows.iter().map(|row| (collection.to_owned(), text(row, "_id"), i64::MAX)).collect();
    person.run.call("forget", caches.forget(&records)).await?;
    forget_by(person.engine, person.run, collection, rows.iter()).await
}
