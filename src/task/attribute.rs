//! The rules for single attributes of an event. Each check answers what is wrong, never what was sent.

use chrono::{DateTime, Utc};

use super::TraceContext;

/// Longest `id`, in bytes.
pub const ID_MAX: usize = 64;
/// Longest `source` and `type`, in bytes.
pub const NAME_MAX: usize = 256;

/// 1 to 64 of `A-Z a-z 0-9 . _ : -`.
pub fn check_id(id: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    match id.len() {
        0 => Err("is empty: send 1 to 64 of `A-Z a-z 0-9 . _ : -`"),
        1..=ID_MAX if id.bytes().all(allowed) => Ok(()),
        1..=ID_MAX => Err("has a character that is not allowed: send 1 to 64 of `A-Z a-z 0-9 . _ : -`"),
        _ => Err("is longer than 64 characters: send 1 to 64 of `A-Z a-z 0-9 . _ : -`"),
    }
}

/// A non-empty RFC 3986 URI reference of at most 256 bytes.
pub fn check_source(source: &str) -> Result<(), &'static str> {
    let bytes = source.as_bytes();
    if bytes.is_empty() {
        return Err("is empty: send a URI reference such as `/editor`");
    }
    if bytes.len() > NAME_MAX {
        return Err("is longer than 256 bytes: send a shorter URI reference such as `/editor`");
    }
    // Up to here a scheme may still be meant: a colon then ends it, anything else of these rules it out.
    let scheme_end = bytes.iter().position(|b| matches!(b, b':' | b'/' | b'?' | b'#')).unwrap_or(bytes.len());
    if bytes.get(scheme_end) == Some(&b':') && !is_scheme(&bytes[..scheme_end]) {
        return Err("is not a URI reference (what stands before `:` is no scheme): send one such as `/editor`");
    }
    let mut fragment = false;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
                if !(hex(i + 1) && hex(i + 2)) {
                    return Err("is not a URI reference (`%` without two hex digits): write a plain `%` as `%25`");
                }
                i += 2;
            }
            b'#' if fragment => return Err("is not a URI reference (two `#`): write the second one as `%23`"),
            b'#' => fragment = true,
            b if is_uri_byte(b) => {}
            _ => return Err("is not a URI reference (a character that must be percent-encoded): encode it"),
        }
        i += 1;
    }
    Ok(())
}

fn is_scheme(s: &[u8]) -> bool {
    let rest = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    s.first().is_some_and(u8::is_ascii_alphabetic) && s.iter().all(rest)
}

fn is_uri_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'?' | b'[' | b']' | b'@' | b'!' | b'$' | b'&')
        || matches!(b, b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// An RFC 3339 date-time with a zone, as UTC.
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|t| t.to_utc())
}

/// The W3C trace context, if `parent` is well-formed; an ill-formed `state` is left out alone.
pub fn trace_context(parent: Option<&str>, state: Option<&str>) -> Option<TraceContext> {
    let parent = parent.filter(|p| is_traceparent(p))?;
    let state = state.filter(|s| is_tracestate(s));
    Some(TraceContext { parent: parent.to_owned(), state: state.map(str::to_owned) })
}

fn is_traceparent(text: &str) -> bool {
    let b = text.as_bytes();
    // `00-<32 hex>-<16 hex>-<2 hex>`; a version after 00 may append further fields.
    if b.len() < 55 || b[2] != b'-' || b[35] != b'-' || b[52] != b'-' {
        return false;
    }
    let hex = |part: &[u8]| part.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let not_zero = |part: &[u8]| part.iter().any(|c| *c != b'0');
    let (version, trace, span, flags) = (&b[..2], &b[3..35], &b[36..52], &b[53..55]);
    hex(version)
        && version != b"ff"
        && hex(trace)
        && not_zero(trace)
        && hex(span)
        && not_zero(span)
        && hex(flags)
        && (b.len() == 55 || (version != b"00" && b[55] == b'-'))
}

/// At most 32 members `key=value` in at most 512 bytes.
fn is_tracestate(text: &str) -> bool {
    if text.len() > 512 {
        return false;
    }
    let mut members = 0;
    for member in text.split(',').map(|m| m.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()) {
        members += 1;
        if !member.split_once('=').is_some_and(|(key, value)| is_state_key(key) && is_state_value(value)) {
            return false;
        }
    }
    (1..=32).contains(&members)
}

fn is_state_key(key: &str) -> bool {
    let part = |p: &str, max: usize| {
        (1..=max).contains(&p.len())
            && p.as_bytes()[0] != b'-'
            && p.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    match key.split_once('@') {
        Some((tenant, system)) => part(tenant, 241) && part(system, 14),
        None => part(key, 256),
    }
}

fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|b| matches!(b, 0x20..=0x7e) && b != b',' && b != b'=')
        && !value.ends_with(' ')
}

/// `text` cut at a character boundary to at most `max` bytes.
pub fn truncated(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "0192f0c1", "A.b_c:d-e", &"x".repeat(64)] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "a b", "ä", "a/b", "a@b", "a\0", "a\n", &"x".repeat(65)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sources() {
        let longest = format!("/{}", "a".repeat(255));
        for good in
            ["/editor", "editor", "https://a.example/x?y=1#z", "urn:uuid:1", "//host/p", "a%20b", "./a:b", &longest]
        {
            assert_eq!(check_source(good), Ok(()), "{good}");
        }
        let too_long = format!("{longest}a");
        for bad in
            ["", "a b", "ä", "1a:b", ":a", "a%2", "a%zz", "a#b#c", "<a>", "a\\b", "a\"", "a\0", "a{b}", &too_long]
        {
            assert!(check_source(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        let noon = parse_time("2026-01-31T12:00:00Z").unwrap();
        assert_eq!(parse_time("2026-01-31T13:00:00.000+01:00"), Some(noon));
        assert_eq!(parse_time("2026-01-31t12:00:00z"), Some(noon));
        assert!(parse_time("2016-12-31T23:59:60Z").is_some(), "a leap second");
        for bad in ["", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "1769860800", "tomorrow"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn trace_contexts() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let with = |state| trace_context(Some(parent), Some(state)).and_then(|t| t.state);
        assert_eq!(trace_context(Some(parent), None), Some(TraceContext { parent: parent.into(), state: None }));
        assert_eq!(with("a=1, b@c=2"), Some("a=1, b@c=2".into()));
        for bad in ["", "a", "A=1", "a=", "=1", "a=1=2", "-a=1"] {
            assert_eq!(with(bad), None, "{bad:?}");
        }
        assert_eq!(with(&["a=1"; 33].join(",")), None);
        assert!(trace_context(Some(&format!("01{}-more", &parent[2..])), None).is_some());
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let (upper, more, ff) = (parent.to_uppercase(), format!("{parent}-more"), format!("ff{}", &parent[2..]));
        for bad in ["", &parent[..54], &zero_trace, &zero_span, &upper, &more, &ff, &"ä".repeat(28)] {
            assert_eq!(trace_context(Some(bad), Some("a=1")), None, "{bad}");
        }
        assert_eq!(trace_context(None, Some("a=1")), None);
    }

    #[test]
    fn truncation_keeps_characters_whole() {
        assert_eq!(truncated("aä", 2), "a");
        assert_eq!(truncated("aä", 3), "aä");
    }
}
