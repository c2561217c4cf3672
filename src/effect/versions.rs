//! New versions of a document: what is there, the contents, the transaction, and again when others got in the way.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use mongodb::bson::Document;
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Patience, Planned, Records,
    content::{failed, owner, remove, stored},
    numbered::{COUNTER, Committed, commit, number},
    patiently,
    records::{given_back, missing},
};
use crate::{
    content::{ContentRef, Sealing, Tier, described, key},
    metrics::Outcome,
    record::{Clock, is_fenced},
    store::{DOCUMENT_VERSIONS, DOCUMENTS, Given, Refusal, StoreFault, transact},
    task::Reason,
};

/// Versions of one transaction.
const PAGE: usize = 100;
/// A base that is removed meanwhile makes the contents be stored anew; so often at most before the task is tried later.
const ROUNDS: usize = 8;

/// A version to be made.
#[derive(Debug, Clone)]
pub struct New<'a> {
    pub position: usize,
    pub id: String,
    /// Its task, `id@source`.
    pub task: String,
    pub clock: Clock,
    /// When it counts as made; its document was used then.
    pub at: DateTime<Utc>,
    /// What its row holds beside its ids, number and content.
    pub fields: Document,
    pub text: Vec<u8>,
    pub sealing: Sealing<'a>,
}

impl New<'_> {
    /// Suggestions wait for their decision; all others become the current version.
    pub fn becomes_current(&self) -> bool {
        self.fields.get_str("kind").is_ok_and(|kind| kind != AI)
    }
}

pub const AI: &str = "ai";

/// A version whose content is in the object store.
pub struct Stored<'a> {
    pub new: &'a New<'a>,
    pub content: ContentRef,
    /// The hash of what it is a difference to.
    pub base_hash: Option<String>,
    /// Whose it was, for its key.
    pub owner: String,
}

impl<'a> Stored<'a> {
    fn loose(&self) -> (&'a str, String) {
        (&self.new.id, self.content.key.clone())
    }
}

/// Batches of one worker that make versions of one document take turns: only other workers get in their way.
#[derive(Default)]
pub struct Turns([Mutex<()>; 32]);

impl Turns {
    async fn of(&self, document: &str) -> MutexGuard<'_, ()> {
        let place = usize::from(blake3::hash(document.as_bytes()).as_bytes()[0]) % self.0.len();
        self.0[place].lock().await
    }
}

/// Makes versions of one document, in their order.
pub async fn make(
    records: &Records,
    document: &str,
    new: &[New<'_>],
    patience: &Patience<'_>,
) -> Vec<(usize, Planned)> {
    let _turn = records.turns.of(document).await;
    let mut planned = Vec::with_capacity(new.len());
    for page in new.chunks(PAGE) {
        match make_page(records, document, page, patience).await {
            Ok(ends) => planned.extend(ends),
            // One of them cannot be written: the others are all the same.
            Err(_) if page.len() > 1 => {
                for alone in page {
                    let ends = make_page(records, document, std::slice::from_ref(alone), patience).await;
                    planned.extend(ends.unwrap_or_else(|text| vec![refused(alone, text)]));
                }
            }
            Err(text) => planned.extend(page.iter().map(|new| refused(new, text.clone()))),
        }
    }
    planned
}

fn refused(new: &New<'_>, text: String) -> (usize, Planned) {
    (new.position, Planned::Dead(Reason::Rejected, text))
}

/// `Err`: MongoDB refuses them for good; nothing was written.
async fn make_page(
    records: &Records,
    document: &str,
    page: &[New<'_>],
    patience: &Patience<'_>,
) -> Result<Vec<(usize, Planned)>, String> {
    let mut planned: Vec<(usize, Planned)> = Vec::new();
    let mut open: Vec<&New<'_>> = page.iter().collect();
    let mut loose: Vec<(&str, String)> = Vec::new();
    for _ in 0..ROUNDS {
        let Some(looked) = patiently!(patience, "mongodb", look(records, document, &open)) else { break };
        open.retain(|new| match looked.end(document, new) {
            Some(plan) => {
                planned.push((new.position, plan));
                false
            }
            None => true,
        });
        let Some(row) = looked.row.filter(|_| !open.is_empty()) else {
            tidy(records, &loose, patience).await;
            return Ok(planned);
        };
        let ready = store(records, document, &row, looked.base, &mut open, &mut planned, patience).await;
        if ready.is_empty() {
            tidy(records, &loose, patience).await;
            return Ok(planned);
        }
        let mut sent = false;
        let committed = patiently!(patience, "mongodb", async {
            let done = transact!(records.store, rows, commit(records, &mut rows, document, &ready, sent)).refusal();
            // Whether a commit without an answer took place, is unknown: what is found next time was written.
            sent = true;
            done
        });
        match committed {
            None => break,
            Some(Err(Given::Up(text))) => return Err(text),
            Some(Err(Given::Way)) => {
                planned.extend(open.iter().map(|new| (new.position, given_back(Given::Way))));
                return Ok(planned);
            }
            Some(Ok(Committed::Again)) => loose.extend(ready.iter().map(Stored::loose)),
            Some(Ok(Committed::Ends(ends))) => {
                let lost = ready.iter().zip(&ends).filter(|(_, end)| **end != Outcome::Written);
                loose.extend(lost.map(|(stored, _)| stored.loose()));
                tidy(records, &loose, patience).await;
                planned.extend(ready.iter().zip(ends).map(|(s, end)| (s.new.position, Planned::Done(end))));
                return Ok(planned);
            }
        }
    }
    // The worker stops, or others got in the way again and again: they are given back.
    planned.extend(open.iter().map(|new| (new.position, Planned::Released)));
    Ok(planned)
}

/// What is there of a document before versions are made.
struct Looked {
    row: Option<Document>,
    purged: bool,
    /// The versions' ids that are taken, and the purged ones.
    versions: HashMap<String, Document>,
    gone: HashSet<String>,
    /// The newest version that is a full copy.
    base: Option<Base>,
}

/// A version that others can be stored as a difference to.
#[derive(Debug, Clone)]
struct Base {
    id: String,
    number: i64,
    content: ContentRef,
}

async fn look(records: &Records, document: &str, new: &[&New<'_>]) -> Result<Looked, StoreFault> {
    let store = &records.store;
    let ids: Vec<&str> = new.iter().map(|n| n.id.as_str()).collect();
    let versions = store.records_by_id(DOCUMENT_VERSIONS, &ids).await?;
    let row = store.records_by_id(DOCUMENTS, &[document]).await?.remove(document);
    let purged = row.is_none() && !store.purged(DOCUMENTS, &[document]).await?.is_empty();
    let gone = store.purged(DOCUMENT_VERSIONS, &ids).await?;
    let base = match &row {
        Some(_) => store.last_full_version(document).await?,
        None => None,
    };
    let base = base.and_then(|version| {
        let (id, content) = (version.get_str("_id").ok()?.to_owned(), described(&version)?);
        Some(Base { id, number: number(&version, "versionNumber"), content })
    });
    Ok(Looked { row, purged, versions, gone, base })
}

impl Looked {
    /// How a task ends without anything being stored; `None`: it goes on.
    fn end(&self, document: &str, new: &New<'_>) -> Option<Planned> {
        if let Some(taken) = self.versions.get(&new.id) {
            return Some(duplicate(document, &new.id, taken));
        }
        match &self.row {
            _ if self.gone.contains(&new.id) || self.purged => Some(Planned::Done(Outcome::Expired)),
            None => Some(missing(DOCUMENTS, document)),
            Some(row) if is_fenced(row) => Some(Planned::Done(Outcome::Expired)),
            Some(_) => None,
        }
    }
}

/// A version's id is taken: by an earlier delivery, as a rule.
fn duplicate(document: &str, id: &str, taken: &Document) -> Planned {
    if taken.get_str("documentId").is_ok_and(|of| of == document) {
        return Planned::Done(Outcome::Duplicate);
    }
    Planned::Dead(Reason::Rejected, format!("the version {id:?} is of another document: send it with an id of its own"))
}

/// Stores the contents; those that cannot be are planned and not among the answer.
async fn store<'a>(
    records: &Records,
    document: &str,
    row: &Document,
    mut base: Option<Base>,
    open: &mut Vec<&'a New<'a>>,
    planned: &mut Vec<(usize, Planned)>,
    patience: &Patience<'_>,
) -> Vec<Stored<'a>> {
    let owner = owner(row).unwrap_or_default();
    let mut next = number(row, COUNTER) + 1;
    let mut ready: Vec<Stored<'a>> = Vec::with_capacity(open.len());
    let mut seen: HashSet<&str> = HashSet::new();
    let mut left: Vec<&'a New<'a>> = Vec::new();
    for &new in open.iter() {
        if !seen.insert(&new.id) {
            planned.push((new.position, Planned::Done(Outcome::Duplicate)));
            continue;
        }
        let against = base.as_ref().filter(|base| records.content.may_differ(next - base.number));
        let prefix = key::version(owner, document, &new.id);
        let saved = stored!(
            patience,
            records.content.save_version(&prefix, &new.text, against.map(|b| (b.id.as_str(), &b.content)), new.sealing)
        );
        let content = match saved {
            None => {
                planned.push((new.position, Planned::Released));
                continue;
            }
            Some(Err(fault)) => {
                planned.push((new.position, failed(&fault)));
                continue;
            }
            Some(Ok(content)) => content,
        };
        let base_hash = against.filter(|_| !content.is_full()).map(|b| b.content.hash.clone());
        if content.is_full() {
            base = Some(Base { id: new.id.clone(), number: next, content: content.clone() });
        }
        ready.push(Stored { new, content, base_hash, owner: owner.to_owned() });
        left.push(new);
        next += 1;
    }
    *open = left;
    ready
}

/// Removes the objects among those that were stored for versions, by their ids, that no row describes.
async fn tidy(records: &Records, loose: &[(&str, String)], patience: &Patience<'_>) {
    if loose.is_empty() {
        return;
    }
    let ids: Vec<&str> = loose.iter().map(|(id, _)| *id).collect();
    let Some(rows) = patiently!(patience, "mongodb", records.store.records_by_id(DOCUMENT_VERSIONS, &ids)) else {
        return;
    };
    for (id, key) in loose {
        if rows.get(*id).and_then(described).is_none_or(|content| content.key != *key) {
            remove(records, Tier::Hot, key, patience).await;
        }
    }
}
