//! The figures as a table with targets, and as JSON.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Color, Table};
use serde::Serialize;

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Shown for the reader, not judged.
    None,
}

impl Target {
    pub fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Target::AtLeast(limit) => Some(value >= limit),
            Target::AtMost(limit) => Some(value <= limit),
            Target::None => None,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    part: char,
    what: String,
    value: f64,
    unit: &'static str,
    target: Target,
    met: Option<bool>,
    /// What the value is made of.
    note: String,
}

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    raw: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    pub fn row(
        &mut self,
        part: char,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Target,
        note: impl Into<String>,
    ) {
        let met = target.is_met(value);
        self.rows.push(Row { part, what: what.into(), value, unit, target, met, note: note.into() });
    }

    /// Keeps what was measured, for the JSON.
    pub fn raw(&mut self, name: &str, value: impl Serialize) -> Result<()> {
        self.raw.insert(name.to_owned(), serde_json::to_value(value)?);
        Ok(())
    }

    pub fn print(&self) {
        let mut table = Table::new();
        table
            .load_style(comfy_table::presets::UTF8_FULL_CONDENSED)
            .set_header(["", "what", "value", "target", "", "from"]);
        for row in &self.rows {
            let mark = match row.met {
                Some(true) => Cell::new("met").fg(Color::Green),
                Some(false) => Cell::new("missed").fg(Color::Red),
                None => Cell::new(""),
            };
            let target = match row.target {
                Target::AtLeast(limit) => format!(">= {}", number(limit)),
                Target::AtMost(limit) => format!("<= {}", number(limit)),
                Target::None => String::new(),
            };
            table.add_row([
                Cell::new(row.part),
                Cell::new(&row.what),
                Cell::new(format!("{} {}", number(row.value), row.unit)).set_alignment(CellAlignment::Right),
                Cell::new(target).set_alignment(CellAlignment::Right),
                mark,
                Cell::new(&row.note),
            ]);
        }
        println!("{table}");
        let judged = self.rows.iter().filter(|row| row.met.is_some()).count();
        println!("{judged} targets, {} missed", self.rows.iter().filter(|row| row.met == Some(false)).count());
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let whole = serde_json::json!({"rows": self.rows, "raw": self.raw});
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, serde_json::to_string_pretty(&whole)? + "\n")
            .with_context(|| format!("writing {}", path.display()))
    }
}

/// Three digits that matter, thousands apart.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let decimals = match value.abs() {
        0.0 => 0,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    let plain = format!("{value:.decimals$}");
    if value.abs() < 10_000.0 {
        return plain;
    }
    let (mut grouped, digits) = (String::new(), plain.len());
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && digit.is_ascii_digit() && (digits - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}
