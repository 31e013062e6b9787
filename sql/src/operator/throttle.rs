//! EMIT PERIODIC and EMIT ON SILENCE: holds the changes of each key back until their time, and lets through what is left
//! of them then.
//!
//! What waits is state like any other, so a restart neither loses a change nor tells one twice. Its time is that of the
//! steps, which is saved with them.

use std::sync::Arc;

use bytes::Bytes;
use headwater_store::{decode_control, encode_control};

use super::{Operator, Port};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{ColumnBuilder, Columns};
use crate::plan::physical::{ColumnId, Node, OperatorId, Throttle};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;
use crate::value::{StoredValue, Value};

/// The table of changes that wait.
const WAITING: u8 = 0;

#[derive(Debug)]
pub(super) struct Hold {
    operator: OperatorId,
    throttle: Throttle,
    key: Vec<ColumnId>,
}

/// What has happened to a key since it was last told.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
struct Waiting {
    /// The row that was told last; None: there was none.
    before: Option<Vec<StoredValue>>,
    /// The row that is there now.
    after: Option<Vec<StoredValue>>,
    /// When it goes on.
    due: TimestampUs,
    time: TimestampUs,
    origin: RecordId,
}

impl Hold {
    pub fn new(node: &Node, throttle: Throttle) -> Hold {
        Hold {
            operator: node.id,
            throttle,
            key: node.key.clone(),
        }
    }

    fn due(&self, now: TimestampUs) -> TimestampUs {
        match self.throttle {
            Throttle::Every { us } => TimestampUs(now.0 - now.0.rem_euclid(us.max(1))).plus_us(us),
            Throttle::Silence { us } => now.plus_us(us),
        }
    }

    fn load(&self, key: &Key, step: &Step<'_>) -> Result<Option<Waiting>, Stop> {
        let row = step.get(WAITING, key)?;
        row.map(|row: Bytes| decode_control(&row).map_err(|_| Stop::State(self.operator)))
            .transpose()
    }
}

/// Passes on what is left of a key's changes.
fn release(key: &Key, waiting: Waiting, step: &mut Step<'_>) {
    step.delete(WAITING, key);
    if waiting.before == waiting.after {
        return;
    }
    let width = waiting
        .before
        .iter()
        .chain(&waiting.after)
        .map(Vec::len)
        .max()
        .unwrap_or(0);
    let mut builders: Vec<ColumnBuilder> = (0..width).map(|_| ColumnBuilder::with_capacity(2)).collect();
    let mut weights = Vec::new();
    for (row, weight) in [(waiting.before, -1), (waiting.after, 1)] {
        let Some(row) = row else { continue };
        builders
            .iter_mut()
            .zip(row)
            .for_each(|(builder, value)| builder.push(value.0));
        weights.push(weight);
    }
    let rows = weights.len();
    let columns = builders.into_iter().map(|builder| Arc::new(builder.finish())).collect();
    step.emit(Delta {
        rows: Columns::new(columns, rows),
        diff: Diff::Weights(weights),
        time: vec![waiting.time; rows].into(),
        origin: vec![waiting.origin; rows].into(),
        frontier: vec![TimestampUs::MIN; rows].into(),
    });
}

impl Operator for Hold {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let now = step.scope().now;
        for row in 0..delta.len() {
            let mut bytes = Vec::new();
            self.key
                .iter()
                .for_each(|column| delta.rows.column(column.index()).encode_key(row, &mut bytes));
            let spread_by = bytes.len();
            let key = Key::new(bytes, spread_by);
            let mut waiting = self.load(&key, step)?;
            // However time is cut into steps: what was due before this change goes before it.
            if let Some(due) = waiting.take_if(|waiting| waiting.due <= now) {
                release(&key, due, step);
            }
            let values: Vec<StoredValue> = (0..delta.rows.width())
                .map(|column| StoredValue(delta.rows.column(column).get(row).into_owned()))
                .collect();
            let leaves = delta.weight(row) < 0;
            let mut waiting = waiting.unwrap_or_else(|| {
                let due = self.due(now);
                step.set_clock(due, &key);
                Waiting {
                    before: leaves.then(|| values.clone()),
                    after: None,
                    due,
                    time: delta.time[row],
                    origin: delta.origin[row],
                }
            });
            if let Throttle::Silence { .. } = self.throttle {
                waiting.due = self.due(now);
            }
            waiting.after = (!leaves).then_some(values);
            (waiting.time, waiting.origin) = (delta.time[row], delta.origin[row]);
            step.put(WAITING, &key, encode_control(&waiting));
        }
        Ok(())
    }

    fn clock(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let Some(waiting) = self.load(key, step)? else {
            return Ok(());
        };
        if waiting.due > at {
            // Silence was broken: its end is later now.
            step.set_clock(waiting.due, key);
            return Ok(());
        }
        let values = waiting.before.iter().chain(&waiting.after).flatten();
        step.weigh_timer(values.map(|value: &StoredValue| Value::size_bytes(&value.0)).sum());
        release(key, waiting, step);
        Ok(())
    }
}
