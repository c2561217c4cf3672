//! What was found in a block is not looked for again.

use super::*;

/// About 2,000 words in 40 paragraphs, all different; `salt` keeps texts of different tests apart.
fn document(salt: &str) -> Vec<String> {
    let sentence = |n: usize| {
        format!("In case {n} of {salt} the committee decided to keep the records of that year for the archive. ")
    };
    (0..40).map(|n| (0..3).map(|m| sentence(n * 10 + m)).collect::<String>().trim().to_owned()).collect()
}

#[tokio::test]
async fn an_edit_costs_the_edited_paragraph() {
    let mut paragraphs = document("edits");
    let whole = analyze(Request::plain(paragraphs.join("\n\n"))).await;
    assert_eq!(whole.timings.blocks, BlockCounts { total: 40, computed: 40, cached: 0, skipped: 0 });

    let again = analyze(Request::plain(paragraphs.join("\n\n"))).await;
    assert_eq!(again.timings.blocks, BlockCounts { total: 40, computed: 0, cached: 40, skipped: 0 });
    assert_eq!(again.grammar, whole.grammar);

    paragraphs[17].push_str(" He don't care.");
    paragraphs.insert(3, "🙂 An inserted paragraph moves teh others.".into());
    let text = paragraphs.join("\n\n");
    let edited = analyze(Request::plain(text.as_str())).await;
    assert_eq!(edited.timings.blocks, BlockCounts { total: 41, computed: 2, cached: 39, skipped: 0 });
    let found = edited.grammar.unwrap().matches;
    let slices: Vec<_> = found.iter().map(|found| slice(&text, found.offset, found.length)).collect();
    assert_eq!(slices, ["teh", "don't"]);
}

/// The promise is a factor of 20; less is asked here, since the machine may be busy.
#[tokio::test]
async fn an_edit_is_much_faster_than_the_whole() {
    let mut paragraphs = document("speed");
    let whole = analyze(Request::plain(paragraphs.join("\n\n"))).await.timings.grammar_ms.unwrap();
    let mut edit = f64::MAX;
    for n in 0..3 {
        paragraphs[20].push_str(&format!(" Sentence {n} was added later."));
        edit = edit.min(analyze(Request::plain(paragraphs.join("\n\n"))).await.timings.grammar_ms.unwrap());
    }
    assert!(whole > 8.0 * edit, "{whole} ms and {edit} ms");
}

#[tokio::test]
async fn formats_and_dialects_do_not_mix() {
    let text = "The `colour` of the harbour in this test is grey, and teh end of `it` as well.";
    let words = |analysis: Analysis| {
        let matches = analysis.grammar.unwrap().matches;
        matches.iter().map(|found| slice(text, found.offset, found.length)).collect::<Vec<_>>()
    };
    let british = || "en-GB".parse().ok();
    let american = || "en-US".parse().ok();
    for _ in 0..2 {
        assert_eq!(
            words(analyze(Request { language: american(), ..Request::plain(text) }).await),
            ["colour", "harbour", "grey", "teh"]
        );
        assert_eq!(
            words(analyze(Request { language: american(), ..Request::markdown(text) }).await),
            ["harbour", "grey", "teh"]
        );
        assert_eq!(words(analyze(Request { language: british(), ..Request::plain(text) }).await), ["teh"]);
    }
}
