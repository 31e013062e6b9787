//! SUM and AVG: numbers by type, each type summed without loss.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::exact::ExactSum;
use crate::value::{Fault, Value};

/// Numbers by type, each summed without loss.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Sum {
    integers: i128,
    integer_count: i64,
    floats: ExactSum,
    float_count: i64,
    /// `Decimal::serialize`
    decimals: [u8; 16],
    decimal_count: i64,
    /// Decimals beyond 28 digits: it has no value from then on.
    overflowed: bool,
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
            Value::Decimal(number) => {
                let term = number.checked_mul(Decimal::from(weight));
                match term.and_then(|term| Decimal::deserialize(self.decimals).checked_add(term)) {
                    Some(sum) => self.decimals = sum.serialize(),
                    None => self.overflowed = true,
                }
                self.decimal_count += i64::from(weight);
            }
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
        match Decimal::deserialize(self.decimals).checked_add(Decimal::deserialize(other.decimals)) {
            Some(sum) => self.decimals = sum.serialize(),
            None => self.overflowed = true,
        }
        self.decimal_count += other.decimal_count;
        self.overflowed |= other.overflowed;
    }

    fn count(&self) -> i64 {
        self.integer_count + self.float_count + self.decimal_count
    }

    /// INTEGER, or DECIMAL where it does not fit; with a FLOAT among them FLOAT; NULL of nothing.
    pub fn total(&self) -> Result<Value, Fault> {
        if self.count() == 0 {
            return Ok(Value::Null);
        }
        if self.overflowed {
            return Err(Fault::Overflow);
        }
        if self.float_count != 0 {
            return self.as_float().map(Value::Float);
        }
        if let (0, Ok(fits)) = (self.decimal_count, i64::try_from(self.integers)) {
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
        if self.overflowed {
            return Err(Fault::Overflow);
        }
        if self.decimal_count != 0 && self.float_count == 0 {
            let mean = self.as_decimal()?.checked_div(Decimal::from(count));
            return mean.map(Value::Decimal).ok_or(Fault::Overflow);
        }
        Ok(Value::Float(self.as_float()? / count as f64))
    }

    fn as_decimal(&self) -> Result<Decimal, Fault> {
        let integers = Decimal::try_from_i128_with_scale(self.integers, 0).map_err(|_| Fault::Overflow)?;
        integers
            .checked_add(Decimal::deserialize(self.decimals))
            .ok_or(Fault::Overflow)
    }

    fn as_float(&self) -> Result<f64, Fault> {
        let mut sum = self.floats.clone();
        // An i128 in three floats, each exact: 53 bits at a time from the top.
        let mut rest = self.integers;
        while rest != 0 {
            let part = rest as f64;
            sum.add(part);
            rest = rest.saturating_sub(part as i128);
        }
        if self.decimal_count != 0 {
            // Of equal decimals the one with fewer digits: how it was come by must not show.
            let decimals = Decimal::deserialize(self.decimals).normalize();
            sum.add(decimals.to_f64().ok_or(Fault::Overflow)?);
        }
        sum.value().ok_or(Fault::Overflow)
    }
}
