//! How hard English prose is to read: the common formulas, on our own counts of sentences and syllables.

use serde::{Deserialize, Serialize};

use super::text::{Prose, words};

/// With fewer words the formulas say nothing.
pub const MIN_WORDS: u32 = 30;

/// Scores, rounded to two places. All but the first are school grades of the United States.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readability {
    /// The higher the easier; most text lies between 0 and 100.
    pub flesch_reading_ease: f64,
    pub flesch_kincaid_grade: f64,
    pub gunning_fog: f64,
    pub smog: f64,
    pub coleman_liau: f64,
    pub automated_readability_index: f64,
}

/// What the formulas are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub words: u32,
    pub sentences: u32,
    pub letters: u32,
    pub syllables: u32,
    /// Words of three and more syllables.
    pub polysyllables: u32,
    /// Those of them that the Gunning fog index counts: no names, and not only by the ending of a verb form.
    pub complex: u32,
}

/// The scores of English `prose`, or `None` under [`MIN_WORDS`].
pub fn readability(prose: &Prose) -> Option<Readability> {
    let counts = counts(prose);
    (counts.words >= MIN_WORDS && counts.sentences > 0).then(|| scores(counts))
}

pub(super) fn scores(counts: Counts) -> Readability {
    let words = f64::from(counts.words);
    let sentences = f64::from(counts.sentences);
    let sentence_length = words / sentences;
    let syllables = f64::from(counts.syllables) / words;
    let letters = f64::from(counts.letters) / words;
    let round = |score: f64| (score * 100.0).round() / 100.0;
    Readability {
        flesch_reading_ease: round(206.835 - 1.015 * sentence_length - 84.6 * syllables),
        flesch_kincaid_grade: round(0.39 * sentence_length + 11.8 * syllables - 15.59),
        gunning_fog: round(0.4 * (sentence_length + 100.0 * f64::from(counts.complex) / words)),
        smog: round(1.043 * (f64::from(counts.polysyllables) * 30.0 / sentences).sqrt() + 3.1291),
        coleman_liau: round(0.0588 * letters * 100.0 - 0.296 * 100.0 / sentence_length - 15.8),
        automated_readability_index: round(4.71 * letters + 0.5 * sentence_length - 21.43),
    }
}

pub(super) fn counts(prose: &Prose) -> Counts {
    let mut counts = Counts::default();
    for sentence in prose.sentences() {
        let mut first = true;
        for word in words(sentence).filter(|word| word.chars().any(char::is_alphabetic)) {
            let syllables = syllables(word);
            counts.words += 1;
            counts.letters += word.chars().filter(|c| c.is_alphanumeric()).count() as u32;
            counts.syllables += syllables;
            counts.polysyllables += u32::from(syllables >= 3);
            let name = !first && word.chars().next().is_some_and(char::is_uppercase);
            let inflected = syllables == 3 && ["ed", "es", "ing"].iter().any(|ending| word.ends_with(ending));
            counts.complex += u32::from(syllables >= 3 && !name && !inflected);
            first = false;
        }
        counts.sentences += u32::from(!first);
    }
    counts
}

/// Common words that the rules of [`syllables`] count wrong.
const IRREGULAR: &[(&str, u32)] = &[
    ("area", 3),
    ("being", 2),
    ("business", 2),
    ("chocolate", 2),
    ("created", 3),
    ("creating", 3),
    ("different", 3),
    ("doing", 2),
    ("every", 2),
    ("everyone", 3),
    ("everything", 3),
    ("evening", 2),
    ("going", 2),
    ("hour", 1),
    ("idea", 3),
    ("interest", 3),
    ("maybe", 2),
    ("naked", 2),
    ("people", 2),
    ("poem", 2),
    ("poet", 2),
    ("quiet", 2),
    ("really", 2),
    ("reality", 4),
    ("science", 2),
    ("seeing", 2),
    ("sometimes", 2),
    ("something", 2),
    ("someone", 2),
    ("somewhere", 2),
    ("therefore", 2),
    ("vehicle", 3),
    ("video", 3),
    ("wednesday", 2),
];

/// The syllables of an English word, by the groups of vowels in its spelling. At least 1.
pub(super) fn syllables(word: &str) -> u32 {
    let lower = word.to_lowercase();
    let word = ["'s", "’s"].iter().find_map(|ending| lower.strip_suffix(ending)).unwrap_or(&lower);
    if let Some(stem) = word.strip_suffix("n't").or_else(|| word.strip_suffix("n’t")).filter(|stem| !stem.is_empty())
    {
        // A syllable of its own in "isn't" and "haven't", none in "can't" and "weren't".
        let spoken = stem.ends_with("ve") || !stem.ends_with(['a', 'e', 'i', 'o', 'u']);
        return syllables(stem) + u32::from(spoken);
    }
    if let Some((_, syllables)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return *syllables;
    }
    // The "e" of "immediate" is silent in "immediately" as well.
    let stem = ["ly", "ment", "ments", "ness", "ful", "less"].iter().find_map(|ending| word.strip_suffix(ending));
    if let Some(stem) = stem.filter(|stem| stem.ends_with('e') && stem.chars().count() > 3) {
        return syllables(stem) + 1;
    }
    // What is longer is no word, and not worth reading.
    let letters: Vec<char> = word.chars().filter(|c| c.is_alphabetic()).take(40).collect();
    let vowel = |at: usize| letters.get(at).is_some_and(|c| "aeiouyáàâäæãåéèêëíìîïóòôöøõúùûü".contains(*c));
    let mut count = 0;
    for at in 0..letters.len() {
        let follows = at > 0 && vowel(at - 1);
        if vowel(at) && (!follows || hiatus(&letters, at)) {
            count += 1;
        }
    }
    if silent_ending(&letters) {
        count -= 1;
    }
    count.max(1) as u32
}

/// Whether the vowel at `at` begins a syllable although a vowel stands before it.
fn hiatus(letters: &[char], at: usize) -> bool {
    let before = letters[at - 1];
    let earlier = at.checked_sub(2).map(|earlier| letters[earlier]);
    let rest: String = letters[at..].iter().take(3).collect();
    match (before, letters[at]) {
        // "-tion", "-cious", "-tial" are one syllable; "various", "media", "radio", "period" are not.
        ('i', 'o' | 'a') => {
            !(matches!(earlier, Some('t' | 'c' | 's' | 'g' | 'x')) || rest.starts_with("on") && earlier == Some('n'))
        }
        ('i', 'u') => earlier != Some('q'),
        ('i', 'e') => rest.starts_with("et") || (rest.starts_with("en") && matches!(earlier, Some('l' | 'd' | 'r'))),
        ('e', 'o') => !matches!(earlier, Some('p' | 'g')),
        ('u', 'a' | 'o') => !matches!(earlier, Some('q' | 'g' | 's')),
        ('u', 'i') => rest.starts_with("it") && !matches!(earlier, Some('q' | 's' | 'b' | 'r')) && letters.len() > 4,
        ('y', 'i' | 'o' | 'a') => earlier.is_some(),
        ('a', 'o') => true,
        ('e', 'a') => rest.starts_with("ate") || rest.starts_with("ati"),
        ('e', 'i' | 'u') => rest.starts_with("ing") || rest.starts_with("um") || rest.starts_with("us"),
        ('i' | 'o' | 'a', 'i') => rest.starts_with("ing"),
        _ => false,
    }
}

/// Whether the word ends in an "e" (alone, or in "-es", "-ed") that is not spoken.
fn silent_ending(letters: &[char]) -> bool {
    let vowel = |c: char| "aeiouy".contains(c);
    match *letters {
        // "table", "centre": spoken; "whole", "rule": not.
        [.., before, 'l', 'e'] => vowel(before),
        [.., before, 'l', 'e', 's' | 'd'] => vowel(before),
        [.., before, 'e'] => !vowel(before) && letters.len() > 2,
        [.., 't' | 'd', 'e', 'd'] => false,
        [.., before, 'e', 'd'] => !vowel(before) && letters.len() > 3,
        [.., 'c' | 'g' | 's' | 'x' | 'z', 'e', 's'] => false,
        [.., 'c' | 's', 'h', 'e', 's'] => false,
        [.., before, 'e', 's'] => !vowel(before) && letters.len() > 3,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::text::blocks, *};
    use crate::analysis::Format;

    fn counts_of(text: &str) -> Counts {
        counts(&Prose::new(text, &blocks(text, Format::Plain)))
    }

    #[test]
    fn syllables_of_common_words() {
        for (expected, words) in [
            (1, "a the was like through walked asked rules whole can't don't weren't I'm breathe scenes eye see hour"),
            (
                2,
                "table under people little wanted churches isn't haven't doesn't couldn't being boxes quiet lion about nation special science question purple",
            ),
            (
                3,
                "example various media radio important finally however beautiful different attention idea animal period",
            ),
            (4, "information community available experience education situation january"),
            (5, "university communication immediately"),
        ] {
            for word in words.split(' ') {
                assert_eq!(syllables(word), expected, "{word}");
            }
        }
        assert_eq!(syllables("created"), 3);
        assert_eq!(syllables("xyz"), 1);
        assert_eq!(syllables("42"), 1);
    }

    /// The formulas, computed by hand from the counts.
    #[test]
    fn formulas() {
        let counts = Counts { words: 100, sentences: 5, letters: 450, syllables: 150, polysyllables: 12, complex: 10 };
        assert_eq!(
            scores(counts),
            Readability {
                flesch_reading_ease: 59.64,
                flesch_kincaid_grade: 9.91,
                gunning_fog: 12.0,
                smog: 11.98,
                coleman_liau: 9.18,
                automated_readability_index: 9.77,
            }
        );
    }

    #[test]
    fn the_gettysburg_address() {
        let text = "Four score and seven years ago our fathers brought forth on this continent, a new nation, \
            conceived in Liberty, and dedicated to the proposition that all men are created equal. Now we are \
            engaged in a great civil war, testing whether that nation, or any nation so conceived and so dedicated, \
            can long endure.";
        let counts = counts_of(text);
        assert_eq!((counts.words, counts.sentences), (54, 2));
        assert!((82..=86).contains(&counts.syllables), "{counts:?}");
    }

    #[test]
    fn short_text_has_no_scores() {
        let prose = |text: &'static str| Prose::new(text, &blocks(text, Format::Plain));
        assert_eq!(readability(&prose("A few words only.")), None);
        assert_eq!(readability(&prose("1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9 1 2 3 4 5")), None);
    }
}
