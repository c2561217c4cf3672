//! Whether a scanned row is due, by the row itself. Pure.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document};

use super::date_of;
use crate::policy::{Guard, Rule, before};

/// A row that is due.
#[derive(Debug, Clone)]
pub struct Due {
    pub id: Bson,
    pub case: usize,
    /// The date that makes it due.
    pub date: DateTime<Utc>,
    /// What its date must not be younger than: of its tenant, if that has a term of its own.
    pub cutoff: DateTime<Utc>,
    pub row: Document,
}

/// Why a row that the scan found is not acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It, or what it belongs to, is held.
    Held,
    /// Its tenant has a longer term, or none.
    Tenant,
    Guarded(Guard),
    /// It misses a field that the rule asks for.
    Lacking,
    /// It is not due any more, by what a plan said.
    NotDue,
    /// Its date is none.
    Undated,
    /// A purge of it has begun.
    Purging,
    /// A claim of the session has contents to remove still.
    Claimed,
    /// Its document is not there, and was not purged.
    NoDocument,
    /// It changed between the scan and the write.
    Changed,
    /// Others kept writing to it.
    Busy,
    /// Something of it cannot be removed now; it stays fenced, and the next run tries again.
    Stuck,
}

impl Left {
    /// The key under which it is counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Left::Held => "held",
            Left::Tenant => "tenant-term",
            Left::Guarded(Guard::NoLiveSession) => "live-session",
            Left::Guarded(Guard::SessionExpired) => "session-not-expired",
            Left::Guarded(Guard::NotCurrent) => "current",
            Left::Guarded(Guard::NoDeltaBase) => "delta-base",
            Left::Guarded(Guard::Superseded) => "not-superseded",
            Left::Lacking => "lacking",
            Left::NotDue => "not-due",
            Left::Undated => "undated",
            Left::Purging => "purging",
            Left::Claimed => "claim-unfinished",
            Left::NoDocument => "no-document",
            Left::Changed => "changed",
            Left::Busy => "busy",
            Left::Stuck => "stuck",
        }
    }
}

/// The row's own part of the predicate.
pub fn judge(rule: &Rule, case: usize, row: Document, now: DateTime<Utc>) -> Result<Due, Left> {
    let Some(of) = rule.cases.get(case) else { return Err(Left::Lacking) };
    if row.get_str("state").is_ok_and(|state| state == "purging") {
        return Err(Left::Purging);
    }
    let there = |name: &str| row.get(name).is_some_and(|value| *value != Bson::Null);
    if !of.present.iter().all(|name| there(name)) {
        return Err(Left::Lacking);
    }
    let Some(date) = date_of(&row, &of.date) else { return Err(Left::Undated) };
    let term = rule.term(case, row.get_str("tenant").ok()).ok_or(Left::Tenant)?;
    let cutoff = before(now, term);
    if date > cutoff {
        let of_tenant = row.get_str("tenant").is_ok_and(|tenant| rule.tenants.contains_key(tenant));
        return Err(if of_tenant { Left::Tenant } else { Left::NotDue });
    }
    if is_held(&row) {
        return Err(Left::Held);
    }
    let id = row.get("_id").cloned().unwrap_or(Bson::Null);
    Ok(Due { id, case, date, cutoff, row })
}

/// Whether a legal hold is on the row. A count of an odd type holds, too.
pub fn is_held(row: &Document) -> bool {
    match row.get("holdCount") {
        None | Some(Bson::Null) => false,
        Some(Bson::Int64(n)) => *n != 0,
        Some(Bson::Int32(n)) => *n != 0,
        Some(_) => true,
    }
}
