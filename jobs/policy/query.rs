//! What a rule asks of the database: the index that serves it, its bounds, and the predicate that every write repeats.

use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::{Bson, Document, doc};

use super::{Case, Rule};
use crate::kit::to_bson;

/// An index: a collection and its keys, all ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    pub collection: String,
    pub keys: Vec<String>,
}

/// Sorts before every id.
pub const MIN_ID: Bson = Bson::MinKey;

impl Case {
    /// The instant before which a date is due: `now - after`. A term longer than the calendar keeps everything.
    pub fn cutoff(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        before(now, self.after)
    }

    /// The index that serves the scan: what must be equal or absent, the date, the id.
    pub fn keys(&self) -> Vec<String> {
        let fixed = self.equal.iter().map(|(name, _)| name).chain(&self.absent);
        fixed.chain([&self.date]).cloned().chain(["_id".to_owned()]).collect()
    }

    pub fn hint(&self) -> Document {
        self.keys().into_iter().map(|name| (name, Bson::Int32(1))).collect()
    }

    /// The place in the index of a row with this date and id.
    pub fn bound(&self, date: Bson, id: Bson) -> Document {
        let mut place: Document = self.equal.iter().cloned().collect();
        place.extend(self.absent.iter().map(|name| (name.clone(), Bson::Null)));
        place.insert(self.date.clone(), date);
        place.insert("_id", id);
        place
    }

    /// Everything about the row itself that makes it due; every write repeats it. A field `holdCount` other than 0, or
    /// the state `purging`, never matches.
    pub fn predicate(&self, cutoff: DateTime<Utc>) -> Document {
        let mut filter: Document = self.equal.iter().cloned().collect();
        filter.extend(self.absent.iter().map(|name| (name.clone(), Bson::Null)));
        filter.extend(self.present.iter().map(|name| (name.clone(), Bson::from(doc! { "$ne": null }))));
        filter.insert(self.date.clone(), doc! { "$lte": to_bson(cutoff), "$type": "date" });
        filter.insert("holdCount", doc! { "$in": [null, 0_i64, 0_i32] });
        if !filter.contains_key("state") {
            filter.insert("state", doc! { "$ne": "purging" });
        }
        filter
    }

    /// Whether a row has what the case asks for, but for its date. Pure; the same as [`Case::predicate`] asks MongoDB.
    pub fn meets(&self, row: &Document) -> bool {
        let there = |name: &str| row.get(name).is_some_and(|value| *value != Bson::Null);
        let equal = |(name, value): &(String, Bson)| row.get(name).is_some_and(|found| same(found, value));
        self.equal.iter().all(equal)
            && !self.absent.iter().any(|name| there(name))
            && self.present.iter().all(|name| there(name))
    }
}

impl Rule {
    /// The term of a case for a tenant's rows; none: the rule is disabled for them.
    pub fn term(&self, case: usize, tenant: Option<&str>) -> Option<std::time::Duration> {
        match tenant.and_then(|tenant| self.tenants.get(tenant)) {
            Some(terms) => terms.get(case).copied().flatten(),
            None => self.cases.get(case).map(|case| case.after),
        }
    }

    /// The latest cutoff that any tenant's rows have: a scan goes as far as that.
    pub fn scan_to(&self, case: usize, now: DateTime<Utc>) -> DateTime<Utc> {
        let terms = self.tenants.values().filter_map(|terms| terms.get(case).copied().flatten());
        let shortest = terms.chain(self.cases.get(case).map(|case| case.after)).min().unwrap_or_default();
        before(now, shortest)
    }
}

/// `now - term`; a term longer than the calendar keeps everything.
pub fn before(now: DateTime<Utc>, term: std::time::Duration) -> DateTime<Utc> {
    TimeDelta::from_std(term).ok().and_then(|term| now.checked_sub_signed(term)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// Equal as MongoDB compares: numbers by their value.
fn same(a: &Bson, b: &Bson) -> bool {
    let number = |value: &Bson| match value {
        Bson::Int32(n) => Some(f64::from(*n)),
        Bson::Int64(n) => Some(*n as f64),
        Bson::Double(n) => Some(*n),
        _ => None,
    };
    a == b || number(a).zip(number(b)).is_some_and(|(a, b)| a == b)
}
