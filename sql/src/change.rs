//! What flows between operators: [`Delta`], a columnar micro-batch of row changes.

use std::fmt;
use std::sync::Arc;

use headwater_store::{Offset, ShardId};

use crate::column::Columns;
use crate::types::TimestampUs;

/// The place of a record, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct RecordId {
    /// Its shard.
    pub shard: ShardId,
    /// Its position there.
    pub offset: Offset,
}

impl RecordId {
    /// As it is displayed, without the machinery of formatting: rows without a key have it as theirs.
    pub(crate) fn write_key(self, out: &mut String) {
        push_digits(self.shard.stream.0, out);
        out.push(':');
        push_digits(u64::from(self.shard.number), out);
        out.push(':');
        push_digits(self.offset.0, out);
    }
}

fn push_digits(number: u64, out: &mut String) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    // Digits are ASCII.
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

impl fmt::Display for RecordId {
    /// `stream:shard:offset`, by the stream's number, which no later stream of the same name has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.shard, self.offset)
    }
}

/// Row changes. To pass them on, or to change their columns, copies nothing.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The rows.
    pub rows: Columns,
    /// Whether they come or go.
    pub diff: Diff,
    /// The event time of each row.
    pub time: Arc<Vec<TimestampUs>>,
    /// The record that each row came from, or that changed it last.
    pub origin: Arc<Vec<RecordId>>,
    /// The watermark of each row's shard just before the row, never below that of the task when the step began.
    /// Lateness is judged by it, and by nothing else: so which rows a window takes depends on the logs alone, not on
    /// how they were cut into steps or how shards happened to interleave, and FINAL rows are the same after a crash.
    pub frontier: Arc<Vec<TimestampUs>>,
}

/// Whether rows come or go. An update is -old, +new, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diff {
    /// All come, once.
    Append,
    /// Each so many times; negative: they go.
    Weights(Vec<i32>),
}

impl Delta {
    /// Of nothing.
    pub fn empty() -> Delta {
        Delta {
            rows: Columns::new(Vec::new(), 0),
            diff: Diff::Append,
            time: Arc::default(),
            origin: Arc::default(),
            frontier: Arc::default(),
        }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.rows()
    }

    /// No rows?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a row comes; negative: goes.
    pub fn weight(&self, row: usize) -> i32 {
        match &self.diff {
            Diff::Append => 1,
            Diff::Weights(weights) => weights[row],
        }
    }

    /// The same changes of other columns.
    pub fn with_rows(&self, rows: Columns) -> Delta {
        debug_assert_eq!(rows.rows(), self.len());
        Delta { rows, ..self.clone() }
    }

    /// Only these rows, in this order.
    pub fn take(&self, selection: &[u32]) -> Delta {
        fn pick<T: Copy>(all: &[T], selection: &[u32]) -> Vec<T> {
            selection.iter().map(|row| all[*row as usize]).collect()
        }
        if selection.len() == self.len() && selection.iter().enumerate().all(|(at, row)| at == *row as usize) {
            return self.clone();
        }
        Delta {
            rows: self.rows.take(selection),
            diff: match &self.diff {
                Diff::Append => Diff::Append,
                Diff::Weights(weights) => Diff::Weights(pick(weights, selection)),
            },
            time: pick(&self.time, selection).into(),
            origin: pick(&self.origin, selection).into(),
            frontier: pick(&self.frontier, selection).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::{GroupId, StreamId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_what_is_displayed(stream: u64, number: u16, offset: u64) {
            let shard = ShardId { group: GroupId(1), stream: StreamId(stream), number };
            let id = RecordId { shard, offset: Offset(offset) };
            let mut key = String::new();
            id.write_key(&mut key);
            prop_assert_eq!(key, id.to_string());
        }
    }
}
