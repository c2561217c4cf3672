//! Counts and averages of a text, in any language.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

use super::text::{Prose, words};

/// Words a minute of silent reading by an adult, as commonly assumed.
const READING_WORDS_PER_MINUTE: f64 = 238.0;

/// Counts of the prose: of Markdown, what its markup and code are not part of.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    pub words: u32,
    /// Different words, letter case aside.
    pub unique_words: u32,
    pub sentences: u32,
    pub paragraphs: u32,
    /// As a reader counts them (grapheme clusters), line ends inside a paragraph included.
    pub characters: u32,
    /// Without white space.
    pub characters_no_spaces: u32,
    /// Letters and digits per word; `None` without words, as the other averages.
    pub average_word_length: Option<f64>,
    /// Words per sentence.
    pub average_sentence_length: Option<f64>,
    /// Sentences per paragraph.
    pub average_paragraph_length: Option<f64>,
    /// Words in the longest sentence.
    pub longest_sentence_words: u32,
    pub reading_time_seconds: u32,
}

pub fn statistics(prose: &Prose) -> Statistics {
    let mut counts = Statistics { paragraphs: count(prose.paragraphs.len()), ..Statistics::default() };
    let mut different = HashSet::new();
    let mut letters = 0_usize;
    for paragraph in &prose.paragraphs {
        for grapheme in paragraph.text.graphemes(true) {
            counts.characters += 1;
            counts.characters_no_spaces += u32::from(!grapheme.chars().all(char::is_whitespace));
        }
        for sentence in paragraph.sentences() {
            counts.sentences += 1;
            let mut length = 0;
            for word in words(sentence) {
                length += 1;
                letters += word.chars().filter(|c| c.is_alphanumeric()).count();
                different.insert(word.to_lowercase());
            }
            counts.words += length;
            counts.longest_sentence_words = counts.longest_sentence_words.max(length);
        }
    }
    counts.unique_words = count(different.len());
    counts.average_word_length = ratio(letters as f64, counts.words);
    counts.average_sentence_length = ratio(f64::from(counts.words), counts.sentences);
    counts.average_paragraph_length = ratio(f64::from(counts.sentences), counts.paragraphs);
    counts.reading_time_seconds = (f64::from(counts.words) * 60.0 / READING_WORDS_PER_MINUTE).ceil() as u32;
    counts
}

fn ratio(sum: f64, of: u32) -> Option<f64> {
    (of > 0).then(|| (sum / f64::from(of) * 100.0).round() / 100.0)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::text::blocks, *};
    use crate::analysis::Format;

    fn of(text: &str, format: Format) -> Statistics {
        statistics(&Prose::new(text, &blocks(text, format)))
    }

    #[test]
    fn counts_of_a_small_text() {
        let counts = of("Dr. Smith can't come. He is ill.\n\nThe café 🙂 closes at 9 p.m. today.", Format::Plain);
        assert_eq!(
            counts,
            Statistics {
                words: 14,
                unique_words: 14,
                sentences: 3,
                paragraphs: 2,
                characters: 66,
                characters_no_spaces: 53,
                average_word_length: Some(3.21),
                average_sentence_length: Some(4.67),
                average_paragraph_length: Some(1.5),
                longest_sentence_words: 7,
                reading_time_seconds: 4,
            }
        );
    }

    #[test]
    fn nothing_has_no_averages() {
        for text in ["", " \n\n ", "--- 🙂 ---"] {
            assert_eq!(of(text, Format::Plain), Statistics::default());
        }
    }

    #[test]
    fn what_a_reader_sees_as_one_character_counts_once() {
        let counts = of("cafe\u{301} 👩‍👩‍👧‍👦", Format::Plain);
        assert_eq!((counts.characters, counts.characters_no_spaces, counts.words), (6, 5, 1));
    }

    #[test]
    fn markup_and_code_do_not_count() {
        let counts = of("# A *title*\n\nTwo words `and code`.\n\n```\nnot counted at all\n```\n", Format::Markdown);
        assert_eq!((counts.words, counts.sentences, counts.paragraphs), (4, 2, 2));
    }
}
