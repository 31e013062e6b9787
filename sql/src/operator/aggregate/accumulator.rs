//! Accumulators: what a group remembers of its rows, and the row of state that holds it.
//!
//! What is remembered depends on the function, and on whether rows ever go again. Each way of remembering is a file of
//! its own: [`super::sum`], [`super::bag`], [`super::moments`], [`super::ordered`], [`super::sketch`]. All of them can be
//! merged, which hopping windows and sessions need, and all of them take back exactly what they took in.

use std::cmp::Ordering;

use bytes::Bytes;
use headwater_store::{decode_control, encode_control};

use super::Moment;
use super::bag::{Bag, order_of_forms};
use super::moments::Moments;
use super::ordered::Ordered;
use super::sketch::Sketch;
use super::sum::Sum;
use crate::plan::physical::AggregateFunction;
use crate::value::{Fault, StoredValue, Value};

/// What a function is to do, for rows of which sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// Which one.
    pub function: AggregateFunction,
    /// Rows go again: nothing that may be needed later is forgotten.
    pub retracts: bool,
}

/// One aggregate function over a group. Stored: new variants go last.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub(super) enum Accumulator {
    Count(i64),
    Sum(Sum),
    Avg(Sum),
    /// The smallest so far, NULL before the first.
    Min(StoredValue),
    /// The largest so far.
    Max(StoredValue),
    Bag(Bag),
    Moments(Moments),
    Ordered(Ordered),
    Sketch(Sketch),
}

/// A group: everything that is stored of it besides its key.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub(super) struct GroupState {
    /// Rows that came less those that went.
    pub rows: i64,
    /// The end of its window.
    pub window_end_us: Option<i64>,
    /// In the order of the calls.
    pub accumulators: Vec<Accumulator>,
}

impl GroupState {
    /// As a state row.
    pub fn encode(&self) -> Bytes {
        encode_control(self)
    }

    /// From a state row of a plan with that many calls.
    pub fn decode(row: &[u8], calls: usize) -> Option<GroupState> {
        let group: GroupState = decode_control(row).ok()?;
        (group.accumulators.len() == calls).then_some(group)
    }
}

impl Kind {
    /// Of no rows.
    pub fn empty(self) -> Accumulator {
        use AggregateFunction as F;
        match self.function {
            F::Count => Accumulator::Count(0),
            F::Sum => Accumulator::Sum(Sum::default()),
            F::Avg => Accumulator::Avg(Sum::default()),
            F::Min if !self.retracts => Accumulator::Min(StoredValue(Value::Null)),
            F::Max if !self.retracts => Accumulator::Max(StoredValue(Value::Null)),
            F::ApproxCountDistinct if !self.retracts => Accumulator::Sketch(Sketch::default()),
            F::Min
            | F::Max
            | F::ApproxCountDistinct
            | F::CountDistinct
            | F::SumDistinct
            | F::AvgDistinct
            | F::TopK(_)
            | F::TopKDistinct(_)
            | F::CollectSet
            | F::Percentile(_) => Accumulator::Bag(Bag::default()),
            F::First | F::Last | F::CollectList => Accumulator::Ordered(Ordered::default()),
            F::StddevPop | F::StddevSamp | F::VarPop | F::VarSamp => Accumulator::Moments(Moments::default()),
        }
    }

    /// Takes a value in so many times, or back; NULL is none.
    pub fn add(self, into: &mut Accumulator, value: &Value, weight: i32, moment: Moment) -> Result<(), Fault> {
        if value.is_null() {
            return Ok(());
        }
        match into {
            Accumulator::Count(count) => *count += i64::from(weight),
            Accumulator::Sum(sum) | Accumulator::Avg(sum) => sum.add(value, weight)?,
            Accumulator::Min(least) => keep(&mut least.0, value, Ordering::Less),
            Accumulator::Max(most) => keep(&mut most.0, value, Ordering::Greater),
            Accumulator::Bag(_) if self.adds_up() && value.as_f64().is_none() => return Err(Fault::WrongType),
            Accumulator::Bag(bag) => bag.add(value, weight),
            Accumulator::Moments(moments) => moments.add(value, weight)?,
            Accumulator::Ordered(ordered) => ordered.add(value, weight, moment),
            Accumulator::Sketch(sketch) => sketch.add(value),
        }
        self.forget(into);
        Ok(())
    }

    /// Takes in what another one of the same kind holds.
    pub fn merge(self, into: &mut Accumulator, from: &Accumulator) {
        match (&mut *into, from) {
            (Accumulator::Count(count), Accumulator::Count(more)) => *count += more,
            (Accumulator::Sum(sum), Accumulator::Sum(more)) | (Accumulator::Avg(sum), Accumulator::Avg(more)) => {
                sum.merge(more);
            }
            (Accumulator::Min(least), Accumulator::Min(other)) => merge_extreme(&mut least.0, &other.0, Ordering::Less),
            (Accumulator::Max(most), Accumulator::Max(other)) => {
                merge_extreme(&mut most.0, &other.0, Ordering::Greater);
            }
            (Accumulator::Bag(bag), Accumulator::Bag(more)) => bag.merge(more),
            (Accumulator::Moments(moments), Accumulator::Moments(more)) => moments.merge(more),
            (Accumulator::Ordered(ordered), Accumulator::Ordered(more)) => ordered.merge(more),
            (Accumulator::Sketch(sketch), Accumulator::Sketch(more)) => sketch.merge(more),
            // Both are of this kind.
            _ => {}
        }
        self.forget(into);
    }

    /// The value of the call.
    pub fn result(self, of: &Accumulator) -> Result<Value, Fault> {
        let float = |number: Option<f64>| number.map_or(Value::Null, Value::Float);
        match of {
            Accumulator::Count(count) => Ok(Value::Integer(*count)),
            Accumulator::Sum(sum) => sum.total(),
            Accumulator::Avg(sum) => sum.mean(),
            Accumulator::Min(value) | Accumulator::Max(value) => Ok(value.0.clone()),
            Accumulator::Bag(bag) => self.of_bag(bag),
            Accumulator::Sketch(sketch) => Ok(Value::Integer(sketch.estimate())),
            Accumulator::Moments(moments) => {
                let of_sample = matches!(
                    self.function,
                    AggregateFunction::StddevSamp | AggregateFunction::VarSamp
                );
                let variance = moments.variance(of_sample)?;
                Ok(float(match self.function {
                    AggregateFunction::StddevSamp | AggregateFunction::StddevPop => variance.map(f64::sqrt),
                    _ => variance,
                }))
            }
            Accumulator::Ordered(ordered) => Ok(match self.function {
                AggregateFunction::First => ordered.values().next().cloned().unwrap_or(Value::Null),
                AggregateFunction::Last => ordered.values().next_back().cloned().unwrap_or(Value::Null),
                _ => Value::Array(ordered.values().cloned().collect()),
            }),
        }
    }

    fn of_bag(self, bag: &Bag) -> Result<Value, Fault> {
        use AggregateFunction as F;
        let largest = |count: u32| count as usize;
        Ok(match self.function {
            F::SumDistinct => bag.distinct_sum()?.total()?,
            F::AvgDistinct => bag.distinct_sum()?.mean()?,
            F::Min => bag.distinct().next().cloned().unwrap_or(Value::Null),
            F::Max => bag.distinct().next_back().cloned().unwrap_or(Value::Null),
            F::TopK(count) => Value::Array(bag.largest_first().take(largest(count)).cloned().collect()),
            F::TopKDistinct(count) => Value::Array(bag.distinct().rev().take(largest(count)).cloned().collect()),
            F::CollectSet => Value::Array(bag.distinct().cloned().collect()),
            F::Percentile(millionths) => bag.percentile(millionths)?.map_or(Value::Null, Value::Float),
            _ => Value::Integer(bag.distinct().count() as i64),
        })
    }

    /// It calculates with the values of its bag.
    fn adds_up(self) -> bool {
        use AggregateFunction as F;
        matches!(self.function, F::SumDistinct | F::AvgDistinct | F::Percentile(_))
    }

    /// Drops what is never shown again, where nothing is ever taken back.
    fn forget(self, accumulator: &mut Accumulator) {
        use AggregateFunction as F;
        if self.retracts {
            return;
        }
        match (self.function, accumulator) {
            (F::TopK(count), Accumulator::Bag(bag)) => bag.keep_largest(count, false),
            (F::TopKDistinct(count), Accumulator::Bag(bag)) => bag.keep_largest(count, true),
            (F::First, Accumulator::Ordered(ordered)) => ordered.keep_first(),
            (F::Last, Accumulator::Ordered(ordered)) => ordered.keep_last(),
            _ => {}
        }
    }
}

/// Keeps `value` if it is `better`; of equal numbers the one in the simpler form stays, so that the order of the rows
/// never shows.
fn keep(kept: &mut Value, value: &Value, better: Ordering) {
    let order = value.order(kept);
    if kept.is_null() || order == better || (order.is_eq() && order_of_forms(value, kept).is_lt()) {
        *kept = value.clone();
    }
}

fn merge_extreme(kept: &mut Value, other: &Value, better: Ordering) {
    if !other.is_null() {
        keep(kept, other, better);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::AGGREGATES;
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    fn moment(time: i64) -> Moment {
        Moment {
            time,
            ..Moment::default()
        }
    }

    fn run(function: AggregateFunction, values: &[Value]) -> Result<Value, Fault> {
        let kind = Kind {
            function,
            retracts: false,
        };
        let mut accumulator = kind.empty();
        let mut fault = None;
        for (time, value) in values.iter().enumerate() {
            fault = kind
                .add(&mut accumulator, value, 1, moment(time as i64))
                .err()
                .or(fault);
        }
        fault.map_or_else(|| kind.result(&accumulator), Err)
    }

    /// Every function, the ones with DISTINCT too.
    fn all() -> Vec<AggregateFunction> {
        let plain = AGGREGATES.iter().map(|aggregate| aggregate.function(3));
        plain
            .chain(AGGREGATES.iter().filter_map(|aggregate| aggregate.distinct))
            .collect()
    }

    fn integers(numbers: &[i64]) -> Vec<Value> {
        numbers.iter().copied().map(Value::Integer).collect()
    }

    fn shown(value: Result<Value, Fault>) -> String {
        let mut out = String::new();
        value.unwrap().write_json(&mut out);
        out
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
    fn each_function_gives_what_its_name_says() {
        let values = integers(&[4, 9, 4, 1, 9, 6]);
        let result = |function| shown(run(function, &values));
        use AggregateFunction as F;
        assert_eq!(result(F::CountDistinct), "4");
        assert_eq!(result(F::SumDistinct), "20");
        assert_eq!(result(F::AvgDistinct), "5.0");
        assert_eq!(result(F::TopK(3)), "[9,9,6]");
        assert_eq!(result(F::TopKDistinct(3)), "[9,6,4]");
        assert_eq!(result(F::First), "4");
        assert_eq!(result(F::Last), "6");
        assert_eq!(result(F::VarPop), "8.25");
        assert_eq!(result(F::VarSamp), "9.9");
        assert_eq!(result(F::CollectList), "[4,9,4,1,9,6]");
        assert_eq!(result(F::CollectSet), "[1,4,6,9]");
        assert_eq!(result(F::ApproxCountDistinct), "4");
        assert_eq!(result(F::Percentile(500_000)), "5.0");
        let text = [Value::String("x".into())];
        assert_eq!(run(F::AvgDistinct, &text), Err(Fault::WrongType));
        assert_eq!(run(F::Percentile(1), &text), Err(Fault::WrongType));
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

    fn numbers() -> impl Strategy<Value = Vec<Value>> {
        prop::collection::vec(
            prop_oneof![
                (-50_i64..50).prop_map(Value::Integer),
                (-9..9_i32).prop_map(|number| Value::Float(f64::from(number) / 4.0)),
                (-9..9_i32).prop_map(|number| Value::Float(f64::from(number) * 1.9e307)),
                (any::<i32>(), 0_u32..9).prop_map(|(n, scale)| Value::Decimal(Decimal::new(n.into(), scale))),
            ],
            0..20,
        )
    }

    fn filled(kind: Kind, values: &[Value], from: i64) -> Accumulator {
        let mut accumulator = kind.empty();
        for (value, time) in values.iter().zip(from..) {
            kind.add(&mut accumulator, value, 1, moment(time)).unwrap();
        }
        accumulator
    }

    proptest! {
        #[test]
        fn a_group_reads_back_as_it_was(values in numbers(), window_end_us: Option<i64>, retracts: bool) {
            let accumulators: Vec<_> = all()
                .into_iter()
                .map(|function| filled(Kind { function, retracts }, &values, 0))
                .collect();
            let calls = accumulators.len();
            let state = GroupState { rows: values.len() as i64, window_end_us, accumulators };
            prop_assert_eq!(GroupState::decode(&state.encode(), calls), Some(state.clone()));
            prop_assert_eq!(GroupState::decode(&state.encode(), calls + 1), None);
        }

        /// Windows that are put together of panes, and sessions that meet, show what one accumulator would have shown.
        #[test]
        fn merged_is_as_good_as_whole(values in numbers(), at in 0..20_usize, retracts: bool) {
            let at = at.min(values.len());
            for function in all() {
                let kind = Kind { function, retracts };
                let mut merged = filled(kind, &values[..at], 0);
                kind.merge(&mut merged, &filled(kind, &values[at..], at as i64));
                prop_assert_eq!(kind.result(&merged), kind.result(&filled(kind, &values, 0)), "{:?}", function);
            }
        }

        /// What goes again leaves what would be there without it.
        #[test]
        fn what_is_taken_back_was_never_there(values in numbers(), gone in numbers()) {
            for function in all() {
                let kind = Kind { function, retracts: true };
                let mut accumulator = filled(kind, &values, 0);
                for weight in [1, -1] {
                    for (value, time) in gone.iter().zip(0..) {
                        kind.add(&mut accumulator, value, weight, moment(time)).unwrap();
                    }
                }
                prop_assert_eq!(kind.result(&accumulator), kind.result(&filled(kind, &values, 0)), "{:?}", function);
            }
        }
    }
}
