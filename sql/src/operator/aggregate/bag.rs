//! Values with how often each is there: DISTINCT, TOPK, COLLECT_SET, PERCENTILE, and MIN and MAX of rows that go again.
//!
//! The bag lies in its group's row of state. What only needs the largest values keeps no others, as long as rows never
//! go; everything else keeps each different value once.

use std::collections::BTreeMap;

use super::sum::Sum;
use crate::value::{Fault, StoredValue, Value, encode_key};

/// By key: in the order of values. Equal numbers are one value, shown as the simplest of them.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Bag {
    values: BTreeMap<Vec<u8>, Counted>,
}

#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
struct Counted {
    value: StoredValue,
    count: i64,
}

impl Bag {
    /// Takes in a value so many times.
    pub fn add(&mut self, value: &Value, weight: i32) {
        self.put(value, i64::from(weight));
    }

    /// Takes in what another one holds.
    pub fn merge(&mut self, other: &Bag) {
        other
            .values
            .values()
            .for_each(|counted| self.put(&counted.value.0, counted.count));
    }

    fn put(&mut self, value: &Value, count: i64) {
        let mut key = Vec::new();
        encode_key(value, &mut key);
        let entry = self.values.entry(key);
        let counted = entry.or_insert_with(|| Counted {
            value: StoredValue(value.clone()),
            count: 0,
        });
        counted.count += count;
        if simplicity(value) < simplicity(&counted.value.0) {
            counted.value = StoredValue(value.clone());
        }
        if counted.count == 0 {
            let mut key = Vec::new();
            encode_key(value, &mut key);
            self.values.remove(&key);
        }
    }

    /// Forgets all but the `count` largest, for bags from which nothing is ever taken.
    pub fn keep_largest(&mut self, count: u32, distinct: bool) {
        let (mut left, count) = (self.values.len() as u64, u64::from(count));
        if !distinct {
            left = self.values.values().map(|counted| counted.count.max(0) as u64).sum();
        }
        while left > count {
            let Some(mut smallest) = self.values.first_entry() else {
                return;
            };
            if distinct || smallest.get().count <= 1 {
                smallest.remove();
            } else {
                smallest.get_mut().count -= 1;
            }
            left -= 1;
        }
    }

    /// Each value once, in order.
    pub fn distinct(&self) -> impl DoubleEndedIterator<Item = &Value> {
        let there = self.values.values().filter(|counted| counted.count > 0);
        there.map(|counted| &counted.value.0)
    }

    /// Each value as often as it is there, the largest first.
    pub fn largest_first(&self) -> impl Iterator<Item = &Value> {
        let there = self.values.values().rev().filter(|counted| counted.count > 0);
        there.flat_map(|counted| std::iter::repeat_n(&counted.value.0, counted.count as usize))
    }

    /// Each value once, summed.
    pub fn distinct_sum(&self) -> Result<Sum, Fault> {
        let mut sum = Sum::default();
        self.distinct().try_for_each(|value| sum.add(value, 1))?;
        Ok(sum)
    }

    /// The value below which that many millionths lie: where it falls between two values, between them by as much.
    pub fn percentile(&self, millionths: u32) -> Result<Option<f64>, Fault> {
        let there = || self.values.values().filter(|counted| counted.count > 0);
        let count: i64 = there().map(|counted| counted.count).sum();
        if count == 0 {
            return Ok(None);
        }
        let place = (count - 1) as f64 * f64::from(millionths) / 1e6;
        let (mut passed, mut low) = (0, None);
        for counted in there() {
            let value = counted.value.0.as_f64().ok_or(Fault::WrongType)?;
            passed += counted.count;
            if low.is_none() && passed > place.floor() as i64 {
                low = Some(value);
            }
            if passed > place.ceil() as i64 {
                let low = low.unwrap_or(value);
                return Ok(Some(low + (value - low) * place.fract()));
            }
        }
        Ok(low)
    }
}

/// Of equal numbers the one of the simpler type is shown, so that the order of the rows never shows.
pub(super) fn simplicity(value: &Value) -> u8 {
    match value {
        Value::Integer(_) => 0,
        Value::Decimal(_) => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bag(values: &[i64]) -> Bag {
        let mut bag = Bag::default();
        values.iter().for_each(|value| bag.add(&Value::Integer(*value), 1));
        bag
    }

    #[test]
    fn a_percentile_lies_between_two_values_where_it_must() {
        let four = bag(&[40, 10, 20, 30]);
        assert_eq!(four.percentile(500_000), Ok(Some(25.0)));
        assert_eq!(four.percentile(0), Ok(Some(10.0)));
        assert_eq!(four.percentile(1_000_000), Ok(Some(40.0)));
        assert_eq!(bag(&[7, 7, 7, 9]).percentile(500_000), Ok(Some(7.0)));
        assert_eq!(bag(&[]).percentile(500_000), Ok(None));
        let mut text = Bag::default();
        text.add(&Value::String("x".into()), 1);
        assert_eq!(text.percentile(500_000), Err(Fault::WrongType));
    }

    #[test]
    fn the_largest_stay_and_what_goes_is_forgotten() {
        let mut twice = bag(&[5, 5, 1, 9]);
        twice.keep_largest(3, false);
        assert_eq!(twice, bag(&[5, 5, 9]));
        twice.keep_largest(2, false);
        assert_eq!(twice, bag(&[5, 9]));
        let mut once = bag(&[5, 5, 1, 9]);
        once.keep_largest(2, true);
        assert_eq!(once, bag(&[5, 5, 9]));
        let mut empty = bag(&[3]);
        empty.add(&Value::Float(3.0), -1);
        assert_eq!(empty, Bag::default(), "3.0 is 3");
    }
}
