//! Whether a session is live, and how much longer.

use std::time::Duration;

use mongodb::bson::Document;

/// How long sessions live after their last activity (lifecycle: 30 minutes, anonymous ones 24 hours).
#[derive(Debug, Clone, Copy)]
pub struct Live {
    pub user: Duration,
    pub anonymous: Duration,
}

/// What becomes of a session's key in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// For this much longer, unless something happens.
    Goes(Duration),
    Ended,
    /// Its time is over by what is known here; who knows better may have set the key.
    Idle,
}

impl Live {
    pub fn of(&self, session: &Document, now_ms: i64) -> Life {
        if session.get_str("state").is_ok_and(|state| state != "active") {
            return Life::Ended;
        }
        let limit = if session.get_str("userId").is_ok() { self.user } else { self.anonymous };
        let at = |name: &str| session.get_datetime(name).ok().map(|date| date.timestamp_millis());
        let last = at("lastActivityAt").or_else(|| at("updatedAt")).unwrap_or(now_ms);
        // A producer's clock ahead of ours does not make a session live longer.
        let idle = u64::try_from(now_ms.saturating_sub(last)).unwrap_or(0);
        match limit.checked_sub(Duration::from_millis(idle)) {
            Some(left) if !left.is_zero() => Life::Goes(left),
            _ => Life::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, doc};

    use super::*;

    #[test]
    fn a_session_lives_on_after_its_last_activity() {
        let live = Live { user: Duration::from_secs(1_800), anonymous: Duration::from_secs(86_400) };
        let at = |s: i64| DateTime::from_millis(s * 1_000);
        let goes = |s: u64| Life::Goes(Duration::from_secs(s));
        let user = doc! { "userId": "u", "lastActivityAt": at(1_000) };
        assert_eq!(live.of(&user, 1_000_000), goes(1_800));
        assert_eq!(live.of(&user, 1_600_000), goes(1_200));
        assert_eq!(live.of(&user, 900_000), goes(1_800));
        assert_eq!(live.of(&user, 2_800_000), Life::Idle);
        assert_eq!(live.of(&doc! { "state": "active", "lastActivityAt": at(1_000) }, 2_800_000), goes(84_600));
        assert_eq!(live.of(&doc! {}, 5), goes(86_400));
        assert_eq!(live.of(&doc! { "userId": "u", "updatedAt": at(0) }, 1_000), goes(1_799));
        assert_eq!(live.of(&doc! { "state": "ended", "lastActivityAt": at(1_000) }, 1_000_000), Life::Ended);
        assert_eq!(live.of(&doc! { "lastActivityAt": DateTime::MIN }, i64::MAX), Life::Idle);
    }
}
