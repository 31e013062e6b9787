//! GROUP BY: one row per key, and per window where there is one.
//!
//! A group's accumulators are a state row under its key. Within a step they live decoded in memory, are changed there,
//! and are written once when the step ends; then a group speaks, at most once:
//!
//! - EMIT CHANGES: the row it had when the step began goes, the one it has now comes.
//! - EMIT FINAL: nothing, until its timer at window end + grace. Timers fire in the order of time, then of key; and as
//!   a row is taken exactly when its window's timer is beyond its frontier, the order of FINAL rows depends on the data
//!   alone.
//! - At the end of a one-shot read: all groups, by key.

mod accumulator;
mod exact;

use std::collections::HashMap;
use std::sync::Arc;

use super::{Operator, Place, Port, report};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{Column, ColumnBuilder, Columns};
use crate::expression::{Expression, Faults};
use crate::limits::{GROUPS_CACHED_MAX, GROUPS_IN_MEMORY_MAX};
use crate::plan::physical::{Aggregate, Emit, Node, OperatorId, PlanError, WindowColumns};
use crate::step::{Key, Step, Stop};
use crate::types::{DataType, TimestampUs};
use crate::value::{Fault, Value, decode_group_key, decode_key};
use accumulator::{Accumulator, GroupState};

/// The table of accumulators.
const GROUPS: u8 = 0;

#[derive(Debug)]
pub(super) struct GroupBy {
    operator: OperatorId,
    group: Vec<Expression>,
    /// The static types of the group columns: equal numbers are one key, this is how they are shown.
    group_types: Vec<DataType>,
    window: Option<WindowColumns>,
    calls: Vec<Call>,
    emit: Emit,
    grace_us: i64,
    /// Groups seen lately, by key: decoded state.
    groups: HashMap<Vec<u8>, Group>,
    /// Keys changed in this step, in the order of their first change.
    dirty: Vec<Vec<u8>>,
    /// What this step has to say so far.
    out: Output,
    /// More groups than this are an error where there is no disk behind them.
    groups_max: Option<usize>,
}

#[derive(Debug)]
struct Call {
    empty: Accumulator,
    argument: Option<Expression>,
    filter: Option<Expression>,
}

#[derive(Debug)]
struct Group {
    key: Key,
    state: GroupState,
    /// In this step: the row it had at its begin, None if it had none. Outer None: not changed in this step.
    before: Option<Option<Vec<Value>>>,
    /// The event time and record of its last change.
    changed_by: (TimestampUs, RecordId),
}

/// The columns of one micro-batch that groups are worked out from.
struct Inputs {
    keys: Vec<Arc<Column>>,
    arguments: Vec<Option<Arc<Column>>>,
    filters: Vec<Option<Arc<Column>>>,
}

impl GroupBy {
    pub fn new(node: &Node, aggregate: &Aggregate, place: &Place) -> Result<GroupBy, PlanError> {
        let call = |call: &crate::plan::physical::AggregateCall| {
            Ok(Call {
                empty: Accumulator::new(call.function),
                argument: call.argument.as_ref().map(Expression::compile).transpose()?,
                filter: call.filter.as_ref().map(Expression::compile).transpose()?,
            })
        };
        if aggregate.emit == Emit::Final && aggregate.window.is_none() {
            return Err(PlanError::Invalid("EMIT FINAL without a window".into()));
        }
        let width = aggregate.group.len() + if aggregate.window.is_some() { 2 } else { 0 } + aggregate.calls.len();
        if node.schema.columns.len() != width {
            return Err(PlanError::Invalid(
                "an aggregate's schema does not fit its columns".into(),
            ));
        }
        let types = node.schema.columns[..aggregate.group.len()]
            .iter()
            .map(|column| column.data_type.clone());
        Ok(GroupBy {
            operator: node.id,
            group: aggregate
                .group
                .iter()
                .map(Expression::compile)
                .collect::<Result<_, _>>()?,
            group_types: types.collect(),
            window: aggregate.window,
            calls: aggregate.calls.iter().map(call).collect::<Result<_, PlanError>>()?,
            emit: aggregate.emit,
            grace_us: aggregate.grace_us,
            groups: HashMap::new(),
            dirty: Vec::new(),
            out: Output::default(),
            groups_max: matches!(place, Place::Here).then_some(GROUPS_IN_MEMORY_MAX),
        })
    }

    fn inputs(&self, delta: &Delta, step: &mut Step<'_>) -> Inputs {
        let mut faults = Faults::default();
        let scope = step.scope();
        let mut evaluate = |expression: &Expression| expression.evaluate(&delta.rows, &scope, &mut faults);
        let mut keys: Vec<_> = self.group.iter().map(&mut evaluate).collect();
        let arguments = self
            .calls
            .iter()
            .map(|call| call.argument.as_ref().map(&mut evaluate))
            .collect();
        let filters = self
            .calls
            .iter()
            .map(|call| call.filter.as_ref().map(&mut evaluate))
            .collect();
        keys.extend(
            self.window
                .map(|window| delta.rows.column(window.start.index()).clone()),
        );
        report(&faults, &delta.origin, step);
        Inputs {
            keys,
            arguments,
            filters,
        }
    }

    /// Brings the group of a key into memory, as it is or new, and notes that it changes in this step.
    fn touch(
        &mut self,
        bytes: &[u8],
        spread_by: usize,
        delta: &Delta,
        row: usize,
        step: &mut Step<'_>,
    ) -> Result<(), Stop> {
        let changed_by = (delta.time[row], delta.origin[row]);
        if let Some(group) = self.groups.get_mut(bytes) {
            group.changed_by = changed_by;
            if group.before.is_some() {
                return Ok(());
            }
        } else {
            if self.groups_max.is_some_and(|max| self.groups.len() >= max) {
                return Err(Stop::TooManyGroups(self.groups.len()));
            }
            let key = Key::new(bytes.to_vec(), spread_by);
            let state = match step.get(GROUPS, &key)? {
                Some(row) => GroupState::decode(&row, self.calls.len()).ok_or(Stop::State(self.operator))?,
                None => self.begin(&key, delta, row, step),
            };
            self.groups.insert(
                bytes.to_vec(),
                Group {
                    key,
                    state,
                    before: None,
                    changed_by,
                },
            );
        }
        let spoke = |group: &&Group| self.emit == Emit::Changes && group.state.rows > 0;
        let before = self.groups.get(bytes).filter(spoke).map(|group| self.row(group).0);
        if let Some(group) = self.groups.get_mut(bytes) {
            group.before = Some(before);
        }
        if self.emit != Emit::AtEnd {
            self.dirty.push(bytes.to_vec());
        }
        Ok(())
    }

    fn begin(&self, key: &Key, delta: &Delta, row: usize, step: &mut Step<'_>) -> GroupState {
        let window_end_us = self
            .window
            .map(|window| match *delta.rows.column(window.end.index()).get(row) {
                Value::Timestamp(us) => us,
                _ => i64::MAX,
            });
        if let (Some(end), Emit::Changes | Emit::Final) = (window_end_us, self.emit) {
            step.set_timer(TimestampUs(end).plus_us(self.grace_us), key);
        }
        let accumulators = self.calls.iter().map(|call| call.empty.clone()).collect();
        GroupState {
            rows: 0,
            window_end_us,
            accumulators,
        }
    }

    fn accumulate(&mut self, bytes: &[u8], inputs: &Inputs, delta: &Delta, row: usize, step: &mut Step<'_>) {
        let Some(group) = self.groups.get_mut(bytes) else {
            return;
        };
        let weight = delta.weight(row);
        group.state.rows += i64::from(weight);
        for (number, accumulator) in group.state.accumulators.iter_mut().enumerate() {
            if inputs.filters[number]
                .as_ref()
                .is_some_and(|filter| !filter.is_true(row))
            {
                continue;
            }
            let added = match &inputs.arguments[number] {
                // COUNT(*)
                None => accumulator.add(&Value::Boolean(true), weight),
                Some(argument) => accumulator.add(&argument.get(row), weight),
            };
            if let Err(fault) = added {
                step.error(delta.origin[row], fault);
            }
        }
    }

    /// A group's output row, and what has no value in it.
    fn row(&self, group: &Group) -> (Vec<Value>, Vec<Fault>) {
        let mut bytes = &group.key.bytes[..];
        let mut row = Vec::with_capacity(self.group.len() + self.calls.len() + 2);
        row.extend(
            self.group_types
                .iter()
                .map(|data_type| decode_group_key(&mut bytes, data_type)),
        );
        if let Some(end) = group.state.window_end_us {
            row.push(decode_key(&mut bytes).unwrap_or(Value::Null));
            row.push(Value::Timestamp(end));
        }
        let mut faults = Vec::new();
        for accumulator in &group.state.accumulators {
            row.push(accumulator.result().unwrap_or_else(|fault| {
                faults.push(fault);
                Value::Null
            }));
        }
        (row, faults)
    }

    /// Writes the changed groups, and says what became of their rows.
    fn speak(&mut self, step: &mut Step<'_>) {
        for bytes in std::mem::take(&mut self.dirty) {
            // A window that closed in this step has spoken already.
            let Some(mut group) = self.groups.remove(&bytes) else {
                continue;
            };
            let before = group.before.take();
            if group.state.rows > 0 {
                step.put(GROUPS, &group.key, group.state.encode());
            } else {
                step.delete(GROUPS, &group.key);
            }
            if self.emit == Emit::Changes {
                self.say_change(before.flatten(), &group, step);
            }
            if group.state.rows > 0 {
                self.groups.insert(bytes, group);
            }
        }
        // All are written: forgetting them costs reading them again, keeping them all costs memory without bound.
        if self.groups_max.is_none() && self.groups.len() > GROUPS_CACHED_MAX {
            self.groups.clear();
        }
    }

    fn say_change(&mut self, before: Option<Vec<Value>>, group: &Group, step: &mut Step<'_>) {
        let (after, faults) = self.row(group);
        let after = (group.state.rows > 0).then_some(after);
        if before != after {
            faults
                .into_iter()
                .for_each(|fault| step.error(group.changed_by.1, fault));
            before.into_iter().for_each(|row| self.out.push(row, -1, group));
            after.into_iter().for_each(|row| self.out.push(row, 1, group));
        }
    }

    fn say_once(&mut self, group: &Group, step: &mut Step<'_>) {
        let (row, faults) = self.row(group);
        faults
            .into_iter()
            .for_each(|fault| step.error(group.changed_by.1, fault));
        self.out.push(row, 1, group);
    }

    fn speak_all(&mut self, step: &mut Step<'_>) {
        let mut groups: Vec<Group> = std::mem::take(&mut self.groups).into_values().collect();
        groups.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        // COUNT(*) of nothing is one row.
        if groups.is_empty() && self.group.is_empty() && self.window.is_none() {
            let accumulators = self.calls.iter().map(|call| call.empty.clone()).collect();
            let state = GroupState {
                rows: 0,
                window_end_us: None,
                accumulators,
            };
            groups.push(Group {
                key: Key::new(Vec::new(), 0),
                state,
                before: None,
                changed_by: NOBODY,
            });
        }
        groups.iter().for_each(|group| self.say_once(group, step));
    }
}

/// Stands where no record changed anything.
const NOBODY: (TimestampUs, RecordId) = (
    TimestampUs(0),
    RecordId {
        shard: headwater_store::ShardId {
            group: headwater_store::GroupId(0),
            stream: headwater_store::StreamId(0),
            number: 0,
        },
        offset: headwater_store::Offset(0),
    },
);

impl Operator for GroupBy {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let inputs = self.inputs(delta, step);
        let mut bytes = Vec::new();
        for row in 0..delta.len() {
            bytes.clear();
            let mut spread_by = 0;
            for (number, column) in inputs.keys.iter().enumerate() {
                column.encode_key(row, &mut bytes);
                // The window is no part of what spreads.
                if number < self.group.len() {
                    spread_by = bytes.len();
                }
            }
            self.touch(&bytes, spread_by, delta, row, step)?;
            self.accumulate(&bytes, &inputs, delta, row, step);
        }
        Ok(())
    }

    fn advance(&mut self, _: Port, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        if self.emit != Emit::AtEnd {
            self.speak(step);
        } else if watermark == TimestampUs::MAX {
            self.speak_all(step);
        }
        step.emit(std::mem::take(&mut self.out).delta(self.emit));
        Ok(())
    }

    /// A window is over.
    fn timer(&mut self, _: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let group = match self.groups.remove(&key.bytes[..]) {
            Some(group) => group,
            None => {
                let Some(row) = step.get(GROUPS, key)? else {
                    return Ok(());
                };
                let state = GroupState::decode(&row, self.calls.len()).ok_or(Stop::State(self.operator))?;
                Group {
                    key: key.clone(),
                    state,
                    before: None,
                    changed_by: NOBODY,
                }
            }
        };
        step.delete(GROUPS, key);
        let said = self.out.bytes;
        match (self.emit, &group.before) {
            (Emit::Final, _) => self.say_once(&group, step),
            // Its last change may be of this very step; the row it leaves behind stands for ever.
            (Emit::Changes, Some(before)) => self.say_change(before.clone(), &group, step),
            _ => {}
        }
        step.weigh_timer(self.out.bytes - said + key.bytes.len());
        Ok(())
    }
}

/// Output rows, gathered.
#[derive(Debug, Default)]
struct Output {
    columns: Vec<ColumnBuilder>,
    weights: Vec<i32>,
    time: Vec<TimestampUs>,
    origin: Vec<RecordId>,
    /// About how many bytes the values are.
    bytes: usize,
}

impl Output {
    fn push(&mut self, row: Vec<Value>, weight: i32, group: &Group) {
        self.bytes += row.iter().map(Value::size_bytes).sum::<usize>();
        self.columns.resize_with(row.len(), || ColumnBuilder::with_capacity(0));
        self.columns
            .iter_mut()
            .zip(row)
            .for_each(|(column, value)| column.push(value));
        self.weights.push(weight);
        self.time.push(group.changed_by.0);
        self.origin.push(group.changed_by.1);
    }

    fn delta(self, emit: Emit) -> Delta {
        let rows = self.time.len();
        let columns = self
            .columns
            .into_iter()
            .map(|column| Arc::new(column.finish()))
            .collect();
        Delta {
            rows: Columns::new(columns, rows),
            diff: if emit == Emit::Changes {
                Diff::Weights(self.weights)
            } else {
                Diff::Append
            },
            time: self.time,
            origin: self.origin,
            // What is worked out from rows that were in time is never late itself.
            frontier: vec![TimestampUs::MIN; rows],
        }
    }
}
