//! What differs between two texts, for people to read. Pure.

use std::time::Duration;

use similar::TextDiff;

/// A unified diff with three lines of context; empty when both are equal. After `limit` it goes on less carefully: still
/// right, but longer than needed.
pub fn unified(old: (&str, &str), new: (&str, &str), limit: Duration) -> String {
    let diff = TextDiff::configure().timeout(limit).diff_lines(old.1, new.1);
    diff.unified_diff().context_radius(3).header(old.0, new.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_shown() {
        let shown = unified(("v1", "one\ntwo\nthree\n"), ("v2", "one\n2\nthree\n"), Duration::from_secs(1));
        assert_eq!(shown, "--- v1\n+++ v2\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
        assert_eq!(unified(("v1", "same"), ("v2", "same"), Duration::from_secs(1)), "");
    }

    #[test]
    fn two_large_texts_do_not_take_for_ever() {
        let text = |seed: u32| (0..60_000_u32).map(|i| format!("{}\n", i.wrapping_mul(seed) % 977)).collect::<String>();
        let (old, new) = (text(2_654_435_761), text(40_503));
        let begun = std::time::Instant::now();
        assert!(unified(("a", &old), ("b", &new), Duration::from_millis(200)).len() > 60_000);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
