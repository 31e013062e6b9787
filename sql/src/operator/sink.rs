//! The end of a query: rows become records.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Operator, Port, report};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::json;
use crate::plan::physical::{OrderBy, PlanError, Sink, SinkItem};
use crate::step::{SinkRow, Step, Stop};
use crate::template::CompiledTemplate;
use crate::types::TimestampUs;
use crate::value::{Fault, Value, write_json_string};

#[derive(Debug)]
pub(super) struct RecordSink {
    items: Vec<SinkItem>,
    /// `"name":` of each column item, ready to be written.
    labels: Vec<String>,
    key: Vec<Expression>,
    placement: Vec<Expression>,
    topic: Option<CompiledTemplate>,
    order: Vec<Expression>,
    /// The rows of this step whose key may come again: by key, in the order of their first coming.
    changed: Vec<SinkRow>,
    by_key: HashMap<Bytes, usize>,
}

impl RecordSink {
    pub fn new(sink: &Sink, order_by: &[OrderBy]) -> Result<RecordSink, PlanError> {
        let compile = |exprs: &[_]| exprs.iter().map(Expression::compile).collect::<Result<Vec<_>, _>>();
        let label = |item: &SinkItem| {
            let mut label = String::new();
            if let SinkItem::Column { name, .. } = item {
                write_json_string(name, &mut label);
                label.push(':');
            }
            label
        };
        Ok(RecordSink {
            items: sink.items.clone(),
            labels: sink.items.iter().map(label).collect(),
            key: compile(&sink.key)?,
            placement: compile(&sink.routing.key)?,
            topic: sink
                .routing
                .topic
                .as_ref()
                .map(|topic| CompiledTemplate::compile(topic, &Expression::compile))
                .transpose()?,
            order: order_by
                .iter()
                .map(|item| Expression::compile(&item.expr))
                .collect::<Result<_, _>>()?,
            changed: Vec::new(),
            by_key: HashMap::new(),
        })
    }

    fn payload(&self, rows: &Columns, row: usize) -> String {
        // `SELECT *` alone passes the record's text on.
        if let [SinkItem::Star(column)] = self.items[..]
            && let Value::Json(text) = &*rows.column(column.index()).get(row)
        {
            return text.to_string();
        }
        let mut out = String::with_capacity(64);
        out.push('{');
        for (item, label) in self.items.iter().zip(&self.labels) {
            match item {
                SinkItem::Column { column, .. } => {
                    if out.len() > 1 {
                        out.push(',');
                    }
                    out.push_str(label);
                    rows.column(column.index()).write_json(row, &mut out);
                }
                SinkItem::Star(column) => self.write_star(&rows.column(column.index()).get(row), &mut out),
            }
        }
        out.push('}');
        out
    }

    fn write_star(&self, star: &Value, out: &mut String) {
        let Value::Json(text) = star else { return };
        let named = |name: &str| {
            self.items
                .iter()
                .any(|item| matches!(item, SinkItem::Column { name: item, .. } if item == name))
        };
        for (name, value) in json::members(text).unwrap_or_default() {
            if !named(&name) {
                if out.len() > 1 {
                    out.push(',');
                }
                write_json_string(&name, out);
                out.push(':');
                out.push_str(&value);
            }
        }
    }

    /// Of the changes of one key within a step only what is left of them goes out.
    fn coalesce(&mut self, row: SinkRow) {
        match self.by_key.get(&row.key) {
            // -old, +new: a going after a coming of the same step is a later change of the same key.
            Some(at) => self.changed[*at] = row,
            None => {
                self.by_key.insert(row.key.clone(), self.changed.len());
                self.changed.push(row);
            }
        }
    }
}

impl Operator for RecordSink {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut faults = Faults::default();
        let scope = step.scope();
        let mut evaluate = |expressions: &[Expression]| -> Vec<Arc<Column>> {
            expressions
                .iter()
                .map(|part| part.evaluate(&delta.rows, &scope, &mut faults))
                .collect()
        };
        let (keys, placements, orders) = (evaluate(&self.key), evaluate(&self.placement), evaluate(&self.order));
        let topics = self
            .topic
            .as_ref()
            .map(|topic| topic.topics(&delta.rows, &scope, &mut faults));
        report(&faults, &delta.origin, step);
        for row in 0..delta.len() {
            let (origin, weight) = (delta.origin[row], delta.weight(row));
            let topic = topics.as_ref().and_then(|topics| topics[row].clone());
            if topics.is_some() && topic.is_none() && weight > 0 {
                step.error(origin, Fault::BadTopic);
            }
            let made = SinkRow {
                payload: (weight > 0).then(|| self.payload(&delta.rows, row)),
                key: key_of(&keys, row, origin),
                placement: key_of(&placements, row, origin),
                topic,
                order: orders.iter().map(|column| column.get(row).into_owned()).collect(),
                origin,
            };
            match delta.diff {
                Diff::Append => step.write(made),
                Diff::Weights(_) => self.coalesce(made),
            }
        }
        Ok(())
    }

    fn advance(&mut self, _: Port, _: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        self.by_key.clear();
        self.changed.drain(..).for_each(|row| step.write(row));
        Ok(())
    }
}

/// A row's key as bytes: one STRING is its text, anything else is JSON, several are a JSON array, none is the record's
/// id.
pub(crate) fn key_of(columns: &[Arc<Column>], row: usize, origin: RecordId) -> Bytes {
    let text = match columns {
        [] => origin.to_string(),
        [one] => match &*one.get(row) {
            Value::String(text) => return text.clone().into_bytes(),
            other => {
                let mut out = String::new();
                other.write_json(&mut out);
                out
            }
        },
        several => {
            let mut out = String::from("[");
            for (at, column) in several.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                column.get(row).write_json(&mut out);
            }
            out.push(']');
            out
        }
    };
    Bytes::from(text)
}
