//! Values with how often each is there: DISTINCT, TOPK, COLLECT_SET, PERCENTILE, and MIN and MAX of rows that go again.
//!
//! The bag lies in its group's row of state. What only needs the largest values keeps no others, as long as rows never
//! go; everything else keeps each different value once.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::sum::Sum;
use crate::value::{Fault, StoredValue, Value, encode_key};

/// By key: in the order of values. Equal numbers are one value, shown in the simplest of the forms that are there.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Bag {
    values: BTreeMap<Vec<u8>, Counted>,
}

/// How often a value is there, in each of its forms: 3, 3.0, 3.00. The simplest first, none of them never.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
struct Counted {
    forms: Vec<(StoredValue, i64)>,
}

impl Counted {
    fn count(&self) -> i64 {
        self.forms.iter().map(|(_, count)| count).sum()
    }

    fn put(&mut self, value: &Value, count: i64) {
        let at = self.forms.binary_search_by(|(form, _)| order_of_forms(&form.0, value));
        match at {
            Ok(at) => {
                self.forms[at].1 += count;
                if self.forms[at].1 == 0 {
                    self.forms.remove(at);
                }
            }
            Err(at) => self.forms.insert(at, (StoredValue(value.clone()), count)),
        }
    }

    /// As it is shown. None: it is not there.
    fn shown(&self) -> Option<&Value> {
        let mut there = self.forms.iter().filter(|(_, count)| *count > 0);
        there.next().filter(|_| self.count() > 0).map(|(value, _)| &value.0)
    }
}

impl Bag {
    /// Takes in a value so many times.
    pub fn add(&mut self, value: &Value, weight: i32) {
        self.put(value, i64::from(weight));
    }

    /// Takes in what another one holds.
    pub fn merge(&mut self, other: &Bag) {
        let forms = other.values.values().flat_map(|counted| &counted.forms);
        forms.for_each(|(value, count)| self.put(&value.0, *count));
    }

    fn put(&mut self, value: &Value, count: i64) {
        let mut key = Vec::new();
        encode_key(value, &mut key);
        match self.values.entry(key) {
            Entry::Vacant(entry) => entry.insert(Counted::default()).put(value, count),
            Entry::Occupied(mut entry) => {
                entry.get_mut().put(value, count);
                if entry.get().count() == 0 {
                    entry.remove();
                }
            }
        }
    }

    /// Forgets all but the `count` largest, for bags from which nothing is ever taken.
    pub fn keep_largest(&mut self, count: u32, distinct: bool) {
        let (mut left, count) = (self.values.len() as u64, u64::from(count));
        if !distinct {
            left = self.values.values().map(|counted| counted.count().max(0) as u64).sum();
        }
        while left > count {
            let Some(mut smallest) = self.values.first_entry() else {
                return;
            };
            match smallest.get_mut().forms.last().cloned() {
                Some((form, _)) if !distinct && smallest.get().count() > 1 => smallest.get_mut().put(&form.0, -1),
                _ => drop(smallest.remove()),
            }
            left -= 1;
        }
    }

    /// Each value once, in order.
    pub fn distinct(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.values.values().filter_map(Counted::shown)
    }

    /// Each value as often as it is there, the largest first, each as its simplest form.
    pub fn largest_first(&self) -> impl Iterator<Item = &Value> {
        let there = self.values.values().rev();
        there.flat_map(|counted| {
            let times = usize::try_from(counted.count()).unwrap_or(0);
            counted
                .shown()
                .into_iter()
                .flat_map(move |value| std::iter::repeat_n(value, times))
        })
    }

    /// Each value once, summed.
    pub fn distinct_sum(&self) -> Result<Sum, Fault> {
        let mut sum = Sum::default();
        self.distinct().try_for_each(|value| sum.add(value, 1))?;
        Ok(sum)
    }

    /// The value below which that many millionths lie: where it falls between two values, between them by as much.
    pub fn percentile(&self, millionths: u32) -> Result<Option<f64>, Fault> {
        let there = || {
            let values = self.values.values();
            values.filter_map(|counted| Some((counted.shown()?, counted.count())))
        };
        let count: i64 = there().map(|(_, count)| count).sum();
        if count == 0 {
            return Ok(None);
        }
        let place = (count - 1) as f64 * f64::from(millionths) / 1e6;
        let (mut passed, mut low) = (0, None);
        for (value, times) in there() {
            let value = value.as_f64().ok_or(Fault::WrongType)?;
            passed += times;
            if low.is_none() && passed > place.floor() as i64 {
                low = Some(value);
            }
            if passed > place.ceil() as i64 {
                let low = low.unwrap_or(value);
                return Ok(Some(between(low, value, place.fract())));
            }
        }
        Ok(low)
    }
}

/// So far from the one to the other, where even their difference may be out of range.
fn between(low: f64, high: f64, part: f64) -> f64 {
    match high - low {
        way if way.is_finite() => low + way * part,
        _ => low * (1.0 - part) + high * part,
    }
}

/// Of equal numbers the simplest form is shown, so that the order of the rows never shows: an INTEGER, then the DECIMAL
/// with the fewest digits, then a FLOAT, of whose two zeros the one without a sign.
pub(super) fn order_of_forms(a: &Value, b: &Value) -> Ordering {
    let form = |value: &Value| match value {
        Value::Integer(_) => (0, 0),
        Value::Decimal(number) => (1, number.scale()),
        Value::Float(number) => (2, u32::from(number.is_sign_negative())),
        _ => (3, 0),
    };
    form(a).cmp(&form(b))
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
        let mut far = Bag::default();
        [-1.7e308, 1.7e308]
            .iter()
            .for_each(|end| far.add(&Value::Float(*end), 1));
        assert_eq!(far.percentile(500_000), Ok(Some(0.0)));
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
        let mut forms = bag(&[3]);
        let (exact, long) = (
            Value::Decimal("3.0".parse().unwrap()),
            Value::Decimal("3.00".parse().unwrap()),
        );
        for form in [Value::Float(3.0), long.clone(), exact.clone()] {
            forms.add(&form, 1);
        }
        let shown = |bag: &Bag| format!("{:?}", bag.distinct().collect::<Vec<_>>());
        assert_eq!(shown(&forms), "[Integer(3)]");
        forms.add(&Value::Integer(3), -1);
        assert_eq!(shown(&forms), "[Decimal(3.0)]");
        forms.add(&exact, -1);
        forms.add(&long, -1);
        assert_eq!(shown(&forms), "[Float(3.0)]");
        let mut empty = bag(&[3]);
        empty.add(&Value::Float(3.0), -1);
        assert_eq!(empty, Bag::default(), "3.0 is 3");
    }
}
