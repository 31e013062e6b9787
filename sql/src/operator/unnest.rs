//! UNNEST: a row for each element of an array.

use std::sync::Arc;

use super::{Operator, Port, report};
use crate::change::{Delta, Diff};
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::json;
use crate::plan::physical::{self, Made, PlanError};
use crate::step::{Step, Stop};
use crate::value::{Fault, Value};

#[derive(Debug)]
pub(super) struct Unnest {
    array: Expression,
    outer: bool,
    output: Vec<Made>,
}

impl Unnest {
    pub fn new(unnest: &physical::Unnest) -> Result<Unnest, PlanError> {
        Ok(Unnest {
            array: Expression::compile(&unnest.array)?,
            outer: unnest.outer,
            output: unnest.output.clone(),
        })
    }
}

impl Operator for Unnest {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut faults = Faults::default();
        let arrays = self.array.evaluate(&delta.rows, &step.scope(), &mut faults);
        report(&faults, &delta.origin, step);
        let (mut rows, mut elements) = (Vec::new(), Vec::new());
        for row in 0..delta.len() {
            let before = elements.len();
            match elements_of(&arrays.get(row)) {
                Some(found) => elements.extend(found),
                None => step.error(delta.origin[row], Fault::WrongType),
            }
            if self.outer && elements.len() == before {
                elements.push(Value::Null);
            }
            rows.resize(elements.len(), row as u32);
        }
        let elements = Arc::new(Column::from_values(elements));
        let repeated = repeat(delta, &rows);
        let column = |made: &Made| match made {
            Made::Input(column) => repeated.rows.column(column.index()).clone(),
            Made::New(_) => elements.clone(),
        };
        let columns = Columns::new(self.output.iter().map(column).collect(), rows.len());
        step.emit(repeated.with_rows(columns));
        Ok(())
    }
}

/// Each of these rows, as often as it is named.
fn repeat(delta: &Delta, rows: &[u32]) -> Delta {
    fn pick<T: Copy>(all: &[T], rows: &[u32]) -> Vec<T> {
        rows.iter().map(|row| all[*row as usize]).collect()
    }
    Delta {
        rows: delta.rows.take(rows),
        diff: match &delta.diff {
            Diff::Append => Diff::Append,
            Diff::Weights(weights) => Diff::Weights(pick(weights, rows)),
        },
        time: pick(&delta.time, rows).into(),
        origin: pick(&delta.origin, rows).into(),
        frontier: pick(&delta.frontier, rows).into(),
    }
}

/// NULL has none; None: it is no array.
fn elements_of(value: &Value) -> Option<Vec<Value>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => Some(items.to_vec()),
        Value::Json(text) => json::elements(text),
        _ => None,
    }
}
