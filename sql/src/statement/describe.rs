//! DESCRIBE: the columns of a stream.

use headwater_store::{Format, StreamRow};
use serde_json::json;

use crate::plan::system_columns;

/// One row a column, in the order in which names are looked up.
pub fn stream(stream: &StreamRow) -> Vec<String> {
    let row = |name: &str, data_type: &str, about: &str| {
        json!({ "column": name, "type": data_type, "about": about }).to_string()
    };
    let mut rows = Vec::new();
    for column in &stream.columns {
        let about = match (column.not_null, column.key) {
            (true, true) => "declared, NOT NULL, KEY",
            (true, false) => "declared, NOT NULL",
            (false, true) => "declared, KEY",
            (false, false) => "declared",
        };
        rows.push(row(&column.name, &column.data_type, about));
    }
    match stream.options.format {
        Format::Text => rows.push(row("value", "STRING", "the payload")),
        Format::Raw => rows.push(row("value", "BYTEA", "the payload")),
        Format::Json if stream.columns.is_empty() => {
            rows.push(row(
                "*",
                "ANY",
                "any field of the JSON payload, NULL where it is missing",
            ));
        }
        Format::Json => {}
    }
    let mut captured: Vec<String> = Vec::new();
    for filter in stream.capture_filters() {
        for name in filter
            .capture_names()
            .filter(|name| !captured.iter().any(|known| known == name))
            .collect::<Vec<_>>()
        {
            rows.push(row(name, "STRING", &format!("a level of {filter}")));
            captured.push(name.to_owned());
        }
    }
    rows.extend(system_columns().map(|(name, data_type)| row(name, &data_type.to_string(), "of every record")));
    rows
}
