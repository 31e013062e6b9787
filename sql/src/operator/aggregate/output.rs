//! The rows that groups put out, gathered over a step.

use std::sync::Arc;

use super::{ChangedBy, Groups};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{ColumnBuilder, Columns};
use crate::plan::physical::Emit;
use crate::step::Step;
use crate::types::TimestampUs;
use crate::value::{Fault, Value};

/// A row, and what has no value in it.
pub(super) type Row = (Vec<Value>, Vec<Fault>);

/// What a step has to say so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    columns: Vec<ColumnBuilder>,
    weights: Vec<i32>,
    time: Vec<TimestampUs>,
    origin: Vec<RecordId>,
    /// About how many bytes the values are.
    pub bytes: usize,
}

impl Output {
    /// A group had this row and has that one now.
    pub fn change(&mut self, before: Option<Vec<Value>>, after: Option<Row>, by: ChangedBy, step: &mut Step<'_>) {
        let (after, faults) = after.map_or((None, Vec::new()), |(row, faults)| (Some(row), faults));
        if before == after {
            return;
        }
        faults.into_iter().for_each(|fault| step.error(by.1, fault));
        before.into_iter().for_each(|row| self.push(row, -1, by));
        after.into_iter().for_each(|row| self.push(row, 1, by));
    }

    /// A group's only row.
    pub fn once(&mut self, (row, faults): Row, by: ChangedBy, step: &mut Step<'_>) {
        faults.into_iter().for_each(|fault| step.error(by.1, fault));
        self.push(row, 1, by);
    }

    fn push(&mut self, row: Vec<Value>, weight: i32, by: ChangedBy) {
        self.bytes += row.iter().map(Value::size_bytes).sum::<usize>();
        self.columns.resize_with(row.len(), || ColumnBuilder::with_capacity(0));
        let pairs = self.columns.iter_mut().zip(row);
        pairs.for_each(|(column, value)| column.push(value));
        self.weights.push(weight);
        self.time.push(by.0);
        self.origin.push(by.1);
    }

    /// All of it; nothing is left.
    pub fn take(&mut self, groups: &Groups) -> Delta {
        let all = std::mem::take(self);
        let rows = all.time.len();
        let columns = all.columns.into_iter().map(|column| Arc::new(column.finish()));
        Delta {
            rows: Columns::new(columns.collect(), rows),
            diff: match groups.emit {
                Emit::Changes => Diff::Weights(all.weights),
                _ => Diff::Append,
            },
            time: all.time.into(),
            origin: all.origin.into(),
            // What is worked out from rows that were in time is never late itself.
            frontier: vec![TimestampUs::MIN; rows].into(),
        }
    }
}
