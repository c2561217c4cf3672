//! What a session came to.

use std::collections::{BTreeSet, HashMap};

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime as BsonDate, Document, doc};

use crate::{
    engine::{
        guards::{find, key},
        judge::Due,
    },
    kit::{JobError, Run},
};

/// So many documents at most are named in a summary.
pub const DOCUMENTS: usize = 1_000;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    pub interactions: i64,
    /// When the first one was.
    pub first: Option<BsonDate>,
    /// Ids, the first [`DOCUMENTS`] in their order.
    pub documents: BTreeSet<String>,
    /// Keys of its typing contexts: document, session.
    pub typing: Vec<(String, String)>,
}

impl Summary {
    fn touched(&mut self, document: Option<&str>) {
        let Some(document) = document.filter(|id| !id.is_empty()) else { return };
        self.documents.insert(document.to_owned());
        if self.documents.len() > DOCUMENTS {
            self.documents.pop_last();
        }
    }
}

/// The summaries of these sessions, by their ids.
pub async fn summaries(run: &Run, due: &[Due]) -> Result<HashMap<String, Summary>, JobError> {
    let ids: Vec<&Bson> = due.iter().map(|item| &item.id).collect();
    let mut all: HashMap<String, Summary> = HashMap::with_capacity(due.len());
    for item in due {
        all.entry(key(&item.id)).or_default().touched(item.row.get_str("documentId").ok());
    }
    let stages = [
        doc! { "$match": { "sessionId": { "$in": &ids } } },
        doc! { "$group": {
            "_id": { "session": "$sessionId", "document": "$documentId" },
            "count": { "$sum": 1_i64 },
            "first": { "$min": "$timestamp" },
        } },
    ];
    let interactions = run.db.collection::<Document>("interactions");
    let groups = async {
        // As they come: a session may have touched more documents than are kept.
        let mut cursor = interactions.aggregate(stages).allow_disk_use(true).await?;
        while let Some(group) = cursor.try_next().await? {
            let Ok(of) = group.get_document("_id") else { continue };
            let Some(summary) = of.get("session").and_then(|id| all.get_mut(&key(id))) else { continue };
            summary.interactions += group.get_i64("count").unwrap_or(0);
            let first = group.get_datetime("first").ok().copied();
            summary.first = [summary.first, first].into_iter().flatten().min();
            summary.touched(of.get_str("document").ok());
        }
        Ok::<_, mongodb::error::Error>(())
    };
    run.call("interactions", groups).await?;
    let of_them = doc! { "sessionId": { "$in": &ids } };
    let fields = doc! { "sessionId": 1, "documentId": 1 };
    for typing in find(run, "typing contexts", "typing_contexts", of_them.clone(), fields).await? {
        let document = typing.get_str("documentId").ok();
        if let Some((session, summary)) = of(&typing, &mut all) {
            summary.touched(document);
            summary.typing.extend(document.map(|document| (document.to_owned(), session)));
        }
    }
    for document in find(run, "documents", "documents", of_them, doc! { "sessionId": 1 }).await? {
        if let Some((_, summary)) = of(&document, &mut all) {
            summary.touched(document.get_str("_id").ok());
        }
    }
    Ok(all)
}

fn of<'s>(row: &Document, all: &'s mut HashMap<String, Summary>) -> Option<(String, &'s mut Summary)> {
    let session = row.get("sessionId").map(key)?;
    all.get_mut(&session).map(|summary| (session, summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_so_many_documents_and_always_the_same() {
        let (mut up, mut down) = (Summary::default(), Summary::default());
        for at in 0..2 * DOCUMENTS {
            up.touched(Some(&format!("d{at:06}")));
            down.touched(Some(&format!("d{:06}", 2 * DOCUMENTS - 1 - at)));
        }
        up.touched(None);
        up.touched(Some(""));
        assert_eq!(up, down);
        assert_eq!(up.documents.len(), DOCUMENTS);
        assert_eq!(up.documents.first().map(String::as_str), Some("d000000"));
    }
}
