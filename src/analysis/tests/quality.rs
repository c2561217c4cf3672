//! Whether what is found is right, and reads well.

use super::*;

/// A sentence, the words with the mistake, the best replacement, the category.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    ("Their is a problem with the report.", "Their", "There", "CONFUSED_WORDS"),
    ("We saw a error in the log.", "a", "an", "GRAMMAR"),
    ("The engine of an car is loud.", "an", "a", "GRAMMAR"),
    ("The the cat sat on the mat.", "The the", "The", "GRAMMAR"),
    ("The dog wagged it's tail.", "it's", "its", "CONFUSED_WORDS"),
    ("Its a nice day for a walk.", "Its", "It's", "CONFUSED_WORDS"),
    ("This will effect the outcome.", "effect", "affect", "CONFUSED_WORDS"),
    ("The affect was large.", "affect", "effect", "CONFUSED_WORDS"),
    ("I could of done that.", "could of", "could have", "CONFUSED_WORDS"),
    ("He don't like it.", "don't", "doesn't", "GRAMMAR"),
    ("She is taller then me.", "then", "than", "CONFUSED_WORDS"),
    ("I recieved it yesterday.", "recieved", "received", "TYPOS"),
    ("I saw teh package.", "teh", "the", "TYPOS"),
    ("We need to loose weight.", "to loose", "to lose", "CONFUSED_WORDS"),
    ("This is alot of work.", "alot", "a lot", "COMPOUNDING"),
    ("The meeting is on wednesday.", "wednesday", "Wednesday", "CASING"),
    ("I think so, and i hope so.", "i", "I", "CASING"),
    ("The colour of the sky is blue.", "colour", "color", "REGIONALISMS"),
    ("She did not went to school.", "went", "go", "GRAMMAR"),
    ("The results , which were good, came late.", " ", "", "PUNCTUATION"),
];

#[tokio::test]
async fn common_mistakes_are_found_and_mended() {
    for (sentence, wrong, right, category) in MISTAKES {
        let matches = matches(Request::plain(*sentence)).await;
        let [found] = matches.as_slice() else { panic!("{sentence}: {matches:#?}") };
        let expected = (*wrong, Some(*right), *category);
        let slice = slice(sentence, found.offset, found.length);
        let best = found.replacements.first().map(|best| best.value.as_str());
        assert_eq!((slice.as_str(), best, &*found.rule.category.id), expected, "{sentence}");
        assert!(found.message.ends_with(['.', '?']) && !found.message.contains('`'), "{}", found.message);
        assert!(!found.short_message.is_empty() && !found.rule.issue_type.is_empty());
    }
}

#[tokio::test]
async fn correct_text_has_no_findings() {
    let text = "Dr. Smith met Mrs. Jones at 5 p.m. on Monday, i.e. before dinner. They're at their house over there.\n\n\
        The effect of its tail's movement was small; it's known to affect only the wind. “Really?” she asked.\n\n\
        An hour later a European user of contextd e-mailed an MRI scan to support@example.com, via \
        https://example.com/a?b=c. The function getUserById returns null in OAuth2 setups.\n\n\
        He thought ... well, he waited. The café's résumé was naïve, however long it took.";
    assert_eq!(matches(Request::plain(text)).await, []);
}

#[tokio::test]
async fn a_lower_case_start_counts_only_where_a_sentence_begins() {
    let found = |text: &'static str| async move { matches(Request::plain(text)).await.len() };
    assert_eq!(found("We went home early. the weather was getting worse.").await, 1);
    assert_eq!(found("We met at 5 p.m. to talk about the weather, i.e. about nothing at all.").await, 0);
    assert_eq!(found("the things that we need to buy for the party tomorrow").await, 0);
}

#[tokio::test]
async fn markdown_is_checked_without_its_code() {
    let text = "# Teh title\n\nSee `teh code`, [teh link](http://example.com/teh) and <https://teh.example>.\n\n\
        ```\nteh block\n```\n\n- Teh *item* of a list\n\n| Teh cell | b |\n|---|---|\n\n<p>teh html</p>\n";
    let found: Vec<_> = matches(Request::markdown(text)).await.into_iter().map(|found| found.context.text).collect();
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found.iter().zip(["title", "link", "item", "cell"]).all(|(context, word)| context.contains(word)));
}

#[tokio::test]
async fn no_replacement_removes_markup() {
    let found = matches(Request::markdown("It was the **the** end of it.\n\nIt was the\nthe end of it.")).await;
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].replacements.is_empty());
    assert_eq!(found[1].replacements[0].value, "the");
}

#[tokio::test]
async fn a_short_english_text_is_checked_although_its_language_is_unknown() {
    let analysis = analyze(Request::plain("Their is a error.")).await;
    assert_eq!(analysis.language, Language { code: "und".into(), detected: true });
    assert_eq!(analysis.grammar.unwrap().matches.len(), 2);
    let analysis = analyze(Request::plain("Guten Morgen, Welt!")).await;
    assert_eq!(analysis.grammar, None);
    assert!(analysis.grammar_skipped.unwrap().contains("unknown"));
}

#[tokio::test]
async fn other_languages_have_statistics_and_a_reason() {
    let german = "Der schnelle braune Fuchs springt über den faulen Hund und läuft davon. ".repeat(5);
    let analysis = analyze(Request::plain(german)).await;
    assert_eq!(analysis.language, Language { code: "de".into(), detected: true });
    assert_eq!(analysis.grammar_skipped.as_deref(), Some("no grammar engine for language \"de\""));
    assert!(analysis.grammar.is_none() && analysis.readability.is_none());
    assert_eq!(analysis.statistics.as_ref().unwrap().sentences, 5);
    assert!(analysis.is_complete());

    let request = Request { language: "en-gb".parse().ok(), ..Request::plain("The colour of the sky is blue.") };
    let analysis = analyze(request).await;
    assert_eq!(analysis.language, Language { code: "en-GB".into(), detected: false });
    assert_eq!(analysis.grammar.unwrap().matches, []);
}

#[tokio::test]
async fn a_paragraph_in_another_language_is_skipped_alone() {
    let english = "This is an English text with a long quotation, and here it comes for those who read German.";
    let german = "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann davon.";
    let text = format!("{english}\n\n{german}\n\n{english}");
    let grammar = analyze(Request::plain(text.as_str())).await.grammar.unwrap();
    assert_eq!(grammar.matches, []);
    let [skipped] = grammar.warnings.skipped_blocks.as_slice() else { panic!("{:?}", grammar.warnings) };
    assert_eq!(slice(&text, skipped.offset, skipped.length), german);
    assert_eq!((skipped.reason, grammar.warnings.incomplete_results), (SkipReason::OtherLanguage, false));
}

#[tokio::test]
async fn only_what_was_asked_for_is_done() {
    let analyzers = Analyzers::from_names(["statistics"]).unwrap();
    let analysis = analyze(Request { analyzers, ..Request::plain("Teh text is short.") }).await;
    assert!(analysis.grammar.is_none() && analysis.grammar_skipped.is_none() && analysis.readability.is_none());
    assert!(analysis.statistics.is_some() && analysis.timings.grammar_ms.is_none());
}

#[tokio::test]
async fn the_result_has_the_documented_shape_and_survives_json() {
    let analysis = analyze(Request::plain(format!("Teh start. {}", "Plain words follow here. ".repeat(10)))).await;
    let json = serde_json::to_value(&analysis).unwrap();
    assert_eq!(
        json["grammar"]["matches"][0]["rule"]["category"],
        serde_json::json!({"id": "TYPOS", "name": "Possible Typo"})
    );
    assert_eq!(json["grammar"]["matches"][0]["shortMessage"], "Spelling mistake");
    assert_eq!(
        json["grammar"]["warnings"],
        serde_json::json!({"incompleteResults": false, "skippedBlocks": [], "droppedMatches": 0})
    );
    assert_eq!(json["engine"]["name"], "harper-core");
    assert!(
        json["readability"]["fleschReadingEase"].is_number() && json["statistics"]["charactersNoSpaces"].is_number()
    );
    assert_eq!(serde_json::from_value::<Analysis>(json).unwrap(), analysis);
}
