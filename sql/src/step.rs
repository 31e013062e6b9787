//! [`Step`]: what an operator may do while a step runs.
//!
//! A step is an overlay. It reads committed state through what it has changed itself, and gathers changes, rows and
//! errors that become one Batch, or nothing at all when the step is given up. Operators hold nothing durable outside
//! of it.

mod state;

use crate::change::{Delta, RecordId};
use crate::function::Scope;
use crate::limits::RESULT_BYTES_MAX;
use crate::plan::physical::OperatorId;
use crate::types::TimestampUs;
use crate::value::{Fault, Value};

pub use state::{Committed, Key, State, TimerKind};

use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::{Change, ReadError, TopicName};

/// Why a task cannot go on with this step. Its memory is dropped; what is committed stays.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Stop {
    /// ON_ERROR is fail.
    #[error(transparent)]
    BadRecord(#[from] crate::decode::BadRecord),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A state row that does not decode.
    #[error("a state row of operator {} cannot be read", .0.0)]
    State(OperatorId),
    /// More groups than a one-shot or push read may hold.
    #[error("the query holds more than {0} groups in memory; make it a persistent query with CREATE STREAM … AS")]
    TooManyGroups(usize),
    /// What comes of the step does not fit a write.
    #[error("what a step puts out is larger than a write may be")]
    TooLarge,
    /// A read that ends would hold too much of a join of tables.
    #[error("the pairs of a join of tables take more than {} MiB", crate::limits::SORT_BYTES_MAX >> 20)]
    TooManyPairs,
    /// The task is told to stop: what the step has done so far is dropped, and done again by the next task.
    #[error("the query was told to stop")]
    GivenUp,
}

/// A row that a sink has made.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkRow {
    /// JSON; None: the key's row is gone.
    pub payload: Option<ByteString>,
    /// What it does to the row that its key had, as far as that is known.
    pub change: Option<Change>,
    /// To somebody who reads along: the row that the key had before this step, where it went.
    pub old: Option<ByteString>,
    /// The record's key.
    pub key: Bytes,
    /// What places the record when it has no topic: the key without the window. None: the key.
    pub placement: Option<Bytes>,
    /// What it goes out on.
    pub topic: Option<TopicName>,
    /// ORDER BY's values.
    pub order: Vec<Value>,
    /// The record it came from.
    pub origin: RecordId,
    /// Its place in the view, where the query is one's.
    pub place: Option<Key>,
}

impl SinkRow {
    /// About how many bytes its record will be.
    pub(crate) fn size_bytes(&self) -> usize {
        const AROUND: usize = 48;
        let topic = self.topic.as_ref().map_or(0, |topic| topic.as_str().len());
        AROUND + self.key.len() + topic + self.payload.as_ref().map_or(0, |payload| payload.len())
    }

    /// What of it counts for the size of a Batch: a row that no Batch can hold is left out.
    pub(crate) fn written_bytes(&self) -> usize {
        let size = self.size_bytes();
        if size > RESULT_BYTES_MAX { 0 } else { size }
    }
}

/// A row that came after its window had closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRow {
    /// Its record.
    pub origin: RecordId,
    /// Its event time.
    pub time: TimestampUs,
    /// How far event time had come in its shard.
    pub watermark: TimestampUs,
    /// Its columns, as a JSON object.
    pub row: String,
}

/// What a step has gathered besides state.
#[derive(Debug, Default)]
pub struct Gathered {
    /// In order.
    pub rows: Vec<SinkRow>,
    /// About what they weigh, and those that a sink holds to the end of the step.
    pub row_bytes: usize,
    /// Values that could not be worked out.
    pub errors: Vec<(RecordId, Fault)>,
    /// Those of them that every task of the query meets, because they came before the Exchange.
    pub shared_errors: Vec<(RecordId, Fault)>,
    /// Rows that came after their window had closed.
    pub late: Vec<LateRow>,
    /// Those of them that every task of the query meets.
    pub shared_late: Vec<LateRow>,
    /// Bytes of the values that timers have brought.
    pub timer_bytes: usize,
    /// As many as the step before has put out: steps of a backlog are like each other.
    pub rows_expected: usize,
}

/// The view that one operator has of the step.
#[derive(Debug)]
pub struct Step<'a> {
    pub(crate) now: TimestampUs,
    pub(crate) operator: OperatorId,
    /// Before the Exchange, where each task of the query does the same.
    pub(crate) shared: bool,
    pub(crate) state: &'a mut State,
    pub(crate) gathered: &'a mut Gathered,
    pub(crate) emitted: &'a mut Vec<Delta>,
}

impl Step<'_> {
    /// What functions may know: the step's time, which is logged.
    pub fn scope(&self) -> Scope {
        Scope { now: self.now }
    }

    /// A row of one of this operator's tables.
    pub fn get(&self, table: u8, key: &Key) -> Result<Option<Bytes>, Stop> {
        Ok(self.state.get(self.operator, table, key)?)
    }

    /// Sets a row.
    pub fn put(&mut self, table: u8, key: &Key, value: Bytes) {
        self.state.put(self.operator, table, key, Some(value));
    }

    /// Deletes a row.
    pub fn delete(&mut self, table: u8, key: &Key) {
        self.state.put(self.operator, table, key, None);
    }

    /// Asks for [`crate::operator::Operator::timer`] once the watermark is there. Setting it again changes nothing.
    pub fn set_timer(&mut self, at: TimestampUs, key: &Key) {
        self.state.set_timer(self.operator, TimerKind::Event, at, key);
    }

    /// A timer is set for then.
    pub fn has_timer(&self, at: TimestampUs, key: &Key) -> bool {
        self.state.has_timer(self.operator, TimerKind::Event, at, key)
    }

    /// Asks for [`crate::operator::Operator::clock`] once the step's time is there.
    pub fn set_clock(&mut self, at: TimestampUs, key: &Key) {
        self.state.set_timer(self.operator, TimerKind::Clock, at, key);
    }

    /// The rows of one of this operator's tables whose key begins with `key`'s, in the order of their keys.
    pub fn rows(&self, table: u8, key: &Key) -> Result<Vec<(Key, Bytes)>, Stop> {
        Ok(self.state.rows(self.operator, table, key)?)
    }

    /// Passes changes on.
    pub fn emit(&mut self, delta: Delta) {
        if !delta.is_empty() {
            self.emitted.push(delta);
        }
    }

    /// So many rows will be put out.
    pub fn reserve_rows(&mut self, rows: usize) {
        let expected = std::mem::take(&mut self.gathered.rows_expected);
        self.gathered.rows.reserve(rows.max(expected));
    }

    /// Puts a row out of the query.
    pub fn write(&mut self, row: SinkRow) {
        self.gathered.row_bytes += row.written_bytes();
        self.gathered.rows.push(row);
    }

    /// A sink holds a row to the end of the step, for an earlier one of so many bytes.
    pub fn hold(&mut self, row: &SinkRow, instead_of: usize) {
        let more = self.gathered.row_bytes + row.written_bytes();
        self.gathered.row_bytes = more.saturating_sub(instead_of);
    }

    /// Tells of a value that could not be worked out.
    pub fn error(&mut self, origin: RecordId, fault: Fault) {
        let errors = match self.shared {
            true => &mut self.gathered.shared_errors,
            false => &mut self.gathered.errors,
        };
        errors.push((origin, fault));
    }

    /// Counts bytes of values that a timer brings, so that a step fires no more of them than fit its Batch.
    pub fn weigh_timer(&mut self, bytes: usize) {
        self.gathered.timer_bytes += bytes;
    }

    /// Tells of a row that came too late.
    pub fn late(&mut self, row: LateRow) {
        match self.shared {
            true => self.gathered.shared_late.push(row),
            false => self.gathered.late.push(row),
        }
    }
}
