//! Text for people: headings, paragraphs and tables that fit the terminal.

use std::fmt::Display;

use comfy_table::Table;
use console::{Term, colors_enabled, measure_text_width, style};

/// Where there is no terminal.
const WIDTH: usize = 100;

pub struct Page {
    text: String,
    width: usize,
}

impl Page {
    pub fn new() -> Self {
        let width = Term::stdout().size_checked().map_or(WIDTH, |(_, columns)| usize::from(columns));
        // Longer lines are hard to read.
        Self { text: String::new(), width: width.clamp(60, 120) }
    }

    pub fn heading(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(&strong(title));
    }

    /// A line as it is, however long.
    pub fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Broken between words; `first` stands before the first line, and the others are indented as far.
    pub fn para(&mut self, first: &str, text: &str) {
        let indent = measure_text_width(first);
        let (mut line, mut used) = (first.to_owned(), indent);
        for word in text.split(' ') {
            let width = measure_text_width(word);
            if used > indent && used + 1 + width > self.width {
                self.line(&line);
                (line, used) = (" ".repeat(indent), indent);
            }
            if used > indent {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += width;
        }
        self.line(&line);
    }

    pub fn table(&mut self, table: &mut Table) {
        table.set_width(self.width as u16);
        self.line(&table.to_string());
    }

    pub fn finish(self) -> String {
        self.text
    }
}

pub fn strong(text: impl Display) -> String {
    style(text).bold().to_string()
}

/// A part of a text that is pointed at: in brackets where there are no colours.
pub fn marked(text: &str) -> String {
    if colors_enabled() { style(text).red().bold().underlined().to_string() } else { format!("[{text}]") }
}

pub fn good(text: impl Display) -> String {
    style(text).green().bold().to_string()
}

pub fn bad(text: impl Display) -> String {
    style(text).red().bold().to_string()
}

/// `1 task`, `2 tasks`.
pub fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
