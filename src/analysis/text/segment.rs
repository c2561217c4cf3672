//! Sentences and words: the Unicode rules, and on top of them what these cannot know: abbreviations, wrapped lines.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// No sentence ends with these: what they belong to follows.
const LEADING: &[&str] = &[
    "Adm", "Brig", "Capt", "Cmdr", "Col", "Cpl", "Dr", "Gen", "Gov", "Hon", "Lt", "Maj", "Mr", "Mrs", "Ms", "Mt",
    "Pres", "Prof", "Rep", "Rev", "Sen", "Sgt", "St", "Supt", "approx", "cf", "e.g", "E.g", "esp", "i.e", "I.e", "viz",
    "vs",
];

/// Abbreviations when a number follows, else words.
const NUMBERED: &[&str] =
    &["Ch", "Eq", "Fig", "Figs", "No", "Nos", "Op", "Sec", "Vol", "ch", "fig", "no", "nos", "p", "pp", "sec", "vol"];

/// These stand inside a sentence or at its end; so do single letters ("J.", "U.S.", "p.m.").
const EITHER: &[&str] = &[
    "Apr", "Assn", "Aug", "Ave", "Blvd", "Bros", "Co", "Corp", "Dec", "Dept", "Est", "Feb", "Inc", "Jan", "Jr", "Jul",
    "Jun", "Ltd", "Mar", "Nov", "Oct", "Ph.D", "Rd", "Sep", "Sept", "Sr", "Univ", "al", "etc",
];

/// After one of [`EITHER`], these begin a new sentence.
const OPENERS: &[&str] = &[
    "A", "After", "All", "An", "And", "As", "At", "Because", "Before", "But", "For", "He", "Her", "His", "How",
    "However", "I", "If", "In", "It", "Its", "My", "No", "On", "Our", "She", "So", "Some", "That", "The", "Their",
    "Then", "There", "These", "They", "This", "Those", "To", "We", "What", "When", "Where", "While", "Who", "Why",
    "Yes", "You", "Your",
];

/// What may stand after the mark that ends a sentence.
const CLOSING: [char; 7] = ['"', '\'', '”', '’', '»', ')', ']'];

/// The sentences of one paragraph: ranges without gaps, the white space after a sentence belonging to it.
pub fn sentences(paragraph: &str) -> Vec<Range<usize>> {
    let mut sentences: Vec<Range<usize>> = Vec::new();
    for (start, part) in paragraph.split_sentence_bound_indices() {
        let range = start..start + part.len();
        match sentences.last_mut() {
            Some(last) if !ends(&paragraph[last.clone()], &paragraph[range.start..]) => last.end = range.end,
            _ => sentences.push(range),
        }
    }
    sentences
}

/// The words of a text: what has a letter or a digit, by the Unicode rules ("don't" is one word).
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.unicode_words()
}

/// Whether a sentence ends between `before` and `after`, where the Unicode rules end one.
fn ends(before: &str, after: &str) -> bool {
    let bare = before.trim_end();
    let sentence = bare.trim_end_matches(CLOSING);
    let Some(mark) = sentence.chars().next_back().filter(|mark| is_terminator(*mark)) else {
        // The Unicode rules end a sentence at every line end, but lines are wrapped.
        return begins_list_item(after);
    };
    // Bounded, so that a long run of symbols is not read again for each of them.
    let Some((at, first)) = after.char_indices().take(16).find(|(_, c)| c.is_alphanumeric()) else { return true };
    let quoted = sentence.len() < bare.len();
    if quoted && first.is_lowercase() {
        return false;
    }
    mark != '.' || !is_abbreviation(sentence, &after[at..])
}

/// Whether a sentence ends with `before` even if a small letter follows. Stricter than [`sentences`]: of the marks only
/// the full stop counts, since others often stand inside a sentence.
pub fn is_end(before: &str) -> bool {
    let Some(sentence) = before.trim_end_matches(CLOSING).strip_suffix('.') else { return false };
    let word = last_word(sentence);
    let abbreviation = [LEADING, NUMBERED, EITHER].iter().any(|known| known.contains(&word));
    sentence.ends_with(char::is_alphanumeric) && !abbreviation && !is_single_letters(word)
}

fn is_terminator(mark: char) -> bool {
    matches!(
        mark,
        '.' | '!'
            | '?'
            | '…'
            | '‼'
            | '⁇'
            | '⁈'
            | '⁉'
            | '。'
            | '！'
            | '？'
            | '｡'
            | '؟'
            | '۔'
            | '।'
            | '॥'
            | '։'
    )
}

/// Whether a line begins as an item of a list in plain text.
fn begins_list_item(line: &str) -> bool {
    let line = line.trim_start();
    let unnumbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let marks: &[char] = if unnumbered.len() < line.len() { &['.', ')'] } else { &['-', '*', '+', '•', '–'] };
    unnumbered.strip_prefix(marks).is_some_and(|item| item.starts_with([' ', '\t']))
}

/// Whether the full stop that ends `sentence` belongs to an abbreviation after which `next` goes on.
fn is_abbreviation(sentence: &str, next: &str) -> bool {
    let word = last_word(sentence.trim_end_matches('.'));
    if LEADING.contains(&word) {
        return true;
    }
    if NUMBERED.contains(&word) {
        return next.starts_with(|c: char| c.is_ascii_digit());
    }
    if is_single_letters(word) || EITHER.contains(&word) {
        let next = words(next).next().unwrap_or_default();
        return !OPENERS.contains(&next.split(['\'', '’']).next().unwrap_or_default());
    }
    false
}

/// What stands after the last space or opening mark; all of it when it is long.
fn last_word(text: &str) -> &str {
    let start = text.char_indices().rev().take(8).find(|(_, c)| c.is_whitespace() || "([\"“‘—".contains(*c));
    start.map_or(text, |(at, c)| &text[at + c.len_utf8()..])
}

/// As in "J.", "U.S." and "p.m."; but "I" is a word.
fn is_single_letters(word: &str) -> bool {
    word != "I" && word.split('.').all(|part| part.len() == 1 && part.as_bytes()[0].is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|range| text[range].trim_end()).collect()
    }

    #[test]
    fn abbreviations_do_not_end_sentences() {
        for one in [
            "Dr. Smith met Mrs. Jones at 5 p.m. on Monday.",
            "See Fig. 3 and No. 12, i.e. The Times, vol. 2 etc. and so on.",
            "J. R. R. Tolkien and the U.S. Senate (cf. Smith et al. 2004) agree.",
            "He moved on Jan. 5 to Acme Inc. in Ohio.",
            "Version 3.5 costs $2.50 at example.com today.",
        ] {
            assert_eq!(split(one), [one]);
        }
    }

    #[test]
    fn sentences_end_where_a_reader_ends_them() {
        assert_eq!(split("He left at 5 p.m. She stayed."), ["He left at 5 p.m.", "She stayed."]);
        assert_eq!(split("So do I. Then we go."), ["So do I.", "Then we go."]);
        assert_eq!(split("Is it? No. It's not!"), ["Is it?", "No.", "It's not!"]);
        assert_eq!(split("“Stop!” he said. “Now.” She did."), ["“Stop!” he said.", "“Now.”", "She did."]);
        assert_eq!(split("Wait... What? Oh…"), ["Wait...", "What?", "Oh…"]);
        assert_eq!(split("これは文です。次の文。"), ["これは文です。", "次の文。"]);
    }

    #[test]
    fn wrapped_lines_go_on_and_list_items_do_not() {
        assert_eq!(
            split("One sentence\r\nin two lines. And\nanother."),
            ["One sentence\r\nin two lines.", "And\nanother."]
        );
        assert_eq!(split("Buy:\n- milk\n- two eggs\n3) bread"), ["Buy:", "- milk", "- two eggs", "3) bread"]);
    }

    #[test]
    fn ends_are_seen_before_small_letters() {
        assert!(is_end("we should go.") && is_end("he said.”") && is_end("so do I."));
        for open in ["at 5 p.m.", "well...", "so . .", "e.g.", "P = NP?", "no end", ""] {
            assert!(!is_end(open), "{open}");
        }
    }

    #[test]
    fn ranges_have_no_gaps() {
        let text = "A. B! C?\n\n\u{301}x … 🙂.🙂 e.g. Z";
        let ranges = sentences(text);
        assert_eq!(ranges.first().unwrap().start, 0);
        assert_eq!(ranges.last().unwrap().end, text.len());
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(sentences("").is_empty());
    }
}
