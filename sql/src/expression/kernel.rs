//! Loops over typed columns: arithmetic and comparison of INTEGERs and FLOATs.

use std::cmp::Ordering;

use super::Faults;
use crate::column::{Cells, Column, Data};
use crate::plan::physical::BinaryOp;
use crate::value::{Fault, Value, float_result};

/// A side of a kernel: a vector, or one number for all rows.
enum Side<'a, T> {
    Cells(&'a Cells<T>),
    One(T),
}

impl<T: Copy + Default> Side<'_, T> {
    fn at(&self, row: usize) -> T {
        match self {
            Side::Cells(cells) => cells.values[row],
            Side::One(value) => *value,
        }
    }

    fn valid(&self) -> Option<&[bool]> {
        match self {
            Side::Cells(cells) => cells.valid.as_deref(),
            Side::One(_) => None,
        }
    }
}

fn integers(column: &Column) -> Option<Side<'_, i64>> {
    match &column.data {
        Data::Integer(cells) => Some(Side::Cells(cells)),
        Data::Constant(Value::Integer(number), _) => Some(Side::One(*number)),
        _ => None,
    }
}

fn timestamps(column: &Column) -> Option<Side<'_, i64>> {
    match &column.data {
        Data::Timestamp(cells) => Some(Side::Cells(cells)),
        Data::Constant(Value::Timestamp(us), _) => Some(Side::One(*us)),
        _ => None,
    }
}

/// FLOATs; a constant INTEGER counts where it is exact as FLOAT.
fn floats(column: &Column) -> Option<Side<'_, f64>> {
    match &column.data {
        Data::Float(cells) => Some(Side::Cells(cells)),
        Data::Constant(Value::Float(number), _) => Some(Side::One(*number)),
        Data::Constant(Value::Integer(number), _) if number.unsigned_abs() <= 1 << 53 => {
            Some(Side::One(*number as f64))
        }
        _ => None,
    }
}

/// It has nothing but STRINGs.
fn is_text(column: &Column) -> bool {
    matches!(column.data, Data::Text(_) | Data::Constant(Value::String(_), _))
}

/// Valid where both are. None: everywhere.
fn both_valid(left: Option<&[bool]>, right: Option<&[bool]>) -> Option<Vec<bool>> {
    match (left, right) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => Some(one.to_vec()),
        (Some(left), Some(right)) => Some(left.iter().zip(right).map(|(left, right)| *left && *right).collect()),
    }
}

/// Two FLOAT columns, or one and a number. None: not for this kernel.
pub(super) fn arithmetic(op: BinaryOp, left: &Column, right: &Column, faults: &mut Faults) -> Option<Column> {
    let known = matches!(
        op,
        BinaryOp::Add | BinaryOp::Subtract | BinaryOp::Multiply | BinaryOp::Divide | BinaryOp::Modulo
    );
    // Two constants may be INTEGERs, whose arithmetic is another.
    if !known || !(matches!(left.data, Data::Float(_)) || matches!(right.data, Data::Float(_))) {
        return None;
    }
    let (left_side, right_side) = (floats(left)?, floats(right)?);
    let mut valid = both_valid(left_side.valid(), right_side.valid());
    let rows = left.len();
    let mut values = Vec::with_capacity(rows);
    for row in 0..rows {
        let result = match op {
            BinaryOp::Add => left_side.at(row) + right_side.at(row),
            BinaryOp::Subtract => left_side.at(row) - right_side.at(row),
            BinaryOp::Multiply => left_side.at(row) * right_side.at(row),
            BinaryOp::Divide => left_side.at(row) / right_side.at(row),
            _ => left_side.at(row) % right_side.at(row),
        };
        values.push(result);
    }
    // Inputs are finite, so what is not finite now overflowed or divided by zero.
    for row in 0..rows {
        if !values[row].is_finite() {
            values[row] = 0.0;
            let valid = valid.get_or_insert_with(|| vec![true; rows]);
            let was_valid = std::mem::replace(&mut valid[row], false);
            if let (true, Err(fault)) = (was_valid, float_result(op, left_side.at(row), right_side.at(row))) {
                faults.push(row, fault);
            }
        }
    }
    Some(Column::from_data(Data::Float(Cells { values, valid })))
}

/// Two columns of one type, or one and a constant. None: not for this kernel.
pub(super) fn compare(op: BinaryOp, left: &Column, right: &Column) -> Option<Column> {
    if let (Some(left_side), Some(right_side)) = (integers(left), integers(right)) {
        return Some(loop_over(op, left.len(), &left_side, &right_side, |a, b| a.cmp(&b)));
    }
    if let (Some(left_side), Some(right_side)) = (timestamps(left), timestamps(right)) {
        return Some(loop_over(op, left.len(), &left_side, &right_side, |a, b| a.cmp(&b)));
    }
    if is_text(left) && is_text(right) {
        return Some(compare_texts(op, left, right));
    }
    let (left_side, right_side) = (floats(left)?, floats(right)?);
    // -0.0 equals 0.0, and there is no NaN among values.
    Some(loop_over(op, left.len(), &left_side, &right_side, |a: f64, b| {
        a.partial_cmp(&b).unwrap_or(Ordering::Equal)
    }))
}

fn loop_over<T: Copy + Default>(
    op: BinaryOp,
    rows: usize,
    left: &Side<'_, T>,
    right: &Side<'_, T>,
    order: impl Fn(T, T) -> Ordering,
) -> Column {
    let valid = both_valid(left.valid(), right.valid());
    let run = |holds: fn(Ordering) -> bool| (0..rows).map(|row| holds(order(left.at(row), right.at(row)))).collect();
    let values = run(test(op));
    Column::from_data(Data::Boolean(Cells { values, valid }))
}

fn compare_texts(op: BinaryOp, left: &Column, right: &Column) -> Column {
    let rows = left.len();
    let mut values = Vec::with_capacity(rows);
    let mut valid = None;
    for row in 0..rows {
        let holds = match (left.text(row).zip(right.text(row)), op) {
            // Only whether they are equal is asked: mostly their lengths say that.
            (Some((left, right)), BinaryOp::Equal) => left == right,
            (Some((left, right)), BinaryOp::NotEqual) => left != right,
            (Some((left, right)), _) => test(op)(left.cmp(right)),
            (None, _) => {
                valid.get_or_insert_with(|| vec![true; rows])[row] = false;
                false
            }
        };
        values.push(holds);
    }
    Column::from_data(Data::Boolean(Cells { values, valid }))
}

/// INTEGERs, which are milliseconds, as TIMESTAMPs.
pub(super) fn timestamps_of(cells: &Cells<i64>, faults: &mut Faults) -> Column {
    let mut valid = cells.valid.clone();
    let mut values = Vec::with_capacity(cells.values.len());
    for (row, ms) in cells.values.iter().enumerate() {
        values.push(ms.checked_mul(1_000).unwrap_or_else(|| {
            faults.push(row, Fault::BadCast);
            valid.get_or_insert_with(|| vec![true; cells.values.len()])[row] = false;
            0
        }));
    }
    Column::from_data(Data::Timestamp(Cells { values, valid }))
}

fn test(op: BinaryOp) -> fn(Ordering) -> bool {
    match op {
        BinaryOp::Equal => Ordering::is_eq,
        BinaryOp::NotEqual => Ordering::is_ne,
        BinaryOp::Less => Ordering::is_lt,
        BinaryOp::LessOrEqual => Ordering::is_le,
        BinaryOp::Greater => Ordering::is_gt,
        _ => Ordering::is_ge,
    }
}

/// Any two values: NULL where they do not compare.
pub(crate) fn compare_values(op: BinaryOp, left: &Value, right: &Value) -> Value {
    left.compare(right)
        .map_or(Value::Null, |order| Value::Boolean(test(op)(order)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::column::{FieldBuilder, Place};
    use crate::value::binary;
    use bytestring::ByteString;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            Just(Value::Float(0.0)),
            Just(Value::Float(1e308)),
            (-100_i32..100).prop_map(|n| Value::Float(f64::from(n) / 8.0)),
        ]
    }

    proptest! {
        #[test]
        fn texts_and_times_are_as_single_values(
            rows in prop::collection::vec((prop::option::of("[ab]{0,2}"), prop::option::of("[ab]{0,2}"), any::<Option<i64>>()), 1..9),
        ) {
            let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, |text| Value::String(text.into()));
            let in_payloads = |texts: Vec<Option<&String>>| {
                let payloads: Vec<_> = texts.iter().map(|text| ByteString::from(text.cloned().unwrap_or_default())).collect();
                let mut builder = FieldBuilder::with_capacity(texts.len());
                for (number, text) in texts.iter().enumerate() {
                    match text {
                        Some(_) => builder.push_text(Place::new(number, 0, payloads[number].len()), &payloads),
                        None => builder.push(Value::Null, &payloads),
                    }
                }
                builder.finish(&Arc::new(payloads))
            };
            let left = in_payloads(rows.iter().map(|row| row.0.as_ref()).collect());
            let right = in_payloads(rows.iter().map(|row| row.1.as_ref()).collect());
            let constant = Column::constant(Value::String("a".into()), rows.len());
            for op in [BinaryOp::Equal, BinaryOp::NotEqual, BinaryOp::Less, BinaryOp::GreaterOrEqual] {
                for other in [&right, &constant] {
                    let Some(column) = compare(op, &left, other) else { continue };
                    for (number, row) in rows.iter().enumerate() {
                        prop_assert_eq!(column.get(number).into_owned(), compare_values(op, &text(&row.0), &other.get(number)));
                    }
                }
            }
            let numbers = Column::from_values(rows.iter().map(|row| row.2.map_or(Value::Null, Value::Integer)));
            let mut faults = Faults::default();
            if let Data::Integer(cells) = &numbers.data {
                let times = timestamps_of(cells, &mut faults);
                for number in 0..rows.len() {
                    let expected = crate::value::cast(&numbers.get(number), &crate::types::DataType::Timestamp);
                    let fault = faults.iter().find(|(row, _)| *row == number).map(|(_, fault)| fault);
                    prop_assert_eq!(fault, expected.clone().err());
                    prop_assert_eq!(times.get(number).into_owned(), expected.unwrap_or(Value::Null));
                }
            }
        }

        /// The kernels are the row-by-row rules, faster.
        #[test]
        fn a_kernel_agrees_with_single_values(
            pairs in prop::collection::vec((number(), number()), 1..20),
            constant in -3_i64..3,
        ) {
            let left = Column::from_values(pairs.iter().map(|(left, _)| left.clone()));
            let right = Column::from_values(pairs.iter().map(|(_, right)| right.clone()));
            let constant = Column::constant(Value::Integer(constant), pairs.len());
            for other in [&right, &constant] {
                for op in [BinaryOp::Add, BinaryOp::Multiply, BinaryOp::Divide, BinaryOp::Modulo] {
                    let mut faults = Faults::default();
                    let Some(column) = arithmetic(op, &left, other, &mut faults) else { continue };
                    for row in 0..pairs.len() {
                        let expected = binary(op, &left.get(row), &other.get(row));
                        let fault = faults.iter().find(|(faulty, _)| *faulty == row).map(|(_, fault)| fault);
                        prop_assert_eq!(fault, expected.clone().err());
                        prop_assert_eq!(column.get(row).into_owned(), expected.unwrap_or(Value::Null));
                    }
                }
                for op in [BinaryOp::Equal, BinaryOp::NotEqual, BinaryOp::Less, BinaryOp::GreaterOrEqual] {
                    let Some(column) = compare(op, &left, other) else { continue };
                    for row in 0..pairs.len() {
                        prop_assert_eq!(column.get(row).into_owned(), compare_values(op, &left.get(row), &other.get(row)));
                    }
                }
            }
        }
    }
}
