//! Accumulators: what a group remembers of its rows, and the row of state that holds it.

use std::cmp::Ordering;

use bytes::Bytes;
use headwater_store::{decode_control, encode_control};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::exact::ExactSum;
use crate::plan::physical::AggregateFunction;
use crate::types::Literal;
use crate::value::{Fault, Value, encode_key};

/// One aggregate function over a group.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Accumulator {
    Count(i64),
    Sum(Sum),
    Avg(Sum),
    /// The smallest so far, NULL before the first.
    Min(Value),
    /// The largest so far.
    Max(Value),
}

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

/// A group: everything that is stored of it besides its key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupState {
    /// Rows that came less those that went.
    pub rows: i64,
    /// The end of its window.
    pub window_end_us: Option<i64>,
    /// In the order of the calls.
    pub accumulators: Vec<Accumulator>,
}

/// As it is stored.
#[derive(bincode::Encode, bincode::Decode)]
struct StoredGroup {
    rows: i64,
    window_end_us: Option<i64>,
    accumulators: Vec<StoredAccumulator>,
}

#[derive(bincode::Encode, bincode::Decode)]
enum StoredAccumulator {
    Count(i64),
    Sum(Sum),
    Avg(Sum),
    Min(Literal),
    Max(Literal),
}

impl GroupState {
    /// As a state row.
    pub fn encode(&self) -> Bytes {
        let stored = |accumulator: &Accumulator| match accumulator {
            Accumulator::Count(count) => StoredAccumulator::Count(*count),
            Accumulator::Sum(sum) => StoredAccumulator::Sum(sum.clone()),
            Accumulator::Avg(sum) => StoredAccumulator::Avg(sum.clone()),
            Accumulator::Min(value) => StoredAccumulator::Min(value.into()),
            Accumulator::Max(value) => StoredAccumulator::Max(value.into()),
        };
        encode_control(&StoredGroup {
            rows: self.rows,
            window_end_us: self.window_end_us,
            accumulators: self.accumulators.iter().map(stored).collect(),
        })
    }

    /// From a state row of a plan with that many calls.
    pub fn decode(row: &[u8], calls: usize) -> Option<GroupState> {
        let group: StoredGroup = decode_control(row).ok()?;
        let accumulator = |stored| match stored {
            StoredAccumulator::Count(count) => Accumulator::Count(count),
            StoredAccumulator::Sum(sum) => Accumulator::Sum(sum),
            StoredAccumulator::Avg(sum) => Accumulator::Avg(sum),
            StoredAccumulator::Min(literal) => Accumulator::Min(Value::from(&literal)),
            StoredAccumulator::Max(literal) => Accumulator::Max(Value::from(&literal)),
        };
        let accumulators: Vec<_> = group.accumulators.into_iter().map(accumulator).collect();
        (accumulators.len() == calls).then_some(GroupState {
            rows: group.rows,
            window_end_us: group.window_end_us,
            accumulators,
        })
    }
}

impl Accumulator {
    /// Of no rows.
    pub fn new(function: AggregateFunction) -> Accumulator {
        match function {
            AggregateFunction::Count => Accumulator::Count(0),
            AggregateFunction::Sum => Accumulator::Sum(Sum::default()),
            AggregateFunction::Avg => Accumulator::Avg(Sum::default()),
            AggregateFunction::Min => Accumulator::Min(Value::Null),
            AggregateFunction::Max => Accumulator::Max(Value::Null),
        }
    }

    /// Takes in a value so many times; NULL is none.
    pub fn add(&mut self, value: &Value, weight: i32) -> Result<(), Fault> {
        if value.is_null() {
            return Ok(());
        }
        match self {
            Accumulator::Count(count) => *count += i64::from(weight),
            Accumulator::Sum(sum) | Accumulator::Avg(sum) => sum.add(value, weight)?,
            Accumulator::Min(least) => keep(least, value, Ordering::Less),
            Accumulator::Max(most) => keep(most, value, Ordering::Greater),
        }
        Ok(())
    }

    /// The value of the call.
    pub fn result(&self) -> Result<Value, Fault> {
        match self {
            Accumulator::Count(count) => Ok(Value::Integer(*count)),
            Accumulator::Sum(sum) => sum.total(),
            Accumulator::Avg(sum) => sum.mean(),
            Accumulator::Min(value) | Accumulator::Max(value) => Ok(value.clone()),
        }
    }
}

/// Keeps `value` if it is `better`. Values that SQL does not compare order as their keys do, and of equal numbers the
/// one of the simpler type stays, so that the order of the rows never shows.
fn keep(kept: &mut Value, value: &Value, better: Ordering) {
    let key = |value: &Value| {
        let mut bytes = Vec::new();
        encode_key(value, &mut bytes);
        bytes
    };
    let simplicity = |value: &Value| match value {
        Value::Integer(_) => 0,
        Value::Decimal(_) => 1,
        _ => 2,
    };
    let order = value.compare(kept).unwrap_or_else(|| key(value).cmp(&key(kept)));
    if kept.is_null() || order == better || (order.is_eq() && simplicity(value) < simplicity(kept)) {
        *kept = value.clone();
    }
}

impl Sum {
    fn add(&mut self, value: &Value, weight: i32) -> Result<(), Fault> {
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

    fn count(&self) -> i64 {
        self.integer_count + self.float_count + self.decimal_count
    }

    /// INTEGER, or DECIMAL where it does not fit; with a FLOAT among them FLOAT; NULL of nothing.
    fn total(&self) -> Result<Value, Fault> {
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

    fn mean(&self) -> Result<Value, Fault> {
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
            sum.add(Decimal::deserialize(self.decimals).to_f64().ok_or(Fault::Overflow)?);
        }
        sum.value().ok_or(Fault::Overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(function: AggregateFunction, values: &[Value]) -> Result<Value, Fault> {
        let mut accumulator = Accumulator::new(function);
        let mut fault = None;
        for value in values {
            fault = accumulator.add(value, 1).err().or(fault);
        }
        fault.map_or_else(|| accumulator.result(), Err)
    }

    #[test]
    fn sums_widen_and_averages_do_not_round_on_their_way() {
        let int = Value::Integer;
        assert_eq!(run(AggregateFunction::Sum, &[int(1), int(2)]), Ok(int(3)));
        assert_eq!(
            run(AggregateFunction::Sum, &[int(i64::MAX), int(1)]),
            Ok(Value::Decimal("9223372036854775808".parse().unwrap()))
        );
        assert_eq!(
            run(AggregateFunction::Sum, &[int(1), Value::Float(0.5)]),
            Ok(Value::Float(1.5))
        );
        assert_eq!(run(AggregateFunction::Sum, &[Value::Null]), Ok(Value::Null));
        assert_eq!(
            run(AggregateFunction::Sum, &[Value::String("1".into())]),
            Err(Fault::WrongType)
        );
        assert_eq!(
            run(AggregateFunction::Sum, &[Value::Float(1e308), Value::Float(1e308)]),
            Err(Fault::Overflow)
        );
        assert_eq!(run(AggregateFunction::Avg, &[int(1), int(2)]), Ok(Value::Float(1.5)));
        assert_eq!(
            run(AggregateFunction::Avg, &vec![Value::Float(0.1); 10]),
            Ok(Value::Float(0.1))
        );
        assert_eq!(run(AggregateFunction::Avg, &[]), Ok(Value::Null));
        let tenth = Value::Decimal(Decimal::new(1, 1));
        assert_eq!(
            run(AggregateFunction::Avg, &[tenth, int(1)]),
            Ok(Value::Decimal(Decimal::new(55, 2)))
        );
        assert_eq!(run(AggregateFunction::Count, &[int(1), Value::Null]), Ok(int(1)));
    }

    #[test]
    fn extremes_do_not_depend_on_the_order_of_rows() {
        let mixed = [
            Value::Float(22.0),
            Value::Integer(22),
            Value::String("a".into()),
            Value::Null,
            Value::Integer(30),
        ];
        let mut reversed = mixed.clone();
        reversed.reverse();
        for function in [AggregateFunction::Min, AggregateFunction::Max] {
            assert_eq!(run(function, &mixed), run(function, &reversed));
        }
        assert_eq!(run(AggregateFunction::Min, &mixed), Ok(Value::Integer(22)));
    }

    proptest! {
        #[test]
        fn a_group_reads_back_as_it_was(
            values in prop::collection::vec(prop_oneof![
                any::<i64>().prop_map(Value::Integer),
                (-1e9..1e9_f64).prop_map(Value::Float),
                (any::<i32>(), 0_u32..9).prop_map(|(n, scale)| Value::Decimal(Decimal::new(n.into(), scale))),
            ], 0..20),
            window_end_us: Option<i64>,
        ) {
            let mut accumulators: Vec<_> = AggregateFunction::ALL.iter().map(|f| Accumulator::new(*f)).collect();
            for accumulator in &mut accumulators {
                for value in &values {
                    accumulator.add(value, 1).unwrap();
                }
            }
            let calls = accumulators.len();
            let state = GroupState { rows: values.len() as i64, window_end_us, accumulators };
            prop_assert_eq!(GroupState::decode(&state.encode(), calls), Some(state.clone()));
            prop_assert_eq!(GroupState::decode(&state.encode(), calls + 1), None);
        }
    }
}
