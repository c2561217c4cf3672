//! What is pushed: typing events and texts. Everything follows from indices, so that every run sees the same input.

use anyhow::{Context, Result, bail};

use crate::world::{STREAM, Stage};

/// Events of one key that follow each other in bursts.
pub const BURST: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Every task has its own key.
    Distinct,
    /// [`BURST`] tasks of one key follow each other.
    Bursts,
}

impl Shape {
    pub fn keys(self, tasks: usize) -> usize {
        match self {
            Shape::Distinct => tasks,
            Shape::Bursts => tasks.div_ceil(BURST),
        }
    }

    fn key_and_sequence(self, index: usize) -> (usize, usize) {
        match self {
            Shape::Distinct => (index, 1),
            Shape::Bursts => (index / BURST, index % BURST + 1),
        }
    }
}

const PROSE: &str = "The committee met again on Tuesday to go through the findings of the report, and although there was little time \
    left, everybody agreed that the second chapter needs another look before it is sent to the printer. ";

/// Scatters numbers, so that keys come in no order.
pub fn scatter(number: usize) -> u64 {
    let mut x = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `_id` of the document that a typing task of this key becomes.
pub fn typing_key(key: usize) -> String {
    format!("{}:{}", document_id(key), session_id(key))
}

fn document_id(key: usize) -> String {
    format!("doc-{:016x}", scatter(key))
}

fn session_id(key: usize) -> String {
    format!("s-{:08x}", scatter(key) >> 20)
}

/// For the `time` of events.
pub fn now() -> String {
    chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now())
        .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// A `typing.context.v1` event of about 600 bytes.
pub fn typing_event(shape: Shape, index: usize, time: &str) -> String {
    let (key, sequence) = shape.key_and_sequence(index);
    let (document, session) = (document_id(key), session_id(key));
    let offset = index % 4_000;
    let paragraph = &PROSE[..150 + index % 40];
    let recent = &PROSE[index % 7..14 + index % 7];
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{index:012x}-{:08x}\",\"source\":\"/editor\",\"type\":\"typing.context.v1\",\
         \"time\":\"{time}\",\"partitionkey\":\"{document}:{session}\",\"data\":{{\"sessionId\":\"{session}\",\
         \"documentId\":\"{document}\",\"userId\":\"u-{}\",\"sequence\":{sequence},\"cursor\":{{\"offset\":{offset}}},\
         \"selection\":{{\"start\":{offset},\"end\":{offset}}},\"paragraph\":\"{paragraph}\",\"recentText\":\"{recent}\",\
         \"clientTime\":\"{time}\"}}}}",
        scatter(index) >> 32,
        key % 5_000,
    )
}

/// A `document.analyze.v1` event.
pub fn analysis_event(id: &str, document: &str, content: &str) -> String {
    serde_json::json!({
        "specversion": "1.0", "id": id, "source": "/bench", "type": "document.analyze.v1",
        "data": {"documentId": document, "content": content, "language": "en"},
    })
    .to_string()
}

/// Pushes events in pipelines, to the `normal` list or to the stream.
pub fn push(
    redis: &mut redis::Connection,
    stage: &Stage,
    queue: &str,
    events: impl Iterator<Item = String>,
) -> Result<()> {
    let key = stage.key(queue, if queue == STREAM { "events" } else { "normal" });
    let mut events = events.peekable();
    while events.peek().is_some() {
        let chunk = events.by_ref().take(1_000);
        let mut pipe = redis::pipe();
        if queue == STREAM {
            for event in chunk {
                pipe.cmd("XADD").arg(&key).arg("*").arg("body").arg(event).ignore();
            }
        } else {
            pipe.lpush(&key, chunk.collect::<Vec<_>>()).ignore();
        }
        pipe.exec(redis)?;
    }
    Ok(())
}

/// English paragraphs of the sample texts that the repository ships.
pub struct Paragraphs(Vec<String>);

impl Paragraphs {
    pub fn load() -> Result<Self> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/documents");
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .with_context(|| format!("reading {}", folder.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        let mut paragraphs = Vec::new();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "txt")) {
            let text = std::fs::read_to_string(file)?;
            if whichlang::detect_language(&text) == whichlang::Lang::Eng {
                let words = |paragraph: &&str| paragraph.split_whitespace().count() >= 20;
                paragraphs.extend(text.split("\n\n").filter(words).map(|one| one.trim().replace('\n', " ")));
            }
        }
        if paragraphs.len() < 20 {
            bail!("{} holds too little English plain text", folder.display());
        }
        Ok(Self(paragraphs))
    }

    /// The `index`-th paragraph; no two are the same. Every sentence differs from the one that it is made from, so
    /// that nothing remembered of one paragraph helps with the next.
    pub fn paragraph(&self, index: usize) -> String {
        let base = &self.0[index % self.0.len()];
        let mut text = String::with_capacity(base.len() + 80);
        for (at, word) in base.split(' ').enumerate() {
            if at > 0 {
                text.push(' ');
            }
            text.push_str(word);
            // A number reads as well as none in most places, and makes the clause one of its own.
            if at % 8 == 7 && !word.ends_with(['.', ',', ';', '?', '!']) {
                text.push_str(&format!(" {}", 100 + scatter(index * 1_009 + at) % 9_900));
            }
        }
        text
    }

    /// Texts of `words` words or a little more, from paragraphs `first` on, and the number of paragraphs used.
    pub fn text(&self, first: usize, words: usize) -> (String, usize) {
        let (mut text, mut used, mut count) = (String::new(), 0, 0);
        while count < words {
            let paragraph = self.paragraph(first + used);
            count += word_count(&paragraph);
            if used > 0 {
                text.push_str("\n\n");
            }
            text.push_str(&paragraph);
            used += 1;
        }
        (text, used)
    }
}

pub fn word_count(text: &str) -> usize {
    text.split_whitespace().count()
}
