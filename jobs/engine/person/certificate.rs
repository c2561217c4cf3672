//! What an erasure leaves behind: a certificate that says what was removed where, and what remains until when.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Map, Value};

use super::{USERS, documents};
use crate::{
    engine::{
        Engine,
        guards::find,
        purge::insert_once,
        take::{TOMBSTONES, now, stone_id},
    },
    kit::{JobError, Run, chain, from_bson, strict, to_bson},
};

/// One document per erasure, `_id` = `USER/MILLISECONDS` of its fence.
pub const CERTIFICATES: &str = "erasure_certificates";

/// Days that daily snapshots of MongoDB are kept (seed 004, "Backup and Recovery").
const MONGODB_BACKUPS: i64 = 7;
/// Days that daily snapshots of Redis are kept (same place).
const REDIS_BACKUPS: i64 = 3;
/// Days that dead letters are kept, unless the policy's rule `dead-letter` says otherwise.
const DEAD_LETTERS: i64 = 30;

/// A certificate as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate(pub Document);

impl Certificate {
    pub fn id(&self) -> &str {
        self.0.get_str("_id").unwrap_or_default()
    }

    /// As plain JSON, with times as RFC 3339.
    pub fn json(&self) -> Value {
        json(&Bson::Document(self.0.clone()))
    }

    /// Those of a user, oldest first, or the one of this id.
    pub async fn find(run: &Run, id: &str) -> Result<Vec<Self>, JobError> {
        let filter = doc! { "$or": [{ "_id": id }, { "user": id }] };
        let mut found = find(run, "certificates", CERTIFICATES, filter, doc! {}).await?;
        found.sort_by_key(|c| c.get_datetime("finishedAt").map_or(0, |at| at.timestamp_millis()));
        Ok(found.into_iter().map(Self).collect())
    }
}

/// What was counted on the tombstone, with its documents.
pub async fn counts(run: &Run, stone: &Document) -> Result<Document, JobError> {
    let id = doc! { "_id": stone.get("_id") };
    let stone = find(run, "user tombstone", TOMBSTONES, id, doc! {}).await?.pop().unwrap_or_default();
    let mut counts = stone.get_document("counts").cloned().unwrap_or_default();
    let (documents, versions, objects) = documents::counts(&stone);
    for (name, n) in [("documents", documents), ("document_versions", versions), ("objects", objects)] {
        if n > 0 {
            let mut of = counts.get_document(name).cloned().unwrap_or_default();
            of.insert("deleted", n);
            counts.insert(name, of);
        }
    }
    Ok(counts)
}

/// Writes the certificate of a finished anonymization, inside and outside of the database, and closes its tombstone.
pub async fn write(engine: &Engine<'_>, run: &Run, user: &str) -> Result<(), JobError> {
    let open = doc! { "_id": stone_id(USERS, &user.into()), "state": "open" };
    let Some(stone) = find(run, "user tombstone", TOMBSTONES, open, doc! {}).await?.pop() else { return Ok(()) };
    let fenced = stone.get_datetime("fencedAt").map_or(0, |at| at.timestamp_millis());
    let id = format!("{user}/{fenced}");
    let known = find(run, "certificate", CERTIFICATES, doc! { "_id": &id }, doc! {}).await?.pop();
    let certificate = match known {
        Some(known) => Certificate(known),
        None => {
            run.call("link audit", chain::link(&run.db, engine.world.audit_key.as_ref())).await?;
            let head = find(run, "audit head", chain::AUDIT_HEAD, doc! { "_id": "head" }, doc! {}).await?.pop();
            let made = made(engine, run, user, &id, &stone, head.unwrap_or_default());
            insert_once(run, CERTIFICATES, vec![made]).await?;
            // Another process may have been first: its certificate holds.
            let kept = find(run, "certificate", CERTIFICATES, doc! { "_id": &id }, doc! {}).await?.pop();
            Certificate(kept.ok_or_else(|| JobError::Unconfirmed(format!("the certificate {id:?} is not there")))?)
        }
    };
    let bytes = serde_json::to_vec_pretty(&certificate.json()).map_err(|e| JobError::Failed(e.into()))?;
    run.call("certificate outside", engine.world.anchors.create(&name(user, fenced), bytes)).await?;
    let stones = strict(&run.db).collection::<Document>(TOMBSTONES);
    let close = doc! { "$set": { "state": "closed", "closedAt": now(run), "certificate": &id } };
    let open = doc! { "_id": stone.get("_id"), "state": "open" };
    run.call("close tombstone", async { stones.update_one(open, close).await }).await.map(|_| ())
}

/// The file outside of the database. Ids may hold what names of files do not.
fn name(user: &str, fenced: i64) -> String {
    let hash = blake3::hash(user.as_bytes()).to_hex();
    format!("certificate-{fenced:013}-{}.json", &hash.as_str()[..16])
}

fn made(engine: &Engine<'_>, run: &Run, user: &str, id: &str, stone: &Document, head: Document) -> Document {
    let of = |name: &str| stone.get(name).cloned().unwrap_or(Bson::Null);
    let request = stone.get_document("request").cloned().unwrap_or_default();
    let finished = stone.get_datetime("finishedAt").map_or(run.now, |at| from_bson(*at));
    doc! {
        "_id": id,
        "user": user,
        "rule": of("rule"),
        "requestedBy": request.get_str("by").unwrap_or("contextd"),
        "requestedAt": request.get("at").cloned().unwrap_or_else(|| of("date")),
        "reason": request.get("reason").cloned().unwrap_or(Bson::Null),
        "startedAt": of("fencedAt"),
        "finishedAt": to_bson(finished),
        "policy": of("policy"),
        "changed": of("counts"),
        "remains": remains(engine, user, finished, stone.get_array("unread").cloned().unwrap_or_default()),
        "audit": {
            "seq": head.get("seq").cloned().unwrap_or(Bson::Null),
            "hash": head.get("hash").cloned().unwrap_or(Bson::Null),
        },
    }
}

/// What an erasure cannot reach, and until when it is there.
fn remains(engine: &Engine<'_>, user: &str, finished: DateTime<Utc>, unread: Vec<Bson>) -> Vec<Document> {
    let after = |days: i64| Bson::from(to_bson(finished + TimeDelta::days(days)));
    let rule = engine.world.policy.rule("dead-letter").filter(|rule| rule.enabled);
    let letters = rule.and_then(|rule| TimeDelta::from_std(rule.cases.first()?.after).ok());
    let letters = letters.map_or(after(DEAD_LETTERS), |term| to_bson(finished + term).into());
    let part = |what: &str, until: Bson, note: String| doc! { "what": what, "until": until, "note": note };
    let damaged = doc! {
        "what": "archived logs that cannot be read", "until": Bson::Null, "files": unread.clone(),
        "note": "Restore these files from a backup of the archive tier, or delete them: what they hold of the user is there.",
    };
    let mut all = vec![
        part(
            "backups of MongoDB",
            after(MONGODB_BACKUPS),
            format!("Daily snapshots are kept for {MONGODB_BACKUPS} days. After a restore, `contextd policy replay` erases again."),
        ),
        part(
            "backups of Redis",
            after(REDIS_BACKUPS),
            format!("Daily snapshots are kept for {REDIS_BACKUPS} days; cached records in them end by their own terms."),
        ),
        part(
            "earlier versions of objects",
            Bson::Null,
            "If the bucket keeps versions or copies, as long as the bucket's own rules say.".into(),
        ),
        part(
            "dead letters",
            letters,
            "They hold the original bytes of tasks that failed and are not searched by user; the last that can name the \
             user goes then."
                .into(),
        ),
        part(
            "waiting tasks in Redis",
            Bson::Null,
            "Tasks that name the user end as expired when they are taken, without effect.".into(),
        ),
        part(
            "evidence",
            Bson::Null,
            format!("Tombstones, audit entries and this certificate keep the id {user:?} and ids of documents, for ever."),
        ),
        part(
            "memory of running workers",
            Bson::Null,
            "Records for a few seconds; findings about texts, without names, until others take their place.".into(),
        ),
        part(
            "keys of encrypted fields",
            Bson::Null,
            "Data keys belong to tenants, not to users: they stay. Nothing of the user is encrypted with them any more.".into(),
        ),
    ];
    all.extend((!unread.is_empty()).then_some(damaged));
    all
}

fn json(value: &Bson) -> Value {
    match value {
        Bson::Document(document) => {
            Value::Object(document.iter().map(|(name, value)| (name.clone(), json(value))).collect::<Map<_, _>>())
        }
        Bson::Array(items) => items.iter().map(json).collect(),
        Bson::DateTime(at) => from_bson(*at).to_rfc3339_opts(SecondsFormat::Millis, true).into(),
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    }
}
