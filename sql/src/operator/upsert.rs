//! Changes by key, out of the revisions of an upsert stream: the row that a key had goes, the one that it has comes.
//!
//! So what is worked out from a view or a table follows it exactly: a sum takes the old value back, a row that is gone
//! leaves. The row that each key has is kept here, with its time and record, because what goes must be what came.
//!
//! A read that ends needs only what each key has in the end ([`Latest`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_store::{decode_control, encode_control};

use super::{Operator, Port};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{Column, Columns};
use crate::limits::GROUPS_IN_MEMORY_MAX;
use crate::plan::physical::{ColumnId, Node, OperatorId};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;
use crate::value::{StoredValue, Value};

/// The table of rows by key.
const ROWS: u8 = 0;

#[derive(Debug)]
pub(super) struct FromUpsert {
    operator: OperatorId,
    key: ColumnId,
    gone: ColumnId,
}

/// The row that a key has.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
struct Held {
    values: Vec<StoredValue>,
    time: TimestampUs,
    origin: RecordId,
}

impl Held {
    fn of(delta: &Delta, row: usize) -> Held {
        let column = |number: usize| StoredValue(delta.rows.column(number).get(row).into_owned());
        Held {
            values: (0..delta.rows.width()).map(column).collect(),
            time: delta.time[row],
            origin: delta.origin[row],
        }
    }
}

/// Changes, being gathered.
#[derive(Default)]
struct Changes {
    values: Vec<Vec<Value>>,
    weights: Vec<i32>,
    time: Vec<TimestampUs>,
    origin: Vec<RecordId>,
    frontier: Vec<TimestampUs>,
}

impl FromUpsert {
    pub fn new(node: &Node, key: ColumnId, gone: ColumnId) -> FromUpsert {
        FromUpsert {
            operator: node.id,
            key,
            gone,
        }
    }
}

impl Changes {
    fn push(&mut self, held: Held, weight: i32, frontier: TimestampUs) {
        self.values.resize_with(held.values.len(), Vec::new);
        let pairs = self.values.iter_mut().zip(held.values);
        pairs.for_each(|(column, value)| column.push(value.0));
        self.weights.push(weight);
        self.time.push(held.time);
        self.origin.push(held.origin);
        self.frontier.push(frontier);
    }

    /// As rows that nothing takes back.
    fn added(self) -> Delta {
        Delta {
            diff: Diff::Append,
            ..self.delta()
        }
    }

    fn delta(self) -> Delta {
        let rows = self.weights.len();
        let columns = self
            .values
            .into_iter()
            .map(|values| Arc::new(Column::from_values(values)));
        Delta {
            rows: Columns::new(columns.collect(), rows),
            diff: Diff::Weights(self.weights),
            time: self.time.into(),
            origin: self.origin.into(),
            frontier: self.frontier.into(),
        }
    }
}

impl Operator for FromUpsert {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let (keys, gone) = (
            delta.rows.column(self.key.index()),
            delta.rows.column(self.gone.index()),
        );
        let mut changes = Changes::default();
        for row in 0..delta.len() {
            let mut bytes = Vec::new();
            keys.encode_key(row, &mut bytes);
            let spread_by = bytes.len();
            let key = Key::new(bytes, spread_by);
            let frontier = delta.frontier[row];
            if let Some(stored) = step.get(ROWS, &key)? {
                let held: Held = decode_control(&stored).map_err(|_| Stop::State(self.operator))?;
                changes.push(held, -1, frontier);
            }
            if gone.is_true(row) {
                step.delete(ROWS, &key);
                continue;
            }
            let held = Held::of(delta, row);
            step.put(ROWS, &key, encode_control(&held));
            changes.push(held, 1, frontier);
        }
        step.emit(changes.delta());
        Ok(())
    }
}

/// The row that each key has when the input has ended. It keeps them itself: a read that ends has no other state.
#[derive(Debug)]
pub(super) struct Latest {
    key: ColumnId,
    gone: ColumnId,
    rows: BTreeMap<Vec<u8>, Held>,
}

impl Latest {
    pub fn new(key: ColumnId, gone: ColumnId) -> Latest {
        Latest {
            key,
            gone,
            rows: BTreeMap::new(),
        }
    }
}

impl Operator for Latest {
    fn apply(&mut self, _: Port, delta: &Delta, _: &mut Step<'_>) -> Result<(), Stop> {
        let (keys, gone) = (
            delta.rows.column(self.key.index()),
            delta.rows.column(self.gone.index()),
        );
        for row in 0..delta.len() {
            let mut key = Vec::new();
            keys.encode_key(row, &mut key);
            if gone.is_true(row) {
                self.rows.remove(&key);
                continue;
            }
            self.rows.insert(key, Held::of(delta, row));
            if self.rows.len() > GROUPS_IN_MEMORY_MAX {
                return Err(Stop::TooManyGroups(GROUPS_IN_MEMORY_MAX));
            }
        }
        Ok(())
    }

    /// By key, as the rows of a view.
    fn advance(&mut self, _: Port, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        if watermark != TimestampUs::MAX {
            return Ok(());
        }
        let mut rows = Changes::default();
        for held in std::mem::take(&mut self.rows).into_values() {
            rows.push(held, 1, TimestampUs::MIN);
        }
        step.emit(rows.added());
        Ok(())
    }
}
