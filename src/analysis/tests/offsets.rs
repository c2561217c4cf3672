//! Offsets count UTF-16 code units of the text as it came, whatever is in it.

use proptest::prelude::*;

use super::*;

/// Whether all positions in the result are right for `text`.
fn check(text: &str, grammar: &Grammar) -> Result<(), TestCaseError> {
    let mut end = 0;
    for found in &grammar.matches {
        prop_assert!(found.offset >= end, "overlap at {}", found.offset);
        end = found.offset + found.length;
        let at_offset = slice(text, found.offset, found.length);
        prop_assert_eq!(at_offset.encode_utf16().count(), found.length as usize);
        prop_assert_eq!(&at_offset, &slice(&found.context.text, found.context.offset, found.context.length));
        prop_assert!(text.contains(&found.context.text));
        prop_assert!(found.replacements.iter().all(|replacement| replacement.value != at_offset));
    }
    let length = text.encode_utf16().count() as u32;
    prop_assert!(end <= length);
    prop_assert!(grammar.warnings.skipped_blocks.iter().all(|skipped| skipped.offset + skipped.length <= length));
    Ok(())
}

fn analyze_blocking(request: Request) -> Analysis {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(analyze(request))
}

#[tokio::test]
async fn behind_emoji_combining_characters_crlf_and_a_byte_order_mark() {
    for (before, format) in [
        ("", Format::Plain),
        ("\u{feff}", Format::Plain),
        ("👩‍👩‍👧‍👦 and 🙂 here.\r\n\r\n", Format::Plain),
        ("A line\r\nand 🙂 ", Format::Plain),
        ("Cafe\u{301} n\u{303} ", Format::Plain),
        ("\u{feff}# 🙂 Title\r\n\r\n> Quote 𝔘nicode\r\n> with *emphasis* and `c🙂de` ", Format::Markdown),
        ("| 🙂 | b |\n|---|---|\n| &amp; | ", Format::Markdown),
    ] {
        let text = format!("{before}I saw teh package");
        let language = "en".parse().ok();
        let found = matches(Request { format, language, ..Request::plain(text.as_str()) }).await;
        let expected = text[..text.find("teh").unwrap()].encode_utf16().count() as u32;
        let found: Vec<_> = found.iter().filter(|found| found.rule.id == "The").map(|found| found.offset).collect();
        assert_eq!(found, [expected], "{text:?}");
    }
}

/// Pieces of text that are found fault with, and such as make offsets hard.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("Their is a error. "),
        Just("teh "),
        Just("The the cat. "),
        Just("it's tail , and "),
        Just("word "),
        Just("🙂"),
        Just("👩‍👧 "),
        Just("e\u{301}"),
        Just("\r\n"),
        Just("\n\n"),
        Just("\u{feff}"),
        Just("\u{a0}"),
        Just("“Quote ”"),
        Just("`code` "),
        Just("**b**"),
        Just("# "),
        Just("- "),
        Just("> "),
        Just("漢字"),
        Just("\\*"),
        Just("&amp; "),
        Just("[a](b) "),
        Just("| "),
        Just("THERE'S CHANGES "),
        Just("𝔘𝔫𝔦 "),
        Just("\u{2028}"),
        Just("... "),
    ];
    prop::collection::vec(prop_oneof![8 => piece.prop_map(str::to_owned), 1 => "\\PC{0,6}"], 0..24)
        .prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_finding_lies_where_it_says(text in text(), markdown: bool) {
        let format = if markdown { Format::Markdown } else { Format::Plain };
        let analysis = analyze_blocking(Request { format, language: "en".parse().ok(), ..Request::plain(text.as_str()) });
        check(&text, analysis.grammar.as_ref().unwrap())?;
        prop_assert!(analysis.is_complete());
    }

    #[test]
    fn any_text_has_a_result(text in "(\\PC|[\\r\\n\\t ]){0,200}", markdown: bool) {
        let format = if markdown { Format::Markdown } else { Format::Plain };
        let analysis = analyze_blocking(Request { format, ..Request::plain(text) });
        prop_assert!(analysis.grammar.is_some() != analysis.grammar_skipped.is_some());
    }
}
