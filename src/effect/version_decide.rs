//! `version.decide`: an AI's suggestion is accepted, and becomes a major version and the current one, or is rejected.
//!
//! An acceptance is final, whatever arrives before or after it; among several decisions of one kind the newest counts.

use chrono::{DateTime, Utc};
use mongodb::bson::{DateTime as BsonDate, Document};

use super::{
    Patience, Planned, Records,
    numbered::point,
    patiently,
    records::{Due, given_back, missing_or_purged},
    versions::AI,
};
use crate::{
    metrics::Outcome,
    record::{Action, Change, SYNC, Sync, is_fenced},
    store::{DOCUMENT_VERSIONS, DOCUMENTS, Refusal, Rows, RowsError, transact},
    task::Reason,
};

const ACCEPTED: &str = "accepted";

enum Decided {
    Done(Outcome),
    Missing(&'static str, String),
}

pub async fn run(records: &Records, due: &Due<'_>, now: DateTime<Utc>, patience: &Patience<'_>) -> Planned {
    let (key, change) = match Change::of(due.declared, due.task, now, records.skew) {
        Ok(made) => made,
        Err(e) => return Planned::Dead(Reason::Schema, e.to_string()),
    };
    let decision = due.text("decision");
    let decided = patiently!(patience, "mongodb", async {
        transact!(records.store, rows, decide(&mut rows, &key, decision, &change)).refusal()
    });
    let outcome = match decided {
        None => return Planned::Released,
        Some(Err(given)) => return given_back(given),
        Some(Ok(Decided::Done(outcome))) => outcome,
        Some(Ok(Decided::Missing(collection, id))) => {
            return missing_or_purged(records, collection, &id, patience).await;
        }
    };
    if !matches!(outcome, Outcome::Written | Outcome::Duplicate) {
        return Planned::Done(outcome);
    }
    let entry = due.audit(&key, &change, outcome);
    match patiently!(patience, "mongodb", records.store.audit(std::slice::from_ref(&entry))) {
        Some(()) => Planned::Done(outcome),
        None => Planned::Released,
    }
}

async fn decide(rows: &mut Rows<'_>, key: &str, decision: &str, change: &Change) -> Result<Decided, RowsError> {
    let Some(mut version) = rows.get(DOCUMENT_VERSIONS, key).await? else {
        return Ok(Decided::Missing(DOCUMENT_VERSIONS, key.to_owned()));
    };
    let document = version.get_str("documentId").unwrap_or_default().to_owned();
    let Some(mut row) = rows.get(DOCUMENTS, &document).await? else {
        return Ok(Decided::Missing(DOCUMENTS, document));
    };
    if is_fenced(&version) || is_fenced(&row) {
        return Ok(Decided::Done(Outcome::Expired));
    }
    match apply(&mut version, decision, change) {
        Applied::Written => {}
        Applied::Duplicate => return Ok(Decided::Done(Outcome::Duplicate)),
        Applied::Superseded => return Ok(Decided::Done(Outcome::Superseded)),
        Applied::Refused(text) => return Err(RowsError::refuse(text)),
    }
    rows.put(DOCUMENT_VERSIONS, version).await?;
    if decision == ACCEPTED {
        point(&mut row, key, change.clock, &change.task);
        rows.put(DOCUMENTS, row).await?;
    }
    Ok(Decided::Done(Outcome::Written))
}

#[derive(Debug, PartialEq, Eq)]
enum Applied {
    Written,
    Duplicate,
    Superseded,
    Refused(String),
}

/// What a decision makes of a version. Pure.
fn apply(version: &mut Document, decision: &str, change: &Change) -> Applied {
    let mut sync = Sync::of(version);
    let before = version.get_str("decision").ok();
    let kind = version.get_str("kind").unwrap_or_default();
    if before.is_none() && kind != AI {
        return Applied::Refused(format!("only suggestions of kind \"ai\" are decided, and this version is {kind:?}"));
    }
    let at = sync.clock("decision");
    let accepts = decision == ACCEPTED && before != Some(ACCEPTED);
    let stays = decision != ACCEPTED && before == Some(ACCEPTED);
    match at {
        Some(at) if at == change.clock.0 => return Applied::Duplicate,
        _ if stays => return Applied::Superseded,
        Some(at) if at > change.clock.0 && !accepts => return Applied::Superseded,
        _ => {}
    }
    if let Action::Merge(fields) = &change.action {
        version.extend(fields.clone());
    }
    version.insert("decision", decision);
    version.insert("decidedAt", BsonDate::from_millis(change.at.timestamp_millis()));
    if decision == ACCEPTED {
        version.insert("kind", "major");
    }
    // A clock of a field never goes back; that of an acceptance is its own, whatever it follows.
    sync.set_clock("decision", change.clock);
    if change.clock.0 >= sync.order {
        sync.order = change.clock.0;
        sync.task.clone_from(&change.task);
    }
    version.insert(SYNC, sync.to_document());
    Applied::Written
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;
    use crate::record::Clock;

    fn decision(order: i64, by: &str) -> Change {
        Change {
            clock: Clock::new(order, by).unwrap(),
            at: DateTime::UNIX_EPOCH,
            task: by.to_owned(),
            action: Action::Merge(doc! { "decidedBy": by }),
            create: Document::new(),
            required: true,
        }
    }

    /// Applies decisions in this order to a suggestion.
    fn after(decisions: &[(&str, &Change)]) -> (Document, Vec<Applied>) {
        let mut version = doc! { "_id": "v", "kind": AI };
        let ends = decisions.iter().map(|(d, change)| apply(&mut version, d, change)).collect();
        (version, ends)
    }

    #[test]
    fn whatever_the_order_of_arrival_the_version_is_the_same() {
        let (early, middle, late) = (decision(1, "a"), decision(2, "b"), decision(3, "c"));
        for kinds in [
            ["rejected", "accepted", "rejected"],
            ["accepted", "rejected", "accepted"],
            ["rejected", "rejected", "rejected"],
            ["accepted", "accepted", "rejected"],
        ] {
            let all = [(kinds[0], &early), (kinds[1], &middle), (kinds[2], &late)];
            let (expected, _) = after(&all);
            for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let (version, _) = after(&order.map(|i| all[i]));
                for field in ["kind", "decision", "decidedBy"] {
                    assert_eq!(version.get(field), expected.get(field), "{field}, {kinds:?} as {order:?}");
                }
            }
            let is_major = kinds.contains(&ACCEPTED);
            assert_eq!(expected.get_str("kind").unwrap(), if is_major { "major" } else { AI });
        }
    }

    #[test]
    fn each_decision_ends_as_it_should() {
        let (early, late) = (decision(1, "a"), decision(2, "b"));
        fn ends(decisions: &[(&str, &Change)]) -> Vec<Applied> {
            after(decisions).1
        }
        assert_eq!(ends(&[("accepted", &early), ("accepted", &early)]), [Applied::Written, Applied::Duplicate]);
        assert_eq!(ends(&[("rejected", &late), ("rejected", &early)]), [Applied::Written, Applied::Superseded]);
        assert_eq!(ends(&[("rejected", &late), ("accepted", &early)]), [Applied::Written, Applied::Written]);
        assert_eq!(ends(&[("accepted", &early), ("rejected", &late)]), [Applied::Written, Applied::Superseded]);
        let mut saved = doc! { "_id": "v", "kind": "minor" };
        assert!(matches!(apply(&mut saved, "accepted", &early), Applied::Refused(text) if text.contains("\"minor\"")));
    }
}
