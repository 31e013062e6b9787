//! How much one step takes in, learnt from what did not fit a Batch.
//!
//! A step is bounded by the bytes of its input and of its closing windows, and yet what it writes may be larger: a
//! SELECT may make more of a row than it was, and small rows may change large groups. Then the task forgets the step,
//! loads what is committed, and takes half as many records and timers; down to one record without timers, or one
//! timer. Nothing of a step is ever written but the whole, so exactly-once does not depend on how it is cut.

use headwater_store::Record;
use headwater_store::limits::BATCH_BYTES_MAX;

use crate::change::RecordId;
use crate::limits::TIMERS_PER_STEP_MAX;

/// The bounds of the next step.
#[derive(Debug)]
pub(super) struct StepSize {
    records_max: usize,
    records: usize,
    /// 0: records and due timers do not fit one step together; a step without records fires one.
    timers: usize,
    /// What comes of this record is too large even alone.
    passed_over: Option<RecordId>,
}

/// What to do about a step that was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooLarge {
    /// Begin again: the next step is smaller.
    Smaller,
    /// It was the smallest there is.
    Never,
}

impl StepSize {
    /// At most `records_max` records: `sql.step_records_max`.
    pub fn new(records_max: usize) -> StepSize {
        StepSize {
            records_max,
            records: records_max,
            timers: TIMERS_PER_STEP_MAX,
            passed_over: None,
        }
    }

    /// Steps are as large as they may be.
    pub fn is_full(&self) -> bool {
        self.records == self.records_max && self.timers == TIMERS_PER_STEP_MAX && self.passed_over.is_none()
    }

    /// How many of `records` the next step takes. 0: the first of them is to be passed over.
    pub fn records_of(&self, records: &[(RecordId, Record)]) -> usize {
        let next = &records[..records.len().min(self.records)];
        let too_large = next.iter().position(|(id, _)| Some(*id) == self.passed_over);
        too_large.unwrap_or(next.len())
    }

    /// How many timers a step of so many records fires.
    pub fn timers_with(&self, records: usize) -> usize {
        if records == 0 { self.timers.max(1) } else { self.timers }
    }

    /// A step of these numbers had a Batch of so many bytes, and it was not too large. Twice as much is tried where
    /// that would use half of what a Batch may have.
    pub fn fitted(&mut self, records: usize, timers: usize, bytes: usize) {
        if bytes.saturating_mul(4) > BATCH_BYTES_MAX {
            return;
        }
        if records == self.records {
            self.records = (self.records * 2).min(self.records_max);
        }
        if timers == self.timers_with(records) {
            self.timers = (self.timers * 2).clamp(1, TIMERS_PER_STEP_MAX);
        }
    }

    /// The record was passed over, and that is committed.
    pub fn passed(&mut self) {
        self.passed_over = None;
    }

    /// A step of what a hub gave was too large.
    pub fn halve(&mut self) {
        (self.records, self.timers) = (self.records.div_ceil(2), self.timers / 2);
    }

    /// A step of these records that fired so many timers was too large.
    pub fn too_large(&mut self, records: &[(RecordId, Record)], timers: usize) -> TooLarge {
        match (records, timers) {
            ([], 0 | 1) => return TooLarge::Never,
            ([(record, _)], 0) => self.passed_over = Some(*record),
            ([], _) => self.timers = timers / 2,
            _ => (self.records, self.timers) = (records.len().div_ceil(2), timers / 2),
        }
        TooLarge::Smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::{GroupId, Offset, ShardId, StreamId};
    use proptest::prelude::*;

    fn records(count: u64) -> Vec<(RecordId, Record)> {
        let shard = ShardId {
            group: GroupId(1),
            stream: StreamId(1),
            number: 0,
        };
        let record = |offset| {
            (
                RecordId {
                    shard,
                    offset: Offset(offset),
                },
                Record::default(),
            )
        };
        (0..count).map(record).collect()
    }

    proptest! {
        /// Whatever each record and timer weighs, the loop of a task ends: all timers fire, and exactly the records
        /// that fit no Batch alone are passed over.
        #[test]
        fn every_step_fits_in_the_end(
            weights in proptest::collection::vec(0..BATCH_BYTES_MAX * 5 / 4, 1..60),
            timers in proptest::collection::vec(0..BATCH_BYTES_MAX, 0..60),
        ) {
            let input = records(weights.len() as u64);
            let mut size = StepSize::new(16);
            let (mut at, mut fired, mut passed, mut tries) = (0, 0, Vec::new(), 0);
            while at < input.len() || fired < timers.len() {
                tries += 1;
                prop_assert!(tries < 5_000, "it loops at record {at}, timer {fired}");
                let count = size.records_of(&input[at..]);
                if count == 0 && at < input.len() {
                    passed.push(at);
                    at += 1;
                    size.passed();
                    continue;
                }
                let due = size.timers_with(count).min(timers.len() - fired);
                let bytes = weights[at..at + count].iter().chain(&timers[fired..fired + due]).sum::<usize>();
                if bytes > BATCH_BYTES_MAX {
                    prop_assert_eq!(size.too_large(&input[at..at + count], due), TooLarge::Smaller);
                } else {
                    size.fitted(count, due, bytes);
                    (at, fired) = (at + count, fired + due);
                }
            }
            let alone: Vec<_> = (0..weights.len()).filter(|at| weights[*at] > BATCH_BYTES_MAX).collect();
            prop_assert_eq!(passed, alone);
        }
    }

    #[test]
    fn the_smallest_step_that_does_not_fit_is_the_end() {
        let mut size = StepSize::new(8);
        assert_eq!(size.too_large(&[], 1), TooLarge::Never);
        assert_eq!(size.too_large(&[], 2), TooLarge::Smaller);
        assert_eq!((size.timers_with(0), size.timers_with(1)), (1, 1));
        assert_eq!(size.too_large(&records(1), 1), TooLarge::Smaller);
        assert_eq!((size.timers_with(0), size.timers_with(1)), (1, 0));
    }

    #[test]
    fn it_grows_again_where_there_is_room() {
        let mut size = StepSize::new(8);
        size.too_large(&records(8), 0);
        assert_eq!(size.records_of(&records(8)), 4);
        size.fitted(4, 0, BATCH_BYTES_MAX / 2);
        assert_eq!(size.records_of(&records(8)), 4, "twice as much would not fit");
        size.fitted(3, 0, 1);
        assert_eq!(size.records_of(&records(8)), 4, "that was all there was");
        size.fitted(4, 0, 1);
        assert_eq!(size.records_of(&records(9)), 8, "never more than is configured");
        size.fitted(8, 0, 1);
        assert_eq!(size.records_of(&records(9)), 8);
    }
}
