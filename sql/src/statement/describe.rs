//! DESCRIBE: the columns of a stream.

use headwater_store::{Format, StreamRow};
use serde_json::json;

use crate::plan::physical::{ColumnId, Expr, Plan, SinkItem};
use crate::plan::system_columns;

const ANY_FIELD: &str = "any field of the JSON payload, NULL where it is missing";

/// One row a column, in the order in which names are looked up; `plan` is that of the query that writes it.
pub fn stream(stream: &StreamRow, plan: Option<&Plan>) -> Vec<String> {
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
        Format::Json if stream.columns.is_empty() => match plan.and_then(selected) {
            Some(columns) => rows.extend(
                columns
                    .iter()
                    .map(|(name, data_type, about)| row(name, data_type, about)),
            ),
            None => rows.push(row("*", "ANY", ANY_FIELD)),
        },
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

/// What a query writes: name, type, and what there is to say.
fn selected(plan: &Plan) -> Option<Vec<(String, String, String)>> {
    let (_, sink) = plan.sink()?;
    let input = plan.nodes.iter().rev().nth(1)?;
    let is_key = |column: &ColumnId| {
        let is = |key: &Expr| match key {
            Expr::Column(key) => key == column,
            _ => false,
        };
        sink.key.iter().any(is)
    };
    let item = |item: &SinkItem| match item {
        SinkItem::Column { name, column } => {
            let data_type = &input.schema.columns.get(column.index())?.data_type;
            let about = if is_key(column) { "selected, KEY" } else { "selected" };
            Some((name.clone(), data_type.to_string(), about.to_owned()))
        }
        SinkItem::Star(_) => {
            let about = "any field of the payload that it was selected from, NULL where it is missing";
            Some(("*".to_owned(), "ANY".to_owned(), about.to_owned()))
        }
    };
    sink.items.iter().map(item).collect()
}
