//! When a waiting task was made, without judging the rest of it.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::attribute::parse_time;

#[derive(Deserialize)]
struct Made<'a> {
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

/// When the event in `bytes` was made: its `time`, else the time in its `id` if that is a UUIDv7. Not clamped: it is the
/// producer's clock.
pub fn made_at(bytes: &[u8]) -> Option<DateTime<Utc>> {
    let made: Made<'_> = serde_json::from_slice(bytes).ok()?;
    made.time.as_deref().and_then(parse_time).or_else(|| {
        let stamp =
            Uuid::parse_str(made.id.as_deref()?).ok().filter(|id| id.get_version_num() == 7)?.get_timestamp()?;
        let (seconds, nanos) = stamp.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_time_or_the_id() {
        let noon = parse_time("2026-01-31T12:00:00Z");
        assert_eq!(made_at(br#"{"id":"x","data":{"time":1},"time":"2026-01-31T13:00:00+01:00"}"#), noon);
        // 2026-01-31T12:00:00Z is 1 769 860 800 000 ms, hexadecimal 019c13ec9e00.
        assert_eq!(made_at(br#"{"id":"019c13ec-9e00-7000-8000-000000000001"}"#), noon);
        for none in ["{}", "x", "[]", r#"{"time":5}"#, r#"{"id":"0192f0c1"}"#, "\u{feff}{}", ""] {
            assert_eq!(made_at(none.as_bytes()), None, "{none}");
        }
        assert_eq!(made_at(b"\xff"), None);
        assert_eq!(made_at(br#"{"id":"f47ac10b-58cc-4372-a567-0e02b2c3d479"}"#), None, "a random UUID has no time");
    }
}
