//! GROUP BY: one row per key, and per window where there is one.
//!
//! There are three of them, by what they keep per key: [`GroupBy`] one group, or one for each tumbling window;
//! [`HoppingGroupBy`] panes, of which windows are put together; [`SessionGroupBy`] sessions, which grow and meet. What
//! they share is here and in the files below: what is worked out of a row ([`Groups`]), what is remembered of it
//! ([`accumulator`]), and the rows that come out ([`output`]).
//!
//! Within a step groups live decoded in memory, are changed there, and are written once when the step ends; then a
//! group speaks, at most once:
//!
//! - EMIT CHANGES: the row it had when the step began goes, the one it has now comes.
//! - EMIT FINAL: nothing, until its timer at window end + grace. Timers fire in the order of time, then of key; and as
//!   a row is taken exactly when its window's timer is beyond its frontier, the order of FINAL rows depends on the data
//!   alone.
//! - At the end of a one-shot read: all groups, by key.

mod accumulator;
mod bag;
mod decimals;
mod exact;
mod group_by;
mod hopping;
mod moments;
mod ordered;
mod output;
mod session;
mod sketch;
mod sum;

pub(super) use group_by::GroupBy;
pub(super) use hopping::HoppingGroupBy;
pub(super) use session::SessionGroupBy;

use std::sync::Arc;

use super::{Place, report};
use crate::change::{Delta, RecordId};
use crate::column::Column;
use crate::expression::{Expression, Faults};
use crate::limits::GROUPS_IN_MEMORY_MAX;
use crate::plan::physical::{Aggregate, AggregateCall, Emit, Node, OperatorId, PlanError, WindowColumns};
use crate::step::{Key, Step, Stop};
use crate::types::{DataType, TimestampUs};
use crate::value::{Fault, Value, decode_group_key, decode_key, encode_key};
use accumulator::{Accumulator, Kind};

/// When a row happened: its event time, and of rows of one time the place of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, bincode::Encode, bincode::Decode)]
struct Moment {
    time: i64,
    stream: u64,
    shard: u16,
    offset: u64,
}

impl Moment {
    fn of(delta: &Delta, row: usize) -> Moment {
        let RecordId { shard, offset } = delta.origin[row];
        Moment {
            time: delta.time[row].0,
            stream: shard.stream.0,
            shard: shard.number,
            offset: offset.0,
        }
    }
}

/// The event time and record of a group's last change.
type ChangedBy = (TimestampUs, RecordId);

/// Stands where no record changed anything.
const NOBODY: ChangedBy = (
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

/// What the three kinds share: the key, the calls, and when to speak.
#[derive(Debug)]
struct Groups {
    operator: OperatorId,
    keys: Vec<Expression>,
    /// The static types of the group columns: equal numbers are one key, this is how they are shown.
    types: Vec<DataType>,
    window: Option<WindowColumns>,
    calls: Vec<Call>,
    emit: Emit,
    grace_us: i64,
    /// More groups than this are an error where there is no disk behind them.
    groups_max: Option<usize>,
}

#[derive(Debug)]
struct Call {
    kind: Kind,
    argument: Option<Expression>,
    filter: Option<Expression>,
}

/// The columns of one micro-batch that groups are worked out from.
struct Inputs {
    keys: Vec<Arc<Column>>,
    arguments: Vec<Option<Arc<Column>>>,
    filters: Vec<Option<Arc<Column>>>,
}

impl Groups {
    /// `retracts`: rows of the input go again.
    fn new(node: &Node, aggregate: &Aggregate, retracts: bool, place: &Place) -> Result<Groups, PlanError> {
        let call = |call: &AggregateCall| {
            Ok(Call {
                kind: Kind {
                    function: call.function,
                    retracts,
                },
                argument: call.argument.as_ref().map(Expression::compile).transpose()?,
                filter: call.filter.as_ref().map(Expression::compile).transpose()?,
            })
        };
        if aggregate.emit == Emit::Final && aggregate.window.is_none() {
            return Err(PlanError::Invalid("EMIT FINAL without a window".into()));
        }
        let width = aggregate.group.len() + if aggregate.window.is_some() { 2 } else { 0 } + aggregate.calls.len();
        if node.schema.columns.len() != width {
            let what = "an aggregate's schema does not fit its columns";
            return Err(PlanError::Invalid(what.into()));
        }
        let keys = aggregate.group.iter().map(Expression::compile);
        let types = node.schema.columns[..aggregate.group.len()].iter();
        Ok(Groups {
            operator: node.id,
            keys: keys.collect::<Result<_, _>>()?,
            types: types.map(|column| column.data_type.clone()).collect(),
            window: aggregate.window,
            calls: aggregate.calls.iter().map(call).collect::<Result<_, PlanError>>()?,
            emit: aggregate.emit,
            grace_us: aggregate.grace_us,
            groups_max: place.in_memory().then_some(GROUPS_IN_MEMORY_MAX),
        })
    }

    fn inputs(&self, delta: &Delta, step: &mut Step<'_>) -> Inputs {
        let mut faults = Faults::default();
        let scope = step.scope();
        let mut evaluate = |expression: &Expression| expression.evaluate(&delta.rows, &scope, &mut faults);
        let keys = self.keys.iter().map(&mut evaluate).collect();
        let mut each = |expression: fn(&Call) -> &Option<Expression>| {
            let expressions = self.calls.iter().map(expression);
            expressions
                .map(|expression| expression.as_ref().map(&mut evaluate))
                .collect()
        };
        let arguments = each(|call| &call.argument);
        let filters = each(|call| &call.filter);
        report(&faults, &delta.origin, step);
        Inputs {
            keys,
            arguments,
            filters,
        }
    }

    /// The two columns that the window operator appended.
    fn window_of(&self, delta: &Delta, row: usize) -> (i64, i64) {
        let time = |column: usize| delta.rows.column(column).timestamp(row).unwrap_or(i64::MAX);
        let columns = self.window.map(|window| (window.start.index(), window.end.index()));
        columns.map_or((i64::MAX, i64::MAX), |(start, end)| (time(start), time(end)))
    }

    /// There is one group, with or without rows.
    fn is_one(&self) -> bool {
        self.keys.is_empty() && self.window.is_none()
    }

    /// Of no rows.
    fn empty(&self) -> Vec<Accumulator> {
        self.calls.iter().map(|call| call.kind.empty()).collect()
    }

    fn add(&self, into: &mut [Accumulator], inputs: &Inputs, delta: &Delta, row: usize, step: &mut Step<'_>) {
        let (weight, moment) = (delta.weight(row), Moment::of(delta, row));
        for (number, (call, accumulator)) in self.calls.iter().zip(into).enumerate() {
            let passes = |filter: &Arc<Column>| filter.is_true(row);
            if !inputs.filters[number].as_ref().is_none_or(passes) {
                continue;
            }
            let added = match &inputs.arguments[number] {
                // COUNT(*)
                None => call.kind.add(accumulator, &Value::Boolean(true), weight, moment),
                Some(argument) => call.kind.add(accumulator, &argument.get(row), weight, moment),
            };
            if let Err(fault) = added {
                step.error(delta.origin[row], fault);
            }
        }
    }

    fn merge(&self, into: &mut [Accumulator], from: &[Accumulator]) {
        for ((call, into), from) in self.calls.iter().zip(into).zip(from) {
            call.kind.merge(into, from);
        }
    }

    /// An output row, and what has no value in it. `group` begins with the encoded group columns.
    fn row(&self, group: &[u8], window: Option<(i64, i64)>, of: &[Accumulator]) -> (Vec<Value>, Vec<Fault>) {
        let mut bytes = group;
        let mut row = Vec::with_capacity(self.types.len() + self.calls.len() + 2);
        let types = self.types.iter();
        row.extend(types.map(|data_type| decode_group_key(&mut bytes, data_type)));
        row.extend(
            window
                .into_iter()
                .flat_map(|(start, end)| [start, end].map(Value::Timestamp)),
        );
        let mut faults = Vec::new();
        for (call, accumulator) in self.calls.iter().zip(of) {
            row.push(call.kind.result(accumulator).unwrap_or_else(|fault| {
                faults.push(fault);
                Value::Null
            }));
        }
        (row, faults)
    }

    /// There is no room for one more than `held` groups.
    fn check_room(&self, held: usize) -> Result<(), Stop> {
        match self.groups_max {
            Some(max) if held >= max => Err(Stop::TooManyGroups(held)),
            _ => Ok(()),
        }
    }
}

impl Inputs {
    /// Appends the row's group columns.
    fn encode_group(&self, row: usize, bytes: &mut Vec<u8>) {
        self.keys.iter().for_each(|column| column.encode_key(row, bytes));
    }
}

/// A group's key with a time behind it: that of a window, pane or session. The group alone spreads.
fn key_at(group: &[u8], times: &[i64]) -> Key {
    let mut bytes = group.to_vec();
    times
        .iter()
        .for_each(|time| encode_key(&Value::Timestamp(*time), &mut bytes));
    Key::new(bytes, group.len())
}

/// What [`key_at`] made of a group and one time.
fn split_at(key: &Key) -> Option<(&[u8], i64)> {
    const TIME_BYTES: usize = 9;
    let (group, mut time) = key.bytes.split_at(key.bytes.len().checked_sub(TIME_BYTES)?);
    match decode_key(&mut time)? {
        Value::Timestamp(us) => Some((group, us)),
        _ => None,
    }
}
