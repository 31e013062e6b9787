//! Operators: the parts of a running query, one file each.
//!
//! An operator is synchronous and sans-IO: a micro-batch in, changes out through the [`Step`]. It may cache what it
//! likes, and must be able to lose it: when a step is given up, operators are thrown away and built again from state.

mod aggregate;
mod exchange;
mod filter;
mod join;
mod measure;
mod over;
mod project;
mod rank;
mod sink;
mod throttle;
mod through;
mod unnest;
mod upsert;
mod window;

pub(crate) use exchange::place_of;
pub(crate) use measure::{Measure, Measures};
pub(crate) use sink::{VIEW_ROWS, ViewRow};
use window::object;

use std::fmt;

use headwater_store::{GroupId, StreamRow};
use std::sync::Arc;

use crate::change::{Delta, RecordId};
use crate::expression::Faults;
use crate::plan::physical::{Form, Node, Op, Plan, PlanError, WindowKind};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;

/// Which of an operator's inputs: 0, and 1 for the right side of a join.
pub type Port = u8;

/// One operator.
pub trait Operator: Send + fmt::Debug {
    /// Takes in changes.
    fn apply(&mut self, port: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop>;

    /// It has not worked off its input: what it has put out so far is to be passed on, then it goes on.
    fn has_more(&self) -> bool {
        false
    }

    /// Goes on with the input that it has not worked off.
    fn go_on(&mut self, step: &mut Step<'_>) -> Result<(), Stop> {
        let _ = step;
        Ok(())
    }

    /// Called once at the end of every step, after all its changes and due timers, whether or not the watermark moved:
    /// here the changes of a key become one. MAX: the input has ended.
    fn advance(&mut self, port: Port, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        let _ = (port, watermark, step);
        Ok(())
    }

    /// A timer is due: the watermark has come to `at`.
    fn timer(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let _ = (at, key, step);
        Ok(())
    }

    /// A timer of the clock is due: the step's time has come to `at`.
    fn clock(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let _ = (at, key, step);
        Ok(())
    }
}

/// Where a query runs, which decides what its Exchange lets through and how much its operators may hold.
#[derive(Debug, Clone)]
pub enum Place {
    /// The task of one group of a persistent query: it keeps what goes to that group's shards of the output.
    Group { output: Arc<StreamRow>, group: GroupId },
    /// A one-shot or push read: all rows are its own, and its state is in memory only.
    Here,
    /// As `Here`, and what each operator does is measured.
    Measured(Arc<Measures>),
}

impl Place {
    /// There is no disk behind its state.
    pub fn in_memory(&self) -> bool {
        !matches!(self, Place::Group { .. })
    }
}

/// Makes the operator of a node of `plan`. None: a source, which is no operator.
pub(crate) fn build(plan: &Plan, node: &Node, place: &Place) -> Result<Option<Box<dyn Operator>>, PlanError> {
    let operator = build_plain(plan, node, place)?;
    Ok(match (operator, place) {
        (Some(operator), Place::Measured(measures)) => Some(Box::new(measures.watch(node.id, operator))),
        (operator, _) => operator,
    })
}

fn build_plain(plan: &Plan, node: &Node, place: &Place) -> Result<Option<Box<dyn Operator>>, PlanError> {
    let input = |id| plan.nodes.iter().find(|node| node.id == id);
    let retracts = node
        .inputs
        .iter()
        .any(|id| input(*id).is_some_and(|input| input.form != Form::Append));
    Ok(Some(match &node.op {
        Op::Source(_) | Op::Homes(_) => return Ok(None),
        Op::Filter(predicate) => Box::new(filter::Filter::new(predicate)?),
        Op::Project(columns) => Box::new(project::Project::new(columns)?),
        Op::Exchange(routing) => Box::new(exchange::Exchange::new(node, routing, plan.aggregates(), place)?),
        Op::Window(window) => Box::new(window::Windows::new(node, window)?),
        Op::Aggregate(aggregate) => Box::new(aggregate::GroupBy::new(node, aggregate, retracts, place)?),
        Op::WindowAggregate { aggregate, kind } => match kind {
            WindowKind::Hopping { size_us, advance_us } => {
                let hop = (*size_us, *advance_us);
                Box::new(aggregate::HoppingGroupBy::new(node, aggregate, hop, retracts, place)?)
            }
            WindowKind::Session { gap_us } => {
                debug_assert!(*gap_us > 0, "the window operator before it has checked that");
                let window = node.inputs.first().and_then(|id| input(*id));
                let window = window.filter(|window| matches!(window.op, Op::Window(_)));
                let window = window.ok_or_else(|| PlanError::Invalid("sessions without their window".into()))?;
                Box::new(aggregate::SessionGroupBy::new(
                    node, aggregate, window, retracts, place,
                )?)
            }
            WindowKind::Tumbling { .. } => {
                return Err(PlanError::Invalid("tumbling windows do not share rows".into()));
            }
        },
        Op::Throttle(throttle) => Box::new(throttle::Hold::new(node, *throttle)),
        Op::Sink(sink) => Box::new(sink::RecordSink::new(sink, &plan.order_by, None, place)?),
        Op::View { sink, retention_us } => {
            let view = sink::View {
                retention_us: *retention_us,
            };
            Box::new(sink::RecordSink::new(sink, &plan.order_by, Some(view), place)?)
        }
        Op::Join(join) | Op::JoinTables { join, .. } | Op::JoinIf { join, .. } => {
            let sides = join::Sides::new(node.id, join, node.op.pair())?;
            let of = |port: usize| node.inputs.get(port).and_then(|id| input(*id));
            match (node.op.join().and_then(|(_, tables)| tables), join.within_us) {
                (Some(emit), _) => Box::new(join::in_pieces(join::TableJoin::new(sides, join, emit, place))),
                (None, Some(us)) => {
                    let inputs = [of(0), of(1)].map(|node| join_input(plan, node));
                    Box::new(join::in_pieces(join::StreamJoin::new(sides, join, us, inputs, place)?))
                }
                (None, None) => {
                    let by_value = of(1).is_none_or(|table| !matches!(table.op, Op::FromUpsert { .. }));
                    Box::new(join::in_pieces(join::Lookup::new(sides, join, by_value, place)?))
                }
            }
        }
        Op::Union => Box::new(through::Union),
        Op::Unnest(unnest) => Box::new(unnest::Unnest::new(unnest)?),
        Op::Over(over) => Box::new(over::Over::new(node, over, place)?),
        Op::Rank(rank) => Box::new(rank::Rank::new(node, rank, retracts, place)?),
        Op::Newest { key } => Box::new(rank::Rank::newest(node, key, place)?),
        Op::Retime { end, .. } => Box::new(through::Retime { end: *end }),
        Op::FromUpsert { key, gone } => Box::new(upsert::FromUpsert::new(node, *key, *gone)),
        Op::Latest { key, gone } => Box::new(upsert::Latest::new(*key, *gone)),
    }))
}

fn join_input(plan: &Plan, input: Option<&Node>) -> join::Input {
    join::Input {
        names: input.map_or_else(Vec::new, |node| {
            node.schema.columns.iter().map(|column| column.name.clone()).collect()
        }),
        multiplied: input.is_some_and(|node| {
            plan.any_under(node, &|op| !matches!(op, Op::Source(_) | Op::Homes(_) | Op::Filter(_)))
        }),
        behind_us: input.map_or(0, |node| plan.behind_us(node)),
    }
}

/// Tells a delta's faults, each at the record it comes from.
fn report(faults: &Faults, origin: &[RecordId], step: &mut Step<'_>) {
    for (row, fault) in faults.iter() {
        step.error(origin[row], fault);
    }
}
