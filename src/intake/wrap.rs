//! Members of the delayed set: what is known of a task, then its original bytes.
//!
//! `IDENTITY|PRIORITY|ATTEMPTS|CRASHES\nBODY`. The identity makes members of equal bodies distinct.
//! A member is only ever read where a member was written, so a body that looks like one is no danger.

use bytes::Bytes;

use super::delivery::Delivery;
use crate::task::Priority;

/// Writes `delivery` as a member, with `attempts` failed attempts.
pub(super) fn wrap(delivery: &Delivery, attempts: u32) -> Vec<u8> {
    let body = delivery.body.as_deref().unwrap_or_default();
    let head = format!("{}|{}|{attempts}|{}", delivery.identity, delivery.priority, delivery.crashes);
    let mut member = Vec::with_capacity(head.len() + 1 + body.len());
    member.extend_from_slice(head.as_bytes());
    member.push(b'\n');
    member.extend_from_slice(body);
    member
}

/// Reads a member. A member that is not one (somebody wrote into the set by hand) counts as a body
/// whose identity is `fallback`.
pub(super) fn unwrap(member: Vec<u8>, fallback: impl FnOnce() -> String) -> Delivery {
    let member = Bytes::from(member);
    let parse = || {
        let end = member.iter().take(512).position(|b| *b == b'\n')?;
        let mut fields = std::str::from_utf8(&member[..end]).ok()?.split('|');
        let identity = fields.next()?.to_string();
        let name = fields.next()?;
        let priority = Priority::ALL.into_iter().find(|p| p.as_str() == name)?;
        let attempts = fields.next()?.parse().ok()?;
        let crashes = fields.next()?.parse().ok()?;
        let body = Some(member.slice(end + 1..));
        fields.next().is_none().then_some(Delivery { body, priority, attempts, crashes, identity })
    };
    parse().unwrap_or_else(|| Delivery {
        identity: fallback(),
        priority: Priority::Normal,
        attempts: 0,
        crashes: 0,
        body: Some(member),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_back_as_it_was() {
        let body = Bytes::from_static(b"a|b\n\xff|normal|1|2\n");
        let d = Delivery {
            body: Some(body.clone()),
            priority: Priority::Low,
            attempts: 1,
            crashes: 2,
            identity: "r:5:7".into(),
        };
        let back = unwrap(wrap(&d, 3), || unreachable!());
        assert_eq!((back.body, back.priority, back.attempts, back.crashes), (Some(body), Priority::Low, 3, 2));
        assert_eq!(back.identity, "r:5:7");
    }

    #[test]
    fn a_foreign_member_is_a_body() {
        let d = unwrap(b"{\"x\":1}".to_vec(), || "f".into());
        assert_eq!((d.identity.as_str(), d.body.unwrap().as_ref()), ("f", &b"{\"x\":1}"[..]));
    }
}
