//! `contextd get document ID --content` and `contextd get version ID --content [--diff OTHER]`: the text itself;
//! `contextd content unarchive ID`: brought back from the archive tier.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use contextd_jobs::{
    Run,
    engine::unarchive::{self, Unarchived},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    failure::{Failure, Printed},
    get::GetArgs,
};
use crate::{
    config::Config,
    content::{Content, ContentFault, FaultKind, ReadError, diff, read},
    lifecycle,
    record::is_deleted,
    store::{DOCUMENT_VERSIONS, DOCUMENTS, Store},
    vault::Vault,
};

/// A difference of two large texts is looked for as long as this; then a longer one is shown.
const DIFF_LIMIT: Duration = Duration::from_secs(2);

/// # Errors
/// No such content, a damaged one, or a service cannot be asked.
pub async fn content(args: &GetArgs, config: &Config, store: Store) -> Result<Printed, Failure> {
    let collection = match args.kind.as_str() {
        "document" => DOCUMENTS,
        "version" => DOCUMENT_VERSIONS,
        kind => {
            let text = format!("a {kind} has no content of its own: `--content` goes with `document` and `version`");
            return Err(Failure::Usage(text));
        }
    };
    let vault = Arc::new(Vault::new(&config.encryption, store.clone())?);
    let contents = Content::new(&config.content, Some(vault))?;
    let text = text(args, &store, &contents, collection, &args.id).await?;
    let Some(other) = &args.diff else {
        if args.json {
            return Printed::json(&json!({ "kind": args.kind, "id": args.id, "content": text }));
        }
        // Byte for byte: no line break that is not in it.
        return Ok(Printed { text, wrong: None });
    };
    let other_text = self::text(args, &store, &contents, collection, other).await?;
    // From the other to this one, on a thread where it holds nothing up.
    let (from, to) = (other.clone(), args.id.clone());
    let made = tokio::task::spawn_blocking(move || diff::unified((&from, &other_text), (&to, &text), DIFF_LIMIT)).await;
    let shown = made.map_err(|e| Failure::Internal(format!("the difference was not made: {e}")))?;
    if args.json {
        return Printed::json(&json!({ "kind": args.kind, "id": args.id, "other": other, "diff": shown }));
    }
    Ok(Printed { text: shown, wrong: None })
}

async fn text(
    args: &GetArgs,
    store: &Store,
    contents: &Content,
    collection: &str,
    id: &str,
) -> Result<String, Failure> {
    let row = store.by_ids(collection, &[id.to_owned()]).await?.pop();
    let Some(row) = row.filter(|row| args.deleted || !is_deleted(row)) else {
        let hint = if args.deleted { "" } else { ", or it is deleted (--deleted shows it)" };
        return Err(Failure::Wrong(format!("there is no {} {id:?}{hint}", args.kind)));
    };
    if !row.contains_key("content") {
        return Err(Failure::Wrong(format!("the {} {id:?} has no content yet", args.kind)));
    }
    let bytes = match read(store, contents, collection, id).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Failure::Wrong(format!("there is no {} {id:?} any more", args.kind))),
        Err(ReadError::Store(fault)) => return Err(fault.into()),
        Err(ReadError::Content(fault)) => return Err(fault.into()),
    };
    String::from_utf8(bytes).map_err(|_| Failure::Wrong(format!("the content of {id:?} is no UTF-8 text")))
}

#[derive(Debug, Clone, clap::Args)]
pub struct UnarchiveArgs {
    /// The document's id
    pub document: String,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Brings the contents of a document and its versions back from the archive tier, and makes it active if it is archived.
///
/// # Errors
/// There is no such document, one of its contents is damaged or missing (nothing was changed), or a service cannot be
/// asked.
pub async fn unarchive(
    args: &UnarchiveArgs,
    config: &Config,
    store: &Store,
    now: DateTime<Utc>,
) -> Result<Printed, Failure> {
    let world = lifecycle::world(config).map_err(Failure::Configuration)?;
    let mut run = Run::new(store.database(), "content-unarchive", now, now, CancellationToken::new(), None);
    run.dry_run = false;
    let id = &args.document;
    let (contents, text) = match unarchive::unarchive(&world, &run, &id.as_str().into()).await? {
        Unarchived::Done(contents) => (contents, format!("{contents} contents of the document {id:?} are back\n")),
        Unarchived::Nothing => (0, format!("the document {id:?} is not archived\n")),
        Unarchived::Missing => return Err(Failure::Wrong(format!("there is no document {id:?}"))),
        Unarchived::Busy => {
            return Err(Failure::NotFinished(format!(
                "the document {id:?} is being written to or moved: try again in some minutes"
            )));
        }
        Unarchived::Damaged(why) => {
            return Err(Failure::Wrong(format!("the document {id:?} stays as it was: {why}")));
        }
    };
    if args.json {
        return Printed::json(&json!({ "document": id, "contents": contents }));
    }
    Ok(Printed::text(text))
}

impl From<ContentFault> for Failure {
    fn from(fault: ContentFault) -> Self {
        match fault.kind {
            FaultKind::Unavailable => Failure::Unavailable(fault.message),
            FaultKind::Missing | FaultKind::Corrupt => Failure::Wrong(fault.message),
            FaultKind::Configuration => Failure::Configuration(fault.message),
        }
    }
}
