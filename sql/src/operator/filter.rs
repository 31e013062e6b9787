//! WHERE and HAVING: keeps the rows for which the predicate is TRUE.

use super::{Operator, Port, report};
use crate::change::Delta;
use crate::expression::{Expression, Faults};
use crate::plan::physical::{Expr, PlanError};
use crate::step::{Step, Stop};

#[derive(Debug)]
pub(super) struct Filter {
    predicate: Expression,
}

impl Filter {
    pub fn new(predicate: &Expr) -> Result<Filter, PlanError> {
        Ok(Filter {
            predicate: Expression::compile(predicate)?,
        })
    }
}

impl Operator for Filter {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut faults = Faults::default();
        let truth = self.predicate.evaluate(&delta.rows, &step.scope(), &mut faults);
        report(&faults, &delta.origin, step);
        step.emit(delta.take(&truth.selection()));
        Ok(())
    }
}
