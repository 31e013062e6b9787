//! STDDEV and VARIANCE, without rounding until the end.
//!
//! The sums of the values and of their squares are held exactly ([`ExactSum`]), a square as the two floats that it is.
//! So is `n * sum(x^2) - sum(x)^2`, where the textbook formula loses its digits. Taking a value back leaves nothing.

use super::exact::ExactSum;
use crate::value::{Fault, Value};

/// How many, their sum, and the sum of their squares.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Moments {
    count: i64,
    sum: ExactSum,
    squares: ExactSum,
}

impl Moments {
    /// Takes in a number so many times.
    pub fn add(&mut self, value: &Value, weight: i32) -> Result<(), Fault> {
        let number = value.as_f64().ok_or(Fault::WrongType)?;
        let sign = if weight < 0 { -1.0 } else { 1.0 };
        for _ in 0..weight.unsigned_abs() {
            self.sum.add(sign * number);
            self.squares.add_product(sign * number, number);
        }
        self.count += i64::from(weight);
        Ok(())
    }

    /// Takes in what another one holds.
    pub fn merge(&mut self, other: &Moments) {
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// NULL of nothing, and of a sample of one.
    pub fn variance(&self, of_sample: bool) -> Result<Option<f64>, Fault> {
        let divisor = self.count - i64::from(of_sample);
        if divisor <= 0 {
            return Ok(None);
        }
        let count = self.count as f64;
        let mut spread = ExactSum::default();
        spread.add_product_of(1.0, &ExactSum::of(count), &self.squares);
        spread.add_product_of(-1.0, &self.sum, &self.sum);
        let variance = spread.quotient(count * divisor as f64).ok_or(Fault::Overflow)?;
        // What lies below the smallest float is lost.
        Ok(Some(variance.max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moments(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        values
            .iter()
            .for_each(|value| moments.add(&Value::Float(*value), 1).unwrap());
        moments
    }

    #[test]
    fn digits_are_kept_where_the_textbook_loses_them() {
        assert_eq!(
            moments(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0]).variance(true),
            Ok(Some(30.0))
        );
        assert_eq!(
            moments(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0]).variance(false),
            Ok(Some(22.5))
        );
        assert_eq!(moments(&[5.0]).variance(true), Ok(None));
        assert_eq!(moments(&[5.0]).variance(false), Ok(Some(0.0)));
        assert_eq!(moments(&[]).variance(false), Ok(None));
        assert_eq!(moments(&[1e200, -1e200]).variance(false), Err(Fault::Overflow));
        assert_eq!(moments(&[1e200, 1e200, 1e200]).variance(false), Ok(Some(0.0)));
        assert_eq!(moments(&[f64::MAX, f64::MAX]).variance(true), Ok(Some(0.0)));
        assert_eq!(
            moments(&[1e154, -1e154, 1e154, -1e154]).variance(false),
            Ok(Some(1e308))
        );
    }

    proptest! {
        #[test]
        fn what_is_taken_back_leaves_nothing(values in prop::collection::vec(-1e6..1e6_f64, 0..20), gone in prop_oneof![-1e9..1e9_f64, -f64::MAX..f64::MAX]) {
            let mut with = moments(&values);
            with.add(&Value::Float(gone), 1).unwrap();
            with.add(&Value::Float(gone), -1).unwrap();
            prop_assert_eq!(with.variance(true), moments(&values).variance(true));
        }
    }
}
