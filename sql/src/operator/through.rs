//! Operators that pass rows on: UNION ALL, and rows at the time of their window's end.

use std::sync::Arc;

use super::{Operator, Port};
use crate::change::Delta;
use crate::plan::physical::ColumnId;
use crate::step::{Step, Stop};
use crate::types::TimestampUs;
use crate::value::Value;

/// The rows of all inputs.
#[derive(Debug)]
pub(super) struct Union;

impl Operator for Union {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        step.emit(delta.clone());
        Ok(())
    }
}

/// What a window says has the time of its last moment, so that windows over it are whole when it has spoken.
#[derive(Debug)]
pub(super) struct Retime {
    pub end: ColumnId,
}

impl Operator for Retime {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let ends = delta.rows.column(self.end.index());
        let time = |row: usize| match *ends.get(row) {
            Value::Timestamp(us) => TimestampUs(us.saturating_sub(1)),
            _ => delta.time[row],
        };
        step.emit(Delta {
            time: Arc::new((0..delta.len()).map(time).collect()),
            ..delta.clone()
        });
        Ok(())
    }
}
