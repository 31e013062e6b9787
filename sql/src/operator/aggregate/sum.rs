//! SUM and AVG: numbers by type, each type summed without loss.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::decimals::DecimalSum;
use super::exact::ExactSum;
use crate::value::{Fault, Value};

/// Numbers by type, each summed without loss.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Sum {
    integers: i128,
    integer_count: i64,
    floats: ExactSum,
    float_count: i64,
    decimals: DecimalSum,
}

impl Sum {
    /// Takes in a number so many times.
    pub fn add(&mut self, value: &Value, weight: i32) -> Result<(), Fault> {
        match value {
            Value::Integer(number) => {
                // 2^63 rows of 2^63 fit an i128; a weight is small.
                self.integers += i128::from(*number) * i128::from(weight);
                self.integer_count += i64::from(weight);
            }
            Value::Float(number) => {
                let term = if weight < 0 { -number } else { *number };
                (0..weight.unsigned_abs()).for_each(|_| self.floats.add(term));
                self.float_count += i64::from(weight);
            }
            Value::Decimal(number) => self.decimals.add(*number, weight),
            _ => return Err(Fault::WrongType),
        }
        Ok(())
    }

    /// Takes in what another one holds.
    pub fn merge(&mut self, other: &Sum) {
        self.integers = self.integers.saturating_add(other.integers);
        self.integer_count += other.integer_count;
        self.floats.merge(&other.floats);
        self.float_count += other.float_count;
        self.decimals.merge(&other.decimals);
    }

    fn count(&self) -> i64 {
        self.integer_count + self.float_count + self.decimals.count()
    }

    /// INTEGER, or DECIMAL where it does not fit; with a FLOAT among them FLOAT; NULL of nothing.
    pub fn total(&self) -> Result<Value, Fault> {
        if self.count() == 0 {
            return Ok(Value::Null);
        }
        if self.float_count != 0 {
            let total = self.in_floats().value();
            return total.map(Value::Float).ok_or(Fault::Overflow);
        }
        if let (0, Ok(fits)) = (self.decimals.count(), i64::try_from(self.integers)) {
            return Ok(Value::Integer(fits));
        }
        self.as_decimal().map(Value::Decimal)
    }

    /// FLOAT, or DECIMAL where only such and INTEGERs are in it; NULL of nothing.
    pub fn mean(&self) -> Result<Value, Fault> {
        let count = self.count();
        if count == 0 {
            return Ok(Value::Null);
        }
        if self.decimals.count() != 0 && self.float_count == 0 {
            let mean = self.as_decimal()?.checked_div(Decimal::from(count));
            return mean.map(Value::Decimal).ok_or(Fault::Overflow);
        }
        let mean = self.in_floats().quotient(count as f64);
        mean.map(Value::Float).ok_or(Fault::Overflow)
    }

    fn as_decimal(&self) -> Result<Decimal, Fault> {
        self.decimals.total(self.integers).ok_or(Fault::Overflow)
    }

    fn in_floats(&self) -> ExactSum {
        let mut sum = self.floats.clone();
        add_whole(&mut sum, self.integers);
        match self.decimals.total(0) {
            // Of equal decimals the one with fewer digits: how it was come by must not show.
            Some(decimals) => sum.add(decimals.normalize().to_f64().unwrap_or_default()),
            None => {
                let (whole, fraction) = self.decimals.split(0);
                add_whole(&mut sum, whole);
                sum.add(fraction as f64 / 1e28);
            }
        }
        sum
    }
}

/// An i128 in three floats, each exact: 53 bits at a time from the top.
fn add_whole(sum: &mut ExactSum, whole: i128) {
    let mut rest = whole;
    while rest != 0 {
        let part = rest as f64;
        sum.add(part);
        rest = rest.saturating_sub(part as i128);
    }
}
