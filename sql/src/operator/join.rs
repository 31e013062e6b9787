//! Joins: rows of two streams whose keys are equal and whose times are near each other ([`stream`]); a stream's rows with
//! the rows that a table has now ([`lookup`]); the rows that two tables have now ([`tables`]).
//!
//! ```text
//! rows     side (table 0 left, 1 right) | join key | time | record  ->  values, matched?      of a join WITHIN
//! timers   time + WITHIN | side, join key, time, record
//! rows     table 1 | join key | record, or digest of the values  ->  values                   of a lookup
//! rows     side | join key | digest of the values  ->  values, how often                      of two tables
//! ```
//!
//! A row of a join WITHIN waits until the watermark passes its time + WITHIN: until then rows of the other side may come
//! that it matches. Then it goes, and where nothing has matched it and its side is an outer one, it comes out with NULLs
//! for the other side, once. Both what matches and what is late is judged by the arriving row's own frontier, so how input
//! is cut into steps never shows.
//!
//! A row may match very many. So a join works off its input in pieces, and what a piece gave is passed on before the
//! next one: what it holds at once is bounded by the rows under one key, not by their pairs.
//!
//! What comes out is as old as the watermark less WITHIN at most; operators behind a join are told that watermark.

mod by_value;
mod lookup;
mod stream;
mod tables;

use std::sync::Arc;

use headwater_store::{decode_control, encode_control};

use super::{Operator, Place, Port, object, report};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::limits::{GROUPS_IN_MEMORY_MAX, JOIN_PIECE_BYTES, JOIN_PIECE_ROWS, SORT_BYTES_MAX};
use crate::plan::physical::{ColumnId, Join, JoinKind, OperatorId, Pair, PlanError, Side};
use crate::step::{Key, LateRow, Step, Stop};
use crate::types::TimestampUs;
use crate::value::{StoredValue, Value, decode_key, encode_key};
use by_value::Counted;
pub(super) use by_value::by_value;
pub(super) use lookup::Lookup;
pub(super) use stream::{Input, StreamJoin};
pub(super) use tables::TableJoin;

/// The two inputs, which are also the numbers of their tables.
const LEFT: u8 = 0;
const RIGHT: u8 = 1;

/// What both sorts of joins share.
#[derive(Debug)]
pub(super) struct Sides {
    operator: OperatorId,
    keys: [Vec<Expression>; 2],
    output: Vec<(Side, ColumnId)>,
    pair: Option<Condition>,
}

/// What else must be so for two rows to be a pair, over these columns of both.
#[derive(Debug)]
struct Condition {
    columns: Vec<(Side, ColumnId)>,
    holds: Expression,
}

impl Sides {
    pub fn new(operator: OperatorId, join: &Join, pair: Option<&Pair>) -> Result<Sides, PlanError> {
        let compile = |keys: &[_]| keys.iter().map(Expression::compile).collect::<Result<Vec<_>, _>>();
        if join.keys.is_empty() {
            return Err(PlanError::Invalid("a join without keys".into()));
        }
        let (left, right): (Vec<_>, Vec<_>) = join.keys.iter().cloned().unzip();
        let condition = |pair: &Pair| {
            Ok::<_, PlanError>(Condition {
                columns: pair.columns.clone(),
                holds: Expression::compile(&pair.condition)?,
            })
        };
        Ok(Sides {
            operator,
            keys: [compile(&left)?, compile(&right)?],
            output: join.output.clone(),
            pair: pair.map(condition).transpose()?,
        })
    }

    /// The keys of a micro-batch's rows; None where a part is NULL, which matches nothing.
    fn keys(&self, side: u8, delta: &Delta, step: &mut Step<'_>) -> Vec<Option<Vec<u8>>> {
        let mut faults = Faults::default();
        let scope = step.scope();
        let columns: Vec<Arc<Column>> = self.keys[usize::from(side)]
            .iter()
            .map(|key| key.evaluate(&delta.rows, &scope, &mut faults))
            .collect();
        report(&faults, &delta.origin, step);
        let key = |row: usize| {
            let mut bytes = Vec::new();
            for column in &columns {
                if column.get(row).is_null() {
                    return None;
                }
                column.encode_key(row, &mut bytes);
            }
            Some(bytes)
        };
        (0..delta.len()).map(key).collect()
    }

    /// Rows of one key are not all pairs.
    fn asks_more(&self) -> bool {
        self.pair.is_some()
    }

    /// With which of these rows of the other side, all of them under its key, a row of that side makes a pair. What the
    /// condition cannot work out is told at `origin`.
    fn holds<R: AsRef<[StoredValue]>>(
        &self,
        side: u8,
        own: &[StoredValue],
        theirs: &[R],
        origin: Option<RecordId>,
        step: &mut Step<'_>,
    ) -> Vec<bool> {
        let (Some(pair), false) = (&self.pair, theirs.is_empty()) else {
            return vec![true; theirs.len()];
        };
        let own_side = if side == LEFT { Side::Left } else { Side::Right };
        let column = |(of, column): &(Side, ColumnId)| {
            let value = |row: &[StoredValue]| row.get(column.index()).map_or(Value::Null, |value| value.0.clone());
            let values = theirs.iter().map(|theirs| match *of == own_side {
                true => value(own),
                false => value(theirs.as_ref()),
            });
            Arc::new(Column::from_values(values))
        };
        let rows = Columns::new(pair.columns.iter().map(column).collect(), theirs.len());
        let mut faults = Faults::default();
        let truth = pair.holds.evaluate(&rows, &step.scope(), &mut faults);
        if let Some(origin) = origin {
            faults.iter().for_each(|(_, fault)| step.error(origin, fault));
        }
        let mut holds = vec![false; theirs.len()];
        for row in truth.selection() {
            holds[row as usize] = true;
        }
        holds
    }

    /// A row of the output; a side that is not there is NULLs.
    fn joined(&self, left: Option<&[StoredValue]>, right: Option<&[StoredValue]>) -> Vec<Value> {
        let value = |(side, column): &(Side, ColumnId)| {
            let row = match side {
                Side::Left => left,
                Side::Right => right,
            };
            row.and_then(|row| row.get(column.index()))
                .map_or(Value::Null, |value| value.0.clone())
        };
        self.output.iter().map(value).collect()
    }
}

/// Rows of that side come out even if nothing matches them.
fn is_outer(kind: JoinKind, side: u8) -> bool {
    match kind {
        JoinKind::Inner => false,
        JoinKind::Left => side == LEFT,
        JoinKind::Right => side == RIGHT,
        JoinKind::Full => true,
    }
}

/// What an output row weighs besides its values: weight, time, origin and frontier.
const ROW_BYTES: usize = 64;

fn values_of(delta: &Delta, row: usize) -> Vec<StoredValue> {
    let value = |column: usize| StoredValue(delta.rows.column(column).get(row).into_owned());
    (0..delta.rows.width()).map(value).collect()
}

/// Input that a join has not worked off.
#[derive(Debug)]
pub(super) struct Unjoined {
    port: Port,
    delta: Delta,
    keys: std::iter::Enumerate<std::vec::IntoIter<Option<Vec<u8>>>>,
}

impl Unjoined {
    fn new(port: Port, delta: &Delta, keys: Vec<Option<Vec<u8>>>) -> Unjoined {
        Unjoined {
            port,
            delta: delta.clone(),
            keys: keys.into_iter().enumerate(),
        }
    }

    /// Itself, where rows are left.
    fn rest(self) -> Option<Unjoined> {
        (self.keys.len() > 0).then_some(self)
    }
}

/// A join, as far as the three differ.
pub(super) trait PieceJoin: std::fmt::Debug + Send {
    fn sides(&self) -> &Sides;

    /// Takes in what nothing comes of. False: it is to be worked off.
    fn learn(&mut self, _: Port, _: &Delta, _: &mut Step<'_>) -> Result<bool, Stop> {
        Ok(false)
    }

    /// Works off a piece, and passes on what it gave.
    fn work_off(&mut self, input: &mut Unjoined, step: &mut Step<'_>) -> Result<(), Stop>;

    fn advance(&mut self, _: TimestampUs, _: &mut Step<'_>) -> Result<(), Stop> {
        Ok(())
    }

    fn timer(&mut self, _: TimestampUs, _: &Key, _: &mut Step<'_>) -> Result<(), Stop> {
        Ok(())
    }
}

/// Has a join work off its input, one piece after the other.
#[derive(Debug)]
struct InPieces<J> {
    join: J,
    left: Option<Unjoined>,
}

/// A join as an operator.
pub(super) fn in_pieces(join: impl PieceJoin) -> impl Operator {
    InPieces { join, left: None }
}

impl<J: PieceJoin> Operator for InPieces<J> {
    fn apply(&mut self, port: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        if self.join.learn(port, delta, step)? {
            return Ok(());
        }
        let keys = self.join.sides().keys(port, delta, step);
        self.left = Some(Unjoined::new(port, delta, keys));
        self.go_on(step)
    }

    fn has_more(&self) -> bool {
        self.left.is_some()
    }

    fn go_on(&mut self, step: &mut Step<'_>) -> Result<(), Stop> {
        if let Some(mut input) = self.left.take() {
            self.join.work_off(&mut input, step)?;
            self.left = input.rest();
        }
        Ok(())
    }

    fn advance(&mut self, _: Port, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        self.join.advance(watermark, step)
    }

    fn timer(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        self.join.timer(at, key, step)
    }
}

/// Output rows, gathered.
#[derive(Debug, Default)]
struct Joined {
    /// About what they weigh.
    bytes: usize,
    /// Rows that were looked at for them.
    looked_at: usize,
    columns: Vec<Vec<Value>>,
    weights: Vec<i32>,
    time: Vec<TimestampUs>,
    origin: Vec<RecordId>,
    frontier: Vec<TimestampUs>,
}

impl Joined {
    fn push(&mut self, row: Vec<Value>, weight: i32, time: TimestampUs, origin: RecordId, frontier: TimestampUs) {
        self.columns.resize_with(row.len(), Vec::new);
        self.bytes += row.iter().map(Value::size_bytes).sum::<usize>() + ROW_BYTES;
        let pairs = self.columns.iter_mut().zip(row);
        pairs.for_each(|(column, value)| column.push(value));
        self.weights.push(weight);
        self.time.push(time);
        self.origin.push(origin);
        self.frontier.push(frontier);
    }

    /// Enough for one piece.
    fn is_full(&self) -> bool {
        self.bytes >= JOIN_PIECE_BYTES || self.looked_at >= JOIN_PIECE_ROWS
    }

    /// As changes, even where nothing goes.
    fn changes(&mut self) -> Delta {
        let weights = Diff::Weights(self.weights.clone());
        Delta {
            diff: weights,
            ..self.delta()
        }
    }

    fn delta(&mut self) -> Delta {
        let all = std::mem::take(self);
        let rows = all.weights.len();
        let columns = all
            .columns
            .into_iter()
            .map(|values| Arc::new(Column::from_values(values)));
        Delta {
            rows: Columns::new(columns.collect(), rows),
            diff: match all.weights.iter().all(|weight| *weight == 1) {
                true => Diff::Append,
                false => Diff::Weights(all.weights),
            },
            time: all.time.into(),
            origin: all.origin.into(),
            frontier: all.frontier.into(),
        }
    }
}
