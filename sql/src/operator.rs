//! Operators: the parts of a running query, one file each.
//!
//! An operator is synchronous and sans-IO: a micro-batch in, changes out through the [`Step`]. It may cache what it
//! likes, and must be able to lose it: when a step is given up, operators are thrown away and built again from state.

mod aggregate;
mod exchange;
mod filter;
mod project;
mod sink;
mod window;

pub(crate) use exchange::place_of;
pub(crate) use sink::key_of;

use std::fmt;

use headwater_store::{GroupId, StreamRow};
use std::sync::Arc;

use crate::change::{Delta, RecordId};
use crate::expression::Faults;
use crate::plan::physical::{Node, Op, Plan, PlanError};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;

/// Which of an operator's inputs: 0, and 1 for the right side of a join.
pub type Port = u8;

/// One operator.
pub trait Operator: Send + fmt::Debug {
    /// Takes in changes.
    fn apply(&mut self, port: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop>;

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
}

/// Where a query runs, which decides what its Exchange lets through and how much its operators may hold.
#[derive(Debug, Clone)]
pub enum Place {
    /// The task of one group of a persistent query: it keeps what goes to that group's shards of the output.
    Group { output: Arc<StreamRow>, group: GroupId },
    /// A one-shot or push read: all rows are its own, and its state is in memory only.
    Here,
}

/// Makes the operator of a node of `plan`. None: a source, which is no operator.
pub(crate) fn build(plan: &Plan, node: &Node, place: &Place) -> Result<Option<Box<dyn Operator>>, PlanError> {
    Ok(Some(match &node.op {
        Op::Source(_) => return Ok(None),
        Op::Filter(predicate) => Box::new(filter::Filter::new(predicate)?),
        Op::Project(columns) => Box::new(project::Project::new(columns)?),
        Op::Exchange(routing) => Box::new(exchange::Exchange::new(node, routing, plan.aggregates(), place)?),
        Op::Window(window) => Box::new(window::TumblingWindow::new(window)?),
        Op::Aggregate(aggregate) => Box::new(aggregate::GroupBy::new(node, aggregate, place)?),
        Op::Sink(sink) => Box::new(sink::RecordSink::new(sink, &plan.order_by)?),
    }))
}

/// Tells a delta's faults, each at the record it comes from.
fn report(faults: &Faults, origin: &[RecordId], step: &mut Step<'_>) {
    for (row, fault) in faults.iter() {
        step.error(origin[row], fault);
    }
}
