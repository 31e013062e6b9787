//! Values in the order of event time: FIRST, LAST and COLLECT_LIST.
//!
//! Rows of one time are in the order of their records, so that how shards happened to be read never shows.

use super::Moment;
use crate::value::{StoredValue, Value};

/// In order.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Ordered {
    entries: Vec<(Moment, StoredValue)>,
}

impl Ordered {
    /// Takes a value in, or back.
    pub fn add(&mut self, value: &Value, weight: i32, moment: Moment) {
        for _ in 0..weight.unsigned_abs() {
            // Behind those of the same moment: a row that an UNNEST or a join made of one record.
            let place = self.entries.partition_point(|(known, _)| *known <= moment);
            if weight > 0 {
                self.entries.insert(place, (moment, StoredValue(value.clone())));
                continue;
            }
            let is_it = |(known, there): &(Moment, StoredValue)| *known == moment && there.0 == *value;
            if let Some(at) = self.entries[..place].iter().rposition(is_it) {
                self.entries.remove(at);
            }
        }
    }

    /// Takes in what another one holds.
    pub fn merge(&mut self, other: &Ordered) {
        other
            .entries
            .iter()
            .for_each(|(moment, value)| self.add(&value.0, 1, *moment));
    }

    /// Forgets all but the first, where nothing is ever taken back.
    pub fn keep_first(&mut self) {
        self.entries.truncate(1);
    }

    /// Forgets all but the last, where nothing is ever taken back.
    pub fn keep_last(&mut self) {
        self.entries.drain(..self.entries.len().saturating_sub(1));
    }

    /// In order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.entries.iter().map(|(_, value)| &value.0)
    }
}
