//! LAG and HAD_CHANGED: what the rows before a row say of it.
//!
//! Rows are taken in the order in which they are read: those of one shard in the order of the log.
//!
//! ```text
//! rows   table: number of the call | partition  ->  the last values, the newest last
//! ```

use std::sync::Arc;

use headwater_store::{decode_control, encode_control};

use super::{Operator, Place, Port, report};
use crate::change::Delta;
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::limits::GROUPS_IN_MEMORY_MAX;
use crate::plan::physical::{Made, Node, OperatorId, OverCall, OverFunction, PlanError};
use crate::step::{Key, Step, Stop};
use crate::value::{StoredValue, Value};

#[derive(Debug)]
pub(super) struct Over {
    operator: OperatorId,
    calls: Vec<Call>,
    output: Vec<Made>,
    /// Partitions that are kept, where there is no disk behind them, and how many may be.
    held: usize,
    held_max: Option<usize>,
}

#[derive(Debug)]
struct Call {
    partition: Vec<Expression>,
    values: Vec<Expression>,
    /// Of LAG: how many rows are kept.
    lag: Option<usize>,
    default: Option<Expression>,
}

impl Call {
    fn new(call: &OverCall) -> Result<Call, PlanError> {
        let compile = |exprs: &[_]| exprs.iter().map(Expression::compile).collect::<Result<Vec<_>, _>>();
        let partition = compile(&call.partition)?;
        Ok(match &call.function {
            OverFunction::Lag { value, rows, default } => Call {
                partition,
                values: vec![Expression::compile(value)?],
                lag: Some(*rows as usize),
                default: default.as_ref().map(Expression::compile).transpose()?,
            },
            OverFunction::HadChanged(values) => Call {
                partition,
                values: compile(values)?,
                lag: None,
                default: None,
            },
        })
    }
}

impl Over {
    pub fn new(node: &Node, over: &crate::plan::physical::Over, place: &Place) -> Result<Over, PlanError> {
        Ok(Over {
            operator: node.id,
            calls: over.calls.iter().map(Call::new).collect::<Result<_, _>>()?,
            output: over.output.clone(),
            held: 0,
            held_max: place.in_memory().then_some(GROUPS_IN_MEMORY_MAX),
        })
    }

    /// The column that a call makes.
    fn column(&mut self, number: usize, delta: &Delta, step: &mut Step<'_>) -> Result<Arc<Column>, Stop> {
        let call = &self.calls[number];
        let (mut faults, scope) = (Faults::default(), step.scope());
        let mut evaluate = |expression: &Expression| expression.evaluate(&delta.rows, &scope, &mut faults);
        let partition: Vec<_> = call.partition.iter().map(&mut evaluate).collect();
        let values: Vec<_> = call.values.iter().map(&mut evaluate).collect();
        let default = call.default.as_ref().map(&mut evaluate);
        report(&faults, &delta.origin, step);
        let table = number as u8;
        let mut made = Vec::with_capacity(delta.len());
        for row in 0..delta.len() {
            let mut bytes = Vec::new();
            partition.iter().for_each(|column| column.encode_key(row, &mut bytes));
            let spread_by = bytes.len();
            let key = Key::new(bytes, spread_by);
            let stored = step.get(table, &key)?;
            self.held += usize::from(stored.is_none());
            if self.held_max.is_some_and(|max| self.held > max) {
                return Err(Stop::TooManyGroups(self.held));
            }
            let mut last: Vec<StoredValue> = match &stored {
                Some(stored) => decode_control(stored).map_err(|_| Stop::State(self.operator))?,
                None => Vec::new(),
            };
            let now = values.iter().map(|column| StoredValue(column.get(row).into_owned()));
            made.push(match self.calls[number].lag {
                Some(rows) => {
                    let before = last.len().checked_sub(rows).map(|at| last[at].0.clone());
                    last.extend(now);
                    let kept = last.len().saturating_sub(rows);
                    last.drain(..kept);
                    let default = || {
                        default
                            .as_ref()
                            .map_or(Value::Null, |column| column.get(row).into_owned())
                    };
                    before.unwrap_or_else(default)
                }
                None => {
                    let now: Vec<_> = now.collect();
                    let changed = stored.is_none() || now != last;
                    last = now;
                    Value::Boolean(changed)
                }
            });
            step.put(table, &key, encode_control(&last));
        }
        Ok(Arc::new(Column::from_values(made)))
    }
}

impl Operator for Over {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut made = Vec::with_capacity(self.calls.len());
        for number in 0..self.calls.len() {
            made.push(self.column(number, delta, step)?);
        }
        let column = |of: &Made| match of {
            Made::Input(column) => delta.rows.column(column.index()).clone(),
            Made::New(number) => made[*number as usize].clone(),
        };
        let columns = Columns::new(self.output.iter().map(column).collect(), delta.len());
        step.emit(delta.with_rows(columns));
        Ok(())
    }
}
