/// A hint at the known name that `unknown` most likely means; empty if none is near.
pub(super) fn did_you_mean<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> String {
    let scored = known.map(|name| (strsim::jaro_winkler(name, unknown), name));
    let near = scored.filter(|(score, _)| *score >= 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
    near.map_or_else(String::new, |(_, name)| format!(", did you mean `{name}`?"))
}
