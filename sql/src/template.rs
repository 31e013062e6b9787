//! TOPIC templates: the topic that a row goes out on.
//!
//! A value goes into its level percent-encoded where it holds `/ + # %` or NUL, so that no value can reach into
//! another level or break the topic; `{+name}` lets `/` through, for values that are topics themselves.

use std::fmt::Write as _;
use std::sync::Arc;

use headwater_store::TopicName;

use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::function::Scope;
use crate::plan::physical::{Expr, PlanError, Template, TemplatePart};

/// A template, ready to run.
#[derive(Debug)]
pub(crate) struct CompiledTemplate {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Value { expression: Expression, slashes: bool },
}

impl CompiledTemplate {
    /// Makes a plan's template ready; `compile` makes its expressions so.
    pub fn compile(
        template: &Template,
        compile: &dyn Fn(&Expr) -> Result<Expression, PlanError>,
    ) -> Result<CompiledTemplate, PlanError> {
        let part = |part: &TemplatePart| {
            Ok(match part {
                TemplatePart::Text(text) => Part::Text(text.clone()),
                TemplatePart::Value { expr, slashes } => Part::Value {
                    expression: compile(expr)?,
                    slashes: *slashes,
                },
            })
        };
        Ok(CompiledTemplate {
            parts: template.parts.iter().map(part).collect::<Result<_, PlanError>>()?,
        })
    }

    /// The topics of these rows. None: a value is NULL or empty, or what comes out is no topic to publish on (`$` in
    /// front, too long). Such a row is stored without a topic.
    pub fn topics(&self, rows: &Columns, scope: &Scope, faults: &mut Faults) -> Vec<Option<TopicName>> {
        let columns: Vec<Option<Arc<Column>>> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(_) => None,
                Part::Value { expression, .. } => Some(expression.evaluate(rows, scope, faults)),
            })
            .collect();
        let mut out = String::new();
        // Rows of one device follow each other: the last topic is often the next one.
        let mut last: Option<TopicName> = None;
        (0..rows.rows())
            .map(|row| {
                out.clear();
                let whole = self
                    .parts
                    .iter()
                    .zip(&columns)
                    .all(|(part, column)| write_part(part, column, row, &mut out));
                if !whole || out.starts_with('$') {
                    return None;
                }
                if last.as_ref().is_none_or(|last| last.as_str() != out) {
                    last = TopicName::new(out.as_str()).ok();
                }
                last.clone().filter(|topic| topic.as_str() == out)
            })
            .collect()
    }
}

/// False: there is nothing to write.
fn write_part(part: &Part, column: &Option<Arc<Column>>, row: usize, out: &mut String) -> bool {
    match (part, column) {
        (Part::Text(text), _) => {
            out.push_str(text);
            true
        }
        (Part::Value { slashes, .. }, Some(column)) => match column.get(row).to_text() {
            Some(text) if !text.is_empty() => {
                write_level(&text, *slashes, out);
                true
            }
            _ => false,
        },
        (Part::Value { .. }, None) => false,
    }
}

fn write_level(text: &str, slashes: bool, out: &mut String) {
    for character in text.chars() {
        match character {
            '/' if slashes => out.push('/'),
            '/' | '+' | '#' | '%' | '\0' => {
                // Writing into a String cannot fail.
                let _ = write!(out, "%{:02X}", u32::from(character));
            }
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::physical::ColumnId;
    use crate::types::TimestampUs;
    use crate::value::Value;

    fn topics(parts: Vec<TemplatePart>, values: Vec<Value>) -> Vec<Option<String>> {
        let rows = values.len();
        let columns = Columns::new(vec![Arc::new(Column::from_values(values))], rows);
        let template = CompiledTemplate::compile(&Template { parts }, &Expression::compile).unwrap();
        let topics = template.topics(&columns, &Scope { now: TimestampUs(0) }, &mut Faults::default());
        topics
            .into_iter()
            .map(|topic| topic.map(|topic| topic.as_str().to_owned()))
            .collect()
    }

    fn value(slashes: bool) -> TemplatePart {
        TemplatePart::Value {
            expr: Expr::Column(ColumnId(0)),
            slashes,
        }
    }

    #[test]
    fn values_stay_inside_their_level() {
        let text = |text: &str| Value::String(text.into());
        let parts = || {
            vec![
                TemplatePart::Text("alerts/".into()),
                value(false),
                TemplatePart::Text("/x".into()),
            ]
        };
        let values = vec![
            text("sf"),
            text("a/b"),
            text("+"),
            text("50%"),
            Value::Integer(7),
            Value::Null,
            text(""),
        ];
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            topics(parts(), values),
            [
                some("alerts/sf/x"),
                some("alerts/a%2Fb/x"),
                some("alerts/%2B/x"),
                some("alerts/50%25/x"),
                some("alerts/7/x"),
                None,
                None
            ]
        );
        let long = "x".repeat(70_000);
        assert_eq!(
            topics(
                vec![value(true)],
                vec![text("a/b"), text("$SYS/x"), text("a/#"), text(&long)]
            ),
            [some("a/b"), None, some("a/%23"), None]
        );
    }
}
