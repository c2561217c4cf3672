use super::*;
#[tokio::test]
async fn probe() {
    let Ok(path) = std::env::var("PROBE") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    for line in text.lines() {
        let a = analyze(Request { language: "en".parse().ok(), ..Request::plain(line) }).await;
        println!("\n{line}");
        for m in a.grammar.unwrap().matches {
            let slice: String = String::from_utf16_lossy(
                &line.encode_utf16().skip(m.offset as usize).take(m.length as usize).collect::<Vec<_>>(),
            );
            println!(
                "   [{slice}] {} / {} {} {} {}: {:?}",
                m.message,
                m.short_message,
                m.rule.id,
                m.rule.category.id,
                m.rule.issue_type,
                m.replacements.iter().map(|r| r.value.as_str()).collect::<Vec<_>>()
            );
        }
    }
}
