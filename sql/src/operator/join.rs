//! Joins: rows of two streams whose keys are equal and whose times are near each other; and a stream's rows with the
//! rows that a table has now.
//!
//! ```text
//! rows     side (table 0 left, 1 right) | join key | time | record  ->  values, matched?      of a join WITHIN
//! timers   time + WITHIN | side, join key, time, record
//! rows     table 1 | join key | the row's own key  ->  values                                 of a lookup
//! ```
//!
//! A row of a join WITHIN waits until the watermark passes its time + WITHIN: until then rows of the other side may come
//! that it matches. Then it goes, and where nothing has matched it and its side is an outer one, it comes out with NULLs
//! for the other side, once. Both what matches and what is late is judged by the arriving row's own frontier, so how input
//! is cut into steps never shows.
//!
//! What comes out is as old as the watermark less WITHIN at most; operators behind a join are told that watermark.

use std::sync::Arc;

use headwater_store::{decode_control, encode_control};

use super::{Operator, Place, Port, report};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::limits::GROUPS_IN_MEMORY_MAX;
use crate::plan::physical::{ColumnId, Join, JoinKind, OperatorId, PlanError, Side};
use crate::step::{Key, LateRow, Step, Stop};
use crate::types::TimestampUs;
use crate::value::{StoredValue, Value, decode_key, encode_key};

/// The two inputs, which are also the numbers of their tables.
const LEFT: u8 = 0;
const RIGHT: u8 = 1;

/// What both sorts of joins share.
#[derive(Debug)]
struct Sides {
    operator: OperatorId,
    keys: [Vec<Expression>; 2],
    output: Vec<(Side, ColumnId)>,
}

impl Sides {
    fn new(operator: OperatorId, join: &Join) -> Result<Sides, PlanError> {
        let compile = |keys: &[_]| keys.iter().map(Expression::compile).collect::<Result<Vec<_>, _>>();
        if join.keys.is_empty() {
            return Err(PlanError::Invalid("a join without keys".into()));
        }
        let (left, right): (Vec<_>, Vec<_>) = join.keys.iter().cloned().unzip();
        Ok(Sides {
            operator,
            keys: [compile(&left)?, compile(&right)?],
            output: join.output.clone(),
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

fn values_of(delta: &Delta, row: usize) -> Vec<StoredValue> {
    let value = |column: usize| StoredValue(delta.rows.column(column).get(row).into_owned());
    (0..delta.rows.width()).map(value).collect()
}

/// Output rows, gathered.
#[derive(Debug, Default)]
struct Joined {
    columns: Vec<Vec<Value>>,
    weights: Vec<i32>,
    time: Vec<TimestampUs>,
    origin: Vec<RecordId>,
    frontier: Vec<TimestampUs>,
}

impl Joined {
    fn push(&mut self, row: Vec<Value>, weight: i32, time: TimestampUs, origin: RecordId, frontier: TimestampUs) {
        self.columns.resize_with(row.len(), Vec::new);
        let pairs = self.columns.iter_mut().zip(row);
        pairs.for_each(|(column, value)| column.push(value));
        self.weights.push(weight);
        self.time.push(time);
        self.origin.push(origin);
        self.frontier.push(frontier);
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
            time: all.time,
            origin: all.origin,
            frontier: all.frontier,
        }
    }
}

/// Two streams, WITHIN a time of each other.
#[derive(Debug)]
pub(super) struct StreamJoin {
    sides: Sides,
    kind: JoinKind,
    within_us: i64,
    names: [Vec<String>; 2],
    /// Rows that wait, where there is no disk behind them, and how many may.
    held: usize,
    held_max: Option<usize>,
    out: Joined,
}

/// A row that waits for the other side.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
struct Waiting {
    values: Vec<StoredValue>,
    matched: bool,
}

impl StreamJoin {
    /// `names` are those of the inputs' columns.
    pub fn new(
        operator: OperatorId,
        join: &Join,
        within_us: i64,
        names: [Vec<String>; 2],
        place: &Place,
    ) -> Result<StreamJoin, PlanError> {
        if within_us < 0 {
            return Err(PlanError::Invalid("a join within less than no time".into()));
        }
        Ok(StreamJoin {
            sides: Sides::new(operator, join)?,
            kind: join.kind,
            within_us,
            names,
            held: 0,
            held_max: matches!(place, Place::Here).then_some(GROUPS_IN_MEMORY_MAX),
            out: Joined::default(),
        })
    }

    /// Rows of that side come out even if nothing matches them.
    fn is_outer(&self, side: u8) -> bool {
        match self.kind {
            JoinKind::Inner => false,
            JoinKind::Left => side == LEFT,
            JoinKind::Right => side == RIGHT,
            JoinKind::Full => true,
        }
    }

    fn arrive(
        &mut self,
        side: u8,
        key: Option<&[u8]>,
        delta: &Delta,
        row: usize,
        step: &mut Step<'_>,
    ) -> Result<(), Stop> {
        let (time, origin, frontier) = (delta.time[row], delta.origin[row], delta.frontier[row]);
        let due = time.plus_us(self.within_us);
        if due <= frontier {
            step.late(self.late(side, delta, row));
            return Ok(());
        }
        let values = values_of(delta, row);
        let behind = frontier.plus_us(self.within_us.saturating_neg());
        let Some(key) = key else {
            if self.is_outer(side) {
                let row = self.alone(side, &values);
                self.out.push(row, 1, time, origin, behind);
            }
            return Ok(());
        };
        let other = LEFT + RIGHT - side;
        let mut matched = false;
        let under = Key::new(key.to_vec(), key.len());
        for (place, stored) in step.rows(other, &under)? {
            let their_time = time_of(&place, key.len()).ok_or(Stop::State(self.sides.operator))?;
            let near = time.0.abs_diff(their_time.0) <= self.within_us.unsigned_abs();
            if !near || their_time.plus_us(self.within_us) <= frontier {
                continue;
            }
            let mut theirs: Waiting = decode_control(&stored).map_err(|_| Stop::State(self.sides.operator))?;
            let (left, right) = match side {
                LEFT => (&values, &theirs.values),
                _ => (&theirs.values, &values),
            };
            let row = self.sides.joined(Some(left), Some(right));
            self.out.push(row, 1, time.max(their_time), origin, behind);
            matched = true;
            if self.is_outer(other) && !theirs.matched {
                theirs.matched = true;
                step.put(other, &place, encode_control(&theirs));
            }
        }
        if self.held_max.is_some_and(|max| self.held >= max) {
            return Err(Stop::TooManyGroups(self.held));
        }
        self.held += 1;
        let place = place(key, time, origin);
        step.put(side, &place, encode_control(&Waiting { values, matched }));
        step.set_timer(due, &timer_key(side, &place));
        Ok(())
    }

    fn alone(&self, side: u8, values: &[StoredValue]) -> Vec<Value> {
        match side {
            LEFT => self.sides.joined(Some(values), None),
            _ => self.sides.joined(None, Some(values)),
        }
    }

    fn late(&self, side: u8, delta: &Delta, row: usize) -> LateRow {
        LateRow {
            origin: delta.origin[row],
            time: delta.time[row],
            watermark: delta.frontier[row],
            row: super::object(&self.names[usize::from(side)], &delta.rows, row),
        }
    }
}

/// Where a row waits. The key alone spreads.
fn place(key: &[u8], time: TimestampUs, origin: RecordId) -> Key {
    let mut bytes = key.to_vec();
    encode_key(&Value::Timestamp(time.0), &mut bytes);
    let RecordId { shard, offset } = origin;
    for number in [shard.stream.0, u64::from(shard.number), offset.0] {
        encode_key(&Value::Integer(number as i64), &mut bytes);
    }
    Key::new(bytes, key.len())
}

/// The time of the row that waits there.
fn time_of(place: &Key, key_bytes: usize) -> Option<TimestampUs> {
    match decode_key(&mut place.bytes.get(key_bytes..)?)? {
        Value::Timestamp(us) => Some(TimestampUs(us)),
        _ => None,
    }
}

fn timer_key(side: u8, place: &Key) -> Key {
    Key {
        bytes: [&[side][..], &place.bytes].concat().into(),
        slot: place.slot,
    }
}

impl Operator for StreamJoin {
    fn apply(&mut self, port: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let keys = self.sides.keys(port, delta, step);
        for (row, key) in keys.iter().enumerate() {
            self.arrive(port, key.as_deref(), delta, row, step)?;
        }
        let joined = self.out.delta();
        step.emit(joined);
        Ok(())
    }

    fn advance(&mut self, _: Port, _: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        let joined = self.out.delta();
        step.emit(joined);
        Ok(())
    }

    /// Nothing can match the row any more.
    fn timer(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let Some((side, place)) = key.bytes.split_first() else {
            return Err(Stop::State(self.sides.operator));
        };
        let place = Key {
            bytes: key.bytes.slice_ref(place),
            slot: key.slot,
        };
        let Some(stored) = step.get(*side, &place)? else {
            return Ok(());
        };
        step.delete(*side, &place);
        self.held = self.held.saturating_sub(1);
        if self.is_outer(*side) {
            let waiting: Waiting = decode_control(&stored).map_err(|_| Stop::State(self.sides.operator))?;
            if !waiting.matched {
                let row = self.alone(*side, &waiting.values);
                let time = at.plus_us(self.within_us.saturating_neg());
                let origin = origin_of(&place).ok_or(Stop::State(self.sides.operator))?;
                self.out.push(row, 1, time, origin, TimestampUs::MIN);
            }
        }
        step.weigh_timer(stored.len() + place.bytes.len());
        Ok(())
    }
}

/// The record of the row that waits there: the last three parts of its place.
fn origin_of(place: &Key) -> Option<RecordId> {
    const NUMBER_BYTES: usize = 17;
    let at = place.bytes.len().checked_sub(3 * NUMBER_BYTES)?;
    let mut rest = &place.bytes[at..];
    let mut number = || match decode_key(&mut rest)? {
        Value::Integer(number) => Some(number as u64),
        _ => None,
    };
    let (stream, shard, offset) = (number()?, number()?, number()?);
    Some(RecordId {
        shard: headwater_store::ShardId {
            // The group is no part of what names a record.
            group: headwater_store::GroupId(0),
            stream: headwater_store::StreamId(stream),
            number: shard as u16,
        },
        offset: headwater_store::Offset(offset),
    })
}

/// A stream's rows with the row that a table has under their key now.
#[derive(Debug)]
pub(super) struct Lookup {
    sides: Sides,
    left_outer: bool,
    held: usize,
    held_max: Option<usize>,
}

impl Lookup {
    pub fn new(operator: OperatorId, join: &Join, place: &Place) -> Result<Lookup, PlanError> {
        let left_outer = match join.kind {
            JoinKind::Inner => false,
            JoinKind::Left => true,
            JoinKind::Right | JoinKind::Full => {
                return Err(PlanError::Invalid("a lookup that waits for its table".into()));
            }
        };
        Ok(Lookup {
            sides: Sides::new(operator, join)?,
            left_outer,
            held: 0,
            held_max: matches!(place, Place::Here).then_some(GROUPS_IN_MEMORY_MAX),
        })
    }

    /// The table has changed: nothing comes out, later rows see it.
    fn learn(&mut self, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let keys = self.sides.keys(RIGHT, delta, step);
        for (row, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let values = values_of(delta, row);
            // A table has one row of its own key: the row itself, as it was when it came, names it.
            let mut bytes = key.clone();
            let RecordId { shard, offset } = delta.origin[row];
            for number in [shard.stream.0, u64::from(shard.number), offset.0] {
                encode_key(&Value::Integer(number as i64), &mut bytes);
            }
            let place = Key::new(bytes, key.len());
            if delta.weight(row) < 0 {
                step.delete(RIGHT, &place);
                self.held = self.held.saturating_sub(1);
                continue;
            }
            if self.held_max.is_some_and(|max| self.held >= max) {
                return Err(Stop::TooManyGroups(self.held));
            }
            self.held += 1;
            step.put(RIGHT, &place, encode_control(&values));
        }
        Ok(())
    }
}

impl Operator for Lookup {
    fn apply(&mut self, port: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        if port == RIGHT {
            return self.learn(delta, step);
        }
        let keys = self.sides.keys(LEFT, delta, step);
        let mut out = Joined::default();
        for (row, key) in keys.iter().enumerate() {
            let left = values_of(delta, row);
            let found = match key {
                Some(key) => step.rows(RIGHT, &Key::new(key.clone(), key.len()))?,
                None => Vec::new(),
            };
            let (weight, time, origin) = (delta.weight(row), delta.time[row], delta.origin[row]);
            for (_, stored) in &found {
                let right: Vec<StoredValue> = decode_control(stored).map_err(|_| Stop::State(self.sides.operator))?;
                let joined = self.sides.joined(Some(&left), Some(&right));
                out.push(joined, weight, time, origin, delta.frontier[row]);
            }
            if found.is_empty() && self.left_outer {
                let alone = self.sides.joined(Some(&left), None);
                out.push(alone, weight, time, origin, delta.frontier[row]);
            }
        }
        step.emit(out.delta());
        Ok(())
    }
}
