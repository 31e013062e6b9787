//! AND, OR, COALESCE, CASE and IN: what one part comes to says whether another one counts, its faults too.

use std::sync::Arc;

use super::{Faults, Part, truth};
use crate::column::{Column, Columns};
use crate::function::Scope;
use crate::value::Value;

/// Three-valued AND and OR; the right side's faults count only where the left does not decide. What is no BOOLEAN counts as
/// NULL, and is told.
pub(super) fn logic(
    decided: bool,
    left: &Part,
    right: &Part,
    rows: &Columns,
    scope: &Scope,
    faults: &mut Faults,
) -> Arc<Column> {
    let left = left.evaluate(rows, scope, faults);
    let mut right_faults = Faults::default();
    let right = right.evaluate(rows, scope, &mut right_faults);
    let is_decided = |row: usize| left.get(row).as_boolean() == Some(decided);
    faults.absorb(right_faults, |row| !is_decided(row));
    let mut wrong = Faults::default();
    let mut truth_of = |row: usize, side: &Column| {
        truth(&side.get(row)).unwrap_or_else(|fault| {
            wrong.push(row, fault);
            None
        })
    };
    let decide = |row| {
        let left = truth_of(row, &left);
        if left == Some(decided) {
            return Value::Boolean(decided);
        }
        match (left, truth_of(row, &right)) {
            (_, Some(truth)) if truth == decided => Value::Boolean(decided),
            (Some(_), Some(_)) => Value::Boolean(!decided),
            _ => Value::Null,
        }
    };
    let column = Column::from_values((0..rows.rows()).map(decide));
    faults.absorb(wrong, |_| true);
    Arc::new(column)
}

/// The first that is not NULL; the faults of those behind it do not count.
pub(super) fn coalesce(parts: &[Part], rows: &Columns, scope: &Scope, faults: &mut Faults) -> Arc<Column> {
    let mut chosen: Option<Arc<Column>> = None;
    for part in parts {
        let mut new_faults = Faults::default();
        let column = part.evaluate(rows, scope, &mut new_faults);
        let Some(earlier) = chosen else {
            // The first one's faults always count.
            faults.absorb(new_faults, |_| true);
            chosen = Some(column);
            continue;
        };
        faults.absorb(new_faults, |row| earlier.get(row).is_null());
        chosen = Some(Arc::new(Column::from_values((0..rows.rows()).map(|row| {
            let first = earlier.get(row);
            if first.is_null() {
                column.get(row).into_owned()
            } else {
                first.into_owned()
            }
        }))));
    }
    chosen.unwrap_or_else(|| Arc::new(Column::constant(Value::Null, rows.rows())))
}

/// The result of the first branch whose condition is TRUE; the faults of the others do not count.
pub(super) fn case(
    branches: &[(Part, Part)],
    otherwise: &Part,
    rows: &Columns,
    scope: &Scope,
    faults: &mut Faults,
) -> Arc<Column> {
    let count = rows.rows();
    let mut results: Vec<Value> = vec![Value::Null; count];
    let mut open: Vec<bool> = vec![true; count];
    for (condition, result) in branches {
        let (mut condition_faults, mut result_faults) = (Faults::default(), Faults::default());
        let condition = condition.evaluate(rows, scope, &mut condition_faults);
        let result = result.evaluate(rows, scope, &mut result_faults);
        faults.absorb(condition_faults, |row| open[row]);
        faults.absorb(result_faults, |row| open[row] && condition.is_true(row));
        for row in (0..count).filter(|row| condition.is_true(*row)) {
            if std::mem::replace(&mut open[row], false) {
                results[row] = result.get(row).into_owned();
            }
        }
    }
    let mut last_faults = Faults::default();
    let last = otherwise.evaluate(rows, scope, &mut last_faults);
    faults.absorb(last_faults, |row| open[row]);
    for row in (0..count).filter(|row| open[*row]) {
        results[row] = last.get(row).into_owned();
    }
    Arc::new(Column::from_values(results))
}

/// TRUE if one is equal; else NULL if one does not compare; else FALSE.
pub(super) fn is_in(row: usize, operand: &Column, list: &[Arc<Column>]) -> Option<bool> {
    let operand = operand.get(row);
    let mut unknown = false;
    for item in list {
        match operand.compare(&item.get(row)) {
            Some(order) if order.is_eq() => return Some(true),
            Some(_) => {}
            None => unknown = true,
        }
    }
    if unknown { None } else { Some(false) }
}
