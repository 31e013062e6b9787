//! Rows on standard output, in the form that was asked for.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Map, Value};

/// Rows of a table that are measured before it is drawn; later rows may overhang.
const MEASURED_ROWS_MAX: usize = 1_000;
/// The widest column of a table; longer values overhang.
const COLUMN_CHARS_MAX: usize = 60;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns under headings.
    Table,
    /// One JSON array for each statement.
    Json,
    /// One JSON object a line, as the server wrote it.
    Ndjson,
}

/// Why a row could not be printed.
#[derive(Debug)]
pub enum PrintError {
    /// Whoever reads standard output has seen enough.
    Closed,
    /// Anything else, a full disk for example.
    Io(io::Error),
}

impl fmt::Display for PrintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrintError::Closed => f.write_str("standard output is closed"),
            PrintError::Io(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl std::error::Error for PrintError {}

impl From<io::Error> for PrintError {
    fn from(error: io::Error) -> PrintError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            PrintError::Closed
        } else {
            PrintError::Io(error)
        }
    }
}

/// Prints the rows of one statement after the other.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    /// Rows of the current statement; none before `begin`.
    rows: Option<u64>,
    table: Table,
}

impl Printer {
    /// Prints in `format`.
    pub fn new(format: Format) -> Printer {
        Printer {
            format,
            rows: None,
            table: Table::default(),
        }
    }

    /// A statement's rows begin. Where they are `endless` nothing is held back.
    pub fn begin(&mut self, endless: bool) -> Result<(), PrintError> {
        self.finish()?;
        self.rows = Some(0);
        self.table = Table {
            measured: endless,
            ..Table::default()
        };
        match self.format {
            Format::Json => write("["),
            Format::Table | Format::Ndjson => Ok(()),
        }
    }

    /// One row of JSON.
    pub fn row(&mut self, row: &str) -> Result<(), PrintError> {
        let number = self.rows.get_or_insert(0);
        *number += 1;
        match self.format {
            Format::Ndjson => write(&format!("{row}\n")),
            Format::Json if *number == 1 => write(&format!("\n  {row}")),
            Format::Json => write(&format!(",\n  {row}")),
            Format::Table => write(&self.table.row(row)),
        }
    }

    /// The statement's rows are over.
    pub fn finish(&mut self) -> Result<(), PrintError> {
        match (self.rows.take(), self.format) {
            (None, _) | (_, Format::Ndjson) => Ok(()),
            (Some(0), Format::Json) => write("]\n"),
            (Some(_), Format::Json) => write("\n]\n"),
            (Some(_), Format::Table) => write(&self.table.finish()),
        }
    }
}

/// At once: somebody may be waiting for this very row.
fn write(text: &str) -> Result<(), PrintError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Rows as columns. The first ones are held back until the widths are known.
#[derive(Debug, Default)]
struct Table {
    columns: Vec<(String, usize)>,
    held: Vec<Map<String, Value>>,
    measured: bool,
}

impl Table {
    /// What to print for one more row.
    fn row(&mut self, row: &str) -> String {
        let Ok(Value::Object(row)) = serde_json::from_str(row) else {
            return format!("{row}\n");
        };
        self.held.push(row);
        if self.measured || self.held.len() >= MEASURED_ROWS_MAX {
            self.draw()
        } else {
            String::new()
        }
    }

    /// What is left to print.
    fn finish(&mut self) -> String {
        self.draw()
    }

    fn draw(&mut self) -> String {
        self.measured = true;
        let mut out = String::new();
        let known = self.columns.len();
        for row in &self.held {
            for (name, value) in row {
                let width = cell(value)
                    .chars()
                    .count()
                    .max(name.chars().count())
                    .min(COLUMN_CHARS_MAX);
                match self.columns.iter_mut().find(|(column, _)| column == name) {
                    Some((_, widest)) if known == 0 => *widest = width.max(*widest),
                    Some(_) => {}
                    None => self.columns.push((name.clone(), width)),
                }
            }
        }
        // A row with columns that no row before it had gets headings again.
        if self.columns.len() > known {
            out.push_str(&line(
                self.columns.iter().map(|(name, width)| (name.clone(), *width, false)),
            ));
            out.push_str(&line(
                self.columns
                    .iter()
                    .map(|(_, width)| ("-".repeat(*width), *width, false)),
            ));
        }
        for row in self.held.drain(..) {
            let cells = self.columns.iter().map(|(name, width)| {
                let value = row.get(name).unwrap_or(&Value::Null);
                (cell(value), *width, value.is_number())
            });
            out.push_str(&line(cells));
        }
        out
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn line(cells: impl Iterator<Item = (String, usize, bool)>) -> String {
    let cells: Vec<_> = cells
        .map(|(text, width, right)| {
            if right {
                format!("{text:>width$}")
            } else {
                format!("{text:<width$}")
            }
        })
        .collect();
    format!("{}\n", cells.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_values() {
        let mut table = Table::default();
        assert_eq!(table.row(r#"{"city":"sf","temp":9001.0}"#), "");
        assert_eq!(table.row(r#"{"city":"seattle","temp":7}"#), "");
        assert_eq!(
            table.finish(),
            "city     temp\n-------  ------\nsf       9001.0\nseattle       7\n"
        );
    }

    #[test]
    fn endless_rows_are_drawn_as_they_come() {
        let mut table = Table {
            measured: true,
            ..Table::default()
        };
        assert_eq!(table.row(r#"{"n":1}"#), "n\n-\n1\n");
        assert_eq!(table.row(r#"{"n":22}"#), "22\n");
        assert_eq!(table.row(r#"{"n":3,"m":null}"#), "n  m\n-  -\n3\n");
        assert_eq!(table.row("7"), "7\n");
    }
}
