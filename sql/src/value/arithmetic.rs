//! `+ - * / DIV %` and negation of two values. NULL in, NULL out; what has no result is a [`Fault`].

use rust_decimal::Decimal;
use rust_decimal::prelude::{FromPrimitive, ToPrimitive};

use super::{Fault, Value};
use crate::calendar;
use crate::plan::physical::BinaryOp;
use crate::types::Interval;

/// `left op right` for the arithmetic operators and `||`.
pub(crate) fn binary(op: BinaryOp, left: &Value, right: &Value) -> Result<Value, Fault> {
    if left.is_null() || right.is_null() {
        return Ok(Value::Null);
    }
    match (left, right) {
        _ if op == BinaryOp::Concat => match (left.to_text(), right.to_text()) {
            (Some(left), Some(right)) => Ok(Value::String(format!("{left}{right}").into())),
            _ => Ok(Value::Null),
        },
        (Value::Integer(a), Value::Integer(b)) => integers(op, *a, *b),
        (Value::Float(a), Value::Float(b)) => floats(op, *a, *b),
        (Value::Float(_), _) | (_, Value::Float(_)) => match (left.as_f64(), right.as_f64()) {
            (Some(a), Some(b)) => floats(op, a, b),
            _ => Err(Fault::WrongType),
        },
        (Value::Integer(_) | Value::Decimal(_), Value::Integer(_) | Value::Decimal(_)) => {
            decimals(op, as_decimal(left)?, as_decimal(right)?)
        }
        _ => times(op, left, right),
    }
}

/// `-value`
pub(crate) fn negate(value: &Value) -> Result<Value, Fault> {
    match value {
        Value::Null => Ok(Value::Null),
        Value::Integer(number) => number.checked_neg().map(Value::Integer).ok_or(Fault::Overflow),
        Value::Float(number) => Ok(Value::Float(-number)),
        Value::Decimal(number) => Ok(Value::Decimal(-number)),
        Value::Interval(Interval { months, us }) => match (months.checked_neg(), us.checked_neg()) {
            (Some(months), Some(us)) => Ok(Value::Interval(Interval { months, us })),
            _ => Err(Fault::Overflow),
        },
        _ => Err(Fault::WrongType),
    }
}

fn as_decimal(value: &Value) -> Result<Decimal, Fault> {
    match value {
        Value::Integer(number) => Ok(Decimal::from(*number)),
        Value::Decimal(number) => Ok(*number),
        _ => Err(Fault::WrongType),
    }
}

fn integers(op: BinaryOp, a: i64, b: i64) -> Result<Value, Fault> {
    let result = match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Subtract => a.checked_sub(b),
        BinaryOp::Multiply => a.checked_mul(b),
        BinaryOp::Divide => return floats(op, a as f64, b as f64),
        BinaryOp::IntegerDivide | BinaryOp::Modulo if b == 0 => return Err(Fault::DivisionByZero),
        BinaryOp::IntegerDivide => a.checked_div(b),
        // i64::MIN % -1 is 0; the processor's division would trap.
        BinaryOp::Modulo => Some(a.wrapping_rem(b)),
        _ => return Err(Fault::WrongType),
    };
    result.map(Value::Integer).ok_or(Fault::Overflow)
}

/// The result of one float operation, as columns and single values both compute it.
pub(crate) fn float_result(op: BinaryOp, a: f64, b: f64) -> Result<f64, Fault> {
    let result = match op {
        BinaryOp::Add => a + b,
        BinaryOp::Subtract => a - b,
        BinaryOp::Multiply => a * b,
        BinaryOp::Divide | BinaryOp::Modulo if b == 0.0 => return Err(Fault::DivisionByZero),
        BinaryOp::Divide => a / b,
        BinaryOp::Modulo => a % b,
        _ => return Err(Fault::WrongType),
    };
    if result.is_finite() {
        Ok(result)
    } else {
        Err(Fault::Overflow)
    }
}

fn floats(op: BinaryOp, a: f64, b: f64) -> Result<Value, Fault> {
    if op == BinaryOp::IntegerDivide {
        let quotient = float_result(BinaryOp::Divide, a, b)?.trunc();
        return super::cast::float_to_integer(quotient)
            .map(Value::Integer)
            .ok_or(Fault::Overflow);
    }
    float_result(op, a, b).map(Value::Float)
}

fn decimals(op: BinaryOp, a: Decimal, b: Decimal) -> Result<Value, Fault> {
    let divides = matches!(op, BinaryOp::Divide | BinaryOp::IntegerDivide | BinaryOp::Modulo);
    if divides && b.is_zero() {
        return Err(Fault::DivisionByZero);
    }
    let result = match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Subtract => a.checked_sub(b),
        BinaryOp::Multiply => a.checked_mul(b),
        BinaryOp::Divide => a.checked_div(b),
        BinaryOp::Modulo => a.checked_rem(b),
        BinaryOp::IntegerDivide => {
            let quotient = a.checked_div(b).ok_or(Fault::Overflow)?.trunc();
            return quotient.to_i64().map(Value::Integer).ok_or(Fault::Overflow);
        }
        _ => return Err(Fault::WrongType),
    };
    result.map(Value::Decimal).ok_or(Fault::Overflow)
}

fn times(op: BinaryOp, left: &Value, right: &Value) -> Result<Value, Fault> {
    let us = |value: &Value| match value {
        Value::Timestamp(us) => Some(*us),
        Value::Date(days) => Some(i64::from(*days).saturating_mul(calendar::DAY_US)),
        _ => None,
    };
    let moment = |us: Option<i64>| us.map(Value::Timestamp).ok_or(Fault::Overflow);
    match (op, left, right) {
        (BinaryOp::Add, Value::Interval(a), Value::Interval(b)) => sum(*a, *b),
        (BinaryOp::Subtract, Value::Interval(a), Value::Interval(_)) => match negate(right)? {
            Value::Interval(b) => sum(*a, b),
            _ => Err(Fault::WrongType),
        },
        (BinaryOp::Add, Value::Interval(by), at) | (BinaryOp::Add, at, Value::Interval(by)) => {
            moment(shift(us(at).ok_or(Fault::WrongType)?, *by))
        }
        (BinaryOp::Subtract, at, Value::Interval(by)) => {
            let at = us(at).ok_or(Fault::WrongType)?;
            let back = by.months.checked_neg().zip(by.us.checked_neg());
            moment(back.and_then(|(months, us)| shift(at, Interval { months, us })))
        }
        (BinaryOp::Subtract, a, b) => match (us(a), us(b)) {
            (Some(a), Some(b)) => a
                .checked_sub(b)
                .map(|us| Value::Interval(Interval::from_us(us)))
                .ok_or(Fault::Overflow),
            _ => Err(Fault::WrongType),
        },
        (BinaryOp::Multiply, Value::Interval(interval), factor)
        | (BinaryOp::Multiply, factor, Value::Interval(interval)) => scale(*interval, factor),
        _ => Err(Fault::WrongType),
    }
}

fn shift(us: i64, by: Interval) -> Option<i64> {
    let months_later = if by.months == 0 {
        us
    } else {
        calendar::add_months(us, by.months)?
    };
    months_later.checked_add(by.us)
}

fn sum(a: Interval, b: Interval) -> Result<Value, Fault> {
    match (a.months.checked_add(b.months), a.us.checked_add(b.us)) {
        (Some(months), Some(us)) => Ok(Value::Interval(Interval { months, us })),
        _ => Err(Fault::Overflow),
    }
}

fn scale(interval: Interval, factor: &Value) -> Result<Value, Fault> {
    let factor = factor.as_f64().and_then(Decimal::from_f64).ok_or(Fault::WrongType)?;
    let scaled = |number: i64| Decimal::from(number).checked_mul(factor).ok_or(Fault::Overflow);
    let months = scaled(interval.months.into())?
        .trunc()
        .to_i32()
        .ok_or(Fault::Overflow)?;
    let us = scaled(interval.us)?.trunc().to_i64().ok_or(Fault::Overflow)?;
    Ok(Value::Interval(Interval { months, us }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use BinaryOp::{Add, Concat, Divide, IntegerDivide, Modulo, Multiply, Subtract};

    fn show(op: BinaryOp, left: Value, right: Value) -> Result<String, Fault> {
        let mut out = String::new();
        binary(op, &left, &right)?.write_json(&mut out);
        Ok(out)
    }

    #[test]
    fn integers_overflow_to_a_fault_and_divide_to_float() {
        let int = Value::Integer;
        assert_eq!(show(Add, int(i64::MAX), int(1)), Err(Fault::Overflow));
        assert_eq!(show(Multiply, int(1 << 62), int(2)), Err(Fault::Overflow));
        assert_eq!(show(Divide, int(7), int(2)), Ok("3.5".into()));
        assert_eq!(show(IntegerDivide, int(-7), int(2)), Ok("-3".into()));
        assert_eq!(show(IntegerDivide, int(i64::MIN), int(-1)), Err(Fault::Overflow));
        assert_eq!(show(Modulo, int(i64::MIN), int(-1)), Ok("0".into()));
        for op in [Divide, IntegerDivide, Modulo] {
            assert_eq!(show(op, int(1), int(0)), Err(Fault::DivisionByZero));
        }
        assert_eq!(show(Add, int(1), Value::Null), Ok("null".into()));
        assert_eq!(show(Add, int(1), Value::String("1".into())), Err(Fault::WrongType));
    }

    #[test]
    fn decimals_stay_decimal_until_a_float_joins() {
        let tenth = Value::Decimal(Decimal::new(1, 1));
        assert_eq!(
            show(Add, tenth.clone(), Value::Decimal(Decimal::new(2, 1))),
            Ok("0.3".into())
        );
        assert_eq!(show(Multiply, tenth.clone(), Value::Integer(3)), Ok("0.3".into()));
        assert_eq!(
            show(Add, tenth.clone(), Value::Float(0.2)),
            Ok("0.30000000000000004".into())
        );
        assert_eq!(
            show(Multiply, Value::Float(1e200), Value::Float(1e200)),
            Err(Fault::Overflow)
        );
    }

    #[test]
    fn times_shift_by_intervals_and_differ_by_them() {
        let new_year = Value::Timestamp(calendar::parse_timestamp("2024-01-31").unwrap());
        let month = Value::Interval(Interval { months: 1, us: 0 });
        assert_eq!(
            show(Add, new_year.clone(), month.clone()),
            Ok("\"2024-02-29T00:00:00Z\"".into())
        );
        assert_eq!(
            show(Subtract, new_year.clone(), month),
            Ok("\"2023-12-31T00:00:00Z\"".into())
        );
        assert_eq!(
            show(Subtract, new_year.clone(), Value::Date(19_723)),
            Ok("\"P30D\"".into())
        );
        assert_eq!(show(Add, new_year.clone(), new_year), Err(Fault::WrongType));
        assert_eq!(
            show(Concat, Value::String("a".into()), Value::Integer(1)),
            Ok("\"a1\"".into())
        );
    }
}
