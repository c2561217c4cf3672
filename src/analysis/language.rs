//! Which language a text is in.

use unicode_segmentation::UnicodeSegmentation;

/// Shorter texts, in characters, say too little.
const MIN_CHARS: usize = 20;

/// The code for "unknown" of BCP 47.
pub const UNKNOWN: &str = "und";

/// The code of the language, or [`UNKNOWN`] for what is too short or in a script that several unknown languages share.
///
/// `known_english` is the share of words that an English dictionary knows, of some words of the text: it corrects
/// the statistical guess, which takes some English texts full of names for another language.
pub fn detect(text: &str, known_english: impl FnOnce(&[&str]) -> f64) -> &'static str {
    let text = text.trim();
    if text.chars().nth(MIN_CHARS - 1).is_none() {
        return UNKNOWN;
    }
    match dominant_script(text) {
        Script::Other | Script::None => UNKNOWN,
        Script::Of(code) => code,
        Script::Guess => match guess(text) {
            "en" => "en",
            other => {
                let words: Vec<&str> = text.unicode_words().filter(|word| word.len() > 1).take(200).collect();
                let english = is_latin(text) && words.len() >= 5 && known_english(&words) >= 0.8;
                if english { "en" } else { other }
            }
        },
    }
}

/// The statistical guess, whatever the length.
pub fn guess(text: &str) -> &'static str {
    use whichlang::Lang;
    match whichlang::detect_language(text) {
        Lang::Ara => "ar",
        Lang::Cmn => "zh",
        Lang::Deu => "de",
        Lang::Eng => "en",
        Lang::Fra => "fr",
        Lang::Hin => "hi",
        Lang::Ita => "it",
        Lang::Jpn => "ja",
        Lang::Kor => "ko",
        Lang::Nld => "nl",
        Lang::Por => "pt",
        Lang::Rus => "ru",
        Lang::Spa => "es",
        Lang::Swe => "sv",
        Lang::Tur => "tr",
        Lang::Vie => "vi",
    }
}

/// Whether more of the letters are Latin than not.
pub fn is_latin(text: &str) -> bool {
    let (mut latin, mut other) = (0_usize, 0_usize);
    for letter in text.chars().filter(|c| c.is_alphabetic()) {
        *if is_latin_letter(letter) { &mut latin } else { &mut other } += 1;
    }
    latin > other
}

fn is_latin_letter(letter: char) -> bool {
    matches!(letter, 'A'..='Z' | 'a'..='z' | '\u{aa}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}')
}

enum Script {
    /// Several languages that the guess can tell apart.
    Guess,
    /// One language stands for the script.
    Of(&'static str),
    Other,
    None,
}

fn dominant_script(text: &str) -> Script {
    /// Scripts by their main block, with the language when one uses it.
    const SINGLE: &[(std::ops::RangeInclusive<char>, &str)] = &[
        ('\u{370}'..='\u{3ff}', "el"),
        ('\u{530}'..='\u{58f}', "hy"),
        ('\u{590}'..='\u{5ff}', "he"),
        ('\u{980}'..='\u{9ff}', "bn"),
        ('\u{a00}'..='\u{a7f}', "pa"),
        ('\u{a80}'..='\u{aff}', "gu"),
        ('\u{b80}'..='\u{bff}', "ta"),
        ('\u{c00}'..='\u{c7f}', "te"),
        ('\u{c80}'..='\u{cff}', "kn"),
        ('\u{d00}'..='\u{d7f}', "ml"),
        ('\u{d80}'..='\u{dff}', "si"),
        ('\u{e00}'..='\u{e7f}', "th"),
        ('\u{e80}'..='\u{eff}', "lo"),
        ('\u{1000}'..='\u{109f}', "my"),
        ('\u{10a0}'..='\u{10ff}', "ka"),
        ('\u{1780}'..='\u{17ff}', "km"),
    ];
    let mut single = [0_usize; SINGLE.len()];
    let (mut guessed, mut other) = (0_usize, 0_usize);
    for letter in text.chars().filter(|c| c.is_alphabetic()) {
        if is_guessable(letter) {
            guessed += 1;
        } else if let Some(index) = SINGLE.iter().position(|(range, _)| range.contains(&letter)) {
            single[index] += 1;
        } else {
            other += 1;
        }
    }
    let most = (0..SINGLE.len()).max_by_key(|index| single[*index]).unwrap_or(0);
    if guessed + other + single[most] == 0 {
        Script::None
    } else if guessed >= single[most].max(other) {
        Script::Guess
    } else if single[most] >= other {
        Script::Of(SINGLE[most].1)
    } else {
        Script::Other
    }
}

/// Latin, Cyrillic, Arabic, Devanagari, Han, kana and hangul.
fn is_guessable(letter: char) -> bool {
    is_latin_letter(letter)
        || matches!(letter,
            '\u{400}'..='\u{52f}' | '\u{600}'..='\u{77f}' | '\u{900}'..='\u{97f}' | '\u{1100}'..='\u{11ff}'
            | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> &'static str {
        detect(text, |_| 0.0)
    }

    #[test]
    fn languages_are_told_apart() {
        for (expected, text) in [
            ("en", "The quick brown fox jumps over the lazy dog and runs away."),
            ("de", "Der schnelle braune Fuchs springt über den faulen Hund."),
            ("fr", "Le renard brun saute par-dessus le chien paresseux et s'enfuit."),
            ("es", "El rápido zorro marrón salta sobre el perro perezoso."),
            ("ru", "Быстрая коричневая лиса прыгает через ленивую собаку."),
            ("ja", "素早い茶色の狐がのろまな犬を飛び越えます。とても速いです。"),
            ("zh", "敏捷的棕色狐狸跳过了那只懒惰的狗，然后很快就跑远了，再也没有回来。"),
            ("el", "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί."),
            ("he", "השועל החום המהיר קופץ מעל הכלב העצלן."),
            ("th", "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ"),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn too_little_text_is_unknown() {
        for text in [
            "",
            "Their is a error.",
            "   \n\t ",
            "1234567890 1234567890 1234567890",
            "🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂",
        ] {
            assert_eq!(code(text), UNKNOWN, "{text:?}");
        }
    }

    #[test]
    fn known_words_overrule_the_guess() {
        let text = "Der schnelle braune Fuchs springt über den faulen Hund.";
        assert_eq!(detect(text, |_| 0.9), "en");
        assert_eq!(detect("Быстрая коричневая лиса прыгает через ленивую собаку.", |_| 1.0), "ru");
    }
}
