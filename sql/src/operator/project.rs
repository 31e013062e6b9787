//! SELECT's items: one column per expression.

use super::{Operator, Port, report};
use crate::change::Delta;
use crate::column::Columns;
use crate::expression::{Expression, Faults};
use crate::plan::physical::{Expr, PlanError};
use crate::step::{Step, Stop};

#[derive(Debug)]
pub(super) struct Project {
    columns: Vec<Expression>,
}

impl Project {
    pub fn new(columns: &[Expr]) -> Result<Project, PlanError> {
        Ok(Project {
            columns: columns.iter().map(Expression::compile).collect::<Result<_, _>>()?,
        })
    }
}

impl Operator for Project {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut faults = Faults::default();
        let scope = step.scope();
        let columns = self
            .columns
            .iter()
            .map(|column| column.evaluate(&delta.rows, &scope, &mut faults))
            .collect();
        report(&faults, &delta.origin, step);
        step.emit(delta.with_rows(Columns::new(columns, delta.len())));
        Ok(())
    }
}
