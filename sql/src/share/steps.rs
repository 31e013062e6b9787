//! What a follower has given, cut into what one step takes in.
//!
//! A backlog comes in pieces of some hundred thousand records. They are decoded when their step begins, into the place that
//! the step before has left: in memory there is one step at a time.

use headwater_store::{Offset, ReadError, Record, StoredBatch, StoredRecords};

use crate::change::RecordId;
use crate::limits::STEP_BYTES_MAX;

/// Records of one step.
pub(crate) type Records = Vec<(RecordId, Record)>;

/// Record batches on their way to be steps.
#[derive(Debug)]
pub(crate) struct Steps {
    batches: std::vec::IntoIter<(StoredBatch, Offset)>,
    open: Option<StoredRecords>,
    /// It did not fit the step before.
    held: Option<(RecordId, Record)>,
    records_max: usize,
}

impl Steps {
    /// Of these batches, each from that offset on; a step has `records_max` records at most.
    pub fn new(batches: Vec<(StoredBatch, Offset)>, records_max: usize) -> Steps {
        Steps {
            batches: batches.into_iter(),
            open: None,
            held: None,
            records_max,
        }
    }

    /// Puts the next step's records in the place of what is in `into`. False: there is no more.
    pub fn fill(&mut self, into: &mut Records) -> Result<bool, ReadError> {
        into.clear();
        let mut bytes = 0;
        while let Some((id, record)) = self.next()? {
            bytes += record.size_bytes();
            if !into.is_empty() && (into.len() >= self.records_max || bytes > STEP_BYTES_MAX) {
                self.held = Some((id, record));
                break;
            }
            into.push((id, record));
        }
        Ok(!into.is_empty())
    }

    /// After the one that was filled last there is another one.
    pub fn has_more(&self) -> bool {
        self.held.is_some()
    }

    fn next(&mut self) -> Result<Option<(RecordId, Record)>, ReadError> {
        if self.held.is_some() {
            return Ok(self.held.take());
        }
        loop {
            if let Some(open) = &mut self.open {
                let shard = open.shard();
                if let Some(record) = open.next() {
                    let (offset, record) = record?;
                    return Ok(Some((RecordId { shard, offset }, record)));
                }
            }
            match self.batches.next() {
                Some((batch, from)) => self.open = Some(batch.into_records_from(from)),
                None => return Ok(None),
            }
        }
    }
}
